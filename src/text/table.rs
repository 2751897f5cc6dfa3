//! Tables: no lines, only columns.

use unicode_width::UnicodeWidthStr;

/// A table of `rows` under `header`; the columns whose numbers are in `right` are aligned right. Columns are as wide as
/// what is in them, with two spaces behind a text and one behind a number.
pub fn plain<const N: usize>(
    header: &[&str; N],
    right: &[usize],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let rows: Vec<[String; N]> = std::iter::once(header.map(str::to_owned)).chain(rows).collect();
    columns(&rows, right)
}

/// As [`plain`], of any number of columns; the first row is the header.
pub fn columns(rows: &[impl AsRef<[String]>], right: &[usize]) -> String {
    let mut widths = Vec::new();
    for row in rows.iter().map(AsRef::as_ref) {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let mut text = String::new();
    for row in rows.iter().map(AsRef::as_ref) {
        for (i, cell) in row.iter().enumerate() {
            let space = " ".repeat(widths[i] - cell.width());
            let (before, after) =
                if right.contains(&i) { (space.as_str(), "") } else { ("", space.as_str()) };
            text.extend([before, cell, after, if right.contains(&i) { " " } else { "  " }]);
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text.pop();
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_what_is_seen() {
        let rows = [["ä".to_owned(), "1".into(), "x".into()], ["漢字".into(), "10".into(), String::new()]];
        insta::assert_snapshot!(plain(&["NAME", "N", "END"], &[1], rows.into_iter()), @r"
        NAME   N END
        ä      1 x
        漢字  10
        ");
    }
}
