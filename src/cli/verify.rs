//! `pcache verify`: check what is saved, and repair what is damaged.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use super::app::App;
use super::failure::Failure;
use super::gc;
use super::states::{self, label};
use super::{models, target};
use crate::cache;
use crate::cache::verify::{self, Checked, Status, Wish};
use crate::cli::Run;
use crate::cli::args::{Output, ParamArgs};
use crate::text::human;
use pcache_store::disk::RealDisk;
use pcache_store::{State, Store, StoreError, Survey};

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache verify                           hashes every object of every state
  pcache verify menu --logits             compares with an uncached evaluation
  pcache verify --repair                  evaluates damaged segments again, and
                                          rebuilds a lost index

Exit code 4 when something is damaged and was not repaired.")]
pub struct Verify {
    /// Keys or names of states [default: all]
    #[arg(value_name = "KEY")]
    pub keys: Vec<String>,
    /// Verify all states (the default)
    #[arg(long, conflicts_with = "keys")]
    pub all: bool,
    /// Compare logits with those of an uncached evaluation; as slow as a build
    #[arg(long)]
    pub logits: bool,
    /// Evaluate damaged segments again, and rebuild a lost index
    #[arg(long)]
    pub repair: bool,
}

impl Run for Verify {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }

    fn evaluates(&self) -> bool {
        self.repair || self.logits
    }
}

fn run(app: &App, args: &Verify) -> Result<()> {
    let start = Instant::now();
    let damaged = |e: &anyhow::Error| matches!(e.downcast_ref(), Some(StoreError::DamagedIndex { .. }));
    let (mut checked, survey) = match check_store(app, args) {
        Err(error) if args.repair && damaged(&error) => {
            app.warn(format!("the index is damaged ({})", error.root_cause()));
            let aside = Store::set_index_aside(&RealDisk, &app.cache_dir()?, || {
                app.say("waiting for a build or gc to finish …")
            })?;
            app.say(format!("the damaged index was moved to {}; gc removes it", aside.display()));
            check_store(app, args)?
        }
        other => other?,
    };
    let nothing_to_say = checked.is_empty() && survey.as_ref().is_none_or(|survey| survey.lost > 0);
    let survey = survey.unwrap_or_default();
    if args.logits || args.repair {
        let wish = Wish { repair: args.repair, logits: args.logits };
        let load = |store: &Store, state: &State| {
            let adapter = target::adapter_of_state(app, store, state, &ParamArgs::default())?;
            let path = models::of_state(app, store, state)?;
            cache::load(app, &path, app.gpu_layers()?, adapter.as_deref())
        };
        verify::mend(app.call(), &app.store()?, wish, &load, &mut checked)?;
    }
    if !nothing_to_say || app.output() != Output::Text {
        report(app, args, &checked, &survey, start)?;
    }
    tell_leftovers(app, &checked, &survey);
    if survey.lost > 0 {
        let (n, are) = (human::count(survey.lost, "state"), if survey.lost == 1 { "is" } else { "are" });
        let why = format!("{n} on disk {are} not in the index; pcache verify --repair puts them back");
        bail!(Failure::Corrupt(why));
    }
    let bad = checked.iter().filter(|c| matches!(c.status, Status::Corrupt | Status::Missing)).count();
    if bad > 0 {
        let bad_states = human::count(bad, "state");
        if args.repair {
            bail!(Failure::Corrupt(format!("{bad_states} could not be repaired; the others are intact")));
        }
        let are = if bad == 1 { "is" } else { "are" };
        bail!(Failure::Corrupt(format!(
            "{bad_states} {are} damaged; pcache verify --repair repairs what can be repaired"
        )));
    }
    gc::fail_if_unseen(app, &survey.unseen, survey.unreadable.len())
}

/// Paths named at most.
const MAX_PATHS: usize = 10;

/// Says what lies in the folder and is no damage: what a killed build left, and what is newer than this version.
fn tell_leftovers(app: &App, checked: &[Checked], survey: &Survey) {
    if survey.uncommitted > 0 {
        let n = human::count(survey.uncommitted, "state");
        app.say(format!("{n} of interrupted builds not listed yet; pcache gc lists what is complete"));
    }
    let newer: Vec<&PathBuf> = checked.iter().flat_map(|c| &c.newer).collect();
    if !newer.is_empty() {
        let n = human::count(newer.len(), "description");
        app.say(format!("{n} of a later version of pcache, left alone:"));
        name_paths(app, newer.iter().map(|path| path.as_path()));
    }
    if survey.unknown.is_empty() {
        return;
    }
    let bytes = human::bytes(survey.unknown.iter().map(|e| e.bytes).sum());
    let n = human::count(survey.unknown.len(), "file");
    app.say(format!("{n} ({bytes}) of a later version of pcache, or of another program, left alone:"));
    name_paths(app, survey.unknown.iter().map(|e| e.path.as_path()));
}

