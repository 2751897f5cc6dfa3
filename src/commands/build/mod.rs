//! `pcache build`: evaluate prompts and save their states.

mod budget;
pub mod report;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::app::App;
use super::explain::{self, Explanation};
use super::failure::Failure;
use super::job::{Job, Recall, Status, Verdict};
use super::models;
use super::prefill::{self, Filled};
use super::source::{self, Framed, Origin, Source};
use super::states::{check_name, check_name_is_free};
use super::target::Target;
use crate::cli::{Build, KeepArgs, Ttl};
use crate::engine::model::{Engine, Model};
use crate::engine::prompt::Prompt;
use crate::engine::session::Session;
use crate::format::Record;
use crate::key::{KvType, StateKey};
use crate::report::human;
use crate::report::timings::Timings;
use crate::store::Store;
pub use report::Report;
use report::SegmentCounts;

/// Everything that stays the same from prompt to prompt.
pub struct Builder<'a> {
    app: &'a App,
    keep: &'a KeepArgs,
    store: &'a mut Store,
    target: &'a Target,
    /// The states of this run.
    built: HashSet<StateKey>,
    /// Whether the user heard that a prompt is too short to gain.
    warned: bool,
}

pub fn run(app: &App, args: &Build) -> Result<()> {
    if args.keep.name.is_some() && args.prompts.len() > 1 {
        bail!(Failure::Usage("--name names one state; pass one prompt".into()));
    }
    args.keep.name.as_deref().map_or(Ok(()), check_name)?;
    let framed = Framed::of_args(&args.framing)?;
    // What cannot be built should leave no folder behind.
    models::chosen(app).map(drop)?;
    let mut store = app.store()?;
    let target = Target::of_args(app, Some(&mut store), &args.params)?;

    // A file that cannot be read should not be found after minutes of evaluating the others.
    let root = target.params.root(&target.model);
    let sources: Vec<Source<'_>> =
        args.prompts.iter().map(|path| Source::read(path, &root, &framed)).collect::<Result<_>>()?;
    let mut builder = Builder::new(app, &args.keep, &mut store, &target);
    builder.build_all(&sources)?;
    builder.enforce_budget()
}

impl<'a> Builder<'a> {
    /// Nothing is built yet.
    pub fn new(app: &'a App, keep: &'a KeepArgs, store: &'a mut Store, target: &'a Target) -> Self {
        Self { app, keep, store, target, built: HashSet::new(), warned: false }
    }

    /// Evicts what the budget leaves no room for, but for the states of this run.
    pub fn enforce_budget(self) -> Result<()> {
        budget::enforce(self.app, self.store, self.keep.max_size, self.built)
    }
}

