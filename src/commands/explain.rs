//! `pcache explain`: what a prompt's key is made of, how much of it is saved, and where it parts from what is saved.

use anyhow::Result;
use serde::Serialize;

use super::app::App;
use super::models::file_name;
use super::source::{self, Framed, Source};
use super::states::label;
use super::target::Target;
use crate::cache::verdict::{self, Status};
use crate::cli::{Explain, Output};
use crate::report::human;
use pcache_engine::gguf::Header;
use pcache_engine::model::Model;
use pcache_engine::prompt::Prompt;
use pcache_format::{Difference, StateKey};
use pcache_store::{Miss, Prefix, Result as StoreResult, State, Store};

/// Saved prompts that are compared with a new one at most: those used last.
const MOST_COMPARED: usize = 500;
/// Lines shown before the one that differs.
const LINES_BEFORE: usize = 2;
/// Letters shown of a line.
const LINE_WIDTH: usize = 64;

/// What the cache has of a prompt, and why not more.
#[derive(Debug, Serialize)]
pub struct Explanation {
    pub key: StateKey,
    pub status: Status,
    pub tokens: usize,
    pub saved_tokens: usize,
    pub segments: usize,
    pub saved_segments: usize,
    /// Why what is saved ends where it does.
    pub reason: Option<String>,
    /// Whether the state itself is known, whole or not.
    pub known: bool,
    /// The saved prompt under the same model and parameters that goes along with this one furthest.
    pub nearest: Option<Nearest>,
    /// States of the same text under another model or other parameters.
    pub same_text: Vec<SameText>,
    /// Identity that computed the saved part, where that is not this machine and program.
    pub computed_by: Option<String>,
    /// All of it is saved, and not by this machine and program, which alone counts.
    #[serde(skip)]
    foreign: bool,
}

/// A saved prompt, and where it parts from the one that is explained.
#[derive(Debug, Serialize)]
pub struct Nearest {
    pub key: StateKey,
    pub name: Option<String>,
    /// Tokens that both begin with.
    pub common_tokens: usize,
    /// Tokens of the saved one.
    pub tokens: usize,
    /// Where they part; nothing if one of them ends there.
    pub parting: Option<Parting>,
}

/// The first token that differs, with the lines around it.
#[derive(Debug, Serialize)]
pub struct Parting {
    /// Line of the prompt, from 1; nothing in the template's text before it.
    pub line: Option<usize>,
    /// The lines before, which both have.
    pub before: Vec<String>,
    pub saved_line: String,
    pub line_here: String,
    pub saved_token: String,
    pub token_here: String,
}

/// A state of the same text, and in what it differs.
#[derive(Debug, Serialize)]
pub struct SameText {
    pub key: StateKey,
    pub name: Option<String>,
    pub differences: Vec<Difference>,
}

pub fn run(app: &App, args: &Explain) -> Result<()> {
    let framed = Framed::of_args(&args.framing)?;
    let store = app.existing_store()?;
    super::ls::warn_if_lost(app, store.as_ref())?;
    let target = Target::of_args(app, store.as_ref(), &args.params)?;
    let source = Source::read(&args.prompt, &target.params.root(&target.model), &framed)?;
    let model = Model::load_vocabulary(&target.model_path)?;
    let prompt = source.tokenize(app, &model)?;
    let prefix = target.prefix(model.layout(), prompt.tokens.clone())?;
    if let Some(context) = Header::of(&target.model_path)?.context() {
        let limit = usize::try_from(context).unwrap_or(usize::MAX);
        if prefix.params.rope.freq_scale.is_none() {
            source::check_length(&source.label(), prefix.tokens.len(), limit)?;
        }
    }
    let (prefix, target) = with_saved_attention(app, store.as_ref(), &model, prefix, target, &prompt)?;
    let explanation = Explanation::of(app, store.as_ref(), &model, &prefix, &prompt, &source)?;
    let report = report(&explanation, &prefix, &target, &source);
    app.named_event("explain", &report)?;
    match app.output() {
        Output::Text => {
            let (label, framing) = (source.label(), source.framing());
            app.print(format!("{:<12}{label} ({framing})", "prompt"))?;
            app.print(format!("{:<12}{}", "file", target.model_path.display()))?;
            app.print(parts(&prefix, &explanation.key, explanation.saved_tokens))?;
            if let Some(computed_by) = &explanation.computed_by {
                app.print(format!("{:<12}{computed_by}", "computed by"))?;
            }
            explanation.why().map_or(Ok(()), |why| app.print(why))
        }
        Output::Json => app.print_json(&report),
        Output::Jsonl => Ok(()),
    }
}

