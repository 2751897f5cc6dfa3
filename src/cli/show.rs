//! `pcache show`: everything about one state.

use std::collections::HashSet;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::app::App;
use super::models::{self, shown_name};
use super::states::{self, label};
use crate::cache::verdict;
use crate::cli::Run;
use crate::cli::args::Output;
use crate::text::{human, table};
use pcache_engine::model::Model;
use pcache_format::label::NEVER;
use pcache_format::{Lineage, StateKind};
use pcache_store::State;
use pcache_store::Store;
use pcache_store::{Relative, SegmentRow, Usage};

/// Arguments of `show`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache show menu                        model, parameters, segments, timings
  pcache show 4f2a91 --prompt > menu.txt  the prompt that it was built from
  pcache show menu --json | jq .segments")]
pub struct Show {
    /// Key (at least 6 digits) or name of a state
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Print only the prompt
    #[arg(long)]
    pub prompt: bool,
    /// With --prompt: include the chat template's text
    #[arg(long, requires = "prompt")]
    pub all: bool,
}

/// Other states listed at most.
const MAX_RELATIVES: usize = 10;

/// JSON output.
#[derive(Debug, Serialize)]
struct Shown {
    key: String,
    /// The oldest of its names.
    name: Option<String>,
    names: Vec<ShownName>,
    kind: StateKind,
    prompt: String,
    framing: String,
    model: String,
    model_path: String,
    model_blake3: String,
    parameters: serde_json::Map<String, serde_json::Value>,
    tokens: usize,
    carried: String,
    suffix: String,
    bytes: u64,
    unique_bytes: u64,
    record_bytes: u64,
    created: i64,
    last_used: i64,
    hits: u64,
    pinned: bool,
    expires: Option<i64>,
    /// Pin and expiry that were given without a name.
    nameless: ShownWish,
    /// Seconds that evaluating all tokens costs, by what was evaluated of them.
    build_s: f64,
    /// Time that the hits have saved so far, in seconds.
    saved_s: f64,
    segments: Vec<ShownSegment>,
    shares_with: Vec<ShownRelative>,
    /// Identities that computed it, one line for each manifest.
    computed_by: Vec<ShownCompute>,
}

#[derive(Debug, Serialize)]
struct ShownName {
    name: String,
    given: i64,
    pinned: bool,
    expires: Option<i64>,
}

#[derive(Debug, Serialize)]
struct ShownWish {
    pinned: bool,
    expires: Option<i64>,
}

#[derive(Debug, Serialize)]
struct ShownCompute {
    lineage: String,
    /// It is what computes here.
    own: bool,
    description: String,
}

#[derive(Debug, Serialize)]
struct ShownSegment {
    first: usize,
    tokens: usize,
    bytes: u64,
    /// Codec by its metadata; nothing if it cannot be read.
    codec: Option<&'static str>,
    /// Lineage of what computed it.
    compute: String,
    object: String,
    shared: bool,
}

#[derive(Debug, Serialize)]
struct ShownRelative {
    key: String,
    name: Option<String>,
    segments: usize,
    bytes: u64,
}

impl Run for Show {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }
}

fn run(app: &App, args: &Show) -> Result<()> {
    let store = states::store_with(app, &args.key)?;
    let key = states::key(&store, &args.key)?;
    let state = states::state(&store, &key)?;
    if args.prompt {
        return prompt(app, &store, &state, args.all);
    }
    let shown = render(&store, &state)?;
    app.named_event("state", &shown)?;
    match app.output() {
        Output::Text => app.print(text(&shown, store.now())),
        Output::Json => app.print_json(&shown),
        Output::Jsonl => Ok(()),
    }
}

/// Prints the prompt, from the tokens that the state was built of.
fn prompt(app: &App, store: &Store, state: &State, all: bool) -> Result<()> {
    let path = models::of_state(app, store, state)?;
    let model = Model::load_vocabulary(&path)?;
    let whole = model.text_of(&state.manifest.tokens) + &state.manifest.pending_text;
    let own = state.manifest.prompt_span.clone().and_then(|span| whole.get(span));
    let text = match own {
        Some(own) if !all => own,
        None if !all => {
            bail!(
                "where the prompt begins in state {} is not known; --all prints all that the model reads",
                state.key().short()
            )
        }
        _ => &whole,
    };
    let report = serde_json::json!({ "key": state.key(), "prompt": text });
    app.named_event("prompt", &report)?;
    match app.output() {
        // Into a file as it is, so that building that gives the same key.
        Output::Text if state.manifest.raw && !std::io::IsTerminal::is_terminal(&std::io::stdout()) => {
            app.write(text)
        }
        Output::Text => app.print(text),
        Output::Json => app.print_json(&report),
        Output::Jsonl => Ok(()),
    }
}

