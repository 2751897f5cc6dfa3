//! `pcache ask`: answer questions from a saved state.

mod questions;
pub mod report;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use super::app::App;
use super::{place, sampling};
use crate::cache::opened::{Opened, Question, Room, Sampled, Use};
use crate::cache::timings::Timings;
use crate::cli::Run;
use crate::cli::args::{Output, ParamArgs, SamplingArgs, ShapeArgs};
use pcache_engine::generate;
use pcache_engine::model::Model;
use pcache_store::{Prefix, State};
use report::Report;

/// Arguments of `ask`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache ask 4f2a91 \"Where was the plane going?\"
  pcache ask menu \"Is there soup?\" \"And cake?\"    each from the same state
  pcache ask menu --questions questions.txt --json one question a line
  pcache ask menu --temp 0.8 --seed 7 --trials 3 \"Recommend a dish.\"
  pcache ask menu --json-schema dish.schema.json \"Which soup is there?\"
  pcache ask menu --stats \"Is there soup?\"         where the time went
  pcache ask menu --no-cache --stats \"Soup?\"       the same without the cache")]
pub struct Ask {
    /// Key of the state (6 digits or more), or its name
    #[arg(value_name = "KEY", index = 1)]
    pub key: String,
    /// Questions; without any they are read from stdin, as one
    #[arg(value_name = "QUESTION", index = 2)]
    pub questions: Vec<String>,
    /// A file with one question a line; - reads stdin
    #[arg(long = "questions", value_name = "FILE", conflicts_with = "questions")]
    pub questions_file: Option<PathBuf>,
    /// Answer each question N times, with the seeds SEED, SEED+1, …
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub trials: u32,
    /// Fail with exit code 3 rather than evaluate any of the prompt
    #[arg(long, conflicts_with = "no_cache")]
    pub require_hit: bool,
    /// Evaluate the prompt anew, for comparison; reads no saved state and writes none
    #[arg(long)]
    pub no_cache: bool,
    /// Print the timing table on stderr
    #[arg(long)]
    pub stats: bool,
    /// How answers are sampled.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// What shape answers have.
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// What the state was built with; only needed to say where a LoRA adapter lies now.
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
    let shape = sampling::shape(&args.shape)?;
    let place = place::find(app, &args.key, &args.params)?;
    if args.trials > 1 && args.sampling.temp <= 0.0 {
        app.say("with --temp 0 every trial gives the same answer; try --temp 0.8");
    }
    let how = Use { no_cache: args.no_cache, require_hit: args.require_hit };
    let size = |model: &Model, state: &State, prefix: &Prefix| {
        let questions = texts.into_iter().map(|text| Question::fitting(model, state, prefix, text));
        let questions: Vec<_> = questions.collect::<Result<_>>()?;
        let longest = questions.iter().map(|q| q.tokens.len()).max().unwrap_or(0);
        let limit = Question::limit(model, prefix, longest, args.sampling.max_tokens);
        Ok((Room::one(limit), questions))
    };
    let (mut opened, questions, timings) = place.open(app.call(), how, shape.as_ref(), size)?;
    ask_all(app, &mut opened, args, &questions, timings)?;
    opened.note_use();
    Ok(())
}

fn ask_all(
    app: &App,
    opened: &mut Opened<'_>,
    args: &Ask,
    questions: &[Question],
    timings: Timings,
) -> Result<()> {
    let several = questions.len() * args.trials as usize > 1;
    let (mut since, mut timings) = (app.started, Some(timings));
    for question in questions {
        for trial in 0..args.trials {
            let timings = timings.take().unwrap_or_else(|| app.timings());
            ask(app, opened, args, &Asked { question, trial, several }, since, timings)?;
            since = Instant::now();
        }
    }
    Ok(())
}

/// One of the questions, and which of its trials.
struct Asked<'q> {
    question: &'q Question,
    trial: u32,
    several: bool,
}

impl Asked<'_> {
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
    opened: &mut Opened<'_>,
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
            app.write(text)
        }
        Output::Jsonl => app.named_event(
            "text",
            &serde_json::json!({ "question": question.text, "trial": asked.trial + 1, "text": text }),
        ),
        _ => Ok(()),
    })?;
    report::announce(app, labels)?;
    let report = Report {
        key: opened.state.key().to_hex(),
        question: &question.text,
        answer: &answered.answer.text,
        stop_reason: answered.answer.stop,
        answer_tokens: answered.answer.tokens.len(),
        seed,
        cache: &answered.verdict,
        time_to_first_token_s: answered.time_to_first_token.as_secs_f64(),
        timings: &answered.timings,
    };
    report::print(app, &report, asked.several, args.stats)?;
    answered.complete()
}
