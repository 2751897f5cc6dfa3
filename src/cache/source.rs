//! A prompt file on its way to tokens.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::Observer;
use crate::text::human;
use pcache_engine::model::Model;
use pcache_engine::prompt::{self, ChatFormat, Prompt, PromptFormat, QuestionFormat};
use pcache_engine::template::{Message, Role};
use pcache_engine::text::Text;
use pcache_format::epoch::LLAMA_CPP_BUILD;
use pcache_format::{ChainKey, PromptDigest, StateKind, TextDigest};

/// Prompt formats, and the words for them.
pub struct DescribedFormat {
    /// Way in which it is done.
    pub framing: PromptFormat,
    /// For people, as `chat template` or `raw`.
    pub description: String,
}

impl DescribedFormat {
    /// As it is; `question_format` is what stands before and after a question.
    pub fn raw(question_format: Option<(String, String)>) -> Self {
        let description = if question_format.is_some() { "raw, with a question format" } else { "raw" };
        let format = question_format.map(|(before, after)| QuestionFormat { before, after });
        Self { framing: PromptFormat::Raw(format), description: description.into() }
    }

    /// In a chat template; `name` is that of another one than the model's own.
    pub fn chat(chat: ChatFormat, name: Option<&str>) -> Self {
        let template = name.map_or_else(|| "chat template".into(), |name| format!("template {name}"));
        let mut parts = vec![template];
        match (chat.before.as_slice(), chat.role) {
            ([], Role::System) => {}
            ([], Role::User) => parts.push("as the user's".into()),
            ([Message { role: Role::System, .. }], Role::User) => {
                parts.push("as the user's, after a system message".into());
            }
            (before, role) => {
                let before = human::count(before.len(), "message");
                parts.push(format!("as the {}'s, after {before}", role.name()));
            }
        }
        parts.extend(chat.arguments.iter().map(|(name, value)| format!("{name}={value}")));
        parts.extend(chat.date.map(|date| format!("dated {date}")));
        Self { framing: PromptFormat::Chat(chat), description: parts.join(", ") }
    }

    /// Everything that the framing consists of, for the digest.
    fn canonical(&self) -> String {
        match &self.framing {
            PromptFormat::Chat(chat) => canonical(chat),
            PromptFormat::Raw(None) => "raw".into(),
            PromptFormat::Raw(Some(format)) => {
                named(&[("raw", ""), ("before", &format.before), ("after", &format.after)])
            }
        }
    }
}

/// Everything that a chat's framing consists of, by name.
fn canonical(chat: &ChatFormat) -> String {
    if *chat == ChatFormat::default() {
        return "template".into();
    }
    let mut parts: Vec<(&str, &str)> = vec![("user", if chat.role == Role::User { "true" } else { "false" })];
    parts.extend(chat.template.as_deref().map(|text| ("template", text)));
    // One system message and the user's prompt, and a system prompt alone, have been written like this since version 0.1.
    match (chat.before.as_slice(), chat.role) {
        ([], Role::System | Role::User) => {}
        ([Message { role: Role::System, text }], Role::User) => {
            parts[0].1 = "false";
            parts.push(("system", text));
        }
        (before, role) => {
            parts.push(("role", role.name()));
            parts.extend(before.iter().map(|message| (message.role.name(), message.text.as_str())));
        }
    }
    let date = chat.date.map(|date| date.to_string());
    parts.extend(date.as_deref().map(|date| ("date", date)));
    let arguments: Vec<(String, String)> =
        chat.arguments.iter().map(|(name, value)| (format!("argument {name}"), value.to_string())).collect();
    parts.extend(arguments.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    named(&parts)
}

/// The message that a text file holds: the newline that ends it is the file's.
pub fn of_file(text: &str) -> &str {
    text.trim_end_matches(['\n', '\r'])
}

/// Letters and digits of a prompt's text that no token stands for.
fn lost_letters(model: &Model, prompt: &Prompt, text: &str) -> usize {
    // Where the text is found in its tokens nothing is lost, and a template that reads texts may leave some out.
    if prompt.own.is_some() || prompt.rendered_with.reads_texts {
        return 0;
    }
    let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).count();
    let spelled = model.text_of(&model.tokenize(&Text::default().user(text)));
    letters(text).saturating_sub(letters(&spelled))
}

/// Names and values, each with its length, so that no two lists read the same.
pub fn named(parts: &[(&str, &str)]) -> String {
    parts.iter().map(|(name, value)| format!("{name}={}:{value}\n", value.len())).collect()
}

/// Returns the hash of a prompt's text alone.
pub fn text_digest(text: &str) -> TextDigest {
    TextDigest::from(blake3::derive_key("pcache text v1", text.as_bytes()))
}

