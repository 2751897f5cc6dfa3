//! `pcache eval`: a suite of questions, put to every prompt with every model, seed and temperature.

mod asked;
mod asking;
mod generate;
mod plan;

use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::app::{App, read_text};
use super::failure::Failure;
use super::models;
use crate::cache::target::Target;
use crate::cli::args::{Eval, Output, OutputTo};
use crate::eval::outcome::{self, Generated, Inconsistent, Kind, Outcome, Sum};
use crate::eval::report;
use crate::eval::suite::{OneOrMany, Suite};
use crate::text::human;
use asking::Asker;
use plan::Plan;

pub fn run(app: &App, args: &Eval) -> Result<()> {
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

    let mut outcomes = Vec::new();
    let done = ask_all(app, args, &suite, &plan, models, &mut outcomes);
    if done.is_err() && outcomes.is_empty() {
        return done;
    }
    // What was answered before something went wrong, or before Ctrl-C, is told all the same.
    let found = outcome::inconsistent(&outcomes);
    let generated = args.generate.map(|_| Generated::of(&outcomes, &found));
    let result = Results { sums: outcome::sums(&outcomes), found, generated, outcomes };
    result.print(app, args)?;
    done?;
    result.verdict(args)
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

fn ask_all(
    app: &App,
    args: &Eval,
    suite: &Suite,
    plan: &Plan,
    models: Vec<std::path::PathBuf>,
    outcomes: &mut Vec<Outcome>,
) -> Result<()> {
    let mut store = app.store()?;
    let targets =
        models.into_iter().map(|path| super::target::of_model(app, Some(&store), path, &args.params));
    let targets: Vec<Target> = targets.collect::<Result<_>>()?;
    for target in &targets {
        let start = Instant::now();
        let model = target.load(app)?;
        let mut load = Some(start.elapsed());
        for prompt in &plan.prompts {
            let mut asker = Asker { app, suite, target, model: &model, outcomes };
            asker.prompt(&mut store, prompt, args.generate, load.take())?;
        }
    }
    Ok(())
}

/// What came of the suite.
struct Results {
    outcomes: Vec<Outcome>,
    sums: Vec<Sum>,
    found: Vec<Inconsistent>,
    /// If the model was to make up questions.
    generated: Option<Generated>,
}

impl Results {
    fn print(&self, app: &App, args: &Eval) -> Result<()> {
        let whole = serde_json::json!({
            "suite": args.suite.display().to_string(),
            "outcomes": self.outcomes,
            "sums": self.sums,
            "inconsistent": self.found,
            "generated": self.generated,
        });
        app.named_event("eval", &whole)?;
        if app.global.output == OutputTo::Junit && !app.global.json {
            let name = models::file_name(&args.suite);
            return app.print(report::junit(&name, &self.outcomes, &self.sums, &self.found, args.strict)?);
        }
        match app.output() {
            Output::Text => app.print(self.text(args)),
            Output::Json => app.print_json(&whole),
            Output::Jsonl => Ok(()),
        }
    }

    fn text(&self, args: &Eval) -> String {
        let shown = self.outcomes.iter().filter(|o| args.all || !o.passed());
        let mut parts: Vec<String> = shown.map(report::answer).collect();
        parts.extend(self.found.iter().map(report::inconsistent));
        if self.outcomes.iter().any(|o| o.kind == Kind::Suite) {
            parts.push(report::table(&self.sums));
        }
        parts.extend(self.generated.as_ref().map(report::generated));
        if args.all {
            parts.extend(self.sums.iter().map(|sum| {
                format!("#### {} ({})\n{}", sum.prompt, sum.model, sum.timings.table().trim_end())
            }));
        }
        parts.join("\n\n")
    }

    /// A failure of the program if too many answers failed.
    fn verdict(&self, args: &Eval) -> Result<()> {
        let counting = self.outcomes.iter().filter(|o| o.counts()).count();
        let passed = self.outcomes.iter().filter(|o| o.counts() && o.passed()).count();
        let share = if counting == 0 { 1.0 } else { passed as f64 / counting as f64 };
        if share < args.pass {
            let failed = counting - passed;
            bail!("{failed} of {counting} checked answers failed");
        }
        if args.strict && !self.found.is_empty() {
            bail!("answers to {} disagree", human::count(self.found.len(), "question"));
        }
        let contradicted = self.generated.as_ref().map_or(0, |generated| generated.contradicted);
        if args.strict && contradicted > 0 {
            bail!("the model takes back {}", human::count(contradicted, "answer"));
        }
        Ok(())
    }
}
