//! `pcache eval`: a suite of questions, put to every prompt with every model, seed and temperature.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::app::{App, read_text};
use super::failure::Failure;
use super::{models, target};
use crate::cache::target::Target;
use crate::cli::Run;
use crate::cli::args::{Format, Output, ParamArgs, output};
use crate::eval::plan::Plan;
use crate::eval::report;
use crate::eval::results::{Goal, Results};
use crate::eval::runner::ask_all;
use crate::eval::suite::{OneOrMany, Suite};
use crate::text::human;

/// Arguments of `eval`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache eval suite.toml                            a table of results
  pcache eval suite.toml --trials 5 --temp 0,0.8    five seeds at 0.8, one at 0
  pcache eval suite.toml --model a.gguf             another model
  pcache eval suite.toml --format junit -o report.xml
  pcache eval suite.toml --generate 5               questions by the model

docs/guide/eval.md describes suites. The exit code is 1 when fewer than --pass
of the checked answers pass.")]
pub struct Eval {
    /// Suite (TOML)
    #[arg(value_name = "SUITE")]
    pub suite: PathBuf,
    /// Make up N questions a prompt, look for contradictions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub generate: Option<u32>,
    /// Number of seeds, instead of the suite's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub trials: Option<u32>,
    /// Temperatures, instead of the suite's
    #[arg(long, value_name = "T,…", value_delimiter = ',', value_parser = super::args::values::temperature)]
    pub temp: Vec<f32>,
    /// First seed, instead of the suite's
    #[arg(long, value_name = "N")]
    pub seed: Option<u32>,
    /// Maximum number of tokens to generate, instead of the suite's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// Ask only this prompt of the suite (repeatable)
    #[arg(long, value_name = "NAME")]
    pub prompt: Vec<String>,
    /// Share of checked answers that must pass, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = super::args::values::share)]
    pub pass: f64,
    /// Count disagreement and contradiction as failure
    #[arg(long)]
    pub strict: bool,
    /// Show all answers, not only failures
    #[arg(long)]
    pub all: bool,
    /// File for the results [default: stdout]
    #[arg(short, long, value_name = "FILE", value_parser = output::file)]
    pub output: Option<PathBuf>,
    /// Parameters of the states.
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
    let plan = Plan::new(&suite, &args.suite)?;
    let models = match (app.global.model_is_explicit, suite.models.as_slice()) {
        (true, _) | (_, []) => vec![models::chosen(app)?],
        (false, listed) => {
            listed.iter().map(|name| models::resolve(name)).collect::<Result<_>>().with_context(named)?
        }
    };

    if let Some(path) = &args.output
        && path.is_file()
        && same_file::is_same_file(path, &args.suite).unwrap_or(false)
    {
        bail!(Failure::Usage(format!("{} would be read and written at once", path.display())));
    }
    let mut store = app.store()?;
    let targets = models.into_iter().map(|path| target::of_model(app, Some(&store), path, &args.params));
    let mut targets: Vec<Target> = targets.collect::<Result<_>>()?;
    tell_apart(&mut targets);
    // Last before the work: a file that cannot be written is no reason to have answered for an hour, and one that is there
    // is kept where nothing can be asked.
    args.output.as_ref().map_or(Ok(()), |path| app.print_to(path))?;
    let mut outcomes = Vec::new();
    let done = ask_all(app.call(), &mut store, (&suite, &plan), &targets, args.generate, &mut outcomes);
    if done.is_err() && outcomes.is_empty() {
        return done;
    }
    // What was answered before something went wrong, or before Ctrl-C, is told all the same.
    let results = Results::new(outcomes, args.generate.is_some());
    print(app, args, &results)?;
    done?;
    results.verdict(Goal { pass: args.pass, strict: args.strict })
}

/// Gives models of one name longer names: repositories call their files `model.gguf` and say what they are in the folder.
fn tell_apart(targets: &mut [Target]) {
    let named: Vec<_> = targets.iter().map(|target| (target.model_name.clone(), target.model)).collect();
    for target in targets.iter_mut() {
        let is_shared = named.iter().any(|(name, hash)| *name == target.model_name && *hash != target.model);
        let path = target.model_path.canonicalize().unwrap_or_else(|_| target.model_path.clone());
        if let Some(folder) = path.parent().and_then(|folder| folder.file_name()).filter(|_| is_shared) {
            target.model_name = format!("{}/{}", folder.to_string_lossy(), target.model_name);
        }
    }
    // The same folder and name elsewhere: its hash says which.
    let named: Vec<_> = targets.iter().map(|target| (target.model_name.clone(), target.model)).collect();
    for target in targets {
        if named.iter().any(|(name, hash)| *name == target.model_name && *hash != target.model) {
            target.model_name = format!("{} ({})", human::model(&target.model_name), target.model.short());
        }
    }
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
    if app.global.format == Format::Junit {
        let name = models::file_name(&args.suite);
        let Results { outcomes, sums, found, .. } = results;
        return app.print(report::junit(&name, outcomes, sums, found, args.strict)?);
    }
    match app.output() {
        Output::Text => app.print(results.text(args.all)),
        Output::Json => app.print_json(&whole),
        Output::Jsonl => Ok(()),
    }
}