/// The prompt under the value of flash attention that it is saved with, where either is as good.
fn with_saved_attention(
    app: &App,
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
        let key = prefix.chain.state_key(&prompt.carried, &prompt.suffix);
        Ok(store.usage_of(&key)?.is_some() && store.missing(prefix, app.same_compute())?.is_empty())
    };
    let other_prefix = other.prefix(model.layout(), prompt.tokens.clone())?;
    match !saved(&prefix)? && saved(&other_prefix)? {
        true => Ok((other_prefix, other)),
        false => Ok((prefix, target)),
    }
}

fn report(
    explanation: &Explanation,
    prefix: &Prefix,
    target: &Target,
    source: &Source<'_>,
) -> serde_json::Value {
    let mut report = serde_json::to_value(explanation).unwrap_or_default();
    report["prompt"] = source.label().into();
    report["framing"] = source.framing().into();
    report["model"] = file_name(&target.model_path).into();
    report["model_blake3"] = prefix.model.to_hex().into();
    let canonical = prefix.params.canonical();
    let lines = canonical.lines().filter_map(|l| l.split_once('='));
    report["parameters"] = lines.map(|(n, v)| (n.to_owned(), serde_json::Value::from(v))).collect();
    report
}

/// The parts of a key and how much is saved under it, a line each.
pub fn parts(prefix: &Prefix, key: &StateKey, saved: usize) -> String {
    let tokens = prefix.tokens.len();
    let pieces = prefix.pieces();
    let intact = pieces.iter().filter(|p| p.end() <= saved).count();
    let parameters: Vec<String> = prefix.params.canonical().lines().map(str::to_owned).collect();
    let verdict = match saved {
        n if n == tokens => "hit: all of it is saved".to_owned(),
        0 => "miss: nothing of it can be restored".to_owned(),
        n => format!("partial: {} of {} are saved", human::thousands(n), human::count(tokens, "token")),
    };
    let rows = [
        ("key", key.to_hex()),
        ("model", format!("blake3 {}…", &prefix.model.to_hex()[..40])),
        ("parameters", human::listed(&parameters, 66, 12)),
        (
            "tokens",
            format!(
                "{}, {intact} of {} saved",
                human::thousands(tokens),
                human::count(pieces.len(), "segment")
            ),
        ),
        ("verdict", verdict),
    ];
    rows.map(|(name, value)| format!("{name:<12}{value}")).join("\n")
}