impl Builder<'_> {
    /// As long as everything is saved, no model is loaded.
    fn build_all(&mut self, sources: &[Source<'_>]) -> Result<()> {
        let several = sources.len() > 1;
        for (i, source) in sources.iter().enumerate() {
            match self.known(source)? {
                Some(report) => report::print(self.app, &report, several, self.keep.stats)?,
                None => return self.build_rest(&sources[i..], several),
            }
        }
        Ok(())
    }

    /// Builds what is not saved of `sources`, with the model loaded.
    fn build_rest(&mut self, sources: &[Source<'_>], several: bool) -> Result<()> {
        let start = Instant::now();
        let engine = Engine::start(self.app.shows_log())?;
        let model = self.target.load(self.app, &engine)?;
        let mut load = Some(start.elapsed());
        for source in sources {
            // The first is known to be missing; the others may have been saved by now.
            let known = if load.is_some() { None } else { self.known(source)? };
            let report = match known {
                Some(report) => report,
                None => self.build(&model, source, load.take())?,
            };
            report::print(self.app, &report, several, self.keep.stats)?;
        }
        Ok(())
    }

    /// Refuses a name that another state has.
    fn check_name_is_free(&self, key: &StateKey) -> Result<()> {
        self.keep.name.as_deref().map_or(Ok(()), |name| check_name_is_free(self.store, name, key))
    }

    /// The hit that needs no model: the same text was built before, and every object of its state is intact.
    fn known(&mut self, source: &Source<'_>) -> Result<Option<Report>> {
        let Some(key) = self.store.index().state_of_prompt(&source.digest)? else {
            return Ok(None);
        };
        let Some(state) = self.store.index().state(&key)? else {
            return Ok(None);
        };
        self.check_name_is_free(&key)?;
        self.built.insert(key);
        let job = Job::of_state(&state);
        if !state.is_whole() {
            self.app
                .warn(format!("state {}: its row in the index is damaged; building it again", key.short()));
            return Ok(None);
        }
        let lock = self.app.lock_shared(self.store)?;
        // It may have been removed while this waited, though another state may still have all of its segments.
        if self.store.index().state(&key)?.is_none() {
            return Ok(None);
        }
        let found = job.find(self.store)?;
        let recall = found.verify(&job);
        if recall.tokens() < job.tokens.len() {
            let why = recall.reason(&job).unwrap_or_default();
            self.app.warn(format!("state {}: {why}; evaluating it again", key.short()));
            return Ok(None);
        }
        let now = self.store.now();
        unless_unwritable(self.store.index_mut().touch(&key, now))?;
        unless_unwritable(self.store.mend_record(&key))?;
        self.note_new_name(state.name.as_deref());
        let (keep, expires) = (self.keep, self.expires(now));
        self.store.change_state(&key, |record| {
            record.name = keep.name.clone().or(record.name.take());
            record.pinned |= keep.pin;
            // What is built again is wanted again, so an expiry that is past does not count.
            record.expires = match keep.ttl {
                Some(_) => expires,
                None => record.expires.filter(|at| *at > now),
            };
        })?;
        drop(lock);
        let mut timings = self.app.timings();
        timings.add("verify_state", recall.took, Some(job.tokens.len()));
        let name = self.keep.name.clone().or(state.name);
        let verdict = Verdict { status: Status::Hit, restored_tokens: 0, evaluated_tokens: 0, reason: None };
        Ok(Some(self.report(&source.label(), &job, key, name, verdict, &Filled::default(), timings)?))
    }

    /// When a state that is built now may go.
    fn expires(&self, now: i64) -> Option<i64> {
        match self.keep.ttl {
            Some(Ttl::For(seconds)) => Some(now.saturating_add(seconds)),
            Some(Ttl::Never) | None => None,
        }
    }

    /// A state has one name: giving it another takes the old one away.
    fn note_new_name(&self, before: Option<&str>) {
        if let (Some(old), Some(new)) = (before, &self.keep.name)
            && old != new
        {
            self.app.say(format!("the state was named {old}; now it is {new}"));
        }
    }

    /// Builds a prompt with a model that is loaded.
    pub fn build(
        &mut self,
        model: &Model<'_>,
        source: &Source<'_>,
        load: Option<Duration>,
    ) -> Result<Report> {
        let prompt = source.tokenize(self.app, model)?;
        if self.app.explains() {
            let job = self.target.job(model.layout(), prompt.tokens.clone())?;
            self.explain(model, source, &prompt, &job)?;
        }
        self.save(model, &prompt, &source.origin(&prompt), load)
    }

    /// Evaluates and saves what is not saved of a prompt, and commits its state.
    pub fn save(
        &mut self,
        model: &Model<'_>,
        prompt: &Prompt,
        origin: &Origin,
        load: Option<Duration>,
    ) -> Result<Report> {
        let job = self.target.job(model.layout(), prompt.tokens.clone())?;
        let job = Job { codec: self.keep.codec, ..job };
        source::check_length(&origin.label, job.tokens.len(), model.usable_context(&job.params))?;
        let key = job.chain.state_key(&prompt.carried, &prompt.suffix);
        self.check_name_is_free(&key)?;
        self.built.insert(key);
        let mut timings = self.app.timings();
        if let Some(load) = load {
            timings.add("model_load", load, None);
        }
        self.warn_if_too_short(&job)?;
        let _turn = self.app.take_turn(self.store, &job)?;
        if let Some(limit) = self.keep.max_size {
            budget::make_room(self.app, self.store, model, &job, limit)?;
        }

        budget::check_disk(self.store, model, &job)?;
        let _lock = self.app.lock_shared(self.store)?;
        let recall = job.find(self.store)?.verify(&job);
        let (filled, verdict) = self.complete(model, &origin.label, &job, &recall, &mut timings)?;
        let before = self.store.index().state(&key)?.and_then(|s| s.name);
        self.note_new_name(before.as_deref());
        self.commit(origin, prompt, &job, key, &filled)?;
        let name = self.store.index().state(&key)?.and_then(|s| s.name);
        self.report(&origin.label, &job, key, name, verdict, &filled, timings)
    }

    /// Says once that a prompt is shorter than what was measured to pay on this machine.
    fn warn_if_too_short(&mut self, job: &Job) -> Result<()> {
        if job.params.kv_type != KvType::F16 {
            // Measured with the usual cache only.
            return Ok(());
        }
        let pays_from = self.store.index().break_even(&job.model, self.app.threads())?;
        let Some(pays_from) = pays_from.filter(|n| job.tokens.len() < *n && !self.warned) else {
            return Ok(());
        };
        self.warned = true;
        self.app.warn(format!(
            "{} are evaluated as fast as they are restored: pcache bench found that saving pays from {} on",
            human::count(job.tokens.len(), "token"),
            human::count(pays_from, "token")
        ));
        Ok(())
    }

    fn explain(&self, model: &Model<'_>, source: &Source<'_>, prompt: &Prompt, job: &Job) -> Result<()> {
        let explanation = Explanation::of(Some(self.store), model, job, prompt, source)?;
        self.app.say(explain::parts(job, &explanation.key, explanation.saved_tokens));
        self.app.say_if(explanation.why());
        Ok(())
    }

    /// Evaluates and saves what is not saved of the job.
    fn complete(
        &mut self,
        model: &Model<'_>,
        label: &str,
        job: &Job,
        recall: &Recall,
        timings: &mut Timings,
    ) -> Result<(Filled, Verdict)> {
        let total = job.tokens.len();
        let (mut restored, mut reason) = (0, recall.reason(job));
        let mut filled = Filled::default();
        if recall.tokens() < total {
            let start = Instant::now();
            let mut session = Session::new(model, &job.params, total, self.app.threads())?;
            match recall.restore(&mut session) {
                Ok(_) => restored = recall.tokens(),
                Err(why) => reason = Some(why),
            }
            timings.add("reset", start.elapsed(), None);
            filled = prefill::fill(self.app, self.store, &mut session, job, label)?;
        }
        timings.add("eval_time", filled.evaluating, Some(filled.tokens));
        timings.add("save_state", filled.saving, None);
        let status = Status::of(total - filled.tokens, total);
        let verdict = Verdict { status, restored_tokens: restored, evaluated_tokens: filled.tokens, reason };
        Ok((filled, verdict))
    }

    fn commit(
        &mut self,
        origin: &Origin,
        prompt: &Prompt,
        job: &Job,
        key: StateKey,
        filled: &Filled,
    ) -> Result<()> {
        let now = self.store.now();
        // What a state was extended from stays known when its whole prompt is built.
        let before = self.store.index().state(&key)?.filter(|state| state.is_extension());
        let record = Record {
            key,
            name: self.keep.name.clone(),
            model: job.model,
            model_path: fs_err::canonicalize(&self.target.model_path)?.to_string_lossy().into_owned(),
            params: job.params.clone(),
            layout: job.layout,
            tokens: job.tokens.clone(),
            carried: prompt.carried.clone(),
            suffix: prompt.suffix.clone(),
            framing: origin.framing.clone(),
            own: prompt.own,
            text: origin.text,
            digest: origin.digest,
            origin: before.map_or_else(|| origin.label.clone(), |state| state.origin),
            created: now,
            expires: self.expires(now),
            pinned: self.keep.pin,
            build_s: filled.evaluating.as_secs_f64(),
            evaluated: filled.tokens,
            revision: 1,
        };
        Ok(self.store.commit_state(&record)?)
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one report")]
    fn report(
        &self,
        label: &str,
        job: &Job,
        key: StateKey,
        name: Option<String>,
        cache: Verdict,
        filled: &Filled,
        timings: Timings,
    ) -> Result<Report> {
        let pieces = job.pieces().len();
        let rows = self.store.index().segments_of(&key)?;
        let record = self.store.index().use_of(&key)?.map_or(0, |u| u.record_bytes);
        Ok(Report {
            key: key.to_hex(),
            name,
            model: models::file_name(&self.target.model_path),
            cache,
            tokens: job.tokens.len(),
            segments: SegmentCounts {
                total: pieces,
                reused: pieces - filled.objects,
                written: filled.objects,
            },
            bytes: rows.iter().map(|r| r.file_bytes).sum::<u64>() + record,
            bytes_written: filled.bytes,
            timings,
            prompt: label.to_owned(),
        })
    }
}

/// A hit is a hit where nothing can be written, too.
fn unless_unwritable<T>(result: crate::store::Result<T>) -> Result<()> {
    match result {
        Err(error) if !error.is_unwritable() => Err(error.into()),
        _ => Ok(()),
    }
}
