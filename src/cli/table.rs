//! Tables that are as wide as the terminal.

use std::ops::RangeInclusive;

use unicode_width::UnicodeWidthStr;

use super::terminal::width_of_stdout;
use crate::text::table::columns;

/// Returns true if no line of a text is wider than the terminal, if stdout is one.
pub fn fits(text: &str) -> bool {
    width_of_stdout().is_none_or(|columns| text.lines().all(|line| line.width() <= columns))
}

/// A table of which one column takes what the others leave of the terminal, within `widths`; without a terminal as much
/// as there may be. `rows` makes the rows with that column's width.
pub fn fitted(
    header: &[&str],
    right: &[usize],
    widths: RangeInclusive<usize>,
    rows: impl Fn(usize) -> Vec<Vec<String>>,
) -> String {
    let (narrowest, widest) = (*widths.start(), *widths.end());
    let table = |width| {
        let header = header.iter().map(|name| (*name).to_owned()).collect();
        let all: Vec<Vec<String>> = std::iter::once(header).chain(rows(width)).collect();
        columns(&all, right)
    };
    let Some(terminal) = width_of_stdout() else { return table(widest) };
    let all = table(narrowest).lines().map(UnicodeWidthStr::width).max().unwrap_or(0);
    let others = all.saturating_sub(narrowest);
    table(terminal.saturating_sub(others).clamp(narrowest, widest))
}
