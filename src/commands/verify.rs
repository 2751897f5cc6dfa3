//! `pcache verify`: check what is saved, and repair what is damaged.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Result, bail};
use rayon::prelude::*;
use serde::Serialize;

use super::app::App;
use super::failure::Failure;
use super::job::Job;
use super::states::{self, label};
use super::{models, prefill, target};
use crate::cli::{Output, ParamArgs, Verify};
use crate::engine::model::{Engine, Model};
use crate::engine::prompt::question_tokens;
use crate::engine::session::Session;
use crate::format::{Record, Room};
use crate::key::{ChainKey, Segment, StateKey};
use crate::report::human;
use crate::report::progress::Unit;
use crate::store::objects::{Miss, Unverified};
use crate::store::{Store, StoreError};

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
            app.warn(format!("{error:#}"));
            let aside = Store::set_index_aside(&app.cache_dir()?, || {
                app.say("waiting for a build or gc to finish …")
            })?;
            app.say(format!("the damaged index was moved to {}; gc removes it", aside.display()));
            check_store(app, args)?
        }
        other => other?,
    };
    if args.logits || args.repair {
        work_on_models(app, args, &mut checked)?;
    }
    report(app, args, &checked, start)?;
    if lost > 0 {
        let (n, are) = (human::count(lost, "state"), if lost == 1 { "is" } else { "are" });
        let why = format!("{n} on disk {are} not in the index; pcache verify --repair puts them back");
        bail!(Failure::Corrupt(why));
    }
    let bad = checked.iter().filter(|c| matches!(c.status, Status::Corrupt | Status::Missing)).count();
    if bad > 0 {
        let hint = if args.repair { "" } else { "; pcache verify --repair evaluates them again" };
        let are = if bad == 1 { "is" } else { "are" };
        bail!(Failure::Corrupt(format!("{} {are} damaged{hint}", human::count(bad, "state"))));
    }
    Ok(())
}

/// Checks the index and every object of the states in question; with `--repair` gives back their rows to what lost them,
/// else counts them.
fn check_store(app: &App, args: &Verify) -> Result<(Vec<Checked>, usize)> {
    let store = match args.keys.first() {
        Some(key) => Some(states::store_with(app, key)?),
        None => app.existing_store()?,
    };
    let Some(mut store) = store else {
        app.say(format!("no store in {}: nothing to verify", app.cache_dir()?.display()));
        return Ok((Vec::new(), 0));
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
    Ok((checker.check_all(app, &keys)?, lost))
}

/// Hashes objects, each once.
struct Checker<'s> {
    store: &'s mut Store,
    repair: bool,
    /// What was found of segments so far.
    known: HashMap<ChainKey, Option<Miss>>,
}

