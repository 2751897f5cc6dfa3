//! A chat template, rendered around a prompt and a question.
//!
//! Rendering happens with marks in place of the texts, and what surrounds the marks is kept: so no text of a
//! user passes through the template engine, and where the question will stand is known exactly.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::civil::Date;
use jiff::fmt::strtime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value};

/// Stands for the question while rendering.
const QUESTION_MARK: &str = "pcache-question-8a42e7";
/// Stands between texts that share a message.
const BLANK_LINE: &str = "\n\n";

/// Steps of rendering at most. Real templates take some hundreds; one that goes on for ever should end.
const MAX_STEPS: u64 = 5_000_000;

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// There is none.
    #[error("the model carries no chat template")]
    None,
    /// It does not parse, or raises an error.
    #[error("the chat template fails: {0}")]
    Fails(String),
    /// It leaves out one of the texts, or repeats it.
    #[error("the chat template does not show the {0} exactly once")]
    Unusable(&'static str),
}

/// Author of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// System: instructions to the model. A template without that role gets it at the beginning of the next user's turn.
    #[default]
    System,
    /// User.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// Its name in templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// Input of a rendering.
#[derive(Debug, Clone, Copy)]
pub struct Chat<'a> {
    /// The template, in Jinja.
    pub source: &'a str,
    /// Text of the beginning-of-text token.
    pub bos: &'a str,
    /// Text of the end-of-text token.
    pub eos: &'a str,
    /// Authors of the messages, of which the last is the prompt. A question follows them: in a turn of its own, or in the
    /// prompt's where that is the user's.
    pub roles: &'a [Role],
    /// Further variables of the template, as `enable_thinking`.
    pub arguments: &'a [(String, serde_json::Value)],
    /// The date that the template gets when it asks; today's if it is not given.
    pub date: Option<Date>,
}

/// Texts that a template puts around the messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateParts {
    /// Before, between and after the texts: messages, question.
    pub texts_around: Vec<String>,
    /// The template strips white space around the prompt.
    pub trims_prompt: bool,
    /// It asked for today's date, so that another day may give another text.
    pub dated: bool,
}

/// Renders `chat` and finds what surrounds its texts. A template that refuses a system role, or leaves such a
/// message out, gets that text as the beginning of the next user turn.
///
/// # Errors
/// A [`TemplateError`] when neither way works.
pub fn frame(chat: &Chat<'_>) -> Result<TemplateParts, TemplateError> {
    let renderer = Renderer::new(chat)?;
    let framed = renderer.frame(|texts| turns(chat.roles, texts, false));
    let has_system = chat.roles.contains(&Role::System);
    framed.or_else(|error| match has_system {
        true => renderer.frame(|texts| turns(chat.roles, texts, true)).map_err(|_| error),
        false => Err(error),
    })
}

/// The messages of a conversation: `texts` are those of `roles` and the question. Texts of one user that follow each other share a
/// message, and with `joined` the system's begin the next user's.
fn turns(roles: &[Role], texts: &[String], joined: bool) -> Vec<Value> {
    let mut messages: Vec<(Role, String)> = Vec::new();
    for (role, text) in roles.iter().chain([&Role::User]).zip(texts) {
        match messages.last_mut() {
            Some((last, before)) if *last == Role::User && *role == Role::User => {
                *before = format!("{before}{BLANK_LINE}{text}");
            }
            Some((last @ Role::System, before)) if joined && *role == Role::User => {
                *last = Role::User;
                *before = format!("{before}{BLANK_LINE}{text}");
            }
            _ => messages.push((*role, text.clone())),
        }
    }
    messages.iter().map(|(role, text)| message(role.name(), text)).collect()
}

/// Stands for a message while rendering.
fn mark(number: usize) -> String {
    format!("pcache-message-{number}-5d1f0c")
}

/// Stands for an answer while rendering.
const ANSWER_MARK: &str = "pcache-answer-e07b52";

/// Texts that a template puts between an answer and the next message, and behind that message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Ends the answer and begins the message.
    pub between: String,
    /// Ends the message and begins the next answer.
    pub after: String,
}

/// Renders a conversation of two messages and finds what stands around the second one.
///
/// # Errors
/// A [`TemplateError`] when the template fails, or does not show answer and message exactly once.
pub fn turn(chat: &Chat<'_>) -> Result<Turn, TemplateError> {
    let renderer = Renderer::new(chat)?;
    let said = |system: bool| {
        let mut messages = vec![message("user", &mark(1))];
        if system {
            messages.insert(0, message("system", &mark(0)));
        }
        messages.extend([message("assistant", ANSWER_MARK), message("user", QUESTION_MARK)]);
        texts_around(
            &renderer.render(messages)?,
            &[(ANSWER_MARK.into(), "answer"), (QUESTION_MARK.into(), "question")],
        )
    };
    let texts_around = said(true).or_else(|_| said(false))?;
    match <[String; 3]>::try_from(texts_around) {
        Ok([_, between, after]) => Ok(Turn { between, after }),
        Err(_) => Err(TemplateError::Unusable("answer")),
    }
}

