//! A question on its way to the model, and the room that it needs.

use anyhow::{Result, bail};

use crate::text::human;
use pcache_engine::model::Model;
use pcache_engine::prompt::Asker;
use pcache_engine::text::Text;
use pcache_store::{Prefix, State};

/// Bytes that a token stands for, at the most that is usual.
const BYTES_A_TOKEN: usize = 16;

/// A state that questions are asked behind, with its model.
#[derive(Clone, Copy)]
pub struct Behind<'s> {
    /// The model.
    pub model: &'s Model,
    /// The state.
    pub state: &'s State,
    /// Its tokens, with their chain.
    pub prefix: &'s Prefix,
    /// Tokenises its questions.
    pub asker: &'s Asker,
}

/// One question, tokenised.
#[derive(Debug, Clone)]
pub struct Question {
    /// Text.
    pub text: String,
    /// Its tokens, with what the state puts around it.
    pub tokens: Vec<i32>,
    /// The template looks into the question, and would have said something else in the state.
    pub differs_before: bool,
}

impl Question {
    /// Tokenises a question with what the state puts around it.
    pub fn new(model: &Model, asker: &Asker, text: String) -> Self {
        let asked = asker.ask(model, &text);
        Self { text, tokens: asked.tokens, differs_before: asked.differs_before }
    }

    /// Tokenises a question that the model can read behind the state.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn fitting(behind: Behind<'_>, text: String) -> Result<Self> {
        let Behind { model, prefix, asker, .. } = behind;
        let trained = model.usable_context(&prefix.params);
        let most = trained.saturating_sub(prefix.tokens.len()).saturating_sub(1);
        let too_long = |tokens: String| {
            let (state, trained) = (human::thousands(prefix.tokens.len()), human::thousands(trained));
            let most = human::thousands(most);
            bail!(
                "the question has {tokens}, but behind the state's {state} the model's context of {trained} has room for {most}"
            )
        };
        let begins = beginning(&text, most);
        if begins.len() < text.len() && model.tokenize(&Text::default().user(begins)).len() > most {
            return too_long(format!("more than {}", human::count(most, "token")));
        }
        let question = Self::new(model, asker, text);
        if question.tokens.is_empty() {
            bail!("no token of the model's vocabulary spells the question");
        }
        if question.tokens.len() > most {
            return too_long(human::count(question.tokens.len(), "token"));
        }
        Ok(question)
    }

    /// Positions that a question of so many tokens needs with its answer, as far as the model goes.
    pub fn limit(model: &Model, prefix: &Prefix, tokens: usize, max_tokens: usize) -> usize {
        let trained = model.usable_context(&prefix.params);
        trained.min((prefix.tokens.len() + tokens).saturating_add(max_tokens))
    }
}

/// As much of a text as shows whether it is longer than so many tokens: to tokenise many megabytes takes long.
fn beginning(text: &str, most: usize) -> &str {
    let mut end = text.len().min((most + 1).saturating_mul(BYTES_A_TOKEN));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_ends_between_characters() {
        let text = "é".repeat(40);
        assert_eq!(beginning(&text, 1), "é".repeat(16));
        assert_eq!(beginning(&format!("a{text}"), 0).len(), 15);
        assert_eq!(beginning(&text, usize::MAX - 1), text);
    }
}
