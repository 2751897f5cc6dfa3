//! Widths of terminals.

use crate::text::wrap::Wrapper;

/// A narrower terminal is left to break lines itself.
pub const MIN_WIDTH: usize = 20;

/// Columns of the terminal that stdout is, if it is one.
pub fn width_of_stdout() -> Option<usize> {
    console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns))
}

/// A message in lines of the terminal that stderr is, if it is one; a table keeps its lines.
pub fn for_stderr(text: &str) -> String {
    let width = console::Term::stderr().size_checked().map(|(_, columns)| usize::from(columns));
    let width = width.filter(|width| *width >= MIN_WIDTH && !text.contains('\n'));
    let mut wrapper = Wrapper::new(width);
    let begun = wrapper.push(text);
    begun + &wrapper.finish()
}
