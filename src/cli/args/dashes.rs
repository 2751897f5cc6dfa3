//! Texts that begin with a dash, told from options: no option has a space in it, or begins with a digit.

use std::ffi::OsString;

use clap::builder::{NonEmptyStringValueParser, StringValueParser, TypedValueParser};

use crate::text::escapes::unescaped;

/// Stands before such a text while the command line is read: a character that is none.
const MARK: char = '\u{fdd0}';

/// The arguments, with a mark before each that can only be a text.
pub fn marked(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut is_open = true;
    let marked = arguments.map(|argument| {
        is_open &= argument != "--";
        match argument.to_str().filter(|text| is_open && is_text(text)) {
            Some(text) => format!("{MARK}{text}").into(),
            None => argument,
        }
    });
    marked.collect()
}

fn is_text(argument: &str) -> bool {
    let Some(rest) = argument.strip_prefix('-') else { return false };
    let name = rest.split('=').next().unwrap_or_default();
    let is_number = argument.parse::<f64>().is_ok();
    name.contains(char::is_whitespace) || rest.starts_with(|c: char| c.is_ascii_digit()) && !is_number
}

/// The text that was marked.
pub fn unmarked(text: &str) -> String {
    text.strip_prefix(MARK).unwrap_or(text).to_owned()
}

/// A text for the model.
pub fn text() -> impl TypedValueParser<Value = String> {
    StringValueParser::new().map(|text| unmarked(&text))
}

/// A text for the model in one line: `\n`, `\t` and `\\` are a newline, a tab and a backslash. What begins with `@` names a file.
pub fn escaped() -> impl TypedValueParser<Value = String> {
    StringValueParser::new().map(|text| {
        let text = unmarked(&text);
        if text.starts_with('@') { text } else { unescaped(&text) }
    })
}

/// The same, of a text that is looked for in answers.
pub fn escaped_and_something() -> impl TypedValueParser<Value = String> {
    NonEmptyStringValueParser::new().map(|text| unescaped(&unmarked(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_no_option_is_a_text() {
        for text in ["- what is the soup?", "-5 + 3 = ?", "-5+3=?", "--- x", "-a b", "-\tx"] {
            assert!(is_text(text), "{text}");
        }
        for option in ["-", "--", "-5", "-0.5", "-n", "--seed", "--seed=1 2", "--system=a b", "text - x", ""]
        {
            assert!(!is_text(option), "{option}");
        }
        let all = |words: &[&str]| marked(words.iter().map(OsString::from));
        assert_eq!(all(&["ask", "- a"])[1].to_str().map(unmarked), Some("- a".into()));
        assert_eq!(all(&["ask", "--", "- a"])[2], "- a");
    }
}
