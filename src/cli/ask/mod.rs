//! `pcache ask`: answer questions from a saved state.

mod questions;
pub mod report;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::Value;

use super::app::App;
use super::place::{self, ChosenState};
use super::sampling;
use crate::cache::open_state::{Behind, CachePolicy, ContextSize, OpenState, Question, Sampled};
use crate::cache::timings::Timings;
use crate::cache::verdict::Verdict;
use crate::cli::Run;
use crate::cli::args::dashes::text;
use crate::cli::args::{ConstraintArgs, Output, ParamArgs, SamplingArgs};
use crate::text::human;
use pcache_engine::generate::{self, Answer, StopReason};
use report::Report;

/// Arguments of `ask`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache ask 4f2a91 \"Where was the plane going?\"
  pcache ask menu \"Is there soup?\" \"And cake?\"    each from the same state
  pcache ask menu.txt \"Is there soup?\"            builds the state if missing
  pcache ask menu --questions questions.txt --json
  pcache ask menu --temp 0.8 --seed 7 --trials 3 \"Recommend a dish.\"
  pcache ask menu --json-schema dish.schema.json \"Which soup is there?\"
  pcache ask menu --stats \"Is there soup?\"        with a timing table
  pcache ask menu --no-cache --stats \"Soup?\"      the same without the cache")]
pub struct Ask {
    /// Key or name of a state, or a prompt file (built if missing)
    #[arg(value_name = "KEY", index = 1, required_unless_present = "prompt", value_parser = text())]
    pub key: Option<String>,
    /// Prompt file in KEY's place
    #[arg(long, value_name = "FILE", hide = true)]
    pub prompt: Option<String>,
    /// Questions; - is one on stdin [default: -]
    #[arg(value_name = "QUESTION", index = 2, allow_negative_numbers = true, value_parser = text())]
    pub questions: Vec<String>,
    /// File with one question a line; - is stdin
    #[arg(long = "questions", value_name = "FILE", conflicts_with = "questions")]
    pub questions_file: Option<PathBuf>,
    /// Answer each question N times, with seeds SEED, SEED+1, …
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub trials: u32,
    /// Fail (exit code 3) if the prompt cannot be restored
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

impl Ask {
    /// Text that names the state.
    fn place(&self) -> &str {
        self.prompt.as_deref().or(self.key.as_deref()).unwrap_or_default()
    }

    /// Questions on the command line: with `--prompt` nothing stands before them.
    fn questions(&self) -> Vec<String> {
        let first = self.key.iter().filter(|_| self.prompt.is_some());
        first.chain(&self.questions).cloned().collect()
    }
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
    // Nobody should type a question to a state that there is not.
    if questions::are_on_stdin(args) {
        place::check(app, args.place())?;
    }
    let texts = questions::read(args)?;
    let constraint = sampling::constraint(&args.constraint)?;
    let how = CachePolicy { no_cache: args.no_cache, require_hit: args.require_hit };
    let ChosenState { state: place, mut built } = place::find(app, args.place(), &args.params, how)?;
    if args.trials > 1 && args.sampling.temp <= 0.0 {
        app.say("with --temp 0 every trial gives the same answer; try --temp 0.8");
    }
    let size = |behind: Behind<'_>| {
        let questions = texts.into_iter().map(|text| Question::fitting(behind, text));
        let questions: Vec<_> = questions.collect::<Result<_>>()?;
        let longest = questions.iter().map(|q| q.tokens.len()).max().unwrap_or(0);
        let limit = Question::limit(behind.model, behind.prefix, longest, args.sampling.max_tokens);
        Ok((ContextSize::one(limit), questions))
    };
    let (mut opened, questions, timings) = place.open(app.call(), how, constraint.as_ref(), size)?;
    ask_all(app, &mut opened, args, &questions, timings, &mut built)?;
    opened.note_use();
    Ok(())
}

fn ask_all(
    app: &App,
    opened: &mut OpenState<'_>,
    args: &Ask,
    questions: &[Question],
    timings: Timings,
    built: &mut Option<Verdict>,
) -> Result<()> {
    let several = questions.len() * args.trials as usize > 1;
    let (mut since, mut timings) = (app.started, Some(timings));
    for (index, question) in (1..).zip(questions) {
        for trial in 0..args.trials {
            let timings = timings.take().unwrap_or_else(|| app.timings());
            let asked = Asked { index, question, trial, several, built: built.take() };
            ask(app, opened, args, asked, since, timings)?;
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
    /// Verdict of the build that made the state for this answer.
    built: Option<Verdict>,
}

impl Asked<'_> {
    /// Name of its line on stderr, where there are several.
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
    asked: Asked<'_>,
    since: Instant,
    timings: Timings,
) -> Result<()> {
    let question = asked.question;
    let seed = generate::trial_seed(args.sampling.seed, asked.trial);
    let sampling = sampling::of_args(&args.sampling, seed);
    let mut labels = asked.labels(args.trials, seed);
    let how = Sampled { sampling: &sampling, since, timings };
    let mut answered = opened.answer(question, how, |text| match app.output() {
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
    // Tokens that were evaluated a moment ago were not restored for this answer.
    if let Some(built) = asked.built.as_ref() {
        let evaluated = answered.verdict.evaluated_tokens + built.evaluated_tokens;
        answered.verdict = Verdict { evaluated_tokens: evaluated, ..built.clone() };
    }
    let has_schema = args.constraint.json_schema.is_some();
    let report = Report {
        key: opened.state.key().to_hex(),
        question: &question.text,
        answer: value(&answered.answer, has_schema),
        stop_reason: answered.answer.stop,
        answer_tokens: answered.answer.tokens.len(),
        seed,
        cache: &answered.verdict,
        time_to_first_token_s: answered.time_to_first_token.as_secs_f64(),
        timings: &answered.timings,
    };
    report::print(app, &report, asked.label(args.trials).as_deref(), args.stats, true)?;
    answered.complete()?;
    if has_schema && answered.answer.stop != StopReason::Eos {
        let tokens = human::count(answered.answer.tokens.len(), "token");
        bail!("the answer's JSON was cut off after {tokens}; --max-tokens N allows more");
    }
    Ok(())
}

/// Returns an answer for JSON: its text, or under a schema its value, which an answer that was cut off has not.
fn value(answer: &Answer, has_schema: bool) -> Value {
    match (has_schema, answer.stop) {
        (false, _) => answer.text.as_str().into(),
        (true, StopReason::Eos) => serde_json::from_str(&answer.text).unwrap_or_default(),
        (true, _) => Value::Null,
    }
}
