//! Widths of terminals, and what may be written to one.

use std::borrow::Cow;

use crate::text::wrap::Wrapper;

/// A narrower terminal is left to break lines itself.
pub const MIN_WIDTH: usize = 20;

/// Columns of the terminal that stdout is, if it is one.
pub fn width_of_stdout() -> Option<usize> {
    console::Term::stdout().size_checked().map(|(_, columns)| usize::from(columns))
}

/// The program began without a stdout, as under `>&-`. Rust's runtime then opens /dev/null in its place, for reading and writing,
/// which no shell does, and what is written would be lost without a word.
#[cfg(target_os = "linux")]
pub fn stdout_was_closed() -> bool {
    use rustix::fs::{OFlags, fcntl_getfl, fstat, major, minor};

    static WAS_CLOSED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    /// Device number of /dev/null on Linux.
    const NULL: (u32, u32) = (1, 3);
    *WAS_CLOSED.get_or_init(|| {
        let stdout = std::io::stdout();
        let is_null = fstat(&stdout).is_ok_and(|meta| (major(meta.st_rdev), minor(meta.st_rdev)) == NULL);
        is_null && fcntl_getfl(&stdout).is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDWR)
    })
}

/// Not known on other systems.
#[cfg(not(target_os = "linux"))]
pub fn stdout_was_closed() -> bool {
    false
}

/// A message in lines of the terminal that stderr is, if it is one; a table keeps its lines.
pub fn for_stderr(text: &str) -> String {
    let text = harmless(text);
    let width = console::Term::stderr().size_checked().map(|(_, columns)| usize::from(columns));
    let width = width.filter(|width| *width >= MIN_WIDTH && !text.contains('\n'));
    let mut wrapper = Wrapper::new(width);
    let begun = wrapper.push(&text);
    begun + &wrapper.finish()
}

/// A text that a terminal obeys nothing of: what files, models and answers say is others' words, and may hold sequences that
/// change what is seen. New lines and tabs stay.
pub fn harmless(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() && c != '\n' && c != '\t';
    match text.contains(obeyed) {
        false => text.into(),
        true => {
            // The end of a line as Windows writes it is none of them.
            let text = text.replace("\r\n", "\n");
            text.chars()
                .map(|c| if obeyed(c) { char::REPLACEMENT_CHARACTER } else { c })
                .collect::<String>()
                .into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_of_it() {
        assert_eq!(harmless("a\tb\nc"), "a\tb\nc");
        assert_eq!(harmless("\u{1b}[31mred\u{9b}2J\r\n\u{7}"), "\u{fffd}[31mred\u{fffd}2J\n\u{fffd}");
    }
}
