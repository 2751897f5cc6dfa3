//! `pcache build`: evaluate prompts and save their states.

pub mod report;

use std::time::Instant;

use anyhow::{Result, bail};

use super::app::App;
use super::failure::Failure;
use super::states::check_name;
use super::{models, source, target};
use crate::cache::build::{Builder, Keep};
use crate::cache::source::Source;
use crate::cache::target::Target;
use crate::cli::args::{Build, KeepArgs, Ttl};
use pcache_store::{Claim, Expiry, Store};

/// How the command line says that states are kept.
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

pub fn run(app: &App, args: &Build) -> Result<()> {
    if args.keep.name.is_some() && args.prompts.len() > 1 {
        bail!(Failure::Usage("--name names one state; pass one prompt".into()));
    }
    args.keep.name.as_deref().map_or(Ok(()), check_name)?;
    let framed = source::framed(&args.framing)?;
    // What cannot be built should leave no folder behind.
    models::chosen(app).map(drop)?;
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
            Some(report) => report::print(app, &report, several, stats)?,
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
        report::print(app, &report, several, stats)?;
    }
    Ok(())
}
