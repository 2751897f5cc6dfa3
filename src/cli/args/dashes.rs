//! Texts that begin with a dash, told from options: no option has a space in it, or begins with a digit.

use std::ffi::OsString;

use clap::Command;
use clap::builder::{NonEmptyStringValueParser, StringValueParser, TypedValueParser};

use crate::text::escapes::unescaped;

/// Stands before such a text while the command line is read: a character that is none.
const MARK: char = '\u{fdd0}';

/// Options whose values are texts for the model, by their ids.
const TEXTS: [&str; 3] = ["stop", "system", "question"];

/// The arguments, with a mark before each that can only be a text, where a text is expected.
pub fn marked(command: &Command, arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut place = Place { command, is_chosen: false, value_of: None };
    let mut is_open = true;
    let mut marked = Vec::new();
    for (n, argument) in arguments.enumerate() {
        is_open &= argument != "--";
        let text = argument.to_str().filter(|_| is_open && n > 0);
        let is_marked =
            text.is_some_and(|text| place.expects_text() && (is_text(text) || text.starts_with(MARK)));
        if let Some(text) = text {
            place.pass(text, is_marked);
        }
        marked.push(if is_marked { format!("{MARK}{}", text.unwrap_or_default()).into() } else { argument });
    }
    marked
}

/// Where on the command line an argument stands.
struct Place<'c> {
    command: &'c Command,
    /// The command is named.
    is_chosen: bool,
    /// Option that takes the next argument.
    value_of: Option<String>,
}

impl Place<'_> {
    fn expects_text(&self) -> bool {
        match &self.value_of {
            Some(id) => TEXTS.contains(&id.as_str()) || id == "template" && self.command.get_name() == "map",
            // A question.
            None => self.is_chosen && self.command.get_name() == "ask",
        }
    }

    /// Goes past an argument.
    fn pass(&mut self, argument: &str, is_marked: bool) {
        let is_value = self.value_of.take().is_some();
        if is_value || is_marked {
            return;
        }
        if !self.is_chosen
            && let Some(chosen) = self.command.find_subcommand(argument)
        {
            (self.command, self.is_chosen) = (chosen, true);
            return;
        }
        let takes = |arg: &&clap::Arg| {
            let is_it = arg.get_long().is_some_and(|long| argument == format!("--{long}"))
                || arg.get_short().is_some_and(|short| argument == format!("-{short}"));
            is_it && arg.get_action().takes_values()
        };
        self.value_of = self.command.get_arguments().find(takes).map(|arg| arg.get_id().to_string());
    }
}

fn is_text(argument: &str) -> bool {
    let Some(rest) = argument.strip_prefix('-') else { return false };
    let name = rest.split('=').next().unwrap_or_default();
    let is_number = argument.parse::<f64>().is_ok();
    name.contains(char::is_whitespace) || rest.starts_with(|c: char| c.is_ascii_digit()) && !is_number
}

/// The text that was marked.
fn unmarked(text: &str) -> String {
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
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn what_can_be_no_option_is_a_text() {
        for text in ["- what is the soup?", "-5 + 3 = ?", "-5+3=?", "--- x", "-a b", "-\tx"] {
            assert!(is_text(text), "{text}");
        }
        for option in ["-", "--", "-5", "-0.5", "-n", "--seed", "--seed=1 2", "--system=a b", "text - x", ""]
        {
            assert!(!is_text(option), "{option}");
        }
    }

    /// A mark got into the names of files and folders.
    #[test]
    fn only_texts_are_marked() {
        let mut command = Cli::command();
        command.build();
        let marks = |line: &[&str]| -> Vec<bool> {
            let all = marked(&command, line.iter().map(OsString::from));
            all.iter().map(|word| word.to_string_lossy().starts_with(MARK)).collect()
        };
        assert_eq!(marks(&["pcache", "ask", "k", "- a"]), [false, false, false, true]);
        assert_eq!(marks(&["pcache", "ask", "k", "--log", "- a"]), [false; 5]);
        assert_eq!(marks(&["pcache", "-m", "-3 m.gguf", "ask", "k", "--", "- a"]), [false; 7]);
        assert_eq!(marks(&["pcache", "build", "- p.txt", "--ttl", "-1h"]), [false; 5]);
        assert!(marks(&["pcache", "map", "k", "--template", "- {text}"])[4]);
        assert!(marks(&["pcache", "ask", "k", "q", "--stop", "- x"])[5]);
        let own = marked(&command, ["pcache", "ask", "k", "\u{fdd0}-1"].iter().map(OsString::from));
        assert_eq!(own[3].to_str().map(unmarked).as_deref(), Some("\u{fdd0}-1"), "as it was typed");
    }
}