/// A prompt as it came in.
pub struct Source<'a> {
    path: &'a Path,
    text: String,
    framed: &'a DescribedFormat,
    /// The text is a message as it is, and no file's, which ends with a newline that is no part of a message.
    exact: bool,
    /// Names everything that the prompt's tokens follow from.
    digest: PromptDigest,
}

impl<'a> Source<'a> {
    /// A text that is known by the name `path`.
    ///
    /// # Errors
    /// When it is empty.
    pub fn of_text(
        path: &'a Path,
        text: String,
        root: &ChainKey,
        framed: &'a DescribedFormat,
    ) -> Result<Self> {
        if text.trim().is_empty() {
            bail!("{} is empty: there is nothing to save", label(path));
        }
        let digest = digest(root, &framed.canonical(), &text);
        Ok(Self { path, text, framed, exact: false, digest })
    }

    /// Takes newlines at the end of the text for a part of the message.
    #[must_use]
    pub fn exact(self) -> Self {
        Self { exact: true, ..self }
    }

    /// Names everything that the tokens follow from under other parameters.
    pub fn digest_under(&self, root: &ChainKey) -> PromptDigest {
        digest(root, &self.framed.canonical(), &self.text)
    }

    /// The file's name, for people.
    pub fn label(&self) -> String {
        label(self.path)
    }

    /// Origin of the state, for its label.
    pub fn origin(&self, prompt: &Prompt) -> Origin {
        Origin {
            label: self.label(),
            framing: self.framing().to_owned(),
            kind: StateKind::Prompt,
            text: Some(self.text_digest()),
            digest: (!prompt.dated).then_some(self.digest),
        }
    }

    /// Prompt format, for people.
    pub fn framing(&self) -> &str {
        &self.framed.description
    }

    /// The hash of the text alone.
    pub fn text_digest(&self) -> TextDigest {
        text_digest(&self.text)
    }

    /// The tokens; says so when they depend on the day.
    ///
    /// # Errors
    /// When the template refuses the prompt, or a question could still change all of its tokens.
    pub fn tokenize(&self, observer: &dyn Observer, model: &Model) -> Result<Prompt> {
        let text = match self.framed.framing {
            PromptFormat::Chat(_) if !self.exact => of_file(&self.text),
            _ => &self.text,
        };
        let prompt = prompt::render(model, text, &self.framed.framing)
            .with_context(|| format!("cannot render {}", self.label()))?;
        if prompt.dated {
            let today = jiff::ZonedDateTime::now().date();
            observer.dated(&today.to_string());
        }
        let lost = lost_letters(model, &prompt, text);
        if lost > 0 {
            let (lost, label) = (human::count(lost, "letter"), self.label());
            observer
                .warn(&format!("the model's vocabulary cannot spell {lost} of {label}: they are left out"));
        }
        if prompt.tokens.is_empty() {
            bail!("{} is too short: a question could still change all of its tokens", self.label());
        }
        Ok(prompt)
    }
}

/// Origin of a state's text.
#[derive(Debug, Clone)]
pub struct Origin {
    /// For people: the file.
    pub label: String,
    /// For people: how it was put before the model.
    pub framing: String,
    /// Origin of the tokens.
    pub kind: StateKind,
    /// Names the text alone.
    pub text: Option<TextDigest>,
    /// Names everything that the tokens follow from, where a file gives them again.
    pub digest: Option<PromptDigest>,
}

/// Refuses a prompt that leaves no room for a question in a context of `limit` tokens.
///
/// # Errors
/// When it does not.
pub fn check_length(label: &str, tokens: usize, limit: usize) -> Result<()> {
    if tokens < limit {
        return Ok(());
    }
    bail!(
        "{label} has {}, the model's context is {} and a question needs room too; shorten the prompt",
        human::count(tokens, "token"),
        human::thousands(limit)
    )
}

/// The hash of everything that a prompt's tokens follow from: the text, how it is rendered, model and parameters (the
/// model's template and vocabulary are in its file), and the code that does it.
fn digest(root: &ChainKey, rendering: &str, text: &str) -> PromptDigest {
    let mut hasher = blake3::Hasher::new_derive_key("pcache prompt v1");
    hasher.update(root.as_bytes());
    for part in [env!("CARGO_PKG_VERSION"), LLAMA_CPP_BUILD, rendering] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    hasher.update(text.as_bytes());
    PromptDigest::from(hasher.finalize())
}

/// A prompt file's name, for people.
fn label(path: &Path) -> String {
    if path.as_os_str() == "-" { "stdin".into() } else { human::file_name(path) }
}
