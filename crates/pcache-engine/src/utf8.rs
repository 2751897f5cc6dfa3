//! From token bytes to text: a character is passed on when all of its bytes are there.

/// Collects bytes and gives out whole characters.
#[derive(Debug, Default)]
pub struct Utf8Stream(Vec<u8>);

impl Utf8Stream {
    /// Adds bytes and takes out every character that is complete. Bytes that can never become one are replaced.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.0.extend_from_slice(bytes);
        let mut text = String::new();
        let mut chunks = self.0.utf8_chunks().peekable();
        let mut unfinished = 0;
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && could_continue(invalid) {
                unfinished = invalid.len();
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.0.drain(..self.0.len() - unfinished);
        text
    }

    /// Nothing follows: a character of which only the beginning came is replaced.
    pub fn finish(&mut self) -> &'static str {
        if std::mem::take(&mut self.0).is_empty() { "" } else { "\u{fffd}" }
    }
}

/// Returns true if `bytes` are the beginning of a character whose rest may follow.
fn could_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_character_in_two_tokens_is_given_out_whole() {
        let mut stream = Utf8Stream::default();
        let bytes = "né🦀".as_bytes();
        let parts = [&bytes[..2], &bytes[2..3], &bytes[3..5], &bytes[5..]];
        assert_eq!(parts.map(|p| stream.push(p)), ["n", "é", "", "🦀"]);
    }

    #[test]
    fn bytes_that_are_no_character_are_replaced_and_an_unfinished_one_is_held_back() {
        let mut stream = Utf8Stream::default();
        assert_eq!(stream.push(b"a\xffb"), "a\u{fffd}b");
        assert_eq!(stream.push(b"\xf0\x9f"), "");
        assert_eq!(stream.push(b"x"), "\u{fffd}x");
        assert_eq!(stream.finish(), "");
        stream.push(b"\xf0\x9f");
        assert_eq!((stream.finish(), stream.finish()), ("\u{fffd}", ""));
    }

    proptest! {
        #[test]
        fn cut_anywhere_the_text_is_the_same(text in "\\PC{0,20}", cuts in prop::collection::vec(0usize..80, 0..6)) {
            let mut stream = Utf8Stream::default();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let out: String = cuts.windows(2).map(|w| stream.push(&text.as_bytes()[w[0]..w[1]])).collect();
            prop_assert_eq!(out, text);
        }
    }
}
