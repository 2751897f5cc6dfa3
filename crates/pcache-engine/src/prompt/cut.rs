//! End of a state: what a question could still change of a text's tokens is cut off.

use super::Prompt;
use crate::model::Model;
use crate::text::Text;
use pcache_format::RenderedWith;

/// Questions that try to merge with a prompt's end: letters, digits, white space, punctuation, other scripts.
const PROBES: [&str; 16] =
    ["", "a", "The", "s", "ing", " ", " a", "  ", "\n", "\n\n", "\t", "1", ".", "'s", "é", "中"];
/// Maximum number of tokens that the search for the place goes back.
const MAX_CARRIED_TOKENS: usize = 32;

/// Cuts a text that ends where a question would begin; `own` is the prompt in it.
pub(crate) fn cut(model: &Model, text: &Text, own: &str) -> Prompt {
    let (mut tokens, tail) = model.tokenize_open(text);
    // A template may write the token itself: never two of them.
    if let Some(bos) = model.required_bos().filter(|bos| tokens.first() != Some(bos)) {
        tokens.insert(0, bos);
    }
    let (kept, pending_text) = cut_tail(&tail, model);
    tokens.extend(kept);
    let whole = model.text_of(&tokens) + &pending_text;
    let own = whole.find(own).map(|first| (first, own.len()));
    Prompt {
        tokens,
        pending_text,
        suffix: String::new(),
        dated: false,
        raw: false,
        rendered_with: RenderedWith::default(),
        own,
    }
}

/// Methods of a tokenizer that cutting needs.
pub(super) trait Tokenizer {
    /// The tokens of plain text.
    fn tokens(&self, text: &str) -> Vec<i32>;
    /// Returns the number of bytes that a token stands for.
    fn length(&self, token: i32) -> usize;
}

impl Tokenizer for Model {
    fn tokens(&self, text: &str) -> Vec<i32> {
        self.tokenize(&Text::default().user(text))
    }

    fn length(&self, token: i32) -> usize {
        self.piece(token).len()
    }
}

/// Cuts the plain text at a prompt's end into tokens that no question changes and text that is pending_text.
pub(super) fn cut_tail(tail: &str, tokenizer: &impl Tokenizer) -> (Vec<i32>, String) {
    let whole: Vec<Vec<i32>> = PROBES.iter().map(|p| tokenizer.tokens(&format!("{tail}{p}"))).collect();
    let tokens = &whole[0];
    let stable = whole.iter().map(|w| common_prefix(tokens, w)).min().unwrap_or(0);
    let clean = |kept: usize, pending_text: &str| {
        PROBES
            .iter()
            .zip(&whole)
            .all(|(probe, w)| tokenizer.tokens(&format!("{pending_text}{probe}")) == w[kept..])
    };

    let mut start = tail.len();
    let mut fallback = None;
    for kept in (0..=tokens.len()).rev() {
        if let Some(rest) = tail.get(start..).filter(|_| kept <= stable) {
            fallback = fallback.or(Some((kept, rest)));
            // Tokenizers that put a space in front of a text want the pending_text text without its own.
            let candidates = [Some(rest), rest.strip_prefix(' ')];
            if let Some(pending_text) = candidates.into_iter().flatten().find(|c| clean(kept, c)) {
                return (tokens[..kept].to_vec(), pending_text.to_owned());
            }
        }
        if kept == 0 || stable.saturating_sub(kept) >= MAX_CARRIED_TOKENS {
            break;
        }
        start = start.saturating_sub(tokenizer.length(tokens[kept - 1]));
    }
    // No place is clean. A short tail is pending_text whole; behind a long one the state ends where no question changes a
    // token. Is nothing pending_text then, a question is tokenised as text that goes on; else the tokens at the seam may
    // differ from those of the whole text, in the same way with the cache and without it.
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
        let (kept, pending_text) = cut_tail("translate into Ger", &Words);
        assert_eq!(pending_text, " Ger");
        assert_eq!(kept, words("translate into"));
    }

    #[test]
    fn what_a_question_cannot_change_is_kept() {
        let (kept, pending_text) = cut_tail("user\n", &Words);
        assert_eq!((kept, pending_text.as_str()), (words("user\n"), ""));
        assert_eq!(cut_tail("", &Words), (vec![], String::new()));
    }

    #[test]
    fn kept_and_carried_tokens_are_those_of_the_whole_for_every_probe() {
        for tail in ["a b c", "x", "one two ", "über alles", "end.", "a\n\nb:"] {
            let (kept, pending_text) = cut_tail(tail, &Words);
            for probe in PROBES {
                let asked = [kept.clone(), words(&format!("{pending_text}{probe}"))].concat();
                assert_eq!(asked, words(&format!("{tail}{probe}")), "{tail:?} + {probe:?}");
            }
        }
    }
}
