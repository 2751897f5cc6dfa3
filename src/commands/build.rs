//! `pcache build`: evaluate prompts and save their states.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::app::{App, read_text};
use super::failure::Failure;
use super::job::{Job, Status, Verdict};
use super::{models, prefill};
use crate::cli::{Build, Output};
use crate::engine::model::{Engine, Model};
use crate::engine::prompt::{self, Prompt};
use crate::engine::session::Session;
use crate::key::epoch::LLAMA_CPP_BUILD;
use crate::key::id::looks_like_key;
use crate::key::{ModelHash, Params, PromptDigest, StateKey};
use crate::report::human;
use crate::report::timings::Timings;
use crate::store::Store;
use crate::store::index::{NewState, StateRow};

/// What `--json` prints for each prompt.
#[derive(Debug, Serialize)]
struct Report {
    key: StateKeyText,
    name: Option<String>,
    model: String,
    cache: Verdict,
    tokens: usize,
    segments: SegmentCounts,
    bytes: u64,
    bytes_written: u64,
    timings: Timings,
}

#[derive(Debug, Serialize)]
struct SegmentCounts {
    total: usize,
    reused: usize,
    written: usize,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct StateKeyText(String);

/// Everything that stays the same from prompt to prompt.
struct Builder<'a> {
    app: &'a App,
    args: &'a Build,
    store: Store,
    model_path: PathBuf,
    model: ModelHash,
    params: Params,
}

/// A prompt as it came in.
struct Source<'a> {
    path: &'a Path,
    text: String,
    digest: PromptDigest,
}

pub fn run(app: &App, args: &Build) -> Result<()> {
    if args.name.is_some() && args.prompts.len() > 1 {
        bail!(Failure::Usage("--name names one state; pass one prompt".into()));
    }
    app.stop_gently_on_ctrl_c();
    let model_path = models::chosen(app)?;
    let mut store = app.store()?;
    let model = models::fingerprint(app, &mut store, &model_path)?;
    let params = Params::new(args.kv_type, app.global.gpu_layers);
    let mut builder = Builder { app, args, store, model_path, model, params };
    builder.check_name()?;

    // As long as everything is saved, no model is loaded.
    for (i, path) in args.prompts.iter().enumerate() {
        let source = builder.read(path)?;
        match builder.known(&source)? {
            Some(report) => builder.print(&report)?,
            None => return builder.build_rest(source, &args.prompts[i + 1..]),
        }
    }
    Ok(())
}