fn render(store: &Store, state: &State) -> Result<Shown> {
    let (manifest, label, key) = (&state.manifest, &state.label, state.key());
    let segments: Vec<SegmentRow> = store.segments_of(&key)?;
    let own: Vec<_> = store.own_segments(&key)?.iter().map(SegmentRow::id).collect();
    let used: Usage = store.usage_of(&key)?.unwrap_or_default();
    let relatives = store.relatives(&key, MAX_RELATIVES)?;
    let bytes = |own_only: bool| {
        let rows = segments.iter().filter(|row| !own_only || own.contains(&row.id()));
        rows.map(|row| row.file_bytes).sum::<u64>() + used.bytes()
    };
    let build_s = label.full_cost_s(manifest.tokens.len());
    let canonical = manifest.params.canonical();
    let mut lineages: Vec<Lineage> = used.manifests.iter().map(|m| m.lineage).collect();
    lineages.extend(segments.iter().map(|row| row.lineage));
    lineages.push(manifest.lineage);
    let mut seen = HashSet::new();
    lineages.retain(|lineage| seen.insert(*lineage));
    let computed_by = lineages.into_iter().map(|lineage| ShownCompute {
        lineage: lineage.to_string(),
        own: lineage == store.own_lineage(),
        description: verdict::computed_by(store, lineage),
    });
    let names = label.names.iter().map(|n| ShownName {
        name: n.name.clone(),
        given: n.given,
        pinned: n.pinned,
        expires: n.expires,
    });
    Ok(Shown {
        key: key.to_hex(),
        name: label.name().map(str::to_owned),
        names: names.collect(),
        kind: manifest.kind,
        prompt: label.origin.clone(),
        framing: label.prompt_format.clone(),
        model: shown_name(label.model_path.as_ref()),
        model_path: label.model_path.clone(),
        model_blake3: manifest.model.to_hex(),
        parameters: canonical
            .lines()
            .filter_map(|l| l.split_once('='))
            .map(|(n, v)| (n.into(), v.into()))
            .collect(),
        tokens: manifest.tokens.len(),
        carried: manifest.pending_text.clone(),
        suffix: manifest.suffix.clone(),
        bytes: bytes(false),
        unique_bytes: bytes(true),
        record_bytes: used.bytes(),
        created: label.created,
        last_used: used.last_used,
        hits: used.hits,
        pinned: label.is_pinned(),
        expires: label.latest_expiry(),
        nameless: ShownWish { pinned: label.pinned, expires: label.expires.filter(|at| *at < NEVER) },
        build_s,
        saved_s: build_s * used.hits as f64,
        segments: segments.iter().map(|row| segment(store, row, !own.contains(&row.id()))).collect(),
        shares_with: relatives.into_iter().map(relative).collect(),
        computed_by: computed_by.collect(),
    })
}

fn segment(store: &Store, row: &SegmentRow, shared: bool) -> ShownSegment {
    let (first, tokens, bytes) = (row.first, row.count, row.file_bytes);
    let codec = store.codec_of(&row.object);
    let (compute, object) = (row.lineage.to_string(), row.object.to_hex());
    ShownSegment { first, tokens, bytes, codec, compute, object, shared }
}

fn relative(relative: Relative) -> ShownRelative {
    let Relative { key, name, segments, bytes } = relative;
    ShownRelative { key: key.to_hex(), name, segments, bytes }
}