impl Checker<'_> {
    fn check_all(&mut self, app: &App, keys: &[StateKey]) -> Result<Vec<Checked>> {
        let progress = app.progress();
        let worth_a_bar = keys.len() > 1;
        if worth_a_bar {
            progress.start("verifying", keys.len() as u64, Unit::States);
        }
        let mut checked = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            checked.extend(self.check(key)?);
            if worth_a_bar {
                progress.set(i as u64 + 1);
            }
        }
        progress.finish();
        Ok(checked)
    }

    /// Nothing if the state is gone by now.
    fn check(&mut self, key: &StateKey) -> Result<Option<Checked>> {
        let Some(mut state) = self.store.index().state(key)? else { return Ok(None) };
        let mut healed = None;
        if !state.is_whole() && self.repair && self.store.restore_row(key)? {
            healed = Some(Trouble::Row.reason());
            state = states::state(self.store, key)?;
        }
        let trouble = if state.is_whole() { self.trouble(&state)? } else { Some(Trouble::Row) };
        let rows = self.store.index().segments_of(key)?;
        let record = self.store.index().use_of(key)?;
        Ok(Some(Checked {
            key: *key,
            name: state.name,
            status: match (&trouble, &healed) {
                (Some(trouble), _) => trouble.status(),
                (None, Some(_)) => Status::Healed,
                (None, None) => Status::Ok,
            },
            objects: rows.len() + usize::from(record.is_some_and(|u| u.record.is_some())),
            bytes: rows.iter().map(|r| r.file_bytes).sum::<u64>() + record.map_or(0, |u| u.record_bytes),
            max_logit_difference: None,
            reason: trouble.as_ref().map(Trouble::reason).or(healed),
            trouble,
        }))
    }

    /// The first thing that is wrong with a state's segments, else with its record.
    fn trouble(&mut self, state: &Record) -> Result<Option<Trouble>> {
        let pieces = state.pieces();
        let unknown: Vec<Segment> =
            pieces.iter().filter(|p| !self.known.contains_key(&p.chain)).copied().collect();
        let mut mapped: Vec<(Segment, Result<Unverified, Miss>)> = Vec::new();
        for piece in unknown {
            let row = self.store.index().segment(&piece.chain)?;
            mapped.push((piece, row.ok_or(Miss::NotSaved).and_then(|row| self.store.map(&row))));
        }
        let params = state.params.canonical();
        let found: Vec<(ChainKey, Option<Miss>)> = mapped
            .into_par_iter()
            .map(|(piece, object)| {
                let tokens = &state.tokens[piece.first..piece.end()];
                let verified = object.and_then(|object| object.verify(tokens, &state.model, &params));
                let proved = verified.and_then(|object| object.prove(&mut Room::default()));
                (piece.chain, proved.err())
            })
            .collect();
        self.known.extend(found);
        let first = pieces.iter().find_map(|p| self.known.get(&p.chain).cloned().flatten());
        if let Some(miss) = first {
            return Ok(Some(Trouble::Segment(miss)));
        }
        Ok(self.store.check_record(&state.key)?.map(Trouble::Record))
    }
}

/// Everything that needs a model: evaluating again what is damaged, and comparing logits. States of one model share
/// its loading.
fn work_on_models(app: &App, args: &Verify, checked: &mut [Checked]) -> Result<()> {
    let wanted = |c: &Checked| match &c.trouble {
        Some(_) => args.repair,
        None => args.logits,
    };
    if !checked.iter().any(wanted) {
        return Ok(());
    }
    let mut store = app.store()?;
    for c in checked.iter_mut().filter(|c| matches!(c.trouble, Some(Trouble::Record(_))) && args.repair) {
        let _lock = app.lock_shared(&store)?;
        store.rewrite_record(&c.key)?;
        (c.status, c.trouble) = (Status::Healed, None);
    }
    let mut groups: Vec<(Record, Vec<&mut Checked>)> = Vec::new();
    for c in checked.iter_mut().filter(|c| wanted(c) && c.trouble != Some(Trouble::Row)) {
        let state = states::state(&store, &c.key)?;
        let same = |other: &Record| {
            (other.model, other.params.gpu_layers, &other.params.lora)
                == (state.model, state.params.gpu_layers, &state.params.lora)
        };
        match groups.iter_mut().find(|(first, _)| same(first)) {
            Some((_, group)) => group.push(c),
            None => groups.push((state, vec![c])),
        }
    }
    let engine = Engine::start(app.shows_log())?;
    for (first, group) in groups {
        work_on_group(app, args, &mut store, &engine, &first, group)?;
    }
    Ok(())
}

/// States of one model. One that cannot be worked on stays as it was found, with the reason, and the others are not
/// kept waiting by it.
fn work_on_group(
    app: &App,
    args: &Verify,
    store: &mut Store,
    engine: &Engine,
    first: &Record,
    group: Vec<&mut Checked>,
) -> Result<()> {
    let loaded = target::adapter_of_state(app, store, first, &ParamArgs::default()).and_then(|lora| {
        let path = models::of_state(app, store, first)?;
        models::load(app, engine, &path, first.params.gpu_layers, lora.as_deref())
    });
    let model = match loaded {
        Ok(model) => model,
        Err(error) if group.iter().all(|checked| checked.trouble.is_none()) => return Err(error),
        Err(error) => {
            let why = harmless(error)?;
            group.into_iter().for_each(|checked| checked.cannot_be_mended(&why));
            return Ok(());
        }
    };
    for checked in group {
        match work_on(app, args, store, &model, checked) {
            Err(error) if checked.trouble.is_some() => checked.cannot_be_mended(&harmless(error)?),
            other => other?,
        }
    }
    Ok(())
}