fn name_paths<'p>(app: &App, paths: impl ExactSizeIterator<Item = &'p Path>) {
    let more = paths.len().saturating_sub(MAX_PATHS);
    paths.take(MAX_PATHS).for_each(|path| app.say(format!("  {}", path.display())));
    if more > 0 {
        app.say(format!("  and {} more", human::thousands(more)));
    }
}

/// Checks the index and every object of the states in question; with `--repair` gives back their rows to what lost them,
/// else counts them; without a store there is nothing to count.
fn check_store(app: &App, args: &Verify) -> Result<(Vec<Checked>, Option<Survey>)> {
    let store = match args.keys.first() {
        Some(key) => Some(states::store_with(app, key)?),
        None => app.existing_store()?,
    };
    let Some(store) = store else {
        app.say(format!("no store in {}: nothing to verify", app.cache_dir()?.display()));
        return Ok((Vec::new(), None));
    };
    if args.keys.is_empty() {
        store.check_index()?;
    }
    if args.repair {
        let guard = app.lock_exclusive(&store)?;
        let found = app.reindex(&store, &guard)?;
        if found.states + found.segments > 0 {
            let (states, segments) =
                (human::count(found.states, "state"), human::count(found.segments, "segment"));
            app.say(format!("found on disk and put back into the index: {states}, {segments}"));
        }
    }
    let survey = if args.keys.is_empty() { store.survey()? } else { Survey::default() };
    let keys = match args.keys.as_slice() {
        [] => store.list()?.0.into_iter().map(|s| s.key).collect(),
        keys => states::keys(&store, keys)?,
    };
    Ok((verify::check(app.call(), &store, &keys, args.repair)?, Some(survey)))
}

/// Word for a state's condition; JSON has version 0.1's.
fn text_of(status: Status) -> &'static str {
    if status == Status::Healed { "repaired" } else { status.name() }
}

fn paths<'p>(paths: impl Iterator<Item = &'p PathBuf>) -> Vec<String> {
    paths.map(|path| path.display().to_string()).collect()
}

fn report(app: &App, args: &Verify, checked: &[Checked], survey: &Survey, start: Instant) -> Result<()> {
    checked.iter().try_for_each(|c| app.named_event("state", c))?;
    let newer = checked.iter().flat_map(|c| &c.newer);
    match app.output() {
        Output::Json => {
            return app.print_json(&serde_json::json!({
                "states": checked,
                "uncommitted_states": survey.uncommitted,
                "unknown_files": paths(survey.unknown.iter().map(|e| &e.path).chain(newer)),
                "unreadable_files": paths(survey.unreadable.iter().map(|e| &e.path)),
                "unreadable_folders": paths(survey.unseen.iter().map(|(path, _)| path)),
            }));
        }
        Output::Jsonl => return Ok(()),
        Output::Text => {}
    }
    let each = args.logits || !args.keys.is_empty();
    for c in checked.iter().filter(|c| each || c.status != Status::Ok) {
        let mut line = format!("{:<8} {}", text_of(c.status), label(&c.key, c.name.as_deref()));
        if let Some(difference) = c.max_logit_difference {
            let own = c.compared.as_ref().is_none_or(|compared| compared.own);
            let exact = if difference == 0.0 && own { ": bit-identical" } else { "" };
            line.push_str(&format!("  largest difference of logits {difference}{exact}"));
            if let Some(compared) = c.compared.as_ref().filter(|compared| !compared.own) {
                line.push_str(&format!(", between this machine and {}", compared.restored));
            }
        }
        if let Some(reason) = &c.reason {
            let was = if c.status == Status::Healed { "damage was: " } else { "" };
            line.push_str(&format!("  {was}{reason}"));
        }
        app.print(line)?;
    }
    let of = |status: Status| checked.iter().filter(|c| c.status == status).count();
    let (n, intact) = (human::count(checked.len(), "state"), of(Status::Ok) == checked.len());
    let verdict = if intact {
        "all intact".to_owned()
    } else {
        let counts = [Status::Ok, Status::Healed, Status::Corrupt, Status::Missing];
        let counts = counts.map(|s| (of(s), text_of(s))).into_iter().filter(|(n, _)| *n > 0);
        counts.map(|(n, name)| format!("{n} {name}")).collect::<Vec<_>>().join(", ")
    };
    app.say(format!("{n} verified in {}: {verdict}", human::seconds(start.elapsed().as_secs_f64())));
    Ok(())
}
