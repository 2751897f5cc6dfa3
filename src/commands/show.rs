//! `pcache show`: everything about one state.

use anyhow::{Result, bail};
use serde::Serialize;

use super::app::App;
use super::models::{self, file_name};
use super::states::{self, label};
use crate::cli::{Output, Show};
use crate::engine::model::Engine;
use crate::format::Record;
use crate::report::{human, table};
use crate::store::Store;
use crate::store::index::{Relative, SegmentRow, Use};

/// Other states listed at most.
const MOST_RELATIVES: usize = 10;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Shown {
    key: String,
    name: Option<String>,
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
    /// Seconds that evaluating all tokens costs, by what was evaluated of them.
    build_s: f64,
    /// What the hits have saved so far, in seconds.
    saved_s: f64,
    segments: Vec<ShownSegment>,
    shares_with: Vec<ShownRelative>,
}

#[derive(Debug, Serialize)]
struct ShownSegment {
    first: usize,
    tokens: usize,
    bytes: u64,
    /// How it says that it is stored; nothing if it cannot be read.
    codec: Option<&'static str>,
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

pub fn run(app: &App, args: &Show) -> Result<()> {
    let mut store = states::store_with(app, &args.key)?;
    let key = states::key(&store, &args.key)?;
    let state = states::state(&store, &key)?;
    if args.prompt {
        return prompt(app, &mut store, &state, args.all);
    }
    let shown = shown(&store, &state)?;
    app.named_event("state", &shown)?;
    match app.output() {
        Output::Text => app.print(text(&shown, store.now())),
        Output::Json => app.print_json(&shown),
        Output::Jsonl => Ok(()),
    }
}

/// Prints the prompt, from the tokens that the state was built of.
fn prompt(app: &App, store: &mut Store, state: &Record, all: bool) -> Result<()> {
    let path = models::of_state(app, store, state)?;
    let engine = Engine::start(app.shows_log())?;
    let model = engine.load_vocabulary(&path)?;
    let whole = model.text_of(&state.tokens) + &state.carried;
    let own = state.own.and_then(|(first, bytes)| whole.get(first..first.checked_add(bytes)?));
    let text = match own {
        Some(own) if !all => own,
        None if !all => {
            bail!(
                "where the prompt begins in state {} is not known; --all prints all that the model reads",
                state.key.short()
            )
        }
        _ => &whole,
    };
    let report = serde_json::json!({ "key": state.key, "prompt": text });
    app.named_event("prompt", &report)?;
    match app.output() {
        Output::Text => app.print(text),
        Output::Json => app.print_json(&report),
        Output::Jsonl => Ok(()),
    }
}

fn shown(store: &Store, state: &Record) -> Result<Shown> {
    let index = store.index();
    let segments: Vec<SegmentRow> = index.segments_of(&state.key)?;
    let own: Vec<_> = index.own_segments(&state.key, &[])?.into_iter().map(|row| row.chain).collect();
    let used = index.use_of(&state.key)?;
    let used = used.unwrap_or(Use { last_used: 0, hits: 0, record: None, record_bytes: 0 });
    let relatives = index.relatives(&state.key, MOST_RELATIVES)?;
    let bytes = |own_only: bool| {
        let rows = segments.iter().filter(|row| !own_only || own.contains(&row.chain));
        rows.map(|row| row.file_bytes).sum::<u64>() + used.record_bytes
    };
    let build_s = state.full_cost_s();
    let canonical = state.params.canonical();
    Ok(Shown {
        key: state.key.to_hex(),
        name: state.name.clone(),
        prompt: state.origin.clone(),
        framing: state.framing.clone(),
        model: file_name(state.model_path.as_ref()),
        model_path: state.model_path.clone(),
        model_blake3: state.model.to_hex(),
        parameters: canonical
            .lines()
            .filter_map(|l| l.split_once('='))
            .map(|(n, v)| (n.into(), v.into()))
            .collect(),
        tokens: state.tokens.len(),
        carried: state.carried.clone(),
        suffix: state.suffix.clone(),
        bytes: bytes(false),
        unique_bytes: bytes(true),
        record_bytes: used.record_bytes,
        created: state.created,
        last_used: used.last_used,
        hits: used.hits,
        pinned: state.pinned,
        expires: state.expires,
        build_s,
        saved_s: build_s * used.hits as f64,
        segments: segments.iter().map(|row| segment(store, row, !own.contains(&row.chain))).collect(),
        shares_with: relatives.into_iter().map(relative).collect(),
    })
}

fn segment(store: &Store, row: &SegmentRow, shared: bool) -> ShownSegment {
    let (first, tokens, bytes) = (row.first, row.count, row.file_bytes);
    let codec = store.codec_of(&row.object);
    ShownSegment { first, tokens, bytes, codec, object: row.object.to_hex(), shared }
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
        Some(at) if at <= now => format!("{}, so the next gc takes it", when(at)),
        Some(at) => format!("{} (in {})", human::time(at), human::duration(at - now)),
    };
    let framing =
        if s.framing.is_empty() { String::new() } else { format!(" ({})", human::harmless(&s.framing)) };
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
        ("name", s.name.clone().unwrap_or_else(|| "-".into())),
        ("prompt", format!("{}{framing}", human::harmless(&s.prompt))),
        ("model", format!("{}, blake3 {}…", human::harmless(&s.model), &s.model_blake3[..12])),
        ("file", human::harmless(&s.model_path)),
        ("parameters", human::listed(&parameters, 66, 12)),
        (
            "tokens",
            format!("{} in {}", human::thousands(s.tokens), human::count(s.segments.len(), "segment")),
        ),
        ("size", format!("{}, {} of it its own", human::bytes(s.bytes), human::bytes(s.unique_bytes))),
        ("built", when(s.created)),
        ("used", when(s.last_used)),
        ("pinned", if s.pinned { "yes" } else { "no" }.into()),
        ("expires", expires),
        ("cost", cost),
        ("saved", saved),
    ];
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
            row.object[..40].to_owned() + "…",
        ]
    });
    text.push('\n');
    text + &table::plain(&["SEGMENT", "TOKENS", "SIZE", "CODEC", "USE", "OBJECT"], &[0, 1, 2], segments)
}

fn label_of(relative: &ShownRelative) -> String {
    relative.key.parse().map_or_else(|_| relative.key.clone(), |key| label(&key, relative.name.as_deref()))
}
