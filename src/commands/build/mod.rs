//! `pcache build`: evaluate prompts and save their states.

mod report;
mod source;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::app::App;
use super::failure::Failure;
use super::job::{Job, Recall, Status, Verdict};
use super::models;
use super::prefill::{self, Filled};
use crate::cli::Build;
use crate::engine::model::{Engine, Model};
use crate::engine::prompt::Prompt;
use crate::engine::session::Session;
use crate::key::id::looks_like_key;
use crate::key::{ModelHash, Params, StateKey};
use crate::report::timings::Timings;
use crate::store::Store;
use crate::store::index::NewState;
use report::{Report, SegmentCounts};
use source::Source;

/// Letters of a name at most: it has to fit into a table.
const MAX_NAME: usize = 64;

/// Everything that stays the same from prompt to prompt.
struct Builder<'a> {
    app: &'a App,
    args: &'a Build,
    store: Store,
    model_path: PathBuf,
    model: ModelHash,
    params: Params,
}

pub fn run(app: &App, args: &Build) -> Result<()> {
    if args.name.is_some() && args.prompts.len() > 1 {
        bail!(Failure::Usage("--name names one state; pass one prompt".into()));
    }
    let model_path = models::chosen(app)?;
    let mut store = app.store()?;
    let model = models::fingerprint(app, &mut store, &model_path)?;
    let params = Params::new(args.kv_type, app.gpu_layers()?);
    let mut builder = Builder { app, args, store, model_path, model, params };
    builder.check_name()?;

    // A file that cannot be read should not be found after minutes of evaluating the others.
    let root = builder.params.root(&builder.model);
    let sources: Vec<Source<'_>> =
        args.prompts.iter().map(|path| Source::read(path, &root, args.raw)).collect::<Result<_>>()?;
    // As long as everything is saved, no model is loaded.
    for (i, source) in sources.iter().enumerate() {
        match builder.known(source)? {
            Some(report) => builder.print(&report)?,
            None => return builder.build_rest(&sources[i..]),
        }
    }
    Ok(())
}

