//! `pcache bench`: what saving and restoring costs on this machine, and from how many tokens on it pays.
//!
//! - [`plan`]: which lengths, and how many of them the time allows.
//! - [`measure`]: one run, from the model to the results.
//! - [`evaluate`]: the prompt's evaluation; on the last round, what is saved at each length.
//! - [`save`], [`recall`]: the stages of saving and of restoring, each timed on its own.
//! - [`first_token`]: the whole of an ask.
//! - [`limits`]: what the machine could do at best, with the same bytes on the same disk.
//! - [`machine`]: which machine it is.

mod compare;
mod evaluate;
mod first_token;
mod limits;
mod machine;
mod measure;
mod plan;
mod recall;
mod report;
mod save;

use std::time::Instant;

use anyhow::{Result, bail};

use super::app::App;
use super::failure::Failure;
use crate::cli::args::{Bench, BenchCommand};
use pcache_engine::model::Model;
use pcache_store::Prefix;

pub fn run(app: &App, args: &Bench) -> Result<()> {
    match &args.command {
        None => measure::run(app, &args.measure),
        Some(BenchCommand::Compare(args)) => compare::run(app, args),
        Some(BenchCommand::Report(args)) => report::run(app, args),
    }
}

/// What stays the same for a KV type.
struct Subject<'a> {
    app: &'a App,
    model: &'a Model,
    runs: usize,
    /// The longest prompt.
    longest: &'a Prefix,
    /// What is asked behind each prompt.
    question: &'a [i32],
}

impl Subject<'_> {
    /// The beginning of the longest prompt.
    fn prefix(&self, tokens: usize) -> Prefix {
        let longest = self.longest;
        Prefix::new(longest.model, longest.params.clone(), longest.layout, longest.tokens[..tokens].to_vec())
    }

    /// Positions that a context for so many tokens needs, with the question and one token of the answer.
    fn cells(&self, tokens: usize) -> usize {
        tokens + self.question.len() + 1
    }
}

/// Ends the measuring when the user pressed Ctrl-C.
fn go_on(app: &App) -> Result<()> {
    if app.interrupted() {
        bail!(Failure::Interrupted("interrupted; nothing is left of the measurement".into()));
    }
    Ok(())
}

/// What `work` gives, and how many seconds it took.
fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let done = work();
    (done, start.elapsed().as_secs_f64())
}
