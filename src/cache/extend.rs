//! A new state from a saved one, with text added to its prompt or its end replaced.

use anyhow::{Result, bail};

use super::source::Origin;
use super::{Failure, Hint};
use pcache_engine::model::Model;
use pcache_engine::prompt::Prompt;
use pcache_engine::prompt_edit::{EditablePrompt, Saved};
use pcache_format::StateKind;
use pcache_store::State;

/// A text for the prompt of a saved state.
#[derive(Debug, Clone, Copy)]
pub struct Update<'u> {
    /// The text.
    pub text: &'u str,
    /// It takes the place of all that follows this line; without one it goes behind the prompt.
    pub replace_from: Option<&'u str>,
}

impl<'u> Update<'u> {
    /// A text behind the prompt.
    pub fn behind(text: &'u str) -> Self {
        Self { text, replace_from: None }
    }

    /// A text in the place of all that follows a line of the prompt.
    pub fn from_line(line: &'u str, text: &'u str) -> Self {
        Self { text, replace_from: Some(line) }
    }
}

/// The prompt of a state with an update.
///
/// # Errors
/// When the state has no prompt of its own, its text does not give its tokens again, or the line is not there once.
pub fn extended(model: &Model, old: &State, update: Update<'_>) -> Result<Prompt> {
    let key = old.key().short();
    let manifest = &old.manifest;
    let Some(own) = manifest.prompt_span.as_ref().map(|span| (span.start, span.len())) else {
        bail!(Hint::Converse.with(format!(
            "state {key} has no prompt of its own to extend: it is a conversation, or an older pcache built it"
        )));
    };
    let (tokens, pending_text, suffix) = (&manifest.tokens, &manifest.pending_text, &manifest.suffix);
    let saved = Saved {
        tokens,
        pending_text,
        suffix,
        own,
        raw: manifest.raw,
        rendered_with: &manifest.rendered_with,
    };
    let Some(prompt_edit) = EditablePrompt::new(model, &saved) else {
        bail!(
            "state {key} cannot be extended: its text does not give its tokens again; build the whole prompt instead"
        );
    };
    let text = prompt_edit.updated(update.text, update.replace_from).map_err(|found| {
        let mark = update.replace_from.unwrap_or_default();
        let near = prompt_edit
            .line_like(mark)
            .map(|line| format!("; did you mean {line:?}? It must be the whole line"));
        match (found, near) {
            (0, Some(near)) => Failure::Usage(format!("no line of the prompt is {mark:?}{near}")),
            (0, None) => Hint::ShowPrompt.with(format!("no line of the prompt is {mark:?}")),
            (n, _) => Failure::Usage(format!("{n} lines of the prompt are {mark:?}; it must be there once")),
        }
    })?;
    Ok(prompt_edit.render(model, &text))
}

/// Text between the origin of a state and that of what it was extended by.
const EXTENDED_BY: &str = " + ";

/// Origin of the new state, for people: the old one's, and the name of the update.
pub fn origin(old: &State, update: &str) -> Origin {
    let base = old.label.origin.split(EXTENDED_BY).next().unwrap_or_default();
    let label = format!("{base}{EXTENDED_BY}{update}");
    let framing = old.label.prompt_format.clone();
    Origin { label, framing, kind: StateKind::Extension, text: None, digest: None }
}
