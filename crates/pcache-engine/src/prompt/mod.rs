//! From a prompt to the tokens of its state, and to what an ask puts around a question.
//!
//! **Where the state ends.** The prompt's tokens up to the question are the state, except those at the end that a
//! question could still change: a tokenizer may merge the last of them with the question's beginning. They
//! are dropped, and their text is *pending_text*: an ask evaluates it with the question. The place is the last one
//! after which the pending_text text, tokenised on its own together with any of a set of probing questions, gives the
//! same tokens as the whole text does. A control token is never merged with anything, so the search ends there
//! at the latest. Whatever the question, an ask's tokens are those of the state followed by those of the pending_text
//! text, the question and the suffix: the same with the cache and without it.

mod ask;
mod cut;
mod guard;
mod next;

use jiff::civil::Date;

use crate::model::Model;
use crate::template::{ChatTemplate, Message, QUESTION_MARK, Role, Shape, TemplateError, Variables};
use crate::text::{Specials, Text};
pub use ask::{Asked, Asker, Ending};
pub(crate) use cut::cut;
use cut::cut_tail;
use guard::Breaker;
pub use next::NextMessage;
use pcache_format::RenderedWith;

/// Format in which a prompt is given to the model.
#[derive(Debug, Clone, PartialEq)]
pub enum PromptFormat {
    /// Text as it is, control tokens included. A question follows it directly, or stands in a format of its own.
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
    /// It is taken as it is, and no template is around it.
    pub raw: bool,
    /// Things that the template rendered it with.
    pub rendered_with: RenderedWith,
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
    let source = chat.template.as_deref();
    let template = compiled(model, source, &chat.arguments, chat.date)?;
    let roles: Vec<Role> = chat.before.iter().map(|message| message.role).chain([chat.role]).collect();
    let shape = Shape::new(&template, &roles)?;
    let mut texts: Vec<String> = chat.before.iter().map(|message| message.text.clone()).collect();
    texts.push(prompt.to_owned());
    let Around { before, after, reads_texts } = around_question(model.specials(), &template, &shape, texts)?;
    let own = shape.strips[roles.len() - 1].apply(prompt);

    let date = chat.date.unwrap_or_else(|| jiff::ZonedDateTime::now().date());
    let rendered_with = RenderedWith {
        template: chat.template.clone(),
        arguments: chat.arguments.iter().cloned().collect(),
        date: template.asked_for_date().then(|| date.to_string()),
        roles: roles.iter().map(|role| role.name().to_owned()).collect(),
        reads_texts,
    };
    let dated = template.asked_for_date() && chat.date.is_none();
    Ok(Prompt { suffix: after, dated, rendered_with, ..cut(model, &before, own) })
}

/// Texts around a question.
#[derive(Debug)]
struct Around {
    before: Text,
    after: String,
    /// The template looked into the messages before it.
    reads_texts: bool,
}

/// The texts around a question that follows `texts`.
fn around_question(
    specials: &Specials,
    template: &ChatTemplate,
    shape: &Shape,
    mut texts: Vec<String>,
) -> Result<Around, TemplateError> {
    let mut composed = Text::default();
    for ((gap, strip), text) in shape.gaps.iter().zip(&shape.strips).zip(&texts) {
        composed = composed.template(gap).user(strip.apply(text));
    }
    let [.., between, after] = shape.gaps.as_slice() else {
        return Err(TemplateError::LeavesOut("prompt"));
    };
    let composed = composed.template(between);

    let breaker = Breaker::new(texts.iter().map(String::as_str), specials);
    texts.push(QUESTION_MARK.to_owned());
    let real = shape.render(template, &texts)?;
    if real == format!("{}{QUESTION_MARK}{after}", composed.joined()) {
        return Ok(Around { before: composed, after: after.clone(), reads_texts: false });
    }
    // The template looked into the texts: what it says counts, and not what it says around others.
    let Some(breaker) = breaker else {
        return Ok(Around { before: composed, after: after.clone(), reads_texts: false });
    };
    let question = texts.len() - 1;
    for text in &mut texts[..question] {
        *text = breaker.broken(text, specials);
    }
    let broken = shape.render(template, &texts)?;
    let split = |text: &str| match text.matches(QUESTION_MARK).count() {
        1 => text.split_once(QUESTION_MARK).map(|(before, after)| (before.to_owned(), after.to_owned())),
        _ => None,
    };
    let (before, after) = split(&real).ok_or(TemplateError::LeavesOut("question"))?;
    let (broken, _) = split(&broken).ok_or(TemplateError::LeavesOut("question"))?;
    Ok(Around { before: breaker.text(&before, &broken, specials), after, reads_texts: true })
}

/// The template of `source`, or else the model's own, with its variables.
fn compiled(
    model: &Model,
    source: Option<&str>,
    arguments: &[(String, serde_json::Value)],
    date: Option<Date>,
) -> Result<ChatTemplate, TemplateError> {
    let own_template = || model.chat_template().ok_or(TemplateError::None);
    let source = source.map(str::to_owned).map_or_else(own_template, Ok)?;
    let (bos, eos) = model.bos_eos_texts();
    ChatTemplate::new(&source, Variables { bos: &bos, eos: &eos, arguments, date })
}

/// Takes `prompt` as it is, control tokens included, and `before` with it; a question follows them directly.
pub fn raw(model: &Model, prompt: &str, before: &str) -> Prompt {
    Prompt { raw: true, ..cut(model, &Text::default().template(prompt).template(before), prompt) }
}

/// A conversation of the tokens `said`, to be gone on with by another message: `next` says what the template puts around it.
pub fn conversation(model: &Model, said: Vec<i32>, next: &NextMessage) -> Prompt {
    let (closed, tail) = model.tokenize_open(&Text::default().template(next.between()));
    let (kept, pending_text) = cut_tail(&tail, model);
    Prompt {
        tokens: [said, closed, kept].concat(),
        pending_text,
        suffix: next.after().to_owned(),
        dated: false,
        raw: next.is_raw(),
        rendered_with: next.rendered_with().clone(),
        own: None,
    }
}

impl Prompt {
    /// End of the state that the prompt becomes.
    pub fn ending(&self) -> Ending<'_> {
        Ending {
            last_token: self.tokens.last().copied(),
            pending_text: &self.pending_text,
            suffix: &self.suffix,
            rendered_with: (!self.raw).then_some(&self.rendered_with),
        }
    }
}

#[cfg(test)]
mod tests;
