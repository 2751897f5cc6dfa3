//! `pcache ask`: answer questions from a saved state.
//!
//! The objects are mapped at once and verified on other threads while the model loads. The context is made just
//! large enough. Each question starts from the same restored state, which is never rewound.

mod prepare;
mod questions;
mod report;

use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};

use super::app::App;
use super::failure::Failure;
use super::job::{Found, Job, Recall};
use super::{models, states, target};
use crate::cli::{Ask, Output};
use crate::engine::generate::{self, Answer, Sampling, StopReason};
use crate::engine::model::Engine;
use crate::engine::session::Session;
use crate::format::Record;
use crate::report::timings::Timings;
use crate::store::Store;
use questions::Question;
use report::Report;

/// What stays the same from question to question.
struct Asker<'a, 'm> {
    app: &'a App,
    args: &'a Ask,
    store: &'a mut Store,
    state: &'a Record,
    job: &'a Job,
    recall: Recall,
    session: Session<'m>,
    /// Positions that the context may fill.
    limit: usize,
    several: bool,
}

pub fn run(app: &App, args: &Ask) -> Result<()> {
    let questions = questions::read(args)?;
    let mut store = states::store_with(app, &args.key)?;
    let key = states::key(&store, &args.key)?;
    let state = states::state(&store, &key)?;
    let job = Job::of_state(&state);
    if !state.is_whole() {
        bail!(Failure::Corrupt(format!(
            "the index is damaged: the tokens of state {} have another key; pcache verify --repair mends it, as does building the prompt again",
            state.key.short()
        )));
    }
    let lora = target::adapter_of_state(app, &mut store, &state, &args.params)?;
    let model_path = models::of_state(app, &mut store, &state)?;
    if args.trials > 1 && args.temp <= 0.0 {
        app.say("with --temp 0 every trial gives the same answer; try --temp 0.8");
    }
    let files = Files { model: &model_path, lora: lora.as_deref() };
    answer_all(app, args, &mut store, &state, &job, files, questions)
}

/// What is loaded.
struct Files<'a> {
    model: &'a Path,
    lora: Option<&'a Path>,
}

/// Maps and verifies the objects while the model loads, makes the context, and answers.
fn answer_all(
    app: &App,
    args: &Ask,
    store: &mut Store,
    state: &Record,
    job: &Job,
    files: Files<'_>,
    questions: Vec<String>,
) -> Result<()> {
    let found = if args.no_cache {
        Found::default()
    } else {
        let _lock = app.lock_shared(store)?;
        // It may have been removed while this waited.
        states::state(store, &state.key)?;
        job.find(store)?
    };
    if let Some(miss) = found.miss().filter(|_| args.require_hit) {
        bail!(Failure::Miss(format!("state {} is no hit: {miss}", state.key.short())));
    }
    thread::scope(|scope| {
        let verifying = scope.spawn(move || found.verify(job));
        let mut timings = Timings::default();
        let start = Instant::now();
        let engine = Engine::start(app.shows_log())?;
        let model = models::load(app, &engine, files.model, state.params.gpu_layers, files.lora)?;
        timings.add("model_load", start.elapsed(), None);
        let questions = questions::tokenize(&model, state, questions);
        let limit = questions::limit(&model, job, &questions, args.max_tokens)?;

        let start = Instant::now();
        let session = Session::new(&model, &state.params, limit, app.threads())?;
        timings.add("context", start.elapsed(), None);
        let recall = verifying.join().map_err(|_| anyhow::anyhow!("the verification panicked"))?;
        if !args.no_cache {
            timings.add("verify_state", recall.took, Some(recall.tokens()));
        }
        let several = questions.len() * args.trials as usize > 1;
        let mut asker = Asker { app, args, store, state, job, recall, session, limit, several };
        asker.check_hit()?;
        app.stop_gently_on_ctrl_c();
        asker.ask_all(&questions, timings)?;
        if !args.no_cache {
            asker.note_use();
        }
        Ok(())
    })
}

