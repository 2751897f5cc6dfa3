//! `pcache eval`: a suite of questions, put to every prompt with every model, seed and temperature.

use anyhow::{Context, Result, bail};

use super::app::{App, read_text};
use super::failure::Failure;
use super::{models, target};
use crate::cache::target::Target;
use crate::cli::args::{Eval, Output, OutputTo};
use crate::eval::asking::ask_all;
use crate::eval::plan::Plan;
use crate::eval::report;
use crate::eval::results::{Goal, Results};
use crate::eval::suite::{OneOrMany, Suite};

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