fn message(role: &str, content: &str) -> Value {
    minijinja::context! { role, content }
}

struct Renderer<'a> {
    environment: Environment<'a>,
    dated: Arc<AtomicBool>,
    chat: &'a Chat<'a>,
}

impl<'a> Renderer<'a> {
    fn new(chat: &'a Chat<'a>) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        // As the transformers library renders them: its templates are written for these settings.
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(fails)?);
        environment.set_fuel(Some(MAX_STEPS));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |text: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        });
        let dated = Arc::new(AtomicBool::new(false));
        let (asked, date) = (Arc::clone(&dated), chat.date);
        environment.add_function("strftime_now", move |format: String| {
            let text = match date {
                Some(date) => strtime::format(&format, date.at(0, 0, 0, 0)),
                None => {
                    asked.store(true, Ordering::Relaxed);
                    strtime::format(&format, &jiff::ZonedDateTime::now())
                }
            };
            text.map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string()))
        });
        environment.add_template_owned("chat", without_generation_tags(chat.source)).map_err(fails)?;
        Ok(Self { environment, dated, chat })
    }

    fn render(&self, messages: Vec<Value>) -> Result<String, TemplateError> {
        let template = self.environment.get_template("chat").map_err(fails)?;
        let arguments = self.chat.arguments.iter();
        let mut values: BTreeMap<&str, Value> =
            arguments.map(|(name, value)| (name.as_str(), Serde(value).into())).collect();
        values.insert("messages", messages.into());
        values.insert("add_generation_prompt", true.into());
        values.insert("bos_token", self.chat.bos.into());
        values.insert("eos_token", self.chat.eos.into());
        template.render(Value::from(values)).map_err(fails)
    }

    fn frame(&self, turns: impl Fn(&[String]) -> Vec<Value>) -> Result<TemplateParts, TemplateError> {
        let last = self.chat.roles.len().saturating_sub(1);
        let what = |(number, role): (usize, &Role)| match role {
            _ if number == last => (mark(number), "prompt"),
            Role::System => (mark(number), "system message"),
            Role::User => (mark(number), "user's message"),
            Role::Assistant => (mark(number), "answer"),
        };
        let marks = self.chat.roles.iter().enumerate().map(what);
        let marks: Vec<(String, &'static str)> = marks.chain([(QUESTION_MARK.into(), "question")]).collect();
        let texts: Vec<String> = marks.iter().map(|(mark, _)| mark.clone()).collect();
        let texts_around = texts_around(&self.render(turns(&texts))?, &marks)?;

        // Rendered again with white space before each text, it shows whether the template strips it.
        let padded: Vec<String> = texts.iter().map(|mark| format!(" {mark}")).collect();
        let padded = self::texts_around(&self.render(turns(&padded))?, &marks)?;
        Ok(TemplateParts {
            trims_prompt: padded[last] == texts_around[last],
            texts_around,
            dated: self.dated.load(Ordering::Relaxed),
        })
    }
}

/// Returns the texts before, between and after the marks, each of which must be there once and in this order.
fn texts_around(text: &str, marks: &[(String, &'static str)]) -> Result<Vec<String>, TemplateError> {
    let mut texts_around = Vec::with_capacity(marks.len() + 1);
    let mut rest = text;
    for (mark, what) in marks {
        let (before, after) = rest.split_once(mark.as_str()).ok_or(TemplateError::Unusable(what))?;
        if after.contains(mark.as_str()) {
            return Err(TemplateError::Unusable(what));
        }
        texts_around.push(before.to_owned());
        rest = after;
    }
    texts_around.push(rest.to_owned());
    Ok(texts_around)
}

/// Some templates mark the assistant's words for training with `{% generation %}`, a tag that Jinja itself does
/// not have. It becomes a comment, which keeps its effect on white space.
fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        text.push_str(before);
        let inner = tag.split_once("%}");
        let name = inner.map(|(inner, _)| inner.trim_matches(['-', '+']).trim());
        match inner.filter(|_| matches!(name, Some("generation" | "endgeneration"))) {
            Some((inner, after)) => {
                text.push_str(&format!("{{#{inner}#}}"));
                rest = after;
            }
            None => {
                text.push_str("{%");
                rest = tag;
            }
        }
    }
    text + rest
}

fn fails(error: minijinja::Error) -> TemplateError {
    TemplateError::Fails(match error.detail() {
        Some(detail) => format!("{detail} (line {})", error.line().unwrap_or(0)),
        None => error.to_string(),
    })
}

#[cfg(test)]
mod tests;
