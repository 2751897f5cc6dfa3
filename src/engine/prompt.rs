//! From a prompt to the tokens of its state, and to what an ask puts around a question.
//!
//! **Where the state ends.** The prompt's tokens up to the question are the state, except those at the end that a
//! question could still change: a tokenizer may merge the last of them with the question's beginning. They
//! are dropped, and their text is *carried*: an ask evaluates it with the question. The place is the last one
//! after which the carried text, tokenised on its own together with any of a set of probing questions, gives the
//! same tokens as the whole text does. A control token is never merged with anything, so the search ends there
//! at the latest. Whatever the question, an ask's tokens are those of the state followed by those of the carried
//! text, the question and the suffix: the same with the cache and without it.

use super::model::Model;
use super::template::{self, Frame, TemplateError};
use super::text::Text;

/// Questions that try to merge with a prompt's end: letters, digits, white space, punctuation, other scripts.
const PROBES: [&str; 16] =
    ["", "a", "The", "s", "ing", " ", " a", "  ", "\n", "\n\n", "\t", "1", ".", "'s", "é", "中"];
/// How many tokens the search for the place goes back at most.
const MAX_CARRIED_TOKENS: usize = 32;

/// A prompt, ready to be evaluated and asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The tokens of the state.
    pub tokens: Vec<i32>,
    /// The end of the prompt's text that is evaluated with each question.
    pub carried: String,
    /// What follows a question.
    pub suffix: String,
    /// Whether the template put the date into it.
    pub dated: bool,
}

/// Renders `prompt` as the system message of the model's own chat template.
///
/// # Errors
/// When the model has no template or it cannot be used.
pub fn from_template(model: &Model<'_>, prompt: &str) -> Result<Prompt, TemplateError> {
    let source = model.chat_template().ok_or(TemplateError::None)?;
    let (bos, eos) = model.bos_eos_texts();
    let frame: Frame = template::frame(&source, &bos, &eos)?;
    // The newline that ends a text file is the file's, not the message's.
    let prompt = if frame.trims_prompt { prompt.trim() } else { prompt.trim_end_matches(['\n', '\r']) };
    let text = Text::default().template(&frame.before).user(prompt).template(&frame.between);
    Ok(Prompt { suffix: frame.after, dated: frame.dated, ..cut(model, &text) })
}

/// Takes `prompt` as it is, control tokens included; a question follows it directly.
pub fn raw(model: &Model<'_>, prompt: &str) -> Prompt {
    cut(model, &Text::default().template(prompt))
}

/// The tokens that an ask evaluates after the state.
pub fn question_tokens(model: &Model<'_>, carried: &str, question: &str, suffix: &str) -> Vec<i32> {
    model.tokenize(&Text::default().user(carried).user(question).template(suffix))
}

fn cut(model: &Model<'_>, text: &Text) -> Prompt {
    let (mut tokens, tail) = model.tokenize_open(text);
    // A template may write the token itself: never two of them.
    if let Some(bos) = model.required_bos().filter(|bos| tokens.first() != Some(bos)) {
        tokens.insert(0, bos);
    }
    let (kept, carried) = cut_tail(&tail, model);
    tokens.extend(kept);
    Prompt { tokens, carried, suffix: String::new(), dated: false }
}

/// What cutting needs of a tokenizer.
trait Tokenizer {
    /// The tokens of plain text.
    fn tokens(&self, text: &str) -> Vec<i32>;
    /// How many bytes of text a token stands for.
    fn length(&self, token: i32) -> usize;
}

impl Tokenizer for Model<'_> {
    fn tokens(&self, text: &str) -> Vec<i32> {
        self.tokenize(&Text::default().user(text))
    }

    fn length(&self, token: i32) -> usize {
        self.piece(token).len()
    }
}