impl Asker<'_, '_> {
    fn check_hit(&self) -> Result<()> {
        if self.args.require_hit && self.recall.tokens() < self.job.tokens.len() {
            let why = self.recall.reason(self.job).unwrap_or_default();
            bail!(Failure::Miss(format!("state {} is no hit: {why}", self.state.key.short())));
        }
        Ok(())
    }

    fn ask_all(&mut self, questions: &[Question], mut timings: Timings) -> Result<()> {
        let mut since = self.app.started;
        for question in questions {
            for trial in 0..self.args.trials {
                self.ask(question, trial, since, std::mem::take(&mut timings))?;
                since = Instant::now();
            }
        }
        Ok(())
    }

    /// Answers one question; its clock runs from `since` on.
    fn ask(&mut self, question: &Question, trial: u32, since: Instant, mut timings: Timings) -> Result<()> {
        let mut verdict = self.prepare(&mut timings)?;
        let start = Instant::now();
        self.session.evaluate(&question.tokens, true)?;
        self.session.wait();
        timings.add("eval_prompt", start.elapsed(), Some(question.tokens.len()));
        verdict.evaluated_tokens += question.tokens.len();

        let seed = generate::trial_seed(self.args.seed, trial);
        report::announce(self.app, self.labels(question, trial, seed))?;
        let before = since.elapsed();
        let answer = self.generate(seed, trial, question)?;
        timings.add("main_sample", answer.elapsed, Some(answer.tokens));
        let report = Report {
            key: self.state.key.to_hex(),
            question: &question.text,
            answer: &answer.text,
            stop_reason: answer.stop,
            answer_tokens: answer.tokens,
            seed,
            cache: &verdict,
            time_to_first_token_s: (before + answer.first_token).as_secs_f64(),
            timings: &timings,
        };
        report::print(self.app, &report, self.several, self.args.stats)?;
        if answer.stop == StopReason::Interrupted {
            bail!(Failure::Interrupted("interrupted; the answer is not complete".into()));
        }
        Ok(())
    }

    fn generate(&mut self, seed: u32, trial: u32, question: &Question) -> Result<Answer> {
        let args = self.args;
        let sampling = Sampling {
            temperature: args.temp,
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            repeat_penalty: args.repeat_penalty,
            seed,
            max_tokens: args.max_tokens,
            stop: args.stop.clone(),
        };
        let app = self.app;
        let mut failed = None;
        let answer = generate::answer(&mut self.session, &sampling, self.limit, |text| {
            let shown = match app.output() {
                _ if text.is_empty() => Ok(()),
                Output::Text => app.write(text),
                Output::Json => Ok(()),
                Output::Jsonl => app.event(&serde_json::json!({
                    "event": "text", "question": question.text, "trial": trial + 1, "text": text,
                })),
            };
            failed = shown.err().or(failed.take());
            failed.is_none() && !app.interrupted()
        })?;
        match failed {
            Some(error) => Err(error),
            None => Ok(answer),
        }
    }

    /// The lines that tell several answers apart.
    fn labels(&self, question: &Question, trial: u32, seed: u32) -> Vec<String> {
        let mut labels = Vec::new();
        if self.several && trial == 0 {
            labels.push(format!("## {}", question.text.trim()));
        }
        if self.args.trials > 1 {
            labels.push(format!("### trial {}, seed {seed}", trial + 1));
        }
        labels
    }

    /// A failed note is no reason to fail an answer that was given.
    fn note_use(&mut self) {
        let (key, now) = (self.state.key, self.store.now());
        let noted = self.app.lock_shared(self.store).and_then(|_lock| {
            self.store.index_mut().touch(&key, now)?;
            // Its row may have been all that was left of it.
            Ok(self.store.mend_record(&key)?)
        });
        match noted {
            Ok(None) => {}
            Ok(Some(wrong)) => {
                self.app.warn(format!("state {}: its record: {wrong}; written again", key.short()));
            }
            // Where nothing can be written, this is no news.
            Err(_) if self.store.index().is_emergency() => {}
            Err(error) => self.app.warn(format!("the use is not noted: {error:#}")),
        }
    }
}
