//! From a prompt to the tokens of its state, and to what an ask puts around a question.
//!
//! **Where the state ends.** The prompt's tokens up to the question are the state, except those at the end that a
//! question could still change: a tokenizer may merge the last of them with the question's beginning. They
//! are dropped, and their text is *pending_text*: an ask evaluates it with the question. The place is the last one
//! after which the pending_text text, tokenised on its own together with any of a set of probing questions, gives the
//! same tokens as the whole text does. A control token is never merged with anything, so the search ends there
//! at the latest. Whatever the question, an ask's tokens are those of the state followed by those of the pending_text
//! text, the question and the suffix: the same with the cache and without it.

use jiff::civil::Date;

use super::model::Model;
use super::template::{self, Chat, Role, TemplateError, Turn};
use super::text::Text;

/// Questions that try to merge with a prompt's end: letters, digits, white space, punctuation, other scripts.
const PROBES: [&str; 16] =
    ["", "a", "The", "s", "ing", " ", " a", "  ", "\n", "\n\n", "\t", "1", ".", "'s", "é", "中"];
/// Maximum number of tokens that the search for the place goes back.
const MAX_CARRIED_TOKENS: usize = 32;

/// Format in which a prompt is given to the model.
#[derive(Debug, Clone, PartialEq)]
pub enum PromptFormat {
    /// As it is, control tokens included. A question follows it directly, or stands in a format of its own.
    Raw(Option<QuestionFormat>),
    /// In a chat template.
    Chat(ChatFormat),
}

/// Texts around the questions to a raw prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuestionFormat {
    /// Follows the prompt and is part of the state.
    pub before: String,
    /// Follows the question.
    pub after: String,
}

/// Something that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Author of the text.
    pub role: Role,
    /// The text.
    pub text: String,
}

/// Options for rendering a chat.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChatFormat {
    /// A template instead of the model's own.
    pub template: Option<String>,
    /// Messages before the prompt, which is the last one.
    pub before: Vec<Message>,
    /// Author of the prompt.
    pub role: Role,
    /// Further variables of the template.
    pub arguments: Vec<(String, serde_json::Value)>,
    /// The date that the template gets when it asks for today's.
    pub date: Option<Date>,
}

impl ChatFormat {
    /// A prompt of the system's; or of the user's, where that is said or there is a system message beside it.
    pub fn new(system: Option<String>, by_user: bool) -> Self {
        let role = if by_user || system.is_some() { Role::User } else { Role::System };
        let before = system.into_iter().map(|text| Message { role: Role::System, text });
        Self { before: before.collect(), role, ..Self::default() }
    }
}

/// A prompt, ready to be evaluated and asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The tokens of the state.
    pub tokens: Vec<i32>,
    /// The end of the prompt's text that is evaluated with each question.
    pub pending_text: String,
    /// Text behind a question.
    pub suffix: String,
    /// The template put today's date into it.
    pub dated: bool,
    /// Place of the prompt's own text, in bytes of [`Model::text_of`] its tokens and the pending text.
    pub own: Option<(usize, usize)>,
}

/// Puts `text` before the model.
///
/// # Errors
/// When the chat template is missing or cannot be used.
pub fn render(model: &Model, text: &str, framing: &PromptFormat) -> Result<Prompt, TemplateError> {
    match framing {
        PromptFormat::Raw(None) => Ok(raw(model, text, "")),
        PromptFormat::Raw(Some(format)) => {
            Ok(Prompt { suffix: format.after.clone(), ..raw(model, text, &format.before) })
        }
        PromptFormat::Chat(chat) => from_template(model, text, chat),
    }
}

