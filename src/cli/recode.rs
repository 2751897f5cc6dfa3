//! `pcache recode`: store states in another codec.

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::app::App;
use super::failure::Failure;
use super::states::{self, label};
use crate::cache::progress::Unit;
use crate::cache::recode::{Recoded, recode};
use crate::cli::Run;
use crate::cli::args::Output;
use crate::text::human;
use pcache_format::Codec;

/// Arguments of `recode`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache recode menu --codec zstd         about 14 % smaller, slower to restore
  pcache recode --all --codec raw         no decoding when restored

A state has the same key and gives the same answers in every codec. Shared
segments are recoded for all states that use them. Segments that zstd does not
make at least 2 % smaller stay raw.")]
pub struct Recode {
    /// Keys or names of states
    #[arg(value_name = "KEY", required_unless_present = "all")]
    pub keys: Vec<String>,
    /// Recode all states
    #[arg(long, conflicts_with = "keys")]
    pub all: bool,
    /// Codec: raw, zstd or zstd:LEVEL; plain zstd keeps the level of what is in zstd
    #[arg(long, value_name = "CODEC", value_parser = str::parse::<Codec>)]
    pub codec: Codec,
}

/// JSON output.
#[derive(Debug, Serialize)]
struct Report {
    states: Vec<Recoded>,
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
        match recode(app.call(), &store, key, args.codec) {
            Ok(recoded) => report.states.push(recoded),
            // With --all, what is removed meanwhile was not asked for.
            Err(error) if args.all && matches!(error.downcast_ref(), Some(Failure::NotFound(_))) => {}
            // One that is damaged keeps no other from being recoded; anything else ends this.
            Err(error) => {
                let damaged = matches!(error.downcast_ref(), Some(Failure::Corrupt(_)));
                if damaged {
                    app.say("pcache verify --repair repairs it");
                }
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
