//! `pcache ask`: answer questions from a saved state.

mod questions;
pub mod report;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::app::App;
use super::{place, sampling};
use crate::cache::open_state::{CachePolicy, ContextSize, OpenState, Question, Sampled};
use crate::cache::timings::Timings;
use crate::cli::Run;
use crate::cli::args::{ConstraintArgs, Output, ParamArgs, SamplingArgs};
use pcache_engine::generate::{self, Answer, StopReason};
use pcache_engine::model::Model;
use pcache_store::{Prefix, State};
use report::Report;

/// Arguments of `ask`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache ask 4f2a91 \"Where was the plane going?\"
  pcache ask menu \"Is there soup?\" \"And cake?\"    each from the same state
  pcache ask menu.txt \"Is there soup?\"            builds the state if it is missing
  pcache ask menu --questions questions.txt --json one question a line
  pcache ask menu --temp 0.8 --seed 7 --trials 3 \"Recommend a dish.\"
  pcache ask menu --json-schema dish.schema.json \"Which soup is there?\"
  pcache ask menu --stats \"Is there soup?\"         with a timing table
  pcache ask menu --no-cache --stats \"Soup?\"       the same without the cache")]
pub struct Ask {
    /// Key or name of a state, or a prompt file (built if missing)
    #[arg(value_name = "KEY", index = 1)]
    pub key: String,
    /// Questions [default: one, read from stdin]
    #[arg(value_name = "QUESTION", index = 2)]
    pub questions: Vec<String>,
    /// File with one question a line; - is stdin
    #[arg(long = "questions", value_name = "FILE", conflicts_with = "questions")]
    pub questions_file: Option<PathBuf>,
    /// Answer each question N times, with seeds SEED, SEED+1, …
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub trials: u32,
    /// Fail (exit code 3) where the prompt is not restored
    #[arg(long, conflicts_with = "no_cache")]
    pub require_hit: bool,
    /// Evaluate the prompt instead, for comparison
    #[arg(long)]
    pub no_cache: bool,
    /// Print a timing table on stderr
    #[arg(long)]
    pub stats: bool,
    /// Sampling.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Constrained output.
    #[command(flatten)]
    pub constraint: ConstraintArgs,
    /// Parameters that the state was built with; only needed to say where a LoRA adapter lies now.
    #[command(flatten)]
    pub params: ParamArgs,
}

impl Run for Ask {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }

    fn evaluates(&self) -> bool {
        true
    }
}

fn run(app: &App, args: &Ask) -> Result<()> {
    let texts = questions::read(args)?;
    let constraint = sampling::constraint(&args.constraint)?;
    let place = place::find(app, &args.key, &args.params)?;
    if args.trials > 1 && args.sampling.temp <= 0.0 {
        app.say("with --temp 0 every trial gives the same answer; try --temp 0.8");
    }
    let how = CachePolicy { no_cache: args.no_cache, require_hit: args.require_hit };
    let size = |model: &Model, state: &State, prefix: &Prefix| {
        let questions = texts.into_iter().map(|text| Question::fitting(model, state, prefix, text));
        let questions: Vec<_> = questions.collect::<Result<_>>()?;
        let longest = questions.iter().map(|q| q.tokens.len()).max().unwrap_or(0);
        let limit = Question::limit(model, prefix, longest, args.sampling.max_tokens);
        Ok((ContextSize::one(limit), questions))
    };
    let (mut opened, questions, timings) = place.open(app.call(), how, constraint.as_ref(), size)?;
    ask_all(app, &mut opened, args, &questions, timings)?;
    opened.note_use();
    Ok(())
}

fn ask_all(
    app: &App,
    opened: &mut OpenState<'_>,
    args: &Ask,
    questions: &[Question],
    timings: Timings,
) -> Result<()> {
    let several = questions.len() * args.trials as usize > 1;
    let (mut since, mut timings) = (app.started, Some(timings));
    for (index, question) in (1..).zip(questions) {
        for trial in 0..args.trials {
            let timings = timings.take().unwrap_or_else(|| app.timings());
            ask(app, opened, args, &Asked { index, question, trial, several }, since, timings)?;
            since = Instant::now();
        }
    }
    Ok(())
}

/// One of the questions, and which of its trials.
struct Asked<'q> {
    /// Number of the question, from 1.
    index: usize,
    question: &'q Question,
    trial: u32,
    several: bool,
}

impl Asked<'_> {
    /// What tells its line on stderr from the others'.
    fn label(&self, trials: u32) -> Option<String> {
        let trial = if trials > 1 { format!(", trial {}", self.trial + 1) } else { String::new() };
        self.several.then(|| format!("question {}{trial}", self.index))
    }

    /// The lines that tell several answers apart.
    fn labels(&self, trials: u32, seed: u32) -> Vec<String> {
        let mut labels = Vec::new();
        if self.several && self.trial == 0 {
            labels.push(format!("## {}", self.question.text.trim()));
        }
        if trials > 1 {
            labels.push(format!("### trial {}, seed {seed}", self.trial + 1));
        }
        labels
    }
}

/// Answers one question; its clock runs from `since` on.
fn ask(
    app: &App,
    opened: &mut OpenState<'_>,
    args: &Ask,
    asked: &Asked<'_>,
    since: Instant,
    timings: Timings,
) -> Result<()> {
    let question = asked.question;
    let seed = generate::trial_seed(args.sampling.seed, asked.trial);
    let sampling = sampling::of_args(&args.sampling, seed);
    let mut labels = asked.labels(args.trials, seed);
    let how = Sampled { sampling: &sampling, since, timings };
    let answered = opened.answer(question, how, |text| match app.output() {
        Output::Text => {
            report::announce(app, std::mem::take(&mut labels))?;
            app.stream(text)
        }
        Output::Jsonl => app.named_event(
            "text",
            &serde_json::json!({ "question": asked.index, "trial": asked.trial + 1, "text": text }),
        ),
        _ => Ok(()),
    })?;
    report::announce(app, labels)?;
    let report = Report {
        key: opened.state.key().to_hex(),
        question: &question.text,
        answer: value(&answered.answer, args.constraint.json_schema.is_some()),
        stop_reason: answered.answer.stop,
        answer_tokens: answered.answer.tokens.len(),
        seed,
        cache: &answered.verdict,
        time_to_first_token_s: answered.time_to_first_token.as_secs_f64(),
        timings: &answered.timings,
    };
    report::print(app, &report, asked.label(args.trials).as_deref(), args.stats, true)?;
    answered.complete()
}

/// Returns an answer for JSON: under a schema its value, if it is complete, else its text.
fn value(answer: &Answer, has_schema: bool) -> Value {
    let parsed = || serde_json::from_str(&answer.text).ok();
    let complete = has_schema && answer.stop == StopReason::Eos;
    complete.then(parsed).flatten().unwrap_or_else(|| answer.text.as_str().into())
}
