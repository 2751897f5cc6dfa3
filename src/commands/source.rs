//! A prompt file on its way to tokens.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::app::{App, read_text};
use super::models;
use crate::cli::FramingArgs;
use crate::report::human;
use pcache_engine::model::Model;
use pcache_engine::prompt::{self, ChatFraming, Framing, Prompt, QuestionFormat};
use pcache_format::epoch::LLAMA_CPP_BUILD;
use pcache_format::{ChainKey, PromptDigest, StateKind, TextDigest};

/// How prompts are put before the model, and the words for it.
pub struct Framed {
    framing: Framing,
    /// For people, as `chat template` or `raw`.
    pub description: String,
    /// Everything that the framing consists of, for the digest.
    canonical: String,
}

impl Framed {
    /// Reads the files that the arguments name.
    pub fn of_args(args: &FramingArgs) -> Result<Self> {
        if args.raw {
            let format = args.question_format.clone();
            let canonical = match &format {
                None => "raw".into(),
                Some((before, after)) => named(&[("raw", ""), ("before", before), ("after", after)]),
            };
            let description = if format.is_some() { "raw, with a question format" } else { "raw" };
            let format = format.map(|(before, after)| QuestionFormat { before, after });
            return Ok(Self { framing: Framing::Raw(format), description: description.into(), canonical });
        }
        let template = args.template.as_deref().map(read_text).transpose()?;
        let system = args.system.as_deref().map(text_or_file).transpose()?;
        let chat = ChatFraming {
            template,
            said_by_user: args.user,
            system,
            arguments: args.template_args.clone(),
            date: args.date,
        };
        let canonical = canonical(&chat);
        Ok(Self { description: description(args), framing: Framing::Chat(chat), canonical })
    }
}

/// Everything that a chat's framing consists of, by name.
fn canonical(chat: &ChatFraming) -> String {
    if *chat == ChatFraming::default() {
        return "template".into();
    }
    let mut parts: Vec<(&str, &str)> = vec![("user", if chat.said_by_user { "true" } else { "false" })];
    parts.extend(chat.template.as_deref().map(|text| ("template", text)));
    parts.extend(chat.system.as_deref().map(|text| ("system", text)));
    let date = chat.date.map(|date| date.to_string());
    parts.extend(date.as_deref().map(|date| ("date", date)));
    let arguments: Vec<(String, String)> =
        chat.arguments.iter().map(|(name, value)| (format!("argument {name}"), value.to_string())).collect();
    parts.extend(arguments.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    named(&parts)
}

/// Names and values, each with its length, so that no two lists read the same.
pub fn named(parts: &[(&str, &str)]) -> String {
    parts.iter().map(|(name, value)| format!("{name}={}:{value}\n", value.len())).collect()
}

fn description(args: &FramingArgs) -> String {
    let template = args.template.as_deref().map(models::file_name);
    let mut parts = vec![template.map_or_else(|| "chat template".into(), |t| format!("template {t}"))];
    match (&args.system, args.user) {
        (Some(_), _) => parts.push("as the user's, after a system message".into()),
        (None, true) => parts.push("as the user's".into()),
        (None, false) => {}
    }
    parts.extend(args.template_args.iter().map(|(name, value)| format!("{name}={value}")));
    parts.extend(args.date.map(|d| format!("dated {d}")));
    parts.join(", ")
}

/// The text itself, or with `@` before it that of a file.
fn text_or_file(text: &str) -> Result<String> {
    text.strip_prefix('@').map_or_else(|| Ok(text.to_owned()), |file| read_text(Path::new(file)))
}

/// A prompt as it came in.
pub struct Source<'a> {
    path: &'a Path,
    text: String,
    framed: &'a Framed,
    /// Names everything that the prompt's tokens follow from.
    digest: PromptDigest,
}

impl<'a> Source<'a> {
    /// Reads a prompt that is to be evaluated under `root`.
    pub fn read(path: &'a Path, root: &ChainKey, framed: &'a Framed) -> Result<Self> {
        Self::of_text(path, read_text(path)?, root, framed)
    }

    /// A text that is known by the name `path`.
    pub fn of_text(path: &'a Path, text: String, root: &ChainKey, framed: &'a Framed) -> Result<Self> {
        if text.trim().is_empty() {
            bail!("{} is empty: there is nothing to save", label(path));
        }
        let digest = digest(root, &framed.canonical, &text);
        Ok(Self { path, text, framed, digest })
    }

    /// Names everything that the tokens follow from under other parameters.
    pub fn digest_under(&self, root: &ChainKey) -> PromptDigest {
        digest(root, &self.framed.canonical, &self.text)
    }

    /// The file's name, for people.
    pub fn label(&self) -> String {
        label(self.path)
    }

    /// Where it came from, for the record of its state.
    pub fn origin(&self, prompt: &Prompt) -> Origin {
        Origin {
            label: self.label(),
            framing: self.framing().to_owned(),
            kind: StateKind::Prompt,
            raw: matches!(self.framed.framing, Framing::Raw(_)),
            text: Some(self.text_digest()),
            digest: (!prompt.dated).then_some(self.digest),
        }
    }

    /// How it is put before the model, for people.
    pub fn framing(&self) -> &str {
        &self.framed.description
    }

    /// The hash of the text alone.
    pub fn text_digest(&self) -> TextDigest {
        TextDigest::from(blake3::derive_key("pcache text v1", self.text.as_bytes()))
    }

    /// The tokens; says so when they depend on the day.
    pub fn tokenize(&self, app: &App, model: &Model) -> Result<Prompt> {
        let prompt = prompt::render(model, &self.text, &self.framed.framing)
            .with_context(|| format!("cannot render {}", self.label()))?;
        if prompt.dated {
            let today = jiff::ZonedDateTime::now().date();
            app.say(format!(
                "the template writes the date: tomorrow this prompt has another key; --date {today} fixes it"
            ));
        }
        if prompt.tokens.is_empty() {
            bail!("{} is too short: a question could still change all of its tokens", self.label());
        }
        Ok(prompt)
    }
}

/// Where the text of a state came from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// For people: the file.
    pub label: String,
    /// For people: how it was put before the model.
    pub framing: String,
    /// Origin of the tokens.
    pub kind: StateKind,
    /// Whether the prompt is taken as it is, control tokens included.
    pub raw: bool,
    /// Names the text alone.
    pub text: Option<TextDigest>,
    /// Names everything that the tokens follow from, where a file gives them again.
    pub digest: Option<PromptDigest>,
}

/// Refuses a prompt that leaves no room for a question in a context of `limit` tokens.
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
    if path.as_os_str() == "-" { "stdin".into() } else { models::file_name(path) }
}
