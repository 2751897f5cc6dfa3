//! Explains what of a prompt is saved, and why not more.

use anyhow::Result;
use serde::Serialize;

use super::Call;
use super::source::Source;
use super::target::Target;
use super::verdict::{self, Status};
use crate::text::human::file_name;
use pcache_engine::model::Model;
use pcache_engine::prompt::Prompt;
use pcache_format::{Difference, StateKey};
use pcache_store::{Miss, Prefix, Result as StoreResult, State, Store};

/// Saved prompts that are compared with a new one at most: those used last.
const MAX_COMPARED: usize = 500;
/// Lines shown before the one that differs.
const LINES_BEFORE: usize = 2;
/// Letters shown of a line.
const LINE_WIDTH: usize = 64;

/// Saved part of a prompt, and the reason why it is not more.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// Key of the state.
    pub key: StateKey,
    /// Hit, partial or miss.
    pub status: Status,
    /// Its tokens.
    pub tokens: usize,
    /// Number of those that are saved and intact.
    pub saved_tokens: usize,
    /// Its segments.
    pub segments: usize,
    /// Number of those that are saved and intact.
    pub saved_segments: usize,
    /// Why what is saved ends where it does.
    pub reason: Option<String>,
    /// The state itself is known, whole or not.
    pub known: bool,
    /// The saved prompt under the same model and parameters that goes along with this one furthest.
    pub nearest: Option<Nearest>,
    /// States of the same text under another model or other parameters.
    pub same_text: Vec<SameText>,
    /// Identity that computed the saved part, where that is not this machine and program.
    pub computed_by: Option<String>,
    /// All of it is saved, and not by this machine and program, which alone counts.
    #[serde(skip)]
    pub foreign: bool,
}

/// A saved prompt, and where it parts from the one that is explained.
#[derive(Debug, Serialize)]
pub struct Nearest {
    /// Key of the saved one.
    pub key: StateKey,
    /// Its oldest name.
    pub name: Option<String>,
    /// Tokens that both begin with.
    pub common_tokens: usize,
    /// Tokens of the saved one.
    pub tokens: usize,
    /// Place where they differ; nothing if one of them ends there.
    pub parting: Option<Parting>,
}

/// The first token that differs, with the lines around it.
#[derive(Debug, Serialize)]
pub struct Parting {
    /// Line of the prompt, from 1; nothing in the template's text before it.
    pub line: Option<usize>,
    /// The lines before, which both have.
    pub before: Vec<String>,
    /// The line in the saved prompt.
    pub saved_line: String,
    /// The line in this prompt.
    pub line_here: String,
    /// The token there.
    pub saved_token: String,
    /// The token here.
    pub token_here: String,
}

/// A state of the same text, and in what it differs.
#[derive(Debug, Serialize)]
pub struct SameText {
    /// Key of the saved one.
    pub key: StateKey,
    /// Its oldest name.
    pub name: Option<String>,
    /// In what it differs.
    pub differences: Vec<Difference>,
}

/// The prompt under the value of flash attention that it is saved with, where either is as good.
///
/// # Errors
/// When the index fails.
pub fn with_saved_attention(
    call: Call<'_>,
    store: Option<&Store>,
    model: &Model,
    prefix: Prefix,
    target: Target,
    prompt: &Prompt,
) -> Result<(Prefix, Target)> {
    let (Some(store), Some(other)) = (store, target.with_other_attention()) else {
        return Ok((prefix, target));
    };
    let saved = |prefix: &Prefix| -> Result<bool> {
        let key = prefix.chain.state_key(&prompt.pending_text, &prompt.suffix);
        Ok(store.usage_of(&key)?.is_some() && store.missing(prefix, call.same_compute)?.is_empty())
    };
    let other_prefix = other.prefix(model.layout(), prompt.tokens.clone())?;
    match !saved(&prefix)? && saved(&other_prefix)? {
        true => Ok((other_prefix, other)),
        false => Ok((prefix, target)),
    }
}

impl Explanation {
    /// Looks up and verifies what is saved of a prefix, and what comes closest to it.
    ///
    /// # Errors
    /// When the store fails.
    pub fn new(
        call: Call<'_>,
        store: Option<&Store>,
        model: &Model,
        prefix: &Prefix,
        prompt: &Prompt,
        source: &Source<'_>,
    ) -> Result<Self> {
        let key = prefix.chain.state_key(&prompt.pending_text, &prompt.suffix);
        let pieces = prefix.pieces();
        let mut explanation = Self {
            key,
            status: Status::Miss,
            tokens: prefix.tokens.len(),
            saved_tokens: 0,
            segments: pieces.len(),
            saved_segments: 0,
            reason: None,
            known: false,
            nearest: None,
            same_text: Vec::new(),
            computed_by: None,
            foreign: false,
        };
        let Some(store) = store else { return Ok(explanation) };
        let recall = {
            let guard = call.lock_shared(store)?;
            store.find(&guard, prefix, call.same_compute)?
        };
        let recall = recall.verify(prefix);
        explanation.computed_by =
            verdict::foreign(store, &recall).map(|lineage| verdict::computed_by(store, lineage));
        explanation.saved_tokens = recall.tokens();
        explanation.reason = recall.reason(prefix);
        explanation.foreign = recall.miss == Some(Miss::Foreign);
        explanation.known = store.usage_of(&key)?.is_some();
        explanation.saved_segments = pieces.iter().filter(|p| p.end() <= explanation.saved_tokens).count();
        explanation.status = Status::new(explanation.saved_tokens, prefix.tokens.len());
        explanation.nearest = nearest(store, model, prefix, prompt, &key)?;
        for other in store.states_of_text(&source.text_digest())?.into_iter().filter(|k| *k != key) {
            let Some(state) = store.state(&other)? else { continue };
            explanation.same_text.extend(same_text(model, prefix, source, state));
        }
        Ok(explanation)
    }
}

