//! `pcache build`: evaluate prompts and save their states.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use super::app::App;
use super::failure::Failure;
use super::states::check_name;
use super::{models, source, target};
use crate::cache::build::{Builder, Keep, Report};
use crate::cache::source::Source;
use crate::cache::target::Target;
use crate::cli::Run;
use crate::cli::args::{KeepArgs, Output, ParamArgs, PromptFormatArgs, Ttl};
use crate::text::human;
use pcache_store::{Claim, Expiry, Store};

/// Arguments of `build`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache build menu.txt                   with the only model in pcache's folder
  pcache build -m model.gguf a.txt b.txt  a shared beginning is evaluated once
  pcache build --name menu menu.txt       then: pcache ask menu \"...\"
  generate-prompt | pcache build -        reads stdin
  pcache build --max-size 20GiB --ttl 30d menu.txt
  pcache build --user --system \"Answer from the document.\" document.txt
  pcache build --raw --question-format \"Q: {question}\\nA:\" story.txt")]
pub struct Build {
    /// Prompt files; - is stdin
    #[arg(required = true, value_name = "PROMPT")]
    pub prompts: Vec<PathBuf>,
    /// Options for keeping the states.
    #[command(flatten)]
    pub keep: KeepArgs,
    /// Prompt format.
    #[command(flatten)]
    pub framing: PromptFormatArgs,
    /// Parameters of the states.
    #[command(flatten)]
    pub params: ParamArgs,
}

/// Reads the options for keeping states.
pub fn keep(store: &Store, args: &KeepArgs) -> Keep {
    let now = store.now();
    let expiry = match args.ttl {
        Some(Ttl::For(seconds)) => Expiry::At(now.saturating_add(seconds)),
        Some(Ttl::Never) => Expiry::Never,
        None => Expiry::Unsaid,
    };
    let claim = Claim { name: args.name.clone(), pin: args.pin, expiry };
    Keep { claim, max_size: args.max_size, codec: args.codec }
}

impl Run for Build {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }

    fn evaluates(&self) -> bool {
        true
    }
}

fn run(app: &App, args: &Build) -> Result<()> {
    if args.keep.name.is_some() && args.prompts.len() > 1 {
        bail!(Failure::Usage("--name names one state; pass one prompt".into()));
    }
    args.keep.name.as_deref().map_or(Ok(()), check_name)?;
    let framed = source::framed(&args.framing)?;
    // What cannot be built should leave no folder behind.
    models::find(app).map(drop)?;
    let store = app.store()?;
    let target = target::of_args(app, Some(&store), &args.params)?;

    // A file that cannot be read should not be found after minutes of evaluating the others.
    let root = target.params.root(&target.model);
    let sources: Vec<Source<'_>> =
        args.prompts.iter().map(|path| source::read(path, &root, &framed)).collect::<Result<_>>()?;
    let keep = keep(&store, &args.keep);
    let mut builder = Builder::new(app.call(), &keep, &store, &target);
    build_all(app, &mut builder, &target, &sources, args.keep.stats)?;
    builder.enforce_budget()
}

/// Builds the state of a prompt's file with the usual prompt format, or finds it.
///
/// # Errors
/// When a build fails.
pub fn of_file(app: &App, file: &Path, params: &ParamArgs) -> Result<(Store, Report)> {
    let framed = source::framed(&PromptFormatArgs::default())?;
    models::find(app).map(drop)?;
    let store = app.store()?;
    let target = target::of_args(app, Some(&store), params)?;
    let prompt = source::read(file, &target.params.root(&target.model), &framed)?;
    let keep = keep(&store, &KeepArgs::default());
    let mut builder = Builder::new(app.call(), &keep, &store, &target);
    let report = match builder.known(&prompt)? {
        Some(report) => report,
        None => builder.build(&target.load(app)?, &prompt, None)?,
    };
    if report.cache.evaluated_tokens > 0 {
        app.say(summary(&report));
    }
    app.record("build", &report);
    Ok((store, report))
}

/// As long as everything is saved, no model is loaded.
fn build_all(
    app: &App,
    builder: &mut Builder<'_>,
    target: &Target,
    sources: &[Source<'_>],
    stats: bool,
) -> Result<()> {
    let several = sources.len() > 1;
    for (i, source) in sources.iter().enumerate() {
        match builder.known(source)? {
            Some(report) => print(app, &report, several, stats)?,
            None => return build_rest(app, builder, target, &sources[i..], (several, stats)),
        }
    }
    Ok(())
}

/// Builds what is not saved of `sources`, with the model loaded.
fn build_rest(
    app: &App,
    builder: &mut Builder<'_>,
    target: &Target,
    sources: &[Source<'_>],
    (several, stats): (bool, bool),
) -> Result<()> {
    let start = Instant::now();
    let model = target.load(app)?;
    let mut load = Some(start.elapsed());
    for source in sources {
        // The first is known to be missing; the others may have been saved by now.
        let known = if load.is_some() { None } else { builder.known(source)? };
        let report = match known {
            Some(report) => report,
            None => builder.build(&model, source, load.take())?,
        };
        print(app, &report, several, stats)?;
    }
    Ok(())
}

/// Prints the key, or the report as an object; and says on stderr what happened.
pub fn print(app: &App, report: &Report, several: bool, stats: bool) -> Result<()> {
    let label = if several { format!("{}: ", report.prompt) } else { String::new() };
    app.say(format!("{label}{}", summary(report)));
    if let Some(computed_by) = &report.cache.computed_by {
        app.say(format!("computed by {computed_by}; --same-compute evaluates it here"));
    }
    if stats {
        app.say(report.timings.table().trim_end());
    }
    app.named_event("build", report)?;
    match app.output() {
        Output::Text => app.print(&report.key[..12]),
        Output::Json => app.print_json(report),
        _ => Ok(()),
    }
}

/// Summarises a build in a line.
fn summary(report: &Report) -> String {
    let (tokens, size) = (human::count(report.tokens, "token"), human::bytes(report.bytes));
    let evaluated = report.cache.evaluated_tokens;
    if evaluated == 0 {
        return format!("hit: {tokens} are saved ({size}) and intact");
    }
    let rows = report.timings.rows();
    let seconds = rows.iter().find(|r| r.key == "eval_time").map_or(0.0, |r| r.time_s);
    let reused = match report.tokens - evaluated {
        0 => String::new(),
        n => format!(", {} of them saved before", human::thousands(n)),
    };
    let (evaluated, wrote) = (human::thousands(evaluated), human::bytes(report.bytes_written));
    format!("saved {tokens} ({size}){reused}; evaluated {evaluated} in {seconds:.1} s, wrote {wrote}")
}