impl Builder<'_> {
    /// Builds `first` and then the other prompts, with the model loaded.
    fn build_rest(&mut self, first: Source<'_>, others: &[PathBuf]) -> Result<()> {
        let start = Instant::now();
        let engine = Engine::start(self.app.global.verbose)?;
        let model = models::load(self.app, &engine, &self.model_path, self.params.gpu_layers)?;
        let report = self.build(&model, &first, Some(start.elapsed()))?;
        self.print(&report)?;
        for path in others {
            let source = self.read(path)?;
            let report = match self.known(&source)? {
                Some(report) => report,
                None => self.build(&model, &source, None)?,
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

    fn read<'p>(&self, path: &'p Path) -> Result<Source<'p>> {
        let text = read_text(path)?;
        if text.trim().is_empty() {
            bail!("{} is empty: there is nothing to save", label(path));
        }
        let digest = self.digest(&text);
        Ok(Source { path, text, digest })
    }

    /// Everything that the prompt's tokens follow from: the text, how it is rendered, the model (its template
    /// and vocabulary are in the file), and the code that does it.
    fn digest(&self, text: &str) -> PromptDigest {
        let root = self.params.root(&self.model);
        let mut hasher = blake3::Hasher::new_derive_key("pcache prompt v1");
        let rendering = if self.args.raw { "raw" } else { "template" };
        let code = concat!(env!("CARGO_PKG_VERSION"), "\n");
        hasher.update(root.as_bytes()).update(code.as_bytes()).update(LLAMA_CPP_BUILD.as_bytes());
        hasher.update(b"\n").update(rendering.as_bytes()).update(b"\n").update(text.as_bytes());
        PromptDigest::from(hasher.finalize())
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
        let job = job_of(&state);
        let found = {
            let _lock = self.store.lock_shared()?;
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
            self.store.index_mut().set_name(&key, name)?;
        }
        let name = self.args.name.clone().or(state.name);
        let mut timings = Timings::default();
        timings.add("verify_state", recall.took, Some(job.tokens.len()));
        let pieces = job.pieces().len();
        let verdict = Verdict { status: Status::Hit, restored_tokens: 0, evaluated_tokens: 0, reason: None };
        let counts = SegmentCounts { total: pieces, reused: pieces, written: 0 };
        Ok(Some(self.report(&key, name, &job, verdict, counts, 0, timings)?))
    }

    fn build(&mut self, model: &Model<'_>, source: &Source<'_>, load: Option<Duration>) -> Result<Report> {
        let prompt = self.tokenize(model, source)?;
        let job = Job::new(self.model, self.params.clone(), model.layout(), prompt.tokens);
        self.check_fits(model, source, job.tokens.len())?;
        let key = job.chain.state_key(&prompt.carried, &prompt.suffix);
        self.check_name_is_free(&key)?;
        let mut timings = Timings::default();
        if let Some(load) = load {
            timings.add("model_load", load, None);
        }

        let _lock = self.store.lock_shared()?;
        let recall = job.find(&self.store)?.verify(&job);
        let reset = Instant::now();
        let mut restored = 0;
        let mut reason = recall.reason(&job);
        let filled = if recall.tokens() == job.tokens.len() {
            prefill::Filled::default()
        } else {
            let mut session = Session::new(model, &self.params, job.tokens.len(), self.app.threads())?;
            match recall.restore(&mut session) {
                Ok(()) => restored = recall.tokens(),
                Err(why) => reason = Some(why),
            }
            timings.add("reset", reset.elapsed(), None);
            prefill::fill(self.app, &mut self.store, &mut session, &job, &label(source.path))?
        };
        timings.add("eval_time", filled.evaluating, Some(filled.tokens));
        timings.add("save_state", filled.saving, None);

        let pieces = job.pieces();
        let chains: Vec<_> = pieces.iter().map(|p| p.chain).collect();
        let now = self.store.now();
        let origin = label(source.path);
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
        self.store.index_mut().commit_state(&state, now)?;

        let name = self.store.index().state(&key)?.and_then(|s| s.name);
        let status = Status::of(job.tokens.len() - filled.tokens, job.tokens.len());
        let verdict = Verdict {
            status,
            restored_tokens: restored,
            evaluated_tokens: filled.tokens,
            reason: reason.filter(|_| status != Status::Hit),
        };
        let counts = SegmentCounts {
            total: pieces.len(),
            reused: pieces.len() - filled.objects,
            written: filled.objects,
        };
        self.report(&key, name, &job, verdict, counts, filled.bytes, timings)
    }

    fn tokenize(&self, model: &Model<'_>, source: &Source<'_>) -> Result<Prompt> {
        let prompt = if self.args.raw {
            prompt::raw(model, &source.text)
        } else {
            prompt::from_template(model, &source.text)
                .with_context(|| format!("cannot render {}", label(source.path)))?
        };
        if prompt.tokens.is_empty() {
            bail!("{} is too short: no token of it is certain before a question is", label(source.path));
        }
        if prompt.dated {
            self.app.say("the model's template contains the date: tomorrow this prompt has another key");
        }
        Ok(prompt)
    }

    fn check_fits(&self, model: &Model<'_>, source: &Source<'_>, tokens: usize) -> Result<()> {
        let limit = model.trained_context();
        if tokens >= limit {
            bail!(
                "{} has {}, the model's context is {} and a question needs room too; shorten the prompt",
                label(source.path),
                human::count(tokens, "token"),
                human::thousands(limit)
            );
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one report")]
    fn report(
        &self,
        key: &StateKey,
        name: Option<String>,
        job: &Job,
        cache: Verdict,
        segments: SegmentCounts,
        bytes_written: u64,
        timings: Timings,
    ) -> Result<Report> {
        let rows = self.store.index().segments_of(key)?;
        Ok(Report {
            key: StateKeyText(key.to_hex()),
            name,
            model: models::file_name(&self.model_path),
            cache,
            tokens: job.tokens.len(),
            segments,
            bytes: rows.iter().map(|r| r.file_bytes).sum(),
            bytes_written,
            timings,
        })
    }

    fn print(&self, report: &Report) -> Result<()> {
        let app = self.app;
        app.say(summary(report));
        if self.args.stats {
            app.say(report.timings.table().trim_end());
        }
        match app.output() {
            Output::Text => app.print(&report.key.0[..12]),
            Output::Json => app.print_json(report),
            Output::Jsonl => {
                let mut event = serde_json::to_value(report)?;
                event["event"] = "build".into();
                app.event(&event)
            }
        }
    }
}

fn job_of(state: &StateRow) -> Job {
    Job::new(state.model, state.params.clone(), state.layout, state.tokens.clone())
}

fn label(path: &Path) -> String {
    if path.as_os_str() == "-" { "stdin".into() } else { models::file_name(path) }
}

/// What happened, in a line.
fn summary(report: &Report) -> String {
    let tokens = human::count(report.tokens, "token");
    let size = human::bytes(report.bytes);
    if report.segments.written == 0 {
        return format!("hit: {tokens} are saved ({size}) and intact");
    }
    let evaluating = report.timings.rows().iter().find(|r| r.key == "eval_time").map_or(0.0, |r| r.time_s);
    let reused = report.tokens - report.cache.evaluated_tokens;
    let shared = if reused > 0 {
        format!(", {} of them reused from other states", human::thousands(reused))
    } else {
        String::new()
    };
    format!(
        "saved {tokens} ({size}){shared}; evaluated {} in {evaluating:.1} s, wrote {}",
        human::thousands(report.cache.evaluated_tokens),
        human::bytes(report.bytes_written)
    )
}