/// In what a state of the same text differs from the prefix.
fn same_text(model: &Model, prefix: &Prefix, source: &Source<'_>, state: State) -> Option<SameText> {
    let mut differences = prefix.params.differences(&state.manifest.params);
    let mut differs = |name: &str, here: String, there: String| {
        differences.insert(0, Difference { name: name.into(), here, there });
    };
    if source.framing() != state.label.prompt_format {
        differs("prompt", source.framing().to_owned(), state.label.prompt_format.clone());
    }
    if prefix.model != state.manifest.model {
        differs("model", file_name(model.path()), file_name(state.label.model_path.as_ref()));
    }
    let name = state.label.name().map(str::to_owned);
    (!differences.is_empty()).then_some(SameText { key: state.manifest.key, name, differences })
}

/// Of the saved prompts under the same model and parameters the one that goes along furthest.
fn nearest(
    store: &Store,
    model: &Model,
    prefix: &Prefix,
    prompt: &Prompt,
    own: &StateKey,
) -> Result<Option<Nearest>> {
    let mut best: Option<(usize, State)> = None;
    for key in candidates(store, prefix, own)? {
        let Some(state) = store.state(&key)?.filter(|s| s.manifest.params == prefix.params) else { continue };
        let common = prefix.tokens.iter().zip(&state.manifest.tokens).take_while(|(a, b)| a == b).count();
        if common > best.as_ref().map_or(0, |(n, _)| *n) {
            best = Some((common, state));
        }
    }
    Ok(best.map(|(common, state)| Nearest {
        key: state.key(),
        common_tokens: common,
        tokens: state.manifest.tokens.len(),
        parting: parting(model, prefix, prompt, &state, common),
        name: state.label.name().map(str::to_owned),
    }))
}

/// Users of the longest saved prefix, or if there is none all states of the model.
fn candidates(store: &Store, prefix: &Prefix, own: &StateKey) -> StoreResult<Vec<StateKey>> {
    let others = |keys: Vec<StateKey>| keys.into_iter().filter(|key| key != own).collect::<Vec<_>>();
    for segment in prefix.chain.segments().iter().rev() {
        let users = others(store.users_of(&segment.chain, MAX_COMPARED)?);
        if !users.is_empty() {
            return Ok(users);
        }
    }
    Ok(others(store.states_of_model(&prefix.model, MAX_COMPARED)?))
}

fn parting(model: &Model, prefix: &Prefix, prompt: &Prompt, saved: &State, common: usize) -> Option<Parting> {
    let (here, there) = (prefix.tokens.get(common)?, saved.manifest.tokens.get(common)?);
    let whole = |tokens: &[i32], pending_text: &str| model.text_of(tokens) + pending_text;
    let at = model.text_of(&prefix.tokens[..common]).len();
    let (text, saved_text) = (
        whole(&prefix.tokens, &prompt.pending_text),
        whole(&saved.manifest.tokens, &saved.manifest.pending_text),
    );
    let first = prompt.own.map(|(first, _)| first).filter(|first| *first <= at);
    let lines: Vec<&str> = text.get(first.unwrap_or(0)..at).unwrap_or_default().split('\n').collect();
    let shown = lines.len().saturating_sub(1 + LINES_BEFORE);
    Some(Parting {
        line: first.map(|_| lines.len()),
        before: lines[shown..lines.len() - 1].iter().map(|l| shortened(l)).collect(),
        saved_line: line_around(&saved_text, at, first.unwrap_or(0)),
        line_here: line_around(&text, at, first.unwrap_or(0)),
        saved_token: model.text_of(&[*there]),
        token_here: model.text_of(&[*here]),
    })
}

/// The line of `text` in which byte `at` lies, cut so that this place is seen.
fn line_around(text: &str, at: usize, first: usize) -> String {
    let (Some(before), Some(after)) = (text.get(first..at), text.get(at..)) else { return String::new() };
    let before = before.rsplit('\n').next().unwrap_or_default();
    // A token may begin with the newline that ends the line.
    let after = after.split('\n').next().unwrap_or_default();
    let room = LINE_WIDTH / 2;
    let skip = before.chars().count().saturating_sub(room);
    let head: String = before.chars().skip(skip).collect();
    let tail: String = after.chars().take(LINE_WIDTH - head.chars().count()).collect();
    let (left, right) = (if skip > 0 { "…" } else { "" }, if tail.len() < after.len() { "…" } else { "" });
    printable(&format!("{left}{head}{tail}{right}"))
}

fn shortened(line: &str) -> String {
    let cut: String = line.chars().take(LINE_WIDTH).collect();
    printable(&if cut.len() < line.len() { cut + "…" } else { cut })
}

/// A line with its control characters written out: a prompt's text should not steer the terminal.
fn printable(line: &str) -> String {
    let shown =
        |c: char| if c.is_control() && c != '\t' { c.escape_default().to_string() } else { c.to_string() };
    line.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_place_is_cut_around_it() {
        assert_eq!(line_around("one\ntwo three\nfour", 8, 0), "two three");
        assert_eq!(line_around("one\ntwo", 3, 0), "one");
        let long = format!("{}X{}", "a".repeat(100), "b".repeat(100));
        let line = line_around(&long, 100, 0);
        assert!(line.starts_with("…a") && line.ends_with("b…") && line.contains('X'), "{line}");
        assert_eq!(line_around("äöü", 1, 0), "", "never inside a letter");
        assert_eq!(line_around("a\u{1b}[2J\r\nb", 0, 0), "a\\u{1b}[2J\\r");
    }
}
