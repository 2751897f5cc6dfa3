//! `pcache verify`: check what is saved, and repair what is damaged.

mod check;
mod mend;

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Result, bail};
use serde::Serialize;

use super::app::App;
use super::failure::Failure;
use super::states::{self, label};
use crate::cli::{Output, Verify};
use crate::key::StateKey;
use crate::report::human;
use crate::store::objects::Miss;
use crate::store::{Store, StoreError};
use check::Checker;
use mend::work_on_models;

/// What was found of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Corrupt,
    Missing,
    Healed,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Corrupt => "corrupt",
            Self::Missing => "missing",
            Self::Healed => "healed",
        }
    }
}

/// What `--json` prints for each state.
#[derive(Debug, Serialize)]
struct Checked {
    key: StateKey,
    name: Option<String>,
    status: Status,
    objects: usize,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_logit_difference: Option<f32>,
    /// What is wrong with it, or was.
    reason: Option<String>,
    #[serde(skip)]
    trouble: Option<Trouble>,
}

impl Checked {
    /// Notes why what is wrong with it stays.
    fn cannot_be_mended(&mut self, why: &str) {
        if let Some(trouble) = &self.trouble {
            self.reason = Some(format!("{}; it cannot be mended: {why}", trouble.reason()));
        }
    }
}

/// What is wrong with a state.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trouble {
    /// The row in the index; the record may be better.
    Row,
    /// The record, not the row.
    Record(Miss),
    /// A segment.
    Segment(Miss),
}

impl Trouble {
    fn status(&self) -> Status {
        match self {
            Self::Record(Miss::NotSaved | Miss::Unreadable { .. })
            | Self::Segment(Miss::NotSaved | Miss::Unreadable { .. }) => Status::Missing,
            _ => Status::Corrupt,
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Row => "its row in the index does not give its key".into(),
            Self::Record(miss) => format!("its record: {miss}"),
            Self::Segment(miss) => miss.to_string(),
        }
    }
}

pub fn run(app: &App, args: &Verify) -> Result<()> {
    let start = Instant::now();
    let damaged = |e: &anyhow::Error| matches!(e.downcast_ref(), Some(StoreError::DamagedIndex { .. }));
    let (mut checked, lost) = match check_store(app, args) {
        Err(error) if args.repair && damaged(&error) => {
            app.warn(format!("the index is damaged ({})", error.root_cause()));
            let aside = Store::set_index_aside(&app.cache_dir()?, || {
                app.say("waiting for a build or gc to finish …")
            })?;
            app.say(format!("the damaged index was moved to {}; gc removes it", aside.display()));
            check_store(app, args)?
        }
        other => other?,
    };
    let nothing_to_say = checked.is_empty() && lost != Some(0);
    let lost = lost.unwrap_or(0);
    if args.logits || args.repair {
        work_on_models(app, args, &mut checked)?;
    }
    if !nothing_to_say || app.output() != Output::Text {
        report(app, args, &checked, start)?;
    }
    if lost > 0 {
        let (n, are) = (human::count(lost, "state"), if lost == 1 { "is" } else { "are" });
        let why = format!("{n} on disk {are} not in the index; pcache verify --repair puts them back");
        bail!(Failure::Corrupt(why));
    }
    let bad = checked.iter().filter(|c| matches!(c.status, Status::Corrupt | Status::Missing)).count();
    if bad > 0 {
        let hint = if args.repair { "" } else { "; pcache verify --repair mends what can be mended" };
        let are = if bad == 1 { "is" } else { "are" };
        bail!(Failure::Corrupt(format!("{} {are} damaged{hint}", human::count(bad, "state"))));
    }
    Ok(())
}

/// Checks the index and every object of the states in question; with `--repair` gives back their rows to what lost them,
/// else counts them; without a store there is nothing to count.
fn check_store(app: &App, args: &Verify) -> Result<(Vec<Checked>, Option<usize>)> {
    let store = match args.keys.first() {
        Some(key) => Some(states::store_with(app, key)?),
        None => app.existing_store()?,
    };
    let Some(mut store) = store else {
        app.say(format!("no store in {}: nothing to verify", app.cache_dir()?.display()));
        return Ok((Vec::new(), None));
    };
    if args.keys.is_empty() {
        store.index().check()?;
    }
    if args.repair {
        let _lock = store.lock_exclusive(|| app.say("waiting for a build or gc to finish …"))?;
        let (states, segments) = store.adopt_lost()?;
        if states + segments > 0 {
            let (states, segments) = (human::count(states, "state"), human::count(segments, "segment"));
            app.say(format!("found on disk and put back into the index: {states}, {segments}"));
        }
    }
    let lost = if args.repair || !args.keys.is_empty() { 0 } else { store.lost_states()? };
    let keys = match args.keys.as_slice() {
        [] => store.index().list()?.0.into_iter().map(|s| s.key).collect(),
        keys => states::keys(&store, keys)?,
    };
    let _lock = app.lock_shared(&store)?;
    let mut checker = Checker { store: &mut store, repair: args.repair, known: HashMap::new() };
    Ok((checker.check_all(app, &keys)?, Some(lost)))
}

fn report(app: &App, args: &Verify, checked: &[Checked], start: Instant) -> Result<()> {
    checked.iter().try_for_each(|c| app.named_event("state", c))?;
    match app.output() {
        Output::Json => return app.print_json(&serde_json::json!({ "states": checked })),
        Output::Jsonl => return Ok(()),
        Output::Text => {}
    }
    let each = args.logits || !args.keys.is_empty();
    for c in checked.iter().filter(|c| each || c.status != Status::Ok) {
        let mut line = format!("{:<8} {}", c.status.name(), label(&c.key, c.name.as_deref()));
        if let Some(difference) = c.max_logit_difference {
            let exact = if difference == 0.0 { ": bit-identical" } else { "" };
            line.push_str(&format!("  largest difference of logits {difference}{exact}"));
        }
        if let Some(reason) = &c.reason {
            let was = if c.status == Status::Healed { "it was: " } else { "" };
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
        let counts = counts.map(|s| (of(s), s.name())).into_iter().filter(|(n, _)| *n > 0);
        counts.map(|(n, name)| format!("{n} {name}")).collect::<Vec<_>>().join(", ")
    };
    app.say(format!("{n} verified in {}: {verdict}", human::seconds(start.elapsed().as_secs_f64())));
    Ok(())
}
