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

A name is taken away, and its state removed with the last one; a key removes the
state with all of its names.")]
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
    /// Names that were taken away from states that have others.
    unnamed: Vec<Unnamed>,
    removed: Vec<Reported>,
    freed_bytes: u64,
}

/// A name that was taken away.
#[derive(Debug, Serialize)]
struct Unnamed {
    key: String,
    name: String,
    /// Names that the state still has.
    kept: Vec<String>,
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
    let unnamed = take_names(app, &store, args)?;
    let args =
        &Rm { keys: args.keys.iter().filter(|key| !is_taken(&unnamed, key)).cloned().collect(), ..*args };
    let removed = match args.all || !args.keys.is_empty() {
        true => remove(app, &store, args)?,
        false => Vec::new(),
    };
    let report = Report { unnamed, ..report(&removed, args.dry_run) };
    report.unnamed.iter().try_for_each(|taken| app.named_event("unnamed", taken))?;
    let event = if args.dry_run { "would_remove" } else { "removed" };
    report.removed.iter().try_for_each(|r| app.named_event(event, r))?;
    match app.output() {
        Output::Text if removed.is_empty() && !report.unnamed.is_empty() => tell_names(app, &report)?,
        Output::Text => {
            tell_names(app, &report)?;
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

fn remove(app: &App, store: &Store, args: &Rm) -> Result<Vec<Removed>> {
    chosen(store, args)?;
    let guard = app.lock_exclusive(store)?;
    // While this waited, another process may have pinned one, or moved its name.
    let keys = chosen(store, args)?;
    Ok(store.remove_states(&guard, &keys, args.dry_run)?)
}

/// Takes names away from states that have others, by which somebody else may know them.
fn take_names(app: &App, store: &Store, args: &Rm) -> Result<Vec<Unnamed>> {
    let mut taken = Vec::new();
    for name in &args.keys {
        let key = states::key(store, name)?;
        let label = states::state(store, &key)?.label;
        let is_given = |name: &str| args.keys.iter().any(|given| given == name);
        let kept: Vec<String> =
            label.names.iter().map(|n| n.name.clone()).filter(|name| !is_given(name)).collect();
        let by_key =
            args.keys.iter().any(|given| label.named(given).is_none() && key.to_hex().starts_with(given));
        let Some(named) = label.named(name).filter(|_| !kept.is_empty() && !by_key) else { continue };
        if named.pinned && !args.force {
            bail!(Failure::Usage(format!("{name} is pinned; pcache unpin it first, or pass --force")));
        }
        taken.push(Unnamed { key: key.to_hex(), name: name.clone(), kept });
    }
    if args.dry_run || taken.is_empty() {
        return Ok(taken);
    }
    let guard = app.lock_shared(store)?;
    for Unnamed { name, .. } in &taken {
        let key = states::key(store, name)?;
        store.relabel(&guard, &key, |label| {
            label.take(name);
        })?;
    }
    Ok(taken)
}

fn is_taken(unnamed: &[Unnamed], name: &str) -> bool {
    unnamed.iter().any(|taken| taken.name == name)
}

fn tell_names(app: &App, report: &Report) -> Result<()> {
    let verb = if report.dry_run { "would take" } else { "took" };
    report.unnamed.iter().try_for_each(|Unnamed { key, name, kept }| {
        app.print(format!("{verb} the name {name} away; {} stays as {}", &key[..12], kept.join(", ")))
    })
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
    Report { dry_run, unnamed: Vec::new(), removed: removed.iter().map(reported).collect(), freed_bytes }
}