impl Builder<'_> {
    /// Builds what is not saved of `sources`, with the model loaded.
    fn build_rest(&mut self, sources: &[Source<'_>]) -> Result<()> {
        let start = Instant::now();
        let engine = Engine::start(self.app.global.verbose)?;
        let model = models::load(self.app, &engine, &self.model_path, self.params.gpu_layers)?;
        let mut load = Some(start.elapsed());
        for source in sources {
            // The first is known to be missing; the others may have been saved by now.
            let known = if load.is_some() { None } else { self.known(source)? };
            let report = match known {
                Some(report) => report,
                None => self.build(&model, source, load.take())?,
            };
            self.print(&report)?;
        }
        Ok(())
    }

    fn check_name(&self) -> Result<()> {
        let Some(name) = &self.args.name else {
            return Ok(());
        };
        let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(plain) {
            bail!(Failure::Usage(format!(
                "the name {name:?} is not letters, digits, '-', '_' and '.' alone"
            )));
        }
        if name.chars().count() > MAX_NAME {
            bail!(Failure::Usage(format!("the name {name:?} is longer than {MAX_NAME} letters")));
        }
        if looks_like_key(name) {
            bail!(Failure::Usage(format!("the name {name:?} looks like a key; add another letter")));
        }
        Ok(())
    }

    /// Refuses a name that another state has.
    fn check_name_is_free(&self, key: &StateKey) -> Result<()> {
        let Some(name) = &self.args.name else {
            return Ok(());
        };
        match self.store.index().named(name)? {
            Some(owner) if owner != *key => bail!(Failure::Usage(format!(
                "the name {name:?} belongs to state {}; choose another one",
                owner.short()
            ))),
            _ => Ok(()),
        }
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
        let job = Job::of_state(&state);
        if !job.is_of(&state) {
            self.app
                .warn(format!("state {}: its row in the index is damaged; building it again", key.short()));
            return Ok(None);
        }
        let found = {
            let _lock = self.app.lock_shared(&self.store)?;
            job.find(&self.store)?
        };
        let recall = found.verify(&job);
        if recall.tokens() < job.tokens.len() {
            let why = recall.reason(&job).unwrap_or_default();
            self.app.warn(format!("state {}: {why}; evaluating it again", key.short()));
            return Ok(None);
        }
        let now = self.store.now();
        self.store.index_mut().touch(&key, now)?;
        if let Some(name) = &self.args.name {
            self.note_new_name(state.name.as_deref());
            self.store.index_mut().set_name(&key, name)?;
        }
        let mut timings = Timings::default();
        timings.add("verify_state", recall.took, Some(job.tokens.len()));
        let name = self.args.name.clone().or(state.name);
        let verdict = Verdict { status: Status::Hit, restored_tokens: 0, evaluated_tokens: 0, reason: None };
        Ok(Some(self.report(source, &job, key, name, verdict, &Filled::default(), timings)?))
    }

    /// A state has one name: giving it another takes the old one away.
    fn note_new_name(&self, before: Option<&str>) {
        if let (Some(old), Some(new)) = (before, &self.args.name)
            && old != new
        {
            self.app.say(format!("the state was named {old}; now it is {new}"));
        }
    }

    fn print(&self, report: &Report) -> Result<()> {
        report::print(self.app, report, self.args.prompts.len() > 1, self.args.stats)
    }

    fn build(&mut self, model: &Model<'_>, source: &Source<'_>, load: Option<Duration>) -> Result<Report> {
        let prompt = source.tokenize(self.app, model, self.args.raw)?;
        let job = Job::new(self.model, self.params.clone(), model.layout(), prompt.tokens.clone());
        let key = job.chain.state_key(&prompt.carried, &prompt.suffix);
        self.check_name_is_free(&key)?;
        let mut timings = Timings::default();
        if let Some(load) = load {
            timings.add("model_load", load, None);
        }

        let _lock = self.app.lock_shared(&self.store)?;
        let recall = job.find(&self.store)?.verify(&job);
        let (filled, verdict) = self.complete(model, source, &job, &recall, &mut timings)?;
        let before = self.store.index().state(&key)?.and_then(|s| s.name);
        self.note_new_name(before.as_deref());
        self.commit(source, &prompt, &job, key, &filled)?;
        let name = self.store.index().state(&key)?.and_then(|s| s.name);
        self.report(source, &job, key, name, verdict, &filled, timings)
    }

    /// Evaluates and saves what is not saved of the job.
    fn complete(
        &mut self,
        model: &Model<'_>,
        source: &Source<'_>,
        job: &Job,
        recall: &Recall,
        timings: &mut Timings,
    ) -> Result<(Filled, Verdict)> {
        let total = job.tokens.len();
        let (mut restored, mut reason) = (0, recall.reason(job));
        let mut filled = Filled::default();
        if recall.tokens() < total {
            let start = Instant::now();
            let mut session = Session::new(model, &self.params, total, self.app.threads())?;
            match recall.restore(&mut session) {
                Ok(()) => restored = recall.tokens(),
                Err(why) => reason = Some(why),
            }
            timings.add("reset", start.elapsed(), None);
            filled = prefill::fill(self.app, &mut self.store, &mut session, job, &source.label())?;
        }
        timings.add("eval_time", filled.evaluating, Some(filled.tokens));
        timings.add("save_state", filled.saving, None);
        let status = Status::of(total - filled.tokens, total);
        let verdict = Verdict { status, restored_tokens: restored, evaluated_tokens: filled.tokens, reason };
        Ok((filled, verdict))
    }

    fn commit(
        &mut self,
        source: &Source<'_>,
        prompt: &Prompt,
        job: &Job,
        key: StateKey,
        filled: &Filled,
    ) -> Result<()> {
        let chains: Vec<_> = job.pieces().iter().map(|p| p.chain).collect();
        let (now, origin) = (self.store.now(), source.label());
        let state = NewState {
            key,
            name: self.args.name.as_deref(),
            model: self.model,
            params: &self.params,
            layout: job.layout,
            tokens: &job.tokens,
            carried: &prompt.carried,
            suffix: &prompt.suffix,
            segments: &chains,
            digest: (!prompt.dated).then_some(source.digest),
            build_s: filled.evaluating.as_secs_f64(),
            evaluated: filled.tokens,
            origin: &origin,
        };
        Ok(self.store.index_mut().commit_state(&state, now)?)
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one report")]
    fn report(
        &self,
        source: &Source<'_>,
        job: &Job,
        key: StateKey,
        name: Option<String>,
        cache: Verdict,
        filled: &Filled,
        timings: Timings,
    ) -> Result<Report> {
        let pieces = job.pieces().len();
        let rows = self.store.index().segments_of(&key)?;
        Ok(Report {
            key: key.to_hex(),
            name,
            model: models::file_name(&self.model_path),
            cache,
            tokens: job.tokens.len(),
            segments: SegmentCounts {
                total: pieces,
                reused: pieces - filled.objects,
                written: filled.objects,
            },
            bytes: rows.iter().map(|r| r.file_bytes).sum(),
            bytes_written: filled.bytes,
            timings,
            prompt: source.label(),
        })
    }
}
