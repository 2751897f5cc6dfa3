//! A prompt file on its way to tokens.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::commands::app::{App, read_text};
use crate::commands::models;
use crate::engine::model::Model;
use crate::engine::prompt::{self, Prompt};
use crate::key::epoch::LLAMA_CPP_BUILD;
use crate::key::{ChainKey, PromptDigest};
use crate::report::human;

/// A prompt as it came in.
pub struct Source<'a> {
    path: &'a Path,
    text: String,
    /// Names everything that the prompt's tokens follow from.
    pub digest: PromptDigest,
}

impl<'a> Source<'a> {
    /// Reads a prompt that is to be evaluated under `root`.
    pub fn read(path: &'a Path, root: &ChainKey, raw: bool) -> Result<Self> {
        let text = read_text(path)?;
        if text.trim().is_empty() {
            bail!("{} is empty: there is nothing to save", label(path));
        }
        let digest = digest(root, raw, &text);
        Ok(Self { path, text, digest })
    }

    /// The file's name, for people.
    pub fn label(&self) -> String {
        label(self.path)
    }

    /// The tokens, if the model has room for them.
    pub fn tokenize(&self, app: &App, model: &Model<'_>, raw: bool) -> Result<Prompt> {
        let prompt = if raw {
            prompt::raw(model, &self.text)
        } else {
            let rendered = prompt::from_template(model, &self.text);
            rendered.with_context(|| format!("cannot render {}", self.label()))?
        };
        if prompt.dated {
            app.say("the model's template contains the date: tomorrow this prompt has another key");
        }
        let (tokens, limit) = (prompt.tokens.len(), model.trained_context());
        if tokens == 0 {
            bail!("{} is too short: a question could still change all of its tokens", self.label());
        }
        if tokens >= limit {
            bail!(
                "{} has {}, the model's context is {} and a question needs room too; shorten the prompt",
                self.label(),
                human::count(tokens, "token"),
                human::thousands(limit)
            );
        }
        Ok(prompt)
    }
}

/// The hash of everything that a prompt's tokens follow from: the text, how it is rendered, model and parameters (the
/// model's template and vocabulary are in its file), and the code that does it.
fn digest(root: &ChainKey, raw: bool, text: &str) -> PromptDigest {
    let rendering = if raw { "raw" } else { "template" };
    let mut hasher = blake3::Hasher::new_derive_key("pcache prompt v1");
    hasher.update(root.as_bytes());
    for part in [env!("CARGO_PKG_VERSION"), LLAMA_CPP_BUILD, rendering] {
        hasher.update(part.as_bytes()).update(b"\n");
    }
    hasher.update(text.as_bytes());
    PromptDigest::from(hasher.finalize())
}

fn label(path: &Path) -> String {
    if path.as_os_str() == "-" { "stdin".into() } else { models::file_name(path) }
}
