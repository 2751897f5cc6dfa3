//! A state's prompt with another text in its place.
//!
//! What the template put around a prompt is not kept beside the state: it is in the tokens. It is taken from there and
//! proved: with the old text between, it must give the old tokens again.

use super::model::Model;
use super::prompt::{Prompt, cut};
use super::text::Text;
use pcache_format::RenderedWith;

/// Parts of a state that its prompt is recovered from.
#[derive(Debug, Clone, Copy)]
pub struct Saved<'s> {
    /// The state's tokens.
    pub tokens: &'s [i32],
    /// The prompt's end that is evaluated with each question.
    pub pending_text: &'s str,
    /// Text behind a question.
    pub suffix: &'s str,
    /// Place of the prompt's own text, in bytes of [`Model::text_of`] the tokens and the pending text.
    pub own: (usize, usize),
    /// Control tokens count in the prompt.
    pub raw: bool,
    /// Things that the template rendered it with.
    pub rendered_with: &'s RenderedWith,
}

/// A prompt's own text and what stands around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditablePrompt {
    before: String,
    /// The prompt's own text.
    pub own: String,
    after: String,
    suffix: String,
    raw: bool,
    rendered_with: RenderedWith,
}

impl EditablePrompt {
    /// Takes a state apart; nothing if that cannot be proved to be right.
    pub fn new(model: &Model, saved: &Saved<'_>) -> Option<Self> {
        let whole = model.text_of(saved.tokens) + saved.pending_text;
        let (first, bytes) = saved.own;
        let end = first.checked_add(bytes)?;
        let (before, own, after) = (whole.get(..first)?, whole.get(first..end)?, whole.get(end..)?);
        let prompt_edit = |before: String| Self {
            before,
            own: own.to_owned(),
            after: after.to_owned(),
            suffix: saved.suffix.to_owned(),
            raw: saved.raw,
            rendered_with: saved.rendered_with.clone(),
        };
        // Some tokenizers put a space in front of the first text, which is no space of the template.
        let without_space = before.replacen(' ', "", 1);
        [before.to_owned(), without_space].into_iter().map(prompt_edit).find(|prompt_edit| {
            let prompt = prompt_edit.render(model, own);
            prompt.tokens == saved.tokens && prompt.pending_text == saved.pending_text
        })
    }

    /// The prompt with `own` for its text.
    pub fn render(&self, model: &Model, own: &str) -> Prompt {
        let text = Text::default().template(&self.before);
        let text = if self.raw { text.template(own) } else { text.user(own) };
        Prompt {
            suffix: self.suffix.clone(),
            raw: self.raw,
            rendered_with: self.rendered_with.clone(),
            ..cut(model, &text.template(&self.after), own)
        }
    }

    /// The prompt's text with `update` behind it, or in the place of what follows the line `mark`. A text file ends with
    /// a newline: so does the prompt before the update, and what follows the last line of a message is not part of it.
    ///
    /// # Errors
    /// When there is no such line, or there are several, with their number.
    pub fn updated(&self, update: &str, mark: Option<&str>) -> Result<String, usize> {
        let mut text = match mark {
            None => self.own.clone(),
            Some(mark) => up_to_line(&self.own, mark)?.to_owned(),
        };
        if !self.raw && !text.is_empty() && !text.ends_with('\n') || mark.is_some() && !text.ends_with('\n') {
            text.push('\n');
        }
        // An update that brings the mark with it would leave two of them, and the next one would not know which.
        let update = match (mark, update.split_once('\n')) {
            (Some(mark), Some((first, rest))) if first.trim() == mark.trim() => rest,
            _ => update,
        };
        text.push_str(update);
        if !self.raw {
            text.truncate(text.trim_end_matches(['\n', '\r']).len());
        }
        Ok(text)
    }

    /// A line of the prompt that has `mark` in it, capitals counting as small letters.
    pub fn line_like(&self, mark: &str) -> Option<&str> {
        let mark = mark.trim().trim_start_matches('#').trim().to_lowercase();
        let found = self.own.lines().map(str::trim).find(|line| line.to_lowercase().contains(&mark));
        found.filter(|_| !mark.is_empty())
    }
}

/// The text up to the end of the line that says `mark`.
fn up_to_line<'t>(text: &'t str, mark: &str) -> Result<&'t str, usize> {
    let mut found = Vec::new();
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        end += line.len();
        if line.trim() == mark.trim() {
            found.push(end);
        }
    }
    match found.as_slice() {
        [end] => Ok(&text[..*end]),
        all => Err(all.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(own: &str, raw: bool) -> EditablePrompt {
        let (before, after, suffix) = (String::new(), String::new(), String::new());
        let rendered_with = RenderedWith::default();
        EditablePrompt { before, own: own.into(), after, suffix, raw, rendered_with }
    }

    #[test]
    fn an_update_follows_as_if_the_files_were_joined() {
        assert_eq!(of("a", false).updated("b\n", None).unwrap(), "a\nb");
        assert_eq!(of("a\n", true).updated("b\n", None).unwrap(), "a\nb\n");
        assert_eq!(of("a", true).updated("b", None).unwrap(), "ab");
    }

    #[test]
    fn what_follows_the_mark_is_replaced() {
        let menu = of("Menu\n## Today\nsoup\n", false);
        assert_eq!(menu.updated("cake\n", Some("## Today")).unwrap(), "Menu\n## Today\ncake");
        assert_eq!(
            of("Menu\n## Today", false).updated("cake", Some(" ## Today")).unwrap(),
            "Menu\n## Today\ncake"
        );
        assert_eq!(menu.updated("## Today\ncake\n", Some("## Today")).unwrap(), "Menu\n## Today\ncake");
        assert_eq!(
            menu.updated("## Today\n", Some("## Today")).unwrap(),
            "Menu\n## Today",
            "no newline at the end"
        );
        assert_eq!(menu.updated("cake", Some("Today")), Err(0));
        assert_eq!(of("-\na\n-\n", false).updated("b", Some("-")), Err(2));
    }
}
