//! `pcache explain`: what a prompt's key is made of, how much of it is saved, and where it parts from what is saved.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::app::App;
use super::models::file_name;
use super::states::{self, label};
use super::{source, target};
use crate::cache::explain::{Explanation, Nearest, with_saved_attention};
use crate::cache::source::{Source, check_length};
use crate::cache::target::Target;
use crate::cache::verdict::Status;
use crate::cache::whole_state;
use crate::cli::Run;
use crate::cli::args::{Output, ParamArgs, PromptFormatArgs};
use crate::text::human;
use pcache_engine::gguf::Header;
use pcache_engine::model::Model;
use pcache_format::StateKey;
use pcache_store::{Lookup, Prefix, Store};

/// Arguments of `explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache explain menu.txt                 its key and how much of it is saved
  pcache explain menu.txt --kv-type q8_0  with the options of build
  pcache explain menu                     how much of a state can be restored

Where a saved prompt begins like this one, the first differing token is shown,
with the lines around it. Nothing is evaluated or saved.")]
pub struct Explain {
    /// Prompt file (- is stdin), or a key or name of a state
    #[arg(value_name = "PROMPT")]
    pub prompt: PathBuf,
    /// Prompt format.
    #[command(flatten)]
    pub framing: PromptFormatArgs,
    /// Parameters of the state.
    #[command(flatten)]
    pub params: ParamArgs,
}

impl Run for Explain {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }
}

fn run(app: &App, args: &Explain) -> Result<()> {
    let framed = source::framed(&args.framing)?;
    let store = app.existing_store()?;
    super::ls::warn_if_lost(app, store.as_ref())?;
    if let (Some(store), Some(name)) = (&store, args.prompt.to_str().filter(|_| !args.prompt.exists()))
        && let Lookup::Found(key) = store.lookup(name)?
    {
        return explain_state(app, store, &key);
    }
    if !args.prompt.exists() && args.prompt.as_os_str() != "-" {
        let name = args.prompt.to_string_lossy();
        let store = states::store_with(app, &name)?;
        states::key(&store, &name).map_err(|e| e.context(format!("{name:?} is no file, and no state")))?;
    }
    let target = target::of_args(app, store.as_ref(), &args.params)?;
    let source = source::read(&args.prompt, &target.params.root(&target.model), &framed)?;
    let model = Model::load_vocabulary(&target.model_path)?;
    let prompt = source.tokenize(app, &model)?;
    let prefix = target.prefix(model.layout(), prompt.tokens.clone())?;
    if let Some(context) = Header::read(&target.model_path)?.context() {
        let limit = usize::try_from(context).unwrap_or(usize::MAX);
        if prefix.params.rope.freq_scale.is_none() {
            check_length(&source.label(), prefix.tokens.len(), limit)?;
        }
    }
    let (prefix, target) = with_saved_attention(app.call(), store.as_ref(), &model, prefix, target, &prompt)?;
    let explanation = Explanation::new(app.call(), store.as_ref(), &model, &prefix, &prompt, &source)?;
    let report = report(&explanation, &prefix, &target, &source);
    app.named_event("explain", &report)?;
    match app.output() {
        Output::Text => {
            let (label, framing) = (source.label(), source.framing());
            app.print(format!("{:<12}{} ({framing})", "prompt", human::sanitize(&label)))?;
            app.print(format!("{:<12}{}", "file", target.model_path.display()))?;
            app.print(parts(&prefix, &explanation.key, explanation.saved_tokens))?;
            if let Some(computed_by) = &explanation.computed_by {
                app.print(format!("{:<12}{computed_by}", "computed by"))?;
            }
            why(&explanation).map_or(Ok(()), |why| app.print(why))
        }
        Output::Json => app.print_json(&report),
        Output::Jsonl => Ok(()),
    }
}

/// Explains how much of a state can be restored.
fn explain_state(app: &App, store: &Store, key: &StateKey) -> Result<()> {
    let state = whole_state(store, key)?;
    let prefix = Prefix::of_manifest(&state.manifest);
    let guard = app.lock_shared(store)?;
    let verified = store.find(&guard, &prefix, app.global.same_compute)?.verify(&prefix);
    let (tokens, saved) = (prefix.tokens.len(), verified.tokens());
    let (status, reason) = (Status::new(saved, tokens), verified.reason(&prefix));
    let report = serde_json::json!({
        "key": key, "name": state.label.name(), "status": status, "tokens": tokens, "saved_tokens": saved, "reason": reason,
    });
    app.named_event("explain", &report)?;
    match app.output() {
        Output::Text => {
            app.print(format!("{:<12}{}", "state", label(key, state.label.name())))?;
            app.print(parts(&prefix, key, saved))?;
            reason.map_or(Ok(()), |reason| app.print(format!("{:<12}{reason}", "reason")))
        }
        Output::Json => app.print_json(&report),
        Output::Jsonl => Ok(()),
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
        ("parameters", human::wrap_list(&parameters, 66, 12)),
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

/// Explains why a prompt is no hit, for people.
pub fn why(explanation: &Explanation) -> Option<String> {
    if explanation.status == Status::Hit {
        return None;
    }
    let mut lines = Vec::new();
    let reason = explanation.reason.as_deref().unwrap_or("nothing is saved");
    match (&explanation.nearest, explanation.known) {
        (_, true) if explanation.foreign => lines.push(format!("{:<12}{reason}", "state")),
        (_, true) => lines.push(format!("{:<12}it was built, and is not whole: {reason}", "state")),
        (Some(nearest), _) => lines.push(nearest_text(nearest, explanation.tokens)),
        (None, _) if explanation.saved_tokens > 0 => {
            lines.push(format!("{:<12}none: what is saved is of an interrupted build", "nearest"));
        }
        (None, _) => lines.push(format!(
            "{:<12}none: under this model and these parameters nothing saved begins alike",
            "nearest"
        )),
    }
    for other in &explanation.same_text {
        let differences: Vec<_> =
            other.differences.iter().map(|d| format!("{} {} (here {})", d.name, d.there, d.here)).collect();
        let label = label(&other.key, other.name.as_deref());
        lines.push(format!("{:<12}is saved as {label} with {}", "this text", differences.join(", ")));
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// The nearest saved prompt, and where it parts.
fn nearest_text(nearest: &Nearest, tokens: usize) -> String {
    let label = label(&nearest.key, nearest.name.as_deref());
    let common = human::thousands(nearest.common_tokens);
    let Some(parting) = &nearest.parting else {
        let which = match (nearest.common_tokens == nearest.tokens, nearest.common_tokens == tokens) {
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
        vec![format!("{:<12}{label} has {common} tokens in common and diverges {place}:", "nearest")];
    lines.extend(parting.before.iter().map(|l| format!("      {l}")));
    lines.push(format!("    - {}", parting.saved_line));
    lines.push(format!("    + {}", parting.line_here));
    lines.push(format!(
        "{:<12}token {}: {:?} there, {:?} here",
        "",
        human::thousands(nearest.common_tokens + 1),
        parting.saved_token,
        parting.token_here
    ));
    lines.join("\n")
}