/// Cuts the plain text at a prompt's end into tokens that no question changes and text that is carried.
fn cut_tail(tail: &str, tokenizer: &impl Tokenizer) -> (Vec<i32>, String) {
    let whole: Vec<Vec<i32>> = PROBES.iter().map(|p| tokenizer.tokens(&format!("{tail}{p}"))).collect();
    let tokens = &whole[0];
    let stable = whole.iter().map(|w| common_prefix(tokens, w)).min().unwrap_or(0);
    let clean = |kept: usize, carried: &str| {
        PROBES
            .iter()
            .zip(&whole)
            .all(|(probe, w)| tokenizer.tokens(&format!("{carried}{probe}")) == w[kept..])
    };

    let mut start = tail.len();
    let mut fallback = None;
    for kept in (0..=tokens.len()).rev() {
        if let Some(rest) = tail.get(start..).filter(|_| kept <= stable) {
            fallback = fallback.or(Some((kept, rest)));
            // Tokenizers that put a space in front of a text want the carried text without its own.
            let candidates = [Some(rest), rest.strip_prefix(' ')];
            if let Some(carried) = candidates.into_iter().flatten().find(|c| clean(kept, c)) {
                return (tokens[..kept].to_vec(), carried.to_owned());
            }
        }
        if kept == 0 || stable.saturating_sub(kept) >= MAX_CARRIED_TOKENS {
            break;
        }
        start = start.saturating_sub(tokenizer.length(tokens[kept - 1]));
    }
    // No place is clean. A short tail is carried whole; behind a long one the tokens at the seam may differ
    // from those of the whole text, in the same way with the cache and without it.
    match fallback.filter(|_| stable > MAX_CARRIED_TOKENS) {
        Some((kept, rest)) => (tokens[..kept].to_vec(), rest.to_owned()),
        None => (Vec::new(), tail.to_owned()),
    }
}

fn common_prefix(a: &[i32], b: &[i32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tokenizer that, like byte-pair ones, keeps a word and the space before it together. A token is its
    /// text's hash with its length in the lowest byte.
    struct Words;

    impl Tokenizer for Words {
        fn tokens(&self, text: &str) -> Vec<i32> {
            let mut pieces: Vec<String> = Vec::new();
            for c in text.chars() {
                let joins = |last: &String| {
                    c.is_alphanumeric() && last.ends_with(|l: char| l.is_alphanumeric() || l == ' ')
                };
                match pieces.last_mut().filter(|last| joins(last)) {
                    Some(last) => last.push(c),
                    None => pieces.push(c.into()),
                }
            }
            pieces.iter().map(|p| token(p)).collect()
        }

        fn length(&self, token: i32) -> usize {
            (token & 0xff) as usize
        }
    }

    fn token(piece: &str) -> i32 {
        let hash = piece.bytes().fold(7i32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
        (hash << 8) | piece.len() as i32
    }

    fn words(text: &str) -> Vec<i32> {
        Words.tokens(text)
    }

    #[test]
    fn the_last_word_is_carried_because_a_question_may_continue_it() {
        let (kept, carried) = cut_tail("translate into Ger", &Words);
        assert_eq!(carried, " Ger");
        assert_eq!(kept, words("translate into"));
    }

    #[test]
    fn what_a_question_cannot_change_is_kept() {
        let (kept, carried) = cut_tail("user\n", &Words);
        assert_eq!((kept, carried.as_str()), (words("user\n"), ""));
        assert_eq!(cut_tail("", &Words), (vec![], String::new()));
    }

    #[test]
    fn kept_and_carried_tokens_are_those_of_the_whole_for_every_probe() {
        for tail in ["a b c", "x", "one two ", "über alles", "end.", "a\n\nb:"] {
            let (kept, carried) = cut_tail(tail, &Words);
            for probe in PROBES {
                let asked = [kept.clone(), words(&format!("{carried}{probe}"))].concat();
                assert_eq!(asked, words(&format!("{tail}{probe}")), "{tail:?} + {probe:?}");
            }
        }
    }
}
