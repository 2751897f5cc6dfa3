//! Text that streams to a terminal, broken at spaces.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Breaks lines at spaces as text comes in. A word is held back until it is complete, for it may go into the next line.
#[derive(Debug, Default)]
pub struct Wrapper {
    /// Columns of a line; nothing where lines are not broken.
    width: Option<usize>,
    /// Columns that are printed of the line.
    column: usize,
    /// Spaces behind them, which are left out at a break.
    spaces: String,
    /// Word that is not complete.
    word: String,
}

impl Wrapper {
    /// Breaks lines of `width` columns; without a width it changes nothing.
    pub fn new(width: Option<usize>) -> Self {
        Self { width, ..Self::default() }
    }

    /// Takes text, and returns what of it, and of what was held back, can be printed.
    pub fn push(&mut self, text: &str) -> String {
        let Some(width) = self.width else { return text.to_owned() };
        let mut out = String::new();
        for c in text.chars() {
            match c {
                '\n' => {
                    self.put(&mut out, width);
                    self.spaces.clear();
                    out.push('\n');
                    self.column = 0;
                }
                ' ' => {
                    self.put(&mut out, width);
                    self.spaces.push(' ');
                }
                c => {
                    // Scripts without spaces break before any letter.
                    if c.width().unwrap_or(0) > 1 || self.word.width() >= width {
                        self.put(&mut out, width);
                    }
                    self.word.push(c);
                }
            }
        }
        out
    }

    /// Returns what is still held back.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        if let Some(width) = self.width {
            self.put(&mut out, width);
        }
        out
    }

    /// Prints the word, in the next line if it does not fit into this one.
    fn put(&mut self, out: &mut String, width: usize) {
        if self.word.is_empty() {
            return;
        }
        let needed = self.spaces.len() + self.word.width();
        if self.column > 0 && self.column + needed > width {
            out.push('\n');
            self.column = 0;
        } else {
            out.push_str(&self.spaces);
            self.column += self.spaces.len();
        }
        out.push_str(&self.word);
        self.column += self.word.width();
        self.spaces.clear();
        self.word.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::Wrapper;

    fn wrapped(width: usize, pieces: &[&str]) -> String {
        let mut wrapper = Wrapper::new(Some(width));
        let out: String = pieces.iter().map(|piece| wrapper.push(piece)).collect();
        out + &wrapper.finish()
    }

    #[test]
    fn lines_break_at_spaces_wherever_the_pieces_end() {
        assert_eq!(wrapped(10, &["The rest", "aurant is", " closed."]), "The\nrestaurant\nis closed.");
        assert_eq!(wrapped(10, &["a\n\n", "  b  c"]), "a\n\n  b  c");
        assert_eq!(wrapped(4, &["abcdefgh ij"]), "abcd\nefgh\nij");
        assert_eq!(wrapped(6, &["日本語の文"]), "日本語\nの文");
    }

    #[test]
    fn without_a_width_nothing_changes_and_nothing_waits() {
        let mut wrapper = Wrapper::new(None);
        assert_eq!((wrapper.push("a long lin"), wrapper.finish()), ("a long lin".to_owned(), String::new()));
    }
}
