//! `pcache recode`: store states in another codec.
//!
//! Segment by segment: the new object is published and its row switched, which is one step; the old object goes when
//! nobody can be about to map it. Whatever stops this, each segment is in one codec or the other, and what is left over
//! is removed by the next gc.

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::app::App;
use super::failure::Failure;
use super::states::{self, label};
use crate::cache::progress::Unit;
use crate::cli::Run;
use crate::cli::args::Output;
use crate::text::human;
use pcache_format::Codec;
use pcache_format::StateKey;
use pcache_store::Prefix;
use pcache_store::{ReadBuffers, Replaced, Store};

/// Arguments of `recode`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache recode menu --codec zstd         a seventh smaller; restored slower
  pcache recode --all --codec raw         restored without decoding again

A state has the same key and gives the same answers in every codec. Segments
that others share are recoded with it. What a codec does not make smaller, such
as a quantised cache that hardly compresses, stays as it is.")]
pub struct Recode {
    /// Keys or names
    #[arg(value_name = "KEY", required_unless_present = "all")]
    pub keys: Vec<String>,
    /// All states
    #[arg(long, conflicts_with = "keys")]
    pub all: bool,
    /// raw, zstd or zstd:LEVEL; what is in zstd already keeps its level
    #[arg(long, value_name = "CODEC", value_parser = str::parse::<Codec>)]
    pub codec: Codec,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    states: Vec<Recoded>,
}

#[derive(Debug, Serialize)]
struct Recoded {
    key: StateKey,
    name: Option<String>,
    codec: &'static str,
    segments: usize,
    /// Those that are stored in another way now.
    recoded: usize,
    bytes_before: u64,
    bytes_after: u64,
}

impl Run for Recode {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }
}

fn run(app: &App, args: &Recode) -> Result<()> {
    let store = match args.keys.first() {
        Some(key) => states::store_with(app, key)?,
        None => app.store()?,
    };
    let keys = match args.all {
        true => store.list()?.0.into_iter().map(|s| s.key).collect(),
        false => states::keys(&store, &args.keys)?,
    };
    app.signals.hear();
    let progress = app.progress();
    progress.start("recoding", keys.len() as u64, Unit::States);
    let (mut report, mut failed) = (Report { states: Vec::new() }, None);
    for (n, key) in keys.iter().enumerate() {
        match recode(app, &store, key, args) {
            Ok(recoded) => report.states.push(recoded),
            // With --all, what is removed meanwhile was not asked for.
            Err(error) if args.all && matches!(error.downcast_ref(), Some(Failure::NotFound(_))) => {}
            // One that is damaged keeps no other from being recoded; anything else ends this.
            Err(error) => {
                let damaged = matches!(error.downcast_ref(), Some(Failure::Corrupt(_)));
                failed.get_or_insert(error);
                if !damaged {
                    break;
                }
            }
        }
        progress.set(n as u64 + 1);
    }
    progress.finish();
    report.states.iter().try_for_each(|r| app.named_event("recoded", r))?;
    match app.output() {
        Output::Text => report.states.iter().try_for_each(|r| app.print(text(r)))?,
        Output::Json => app.print_json(&report)?,
        Output::Jsonl => {}
    }
    failed.map_or(Ok(()), Err)
}

fn recode(app: &App, store: &Store, key: &StateKey, args: &Recode) -> Result<Recoded> {
    // Under the lock: it may be removed while this waits.
    let guard = app.lock_shared(store)?;
    let state = states::state(store, key)?;
    let label = label(key, state.label.name());
    let damaged = |why: String| {
        Failure::Corrupt(format!("state {label} is not intact: {why}; pcache verify --repair mends it"))
    };
    let prefix = Prefix::of_manifest(&state.manifest);
    let found = store.find(&guard, &prefix, app.same_compute())?.verify(&prefix).proved();
    if !state.is_whole() || found.tokens() < prefix.tokens.len() {
        let why = found.reason(&prefix).unwrap_or_else(|| "its manifest is damaged".into());
        bail!(damaged(why));
    }
    let bytes =
        |store: &Store| -> Result<u64> { Ok(store.segments_of(key)?.iter().map(|row| row.file_bytes).sum()) };
    let bytes_before = bytes(store)?;
    let (mut buffers, mut replaced, mut all) = (ReadBuffers::default(), Vec::<Replaced>::new(), true);
    let other = found.parts.iter().filter(|(_, object)| object.stored().codec() != args.codec.name());
    for (piece, object) in other {
        if app.interrupted() {
            all = false;
            break;
        }
        let recoded = store.recode(&guard, &prefix, (piece, object), args.codec, &mut buffers)?;
        replaced.extend(recoded.map_err(|miss| damaged(miss.to_string()))?);
    }
    let segments = found.parts.len();
    drop((found, guard));
    if !replaced.is_empty() {
        let guard = app.lock_exclusive(store)?;
        store.remove_replaced(&guard, &replaced)?;
    }
    if !all {
        bail!(Failure::Interrupted(format!(
            "interrupted; {} of {label} are stored anew, the same recode goes on from there",
            human::count(replaced.len(), "segment")
        )));
    }
    Ok(Recoded {
        key: *key,
        name: state.label.name().map(str::to_owned),
        codec: args.codec.name(),
        segments,
        recoded: replaced.len(),
        bytes_before,
        bytes_after: bytes(store)?,
    })
}

/// Why nothing of a state was stored anew.
fn why_not(recoded: &Recoded) -> &'static str {
    match recoded.codec {
        "raw" => "all of it is stored raw",
        _ => {
            "what can be compressed is compressed, at whichever level; recode it to raw first for another one"
        }
    }
}

fn text(recoded: &Recoded) -> String {
    let label = label(&recoded.key, recoded.name.as_deref());
    let (before, after) = (human::bytes(recoded.bytes_before), human::bytes(recoded.bytes_after));
    match recoded.recoded {
        0 => {
            format!("{label} stays as it is ({after}): {}", why_not(recoded))
        }
        n if n == recoded.segments => format!("recoded {label} to {}: {before} to {after}", recoded.codec),
        n => format!(
            "recoded {n} of {} of {label} to {}: {before} to {after}",
            human::count(recoded.segments, "segment"),
            recoded.codec
        ),
    }
}