impl Explanation {
    /// Looks up and verifies what is saved of a prefix, and what comes closest to it.
    pub fn of(
        app: &App,
        store: Option<&Store>,
        model: &Model,
        prefix: &Prefix,
        prompt: &Prompt,
        source: &Source<'_>,
    ) -> Result<Self> {
        let key = prefix.chain.state_key(&prompt.carried, &prompt.suffix);
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
            let guard = app.lock_shared(store)?;
            store.find(&guard, prefix, app.same_compute())?
        };
        let recall = recall.verify(prefix);
        explanation.computed_by =
            verdict::foreign(store, &recall).map(|lineage| verdict::computed_by(store, lineage));
        explanation.saved_tokens = recall.tokens();
        explanation.reason = recall.reason(prefix);
        explanation.foreign = recall.miss == Some(Miss::Foreign);
        explanation.known = store.usage_of(&key)?.is_some();
        explanation.saved_segments = pieces.iter().filter(|p| p.end() <= explanation.saved_tokens).count();
        explanation.status = Status::of(explanation.saved_tokens, prefix.tokens.len());
        explanation.nearest = nearest(store, model, prefix, prompt, &key)?;
        for other in store.states_of_text(&source.text_digest())?.into_iter().filter(|k| *k != key) {
            let Some(state) = store.state(&other)? else { continue };
            explanation.same_text.extend(same_text(model, prefix, source, state));
        }
        Ok(explanation)
    }

    /// What keeps the prompt from being a hit, for people.
    pub fn why(&self) -> Option<String> {
        if self.status == Status::Hit {
            return None;
        }
        let mut lines = Vec::new();
        let reason = self.reason.as_deref().unwrap_or("nothing is saved");
        match (&self.nearest, self.known) {
            (_, true) if self.foreign => lines.push(format!("{:<12}{reason}", "state")),
            (_, true) => lines.push(format!("{:<12}it was built, and is not whole: {reason}", "state")),
            (Some(nearest), _) => lines.push(nearest.text(self.tokens)),
            (None, _) if self.saved_tokens > 0 => {
                lines.push(format!("{:<12}none: what is saved is of an interrupted build", "nearest"));
            }
            (None, _) => lines.push(format!(
                "{:<12}none: under this model and these parameters nothing saved begins alike",
                "nearest"
            )),
        }
        for other in &self.same_text {
            let differences: Vec<_> = other
                .differences
                .iter()
                .map(|d| format!("{} {} (here {})", d.name, d.there, d.here))
                .collect();
            let label = label(&other.key, other.name.as_deref());
            lines.push(format!("{:<12}is saved as {label} with {}", "this text", differences.join(", ")));
        }
        (!lines.is_empty()).then(|| lines.join("\n"))
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
        let users = others(store.users_of(&segment.chain, MOST_COMPARED)?);
        if !users.is_empty() {
            return Ok(users);
        }
    }
    Ok(others(store.states_of_model(&prefix.model, MOST_COMPARED)?))
}

fn parting(model: &Model, prefix: &Prefix, prompt: &Prompt, saved: &State, common: usize) -> Option<Parting> {
    let (here, there) = (prefix.tokens.get(common)?, saved.manifest.tokens.get(common)?);
    let whole = |tokens: &[i32], carried: &str| model.text_of(tokens) + carried;
    let at = model.text_of(&prefix.tokens[..common]).len();
    let (text, saved_text) =
        (whole(&prefix.tokens, &prompt.carried), whole(&saved.manifest.tokens, &saved.manifest.pending_text));
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

impl Nearest {
    fn text(&self, tokens: usize) -> String {
        let label = label(&self.key, self.name.as_deref());
        let common = human::thousands(self.common_tokens);
        let Some(parting) = &self.parting else {
            let which = match (self.common_tokens == self.tokens, self.common_tokens == tokens) {
                (true, true) => "has the same tokens and another ending after a question".to_owned(),
                (true, false) => format!("is the first {common} tokens of this prompt"),
                _ => format!("begins with all {common} tokens of this prompt"),
            };
            return format!("{:<12}{label} {which}", "nearest");
        };
        let place = match parting.line {
            Some(line) => format!("in line {line}"),
            None => "before the prompt's own text".to_owned(),
        };
        let mut lines =
            vec![format!("{:<12}{label} has {common} tokens in common; they part {place}:", "nearest")];
        lines.extend(parting.before.iter().map(|l| format!("      {l}")));
        lines.push(format!("    - {}", parting.saved_line));
        lines.push(format!("    + {}", parting.line_here));
        lines.push(format!(
            "{:<12}token {}: {:?} there, {:?} here",
            "",
            human::thousands(self.common_tokens + 1),
            parting.saved_token,
            parting.token_here
        ));
        lines.join("\n")
    }
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
