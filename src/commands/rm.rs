//! `pcache rm`: remove states.

use anyhow::{Result, bail};
use serde::Serialize;

use super::app::App;
use super::failure::Failure;
use super::states::{self, label};
use crate::cli::{Output, Rm};
use crate::key::StateKey;
use crate::report::human;
use crate::store::Store;
use crate::store::states::Removed;

/// What `--json` prints.
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
    freed_bytes: u64,
}

pub fn run(app: &App, args: &Rm) -> Result<()> {
    let mut store = states::store_with(app, &args.keys[0])?;
    let keys = states::keys(&store, &args.keys)?;
    refuse_pinned(&store, &keys, args)?;
    let _lock = store.lock_exclusive(|| app.say("waiting for a build or gc to finish …"))?;
    // Somebody may have pinned one while this waited.
    refuse_pinned(&store, &keys, args)?;
    let removed = store.remove_states(&keys, args.dry_run)?;
    let report = report(&removed, args.dry_run);
    let event = if args.dry_run { "would_remove" } else { "removed" };
    report.removed.iter().try_for_each(|r| app.named_event(event, r))?;
    match app.output() {
        Output::Text => {
            let verb = if args.dry_run { "would remove" } else { "removed" };
            removed.iter().try_for_each(|r| {
                let label = label(&r.key, r.name.as_deref());
                app.print(format!("{verb} {label} ({})", human::bytes(r.frees)))
            })?;
            let freed = removed.iter().map(|r| r.frees).sum();
            app.say(format!("{} {}", if args.dry_run { "would free" } else { "freed" }, human::bytes(freed)));
            Ok(())
        }
        Output::Json => app.print_json(&report),
        Output::Jsonl => Ok(()),
    }
}

fn refuse_pinned(store: &Store, keys: &[StateKey], args: &Rm) -> Result<()> {
    for key in keys.iter().filter(|_| !args.force && !args.dry_run) {
        let Some(state) = store.index().state(key)? else { continue };
        if state.pinned {
            let label = label(key, state.name.as_deref());
            bail!(Failure::Usage(format!("state {label} is pinned; pcache unpin it first, or pass --force")));
        }
    }
    Ok(())
}

fn report(removed: &[Removed], dry_run: bool) -> Report {
    let freed_bytes = removed.iter().map(|r| r.frees).sum();
    let reported = |r: &Removed| Reported { key: r.key.to_hex(), name: r.name.clone(), freed_bytes: r.frees };
    Report { dry_run, removed: removed.iter().map(reported).collect(), freed_bytes }
}
