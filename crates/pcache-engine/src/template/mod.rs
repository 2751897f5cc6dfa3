//! Chat templates: the text that a model reads of messages.
//!
//! [`ChatTemplate::render`] is the reference rendering. [`Shape`] says where in it the messages stand and what surrounds them,
//! so that a state can end before a question that nobody knows yet, and so that control tokens are looked for in the
//! template's own text alone.

mod jinja;
mod shape;

use std::collections::BTreeMap;

use jiff::civil::Date;
use minijinja::Value;
use minijinja::value::Serde;

use jinja::Jinja;
pub(super) use shape::{QUESTION_MARK, Shape};

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// There is none.
    #[error("the model carries no chat template")]
    None,
    /// It does not parse, or raises an error.
    #[error("the chat template fails: {0}")]
    Fails(String),
    /// It leaves out one of the texts.
    #[error("the chat template does not show the {0}")]
    LeavesOut(&'static str),
    /// It shows one of the texts twice, or behind a later one.
    #[error("the chat template does not show the {0} exactly once, before what is said later")]
    Displaces(&'static str),
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
    const ALL: [Self; 3] = [Self::System, Self::User, Self::Assistant];

    /// Its name in templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }

    /// Role of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// Something that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Author of the text.
    pub role: Role,
    /// The text.
    pub text: String,
}

/// Form of a message's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// A text.
    Text,
    /// A list with one part, which is a text. Templates of models that see pictures may show nothing else.
    Parts,
}

/// Input of a rendering beside the messages.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Variables<'a> {
    /// Text of the beginning-of-text token.
    pub bos: &'a str,
    /// Text of the end-of-text token.
    pub eos: &'a str,
    /// Further variables, as `enable_thinking`.
    pub arguments: &'a [(String, serde_json::Value)],
    /// The date that the template gets when it asks; today's if it is not given.
    pub date: Option<Date>,
}

/// A chat template, compiled, with its variables.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    jinja: Jinja,
    variables: Vec<(String, Value)>,
    /// There are no tools: none where the template asks for that, else undefined.
    has_none: bool,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`TemplateError::Fails`] when it does not parse.
    pub fn new(source: &str, variables: Variables<'_>) -> Result<Self, TemplateError> {
        let mut values: Vec<(String, Value)> =
            variables.arguments.iter().map(|(name, value)| (name.clone(), Serde(value).into())).collect();
        values.push(("add_generation_prompt".into(), true.into()));
        values.push(("bos_token".into(), variables.bos.into()));
        values.push(("eos_token".into(), variables.eos.into()));
        let mut template =
            Self { jinja: Jinja::new(source, variables.date)?, variables: values, has_none: true };
        template.has_none = template.wants_none();
        Ok(template)
    }

    /// The reference gives `tools` and `documents` as none. A template that asks only whether they are defined, and then walks
    /// through them, fails there; it is meant for a renderer that leaves them undefined. Of two renderings without tools the
    /// shorter one is the one that says nothing of them.
    fn wants_none(&mut self) -> bool {
        let hello = [Message { role: Role::User, text: "Hello".into() }];
        let mut length = |has_none| {
            self.has_none = has_none;
            self.render(&hello).map(|text| text.len()).ok()
        };
        match (length(true), length(false)) {
            (Some(none), Some(undefined)) => none <= undefined,
            (None, Some(_)) => false,
            _ => true,
        }
    }

    /// The text of a conversation, and the beginning of an answer behind it.
    ///
    /// # Errors
    /// [`TemplateError::Fails`] when the template raises an error.
    pub fn render(&self, messages: &[Message]) -> Result<String, TemplateError> {
        self.render_as(messages, Content::Text)
    }

    fn render_as(&self, messages: &[Message], content: Content) -> Result<String, TemplateError> {
        let mut values: BTreeMap<&str, Value> = BTreeMap::new();
        if self.has_none {
            values.extend([("tools", ().into()), ("documents", ().into())]);
        }
        values.extend(self.variables.iter().map(|(name, value)| (name.as_str(), value.clone())));
        values.insert("messages", messages.iter().map(|message| value(message, content)).collect());
        self.jinja.render(values)
    }

    /// It asked for today's date, so that another day may give another text.
    pub fn asked_for_date(&self) -> bool {
        self.jinja.asked_for_date()
    }
}

fn value(message: &Message, content: Content) -> Value {
    let (role, text) = (message.role.name(), message.text.as_str());
    match content {
        Content::Text => minijinja::context! { role, content => text },
        Content::Parts => {
            let part = minijinja::context! { type => "text", text };
            minijinja::context! { role, content => vec![part] }
        }
    }
}

#[cfg(test)]
mod tests;