/// The words of an error that concerns one state alone. One of the store, or an interruption, concerns all.
fn harmless(error: anyhow::Error) -> Result<String> {
    let interrupted = matches!(error.downcast_ref(), Some(Failure::Interrupted(_)));
    if interrupted || error.is::<StoreError>() { Err(error) } else { Ok(format!("{error:#}")) }
}

fn work_on(
    app: &App,
    args: &Verify,
    store: &mut Store,
    model: &Model<'_>,
    checked: &mut Checked,
) -> Result<()> {
    let state = states::state(store, &checked.key)?;
    let job = Job::of_state(&state);
    let mut end = question_tokens(model, &state.carried, "", &state.suffix);
    if end.is_empty() {
        // Logits are not part of a state: something has to follow it.
        end.extend(state.tokens.last());
    }
    let (cells, most) = (job.tokens.len() + end.len(), model.usable_context(&job.params));
    if cells > most {
        bail!("it has {} tokens, and the model reads {}", human::thousands(cells), human::thousands(most));
    }
    let mut session = Session::new(model, &job.params, cells, app.threads())?;
    let _lock = app.lock_shared(store)?;
    if checked.trouble.is_some() {
        let recall = job.find(store)?.verify(&job).proved();
        // What cannot be restored is evaluated; a refusal leaves the session empty.
        let _ = recall.restore(&mut session);
        prefill::fill(app, store, &mut session, &job, &state.key.short())?;
        (checked.status, checked.trouble) = (Status::Healed, None);
        if let Some(miss) = store.check_record(&state.key)? {
            app.warn(format!("state {}: its record: {miss}; written again", state.key.short()));
            store.rewrite_record(&state.key)?;
        }
    }
    if args.logits {
        checked.max_logit_difference = Some(largest_difference(app, store, &mut session, &job, &end)?);
    }
    Ok(())
}

/// Restores the state and evaluates what follows it; does the same after a cold evaluation; and compares.
fn largest_difference(
    app: &App,
    store: &Store,
    session: &mut Session<'_>,
    job: &Job,
    end: &[i32],
) -> Result<f32> {
    session.reset();
    let recall = job.find(store)?.verify(job).proved();
    recall.restore(session).map_err(|why| anyhow::anyhow!("the state cannot be restored: {why}"))?;
    if recall.tokens() < job.tokens.len() {
        let why = recall.reason(job).unwrap_or_default();
        bail!("the state cannot be restored: {why}");
    }
    session.evaluate(end, true)?;
    let restored = session.logits().unwrap_or_default().to_vec();
    session.reset();
    prefill::evaluate_only(app, session, job, "without the cache")?;
    session.evaluate(end, true)?;
    let cold = session.logits().unwrap_or_default();
    // Not a number on one side only would vanish in a maximum.
    let difference = |(a, b): (&f32, &f32)| if a.to_bits() == b.to_bits() { 0.0 } else { (a - b).abs() };
    let worst = restored.iter().zip(cold).map(difference);
    Ok(worst.fold(0.0, |worst, d| if d.is_nan() { f32::INFINITY } else { worst.max(d) }))
}

fn report(app: &App, args: &Verify, checked: &[Checked], start: Instant) -> Result<()> {
    match app.output() {
        Output::Json => return app.print_json(&serde_json::json!({ "states": checked })),
        Output::Jsonl => return checked.iter().try_for_each(|c| app.named_event("state", c)),
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
            line.push_str(&format!("  {reason}"));
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
