//! Questions behind a state, tokenised.

use super::NextMessage;
use crate::model::Model;
use crate::text::Text;
use pcache_format::RenderedWith;

/// End of a state: what its questions are tokenised with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ending<'s> {
    /// Last token of the state.
    pub last_token: Option<i32>,
    /// Text behind the tokens that is tokenised again with each question.
    pub pending_text: &'s str,
    /// Text behind a question.
    pub suffix: &'s str,
    /// Things that the template rendered the state with; `None` for a raw one.
    pub rendered_with: Option<&'s RenderedWith>,
}

/// Tokenises questions behind one state.
#[derive(Debug)]
pub struct Asker {
    last_token: Option<i32>,
    pending_text: String,
    next: NextMessage,
}

/// A question behind a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Tokens that are evaluated behind the state.
    pub tokens: Vec<i32>,
    /// The template looks into the question, and would have said something else in the state.
    pub differs_before: bool,
}

impl Asker {
    /// Finds what the state's template puts around a question. Where that is not what was saved with the state, as by a template
    /// that the model's file has no more, the saved text stands behind each question.
    pub fn new(model: &Model, ending: Ending<'_>) -> Self {
        let next = ending.rendered_with.and_then(|with| NextMessage::new(model, with, ending.suffix).ok());
        let next = next.filter(|next| next.after() == ending.suffix);
        let raw = || NextMessage::raw(String::new(), ending.suffix.to_owned());
        Self {
            last_token: ending.last_token,
            pending_text: ending.pending_text.to_owned(),
            next: next.unwrap_or_else(raw),
        }
    }

    /// The tokens of a question.
    pub fn ask(&self, model: &Model, question: &str) -> Asked {
        let shown = self.next.show(model, question);
        let text = Text::default().user(&self.pending_text).then(shown.text);
        let follows_text = self.pending_text.is_empty() && self.last_token.is_some_and(|t| model.is_plain(t));
        let tokens = if follows_text { model.tokenize_behind_text(&text) } else { model.tokenize(&text) };
        Asked { tokens, differs_before: shown.differs_before }
    }
}
