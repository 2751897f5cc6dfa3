//! `pcache gc`: evict states by age, count and size, and remove leftovers.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::app::App;
use super::failure::Failure;
use super::rm::fail_if_left;
use super::states::label_of_all;
use crate::cli::Run;
use crate::cli::args::Output;
use crate::cli::args::values::{seconds, size};
use crate::text::human;
use pcache_store::evict::{Limits, Reason};
use pcache_store::gc::{Evicted, Files, Outcome};

/// Arguments of `gc`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache gc --dry-run                     what would be removed, and why
  pcache gc --max-age 30d                 evicts states unused for 30 days
  pcache gc --max-size 10GiB              evicts the least recently used
  pcache gc --keep 20                     keeps the 20 most recently used

Without limits only expired states and leftovers are removed: segments of
interrupted builds, unfinished temporary files. Pinned states are never evicted;
a --ttl that has not passed does not protect from limits.")]
pub struct Gc {
    /// Maximum size of the folder, e.g. 10GiB or 500MB
    #[arg(long, env = "PCACHE_MAX_SIZE", hide_env_values = true, value_name = "SIZE", value_parser = size)]
    pub max_size: Option<u64>,
    /// Maximum time since the last use, e.g. 30d or 12h
    #[arg(long, value_name = "AGE", value_parser = seconds)]
    pub max_age: Option<i64>,
    /// Maximum number of states; the most recently used stay
    #[arg(long, value_name = "N")]
    pub keep: Option<usize>,
    /// Show what would be removed, without removing it
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// JSON output.
#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    evicted: Vec<ReportedEviction>,
    freed_bytes: u64,
    kept_bytes: u64,
    /// The kept bytes and what else was freed, by what they are.
    folder: Folder,
}

#[derive(Debug, Serialize)]
struct ReportedEviction {
    key: String,
    name: Option<String>,
    names: Vec<String>,
    reason: String,
    freed_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Folder {
    state_bytes: u64,
    waiting_bytes: u64,
    index_bytes: u64,
    other_bytes: u64,
    freed_orphan_bytes: u64,
    freed_staging_bytes: u64,
    freed_stray_bytes: u64,
    unreadable_bytes: u64,
    unreadable_folders: Vec<String>,
    newer_files: usize,
    newer_bytes: u64,
    adopted_bytes: u64,
    adopted_states: usize,
}

impl Run for Gc {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }
}

fn run(app: &App, args: &Gc) -> Result<()> {
    if app.global.model_is_explicit {
        let why = "gc works on the whole folder; it does not choose by --model";
        bail!(Failure::Usage(why.into()));
    }
    let limits = Limits {
        max_bytes: args.max_size,
        max_age_s: args.max_age,
        max_states: args.keep,
        ..Limits::default()
    };
    let Some(store) = app.existing_store()? else {
        app.say(format!("no store in {}: nothing to collect", app.cache_dir()?.display()));
        if app.output() != Output::Text {
            app.print_json(&report(&Outcome::default(), args.dry_run))?;
        }
        return Ok(());
    };
    let guard = app.lock_exclusive(&store)?;
    let outcome = store.collect(&guard, &limits, args.dry_run)?;
    warn_if_over(app, &outcome, &limits);
    let report = report(&outcome, args.dry_run);
    for eviction in &report.evicted {
        app.named_event(if args.dry_run { "would_evict" } else { "evicted" }, eviction)?;
    }
    app.named_event("gc", &report)?;
    match app.output() {
        Output::Text => app.write(&text(&outcome, args.dry_run))?,
        Output::Json => app.print_json(&report)?,
        Output::Jsonl => {}
    }
    fail_if_left(app, outcome.left.iter())?;
    fail_if_unseen(app, &outcome.unseen, outcome.unreadable.count)
}

/// Warns of folders that could not be listed, and fails if not all of the store was seen.
pub fn fail_if_unseen(app: &App, folders: &[(PathBuf, String)], files: usize) -> Result<()> {
    for (path, why) in folders {
        app.warn(format!("cannot list {}: {why}; what is in it was left as it is", path.display()));
    }
    if folders.is_empty() && files == 0 {
        return Ok(());
    }
    let (folders, files) = (human::count(folders.len(), "folder"), human::count(files, "file"));
    bail!("not all of the store was seen: {folders} and {files} cannot be read")
}

/// Warns when what may not go is more than allowed.
pub fn warn_if_over(app: &App, outcome: &Outcome, limits: &Limits) {
    if let Some(max) = limits.max_bytes.filter(|max| outcome.after > *max) {
        let (max, stay) = (human::bytes(max), human::bytes(outcome.after));
        app.warn(format!(
            "the folder cannot get under {max}: {stay} are pinned states, states in use, or not states"
        ));
    }
}

