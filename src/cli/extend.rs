//! `pcache extend`: a new state from a saved one, with text added to its prompt or its end replaced.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use super::app::{App, read_text};
use super::build;
use super::states::{self, check_name};
use super::target;
use crate::cache::build::Builder;
use crate::cache::extend::{Update, extended, origin};
use crate::cli::Run;
use crate::cli::args::{KeepArgs, ParamArgs};

/// Arguments of `extend`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache extend menu today.txt                  adds today.txt to the prompt
  pcache extend menu today.txt --name menu      the same, and moves the name
  pcache extend base today.txt --replace-from \"## Today\" --name menu

The last one replaces the text after the line \"## Today\" each day, and moves
the name from yesterday's version.

Only the 256-token segments from the first difference onward are evaluated. The
old state stays until gc evicts it.")]
pub struct Extend {
    /// Key (at least 6 digits) or name of a state
    #[arg(value_name = "KEY", index = 1)]
    pub key: String,
    /// File with the text to add; - is stdin
    #[arg(value_name = "UPDATE", index = 2)]
    pub update: PathBuf,
    /// Replace everything after this line of the prompt
    #[arg(long, value_name = "LINE")]
    pub replace_from: Option<String>,
    /// Options for keeping the new state.
    #[command(flatten)]
    pub keep: KeepArgs,
    /// Parameters that the state was built with; only needed to say where a LoRA adapter lies now.
    #[command(flatten)]
    pub params: ParamArgs,
}

impl Run for Extend {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }

    fn evaluates(&self) -> bool {
        true
    }
}

fn run(app: &App, args: &Extend) -> Result<()> {
    let name = args.keep.name.as_deref();
    name.map_or(Ok(()), check_name)?;
    let update = match read_text(&args.update) {
        Err(error) if args.update.as_os_str() != "-" && !args.update.exists() => {
            return Err(error.context(hint(args)));
        }
        read => read?,
    };
    if update.trim().is_empty() {
        bail!("{} is empty: there is nothing to add", args.update.display());
    }
    let store = states::store_with(app, &args.key)?;
    let old = states::state(&store, &states::key(&store, &args.key)?)?;
    let target = target::of_state(app, &store, &old, &args.params)?;

    let start = Instant::now();
    let model = target.load(app)?;
    let load = start.elapsed();
    let update = Update { text: &update, replace_from: args.replace_from.as_deref() };
    let prompt = extended(&model, &old, update)?;
    let file = super::models::file_name(&args.update);
    let name_of_update = if file == "-" { "stdin".to_owned() } else { file };
    let keep = build::keep(&store, &args.keep);
    let mut builder = Builder::new(app.call(), &keep, &store, &target);
    let report = builder.save(&model, &prompt, &origin(&old, &name_of_update), Some(load))?;
    builder.enforce_budget()?;
    build::print(app, &report, false, args.keep.stats)
}

/// Explains how a text is given where a file is expected.
fn hint(args: &Extend) -> String {
    format!("UPDATE is a file; to add a text itself: echo \"…\" | pcache extend {} -", args.key)
}