/// Renders `prompt` in a chat template.
///
/// # Errors
/// When there is no template or it cannot be used.
pub fn from_template(model: &Model, prompt: &str, chat: &ChatFormat) -> Result<Prompt, TemplateError> {
    let own_template = || model.chat_template().ok_or(TemplateError::None);
    let source = chat.template.clone().map_or_else(own_template, Ok)?;
    let (bos, eos) = model.bos_eos_texts();
    let roles: Vec<Role> = chat.before.iter().map(|message| message.role).chain([chat.role]).collect();
    let roles = &roles;
    let (arguments, date) = (&chat.arguments, chat.date);
    let frame = template::frame(&Chat { source: &source, bos: &bos, eos: &eos, roles, arguments, date })?;
    // The newline that ends a text file is the file's, not the message's.
    let file = |text: &str| match frame.trims_prompt {
        true => text.trim().to_owned(),
        false => text.trim_end_matches(['\n', '\r']).to_owned(),
    };
    let own = file(prompt);
    let texts: Vec<String> =
        chat.before.iter().map(|message| file(&message.text)).chain([own.clone()]).collect();
    let mut text = Text::default();
    for (gap, said) in frame.texts_around.iter().zip(&texts) {
        text = text.template(gap).user(said);
    }
    let [.., between, after] = frame.texts_around.as_slice() else {
        return Err(TemplateError::Unusable("prompt"));
    };
    let rendered = cut(model, &text.template(between), &own);
    Ok(Prompt { suffix: after.clone(), dated: frame.dated, ..rendered })
}

/// Returns the texts that the chat template puts between an answer and the next message, and behind it.
///
/// # Errors
/// When there is no template or it cannot be used.
pub fn turn(model: &Model, chat: &ChatFormat) -> Result<Turn, TemplateError> {
    let own_template = || model.chat_template().ok_or(TemplateError::None);
    let source = chat.template.clone().map_or_else(own_template, Ok)?;
    let (bos, eos) = model.bos_eos_texts();
    let (arguments, date) = (&chat.arguments, chat.date);
    template::turn(&Chat { source: &source, bos: &bos, eos: &eos, roles: &[Role::System], arguments, date })
}

/// The tokens of a message behind an answer.
pub fn message_tokens(model: &Model, turn: &Turn, message: &str) -> Vec<i32> {
    model.tokenize(&Text::default().template(&turn.between).user(message).template(&turn.after))
}

/// Takes `prompt` as it is, control tokens included, and `before` with it; a question follows them directly.
pub fn raw(model: &Model, prompt: &str, before: &str) -> Prompt {
    cut(model, &Text::default().template(prompt).template(before), prompt)
}

/// A conversation of the tokens `said`, to be gone on with by another message: `turn` is what the template puts between an
/// answer and the next message, `suffix` what it puts behind that.
pub fn conversation(model: &Model, said: Vec<i32>, turn: &str, suffix: &str) -> Prompt {
    let (closed, tail) = model.tokenize_open(&Text::default().template(turn));
    let (kept, pending_text) = cut_tail(&tail, model);
    let tokens = [said, closed, kept].concat();
    Prompt { tokens, pending_text, suffix: suffix.to_owned(), dated: false, own: None }
}

/// End of a state: what its questions are tokenised with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ending<'s> {
    /// Last token of the state.
    pub last_token: Option<i32>,
    /// Text behind the tokens that is tokenised again with each question.
    pub pending_text: &'s str,
    /// Text behind a question.
    pub suffix: &'s str,
}

impl Prompt {
    /// End of the state that the prompt becomes.
    pub fn ending(&self) -> Ending<'_> {
        Ending {
            last_token: self.tokens.last().copied(),
            pending_text: &self.pending_text,
            suffix: &self.suffix,
        }
    }
}

/// Returns the tokens that an ask evaluates after the state.
pub fn question_tokens(model: &Model, ending: Ending<'_>, question: &str) -> Vec<i32> {
    let text = Text::default().user(ending.pending_text).user(question).template(ending.suffix);
    let follows_text = ending.pending_text.is_empty() && ending.last_token.is_some_and(|t| model.is_plain(t));
    if follows_text { model.tokenize_behind_text(&text) } else { model.tokenize(&text) }
}

/// Cuts a text that ends where a question would begin; `own` is the prompt in it.
pub(super) fn cut(model: &Model, text: &Text, own: &str) -> Prompt {
    let (mut tokens, tail) = model.tokenize_open(text);
    // A template may write the token itself: never two of them.
    if let Some(bos) = model.required_bos().filter(|bos| tokens.first() != Some(bos)) {
        tokens.insert(0, bos);
    }
    let (kept, pending_text) = cut_tail(&tail, model);
    tokens.extend(kept);
    let whole = model.text_of(&tokens) + &pending_text;
    let own = whole.find(own).map(|first| (first, own.len()));
    Prompt { tokens, pending_text, suffix: String::new(), dated: false, own }
}

/// Methods of a tokenizer that cutting needs.
trait Tokenizer {
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
fn cut_tail(tail: &str, tokenizer: &impl Tokenizer) -> (Vec<i32>, String) {
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