/// Says which states another command collected, and why.
pub fn tell(app: &App, outcome: &Outcome) -> Result<()> {
    for evicted in &outcome.evicted {
        app.say(eviction(evicted, false));
        app.named_event("evicted", &reported(evicted))?;
    }
    Ok(())
}

fn reported(evicted: &Evicted) -> ReportedEviction {
    ReportedEviction {
        key: evicted.key.to_hex(),
        name: evicted.names.first().cloned(),
        names: evicted.names.clone(),
        reason: reason(&evicted.reason),
        freed_bytes: evicted.frees,
    }
}

fn report(outcome: &Outcome, dry_run: bool) -> Report {
    let evicted = outcome.evicted.iter().map(reported);
    Report {
        dry_run,
        evicted: evicted.collect(),
        freed_bytes: outcome.freed_bytes(),
        kept_bytes: outcome.after,
        folder: Folder {
            state_bytes: outcome.live.bytes,
            waiting_bytes: outcome.waiting.bytes,
            index_bytes: outcome.index_bytes,
            other_bytes: outcome.other_bytes,
            freed_orphan_bytes: outcome.orphans.bytes,
            freed_staging_bytes: outcome.staging.bytes,
            freed_stray_bytes: outcome.strays.bytes,
            unreadable_bytes: outcome.unreadable.bytes,
            unreadable_folders: outcome.unseen.iter().map(|(path, _)| path.display().to_string()).collect(),
            newer_files: outcome.newer.count,
            newer_bytes: outcome.newer.bytes,
            adopted_bytes: outcome.adopted.bytes,
            adopted_states: outcome.adopted_states,
        },
    }
}

fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Expired => "expired".into(),
        Reason::Age { unused_s } => format!("unused for {}", human::duration(*unused_s)),
        Reason::Count { limit } => format!("not among the {limit} most recently used"),
        Reason::Size { limit } => {
            format!("least recently used while the folder is over {}", human::bytes(*limit))
        }
    }
}

/// The outcome for people: what went and why, what else was found, and where every byte that stays lies.
fn text(outcome: &Outcome, dry_run: bool) -> String {
    let mut lines: Vec<String> = outcome.evicted.iter().map(|e| eviction(e, dry_run)).collect();
    let (removes, adopts) = if dry_run { ("would remove", "would adopt") } else { ("removed", "adopted") };
    let mut files = |verb: &str, files: Files, thing: &str, why: &str| {
        if files.count > 0 {
            let (n, bytes) = (human::count(files.count, thing), human::bytes(files.bytes));
            lines.push(format!("{verb} {n} ({bytes}): {why}"));
        }
    };
    files(removes, outcome.orphans, "segment", "of interrupted builds, no state uses them");
    files(removes, outcome.staging, "staging file", "left behind by what was stopped or damaged");
    files(removes, outcome.strays, "object", "damaged, or replaced by another");
    files("left", outcome.unreadable, "object", "not in the index, and the system does not let it be read");
    files("left", outcome.newer, "file", "of a later version of pcache, or of another program");
    files(adopts, outcome.adopted, "segment", "intact but not in the index; kept for a week");
    if outcome.adopted_states > 0 {
        let n = human::count(outcome.adopted_states, "state");
        lines.push(format!("{adopts} {n}: intact but not in the index"));
    }

    let freed = human::bytes(outcome.freed_bytes());
    let kept = human::bytes(outcome.after);
    let verb = if dry_run { "would free" } else { "freed" };
    lines.push(format!("{verb} {freed}, {kept} stay: {}", parts(outcome)));
    lines.join("\n") + "\n"
}

fn eviction(evicted: &Evicted, dry_run: bool) -> String {
    let verb = if dry_run { "would evict" } else { "evicted" };
    let state = label_of_all(&evicted.key, &evicted.names);
    format!("{verb} {state} ({}): {}", human::bytes(evicted.frees), reason(&evicted.reason))
}

fn parts(outcome: &Outcome) -> String {
    let parts = [
        ("states", outcome.live.bytes),
        ("waiting for a state", outcome.waiting.bytes),
        ("index", outcome.index_bytes),
        ("other", outcome.other_bytes),
    ];
    let shown = parts.iter().filter(|(_, bytes)| *bytes > 0);
    shown.map(|(what, n)| format!("{what} {}", human::bytes(*n))).collect::<Vec<_>>().join(", ")
}