fn text(s: &Shown, now: i64) -> String {
    let when = |at: i64| format!("{} ({})", human::time(at), human::ago(now - at));
    let parameters: Vec<_> = s
        .parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    let expires = match s.expires {
        None => "never".to_owned(),
        Some(at) if at <= now && s.pinned => format!("{}, but it is pinned", when(at)),
        Some(at) if at <= now => format!("{}, so the next gc takes it", when(at)),
        Some(at) => format!("{} (in {})", human::time(at), human::duration(at - now)),
    };
    let framing =
        if s.framing.is_empty() { String::new() } else { format!(" ({})", human::sanitize(&s.framing)) };
    let cost = match s.build_s {
        0.0 => "not known: other states' segments made it up".to_owned(),
        seconds => format!("{} to evaluate", human::seconds(seconds)),
    };
    let saved = match s.hits {
        0 => "nothing yet".to_owned(),
        hits => format!("{} in {}", human::seconds(s.saved_s), human::count(hits as usize, "hit")),
    };
    let mut rows = vec![
        ("state", s.key.clone()),
        ("name", names(s)),
        ("prompt", format!("{}{framing}", human::sanitize(&s.prompt))),
        ("model", format!("{}, blake3 {}…", human::sanitize(&s.model), &s.model_blake3[..12])),
        ("file", human::sanitize(&s.model_path)),
        ("parameters", human::wrap_list(&parameters, 66, 12)),
        ("tokens", format!("{} in {}", human::thousands(s.tokens), pieces(s))),
        ("size", format!("{}, {} of it its own", human::bytes(s.bytes), human::bytes(s.unique_bytes))),
        ("built", when(s.created)),
        ("used", when(s.last_used)),
        ("pinned", if s.pinned { "yes" } else { "no" }.into()),
        ("expires", expires),
        ("cost", cost),
        ("saved", saved),
    ];
    for computed in &s.computed_by {
        let this = if computed.own { ", as this machine and program" } else { "" };
        rows.push(("computed by", format!("{}{this}", computed.description)));
    }
    for r in &s.shares_with {
        let label = label_of(r);
        rows.push((
            "shares",
            format!("{} ({}) with {label}", human::count(r.segments, "segment"), human::bytes(r.bytes)),
        ));
    }
    let mut text: String = rows.iter().map(|(name, value)| format!("{name:<12}{value}\n")).collect();
    let segments = s.segments.iter().enumerate().map(|(i, row)| {
        let shared = if row.shared { "shared" } else { "own" };
        [
            (i + 1).to_string(),
            format!("{}-{}", row.first, row.first + row.tokens - 1),
            human::bytes(row.bytes),
            row.codec.unwrap_or("?").to_owned(),
            shared.to_owned(),
            row.compute.chars().take(12).collect(),
            row.object[..24].to_owned() + "…",
        ]
    });
    text.push('\n');
    text + &table::plain(&["SEGMENT", "TOKENS", "SIZE", "CODEC", "USE", "BY", "OBJECT"], &[0, 1, 2], segments)
}

/// Number of segments; of those that more than one machine or program computed, said once.
fn pieces(s: &Shown) -> String {
    let places: HashSet<(usize, usize)> = s.segments.iter().map(|row| (row.first, row.tokens)).collect();
    let again = match s.segments.len() - places.len() {
        0 => String::new(),
        n => format!(", {n} of them saved once more, computed by another"),
    };
    human::count(places.len(), "segment") + &again
}

/// All names, each with its pin and expiry where it has them.
fn names(s: &Shown) -> String {
    let wishes = |n: &ShownName| {
        let pin = if n.pinned { "*" } else { "" };
        let until = n.expires.map(|at| format!(" until {}", human::time(at))).unwrap_or_default();
        format!("{}{pin}{until}", n.name)
    };
    let nameless = match (&s.nameless.pinned, s.nameless.expires) {
        (false, None) => None,
        (pinned, at) => {
            let pin = if *pinned { ["pinned"].as_slice() } else { &[] };
            let until = at.map(|at| format!("until {}", human::time(at)));
            let said: Vec<String> = pin.iter().map(|pin| (*pin).to_owned()).chain(until).collect();
            Some(format!("{} without a name", said.join(" ")))
        }
    };
    match (s.names.as_slice(), nameless) {
        ([], _) => "-".into(),
        ([only], None) => only.name.clone(),
        (several, nameless) => several.iter().map(wishes).chain(nameless).collect::<Vec<_>>().join(", "),
    }
}

fn label_of(relative: &ShownRelative) -> String {
    relative.key.parse().map_or_else(|_| relative.key.clone(), |key| label(&key, relative.name.as_deref()))
}
