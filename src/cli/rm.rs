//! `pcache rm`: remove states.

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::app::App;
use super::failure::Failure;
use super::states::{self, label, label_of_all};
use crate::cli::Run;
use crate::cli::args::Output;
use crate::text::human;
use pcache_format::StateKey;
use pcache_store::{Left, Removed, Store};

/// Arguments of `rm`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache rm menu 4f2a91
  pcache rm --dry-run menu                show what it would free
  pcache rm --all                         all states that are not pinned

A state is removed with all of its names; pcache rename NAME --clear removes a
name alone.")]
pub struct Rm {
    /// Keys or names of states
    #[arg(value_name = "KEY", required_unless_present = "all")]
    pub keys: Vec<String>,
    /// Remove all states that are not pinned
    #[arg(long, conflicts_with = "keys")]
    pub all: bool,
    /// Remove pinned states as well
    #[arg(short, long)]
    pub force: bool,
    /// Show what would be removed, without removing it
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// JSON output.
#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    removed: Vec<Reported>,
    freed_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Reported {
    key: String,
    name: Option<String>,
    names: Vec<String>,
    freed_bytes: u64,
    /// Files that could not be removed.
    left: Vec<String>,
}

impl Run for Rm {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }
}

fn run(app: &App, args: &Rm) -> Result<()> {
    let store = match args.keys.first() {
        Some(first) => states::store_with(app, first)?,
        None => app.store()?,
    };
    chosen(&store, args)?;
    let guard = app.lock_exclusive(&store)?;
    // While this waited, another process may have pinned one, or moved its name.
    let keys = chosen(&store, args)?;
    let removed = store.remove_states(&guard, &keys, args.dry_run)?;
    let report = report(&removed, args.dry_run);
    let event = if args.dry_run { "would_remove" } else { "removed" };
    report.removed.iter().try_for_each(|r| app.named_event(event, r))?;
    match app.output() {
        Output::Text => {
            let verb = if args.dry_run { "would remove" } else { "removed" };
            removed.iter().try_for_each(|r| {
                let label = label_of_all(&r.key, &r.names);
                app.print(format!("{verb} {label} ({})", human::bytes(r.frees)))
            })?;
            let freed = removed.iter().map(|r| r.frees).sum();
            app.say(format!("{} {}", if args.dry_run { "would free" } else { "freed" }, human::bytes(freed)));
        }
        Output::Json => app.print_json(&report)?,
        Output::Jsonl => {}
    }
    fail_if_left(app, removed.iter().flat_map(|r| &r.left))
}

/// Warns of files that could not be removed, and fails if there are any.
pub fn fail_if_left<'l>(app: &App, left: impl Iterator<Item = &'l Left>) -> Result<()> {
    let mut count = 0;
    for Left { path, why, .. } in left {
        app.warn(format!("cannot remove {}: {why}", path.display()));
        count += 1;
    }
    if count > 0 {
        bail!("{} stay on the disk; the next gc tries again", human::count(count, "file"));
    }
    Ok(())
}

/// Returns the keys of the states to remove.
fn chosen(store: &Store, args: &Rm) -> Result<Vec<StateKey>> {
    if args.all {
        let (states, _) = store.list()?;
        return Ok(states
            .iter()
            .filter(|state| args.force || !state.pinned)
            .map(|state| state.key)
            .collect());
    }
    let keys = states::keys(store, &args.keys)?;
    refuse_pinned(store, &keys, args)?;
    Ok(keys)
}

fn refuse_pinned(store: &Store, keys: &[StateKey], args: &Rm) -> Result<()> {
    for key in keys.iter().filter(|_| !args.force) {
        let Some(state) = store.state(key)? else { continue };
        if state.label.is_pinned() {
            let label = label(key, state.label.name());
            bail!(Failure::Usage(format!("state {label} is pinned; pcache unpin it first, or pass --force")));
        }
    }
    Ok(())
}

fn report(removed: &[Removed], dry_run: bool) -> Report {
    let freed_bytes = removed.iter().map(|r| r.frees).sum();
    let reported = |r: &Removed| Reported {
        key: r.key.to_hex(),
        name: r.names.first().cloned(),
        names: r.names.clone(),
        freed_bytes: r.frees,
        left: r.left.iter().map(|left| left.path.display().to_string()).collect(),
    };
    Report { dry_run, removed: removed.iter().map(reported).collect(), freed_bytes }
}
