//! `pcache eval`: a suite of questions, put to every prompt with every model, seed and temperature.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::app::{App, read_text};
use super::failure::Failure;
use super::{models, target};
use crate::cache::target::Target;
use crate::cli::Run;
use crate::cli::args::{Output, OutputTo, ParamArgs};
use crate::eval::asking::ask_all;
use crate::eval::plan::Plan;
use crate::eval::report;
use crate::eval::results::{Goal, Results};
use crate::eval::suite::{OneOrMany, Suite};

/// Arguments of `eval`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache eval suite.toml                            a table of what passed
  pcache eval suite.toml --trials 5 --temp 0,0.8    five seeds at 0.8, one at 0
  pcache eval suite.toml --model a.gguf             another model than the suite names
  pcache eval suite.toml --output junit > report.xml
  pcache eval suite.toml --generate 5               questions that the model makes up itself

docs/eval.md describes suites. The exit code is 1 when a check fails.")]
pub struct Eval {
    /// The suite
    #[arg(value_name = "SUITE")]
    pub suite: PathBuf,
    /// Let the model make up N questions for each prompt, ask each in several wordings, and look for contradictions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub generate: Option<u32>,
    /// Seeds for each question, instead of what the suite says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub trials: Option<u32>,
    /// Temperatures, instead of what the suite says
    #[arg(long, value_name = "T", value_delimiter = ',', value_parser = super::args::values::temperature)]
    pub temp: Vec<f32>,
    /// The first seed, instead of what the suite says
    #[arg(long, value_name = "N")]
    pub seed: Option<u32>,
    /// Tokens of an answer at most, instead of what the suite says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// Only the questions of prompts with this name; may be given several times
    #[arg(long, value_name = "NAME")]
    pub prompt: Vec<String>,
    /// Share of the checked answers that must pass, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = super::args::values::share)]
    pub pass: f64,
    /// Answers that disagree, or that the model takes back, are failures, too
    #[arg(long)]
    pub strict: bool,
    /// Show every answer, and not only those that failed or disagree
    #[arg(long)]
    pub all: bool,
    /// What the states are built with.
    #[command(flatten)]
    pub params: ParamArgs,
}

impl Run for Eval {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }

    fn evaluates(&self) -> bool {
        true
    }

    fn has_junit(&self) -> bool {
        true
    }
}

fn run(app: &App, args: &Eval) -> Result<()> {
    let text = read_text(&args.suite)?;
    let named = || args.suite.display().to_string();
    let mut suite = Suite::parse(&text).map_err(Failure::Usage).with_context(named)?;
    overridden(&mut suite, args)?;
    let plan = Plan::of(&suite, &args.suite)?;
    let models = match (app.global.model_is_explicit, suite.models.as_slice()) {
        (true, _) | (_, []) => vec![models::chosen(app)?],
        (false, listed) => {
            listed.iter().map(|name| models::resolve(name)).collect::<Result<_>>().with_context(named)?
        }
    };

    let mut store = app.store()?;
    let targets = models.into_iter().map(|path| target::of_model(app, Some(&store), path, &args.params));
    let targets: Vec<Target> = targets.collect::<Result<_>>()?;
    let mut outcomes = Vec::new();
    let done = ask_all(app.call(), &mut store, (&suite, &plan), &targets, args.generate, &mut outcomes);
    if done.is_err() && outcomes.is_empty() {
        return done;
    }
    // What was answered before something went wrong, or before Ctrl-C, is told all the same.
    let results = Results::of(outcomes, args.generate.is_some());
    print(app, args, &results)?;
    done?;
    results.verdict(Goal { pass: args.pass, strict: args.strict })
}

/// The suite with what the command line says instead.
fn overridden(suite: &mut Suite, args: &Eval) -> Result<()> {
    suite.trials = args.trials.unwrap_or(suite.trials);
    suite.seed = args.seed.unwrap_or(suite.seed);
    if !args.temp.is_empty() {
        suite.temperature = OneOrMany::Many(args.temp.clone());
    }
    if let Some(most) = args.max_tokens {
        suite.max_tokens = most as usize;
        suite.prompts.iter_mut().flat_map(|p| &mut p.questions).for_each(|q| q.max_tokens = None);
    }
    if !args.prompt.is_empty() {
        let names: Vec<_> = suite.prompts.iter().map(|p| p.label()).collect();
        if let Some(unknown) = args.prompt.iter().find(|name| !names.contains(name)) {
            let names = names.join(", ");
            bail!(Failure::Usage(format!("the suite has no prompt {unknown:?}; it has {names}")));
        }
        suite.prompts.retain(|prompt| args.prompt.contains(&prompt.label()));
    }
    let questions = suite.prompts.iter().map(|p| p.questions.len()).sum::<usize>();
    if questions == 0 && args.generate.is_none() {
        bail!(Failure::Usage("the suite has no questions; --generate N lets the model make some up".into()));
    }
    Ok(())
}

fn print(app: &App, args: &Eval, results: &Results) -> Result<()> {
    let mut whole = serde_json::json!({ "suite": args.suite.display().to_string() });
    if let (Some(whole), serde_json::Value::Object(results)) =
        (whole.as_object_mut(), serde_json::to_value(results)?)
    {
        whole.extend(results);
    }
    app.named_event("eval", &whole)?;
    if app.global.output == OutputTo::Junit && !app.global.json {
        let name = models::file_name(&args.suite);
        return app.print(report::junit(
            &name,
            &results.outcomes,
            &results.sums,
            &results.found,
            args.strict,
        )?);
    }
    match app.output() {
        Output::Text => app.print(results.text(args.all)),
        Output::Json => app.print_json(&whole),
        Output::Jsonl => Ok(()),
    }
}
