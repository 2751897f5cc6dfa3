//! One file per subcommand: orchestration only. What several of them need lies beside them.

mod app;
mod ask;
mod build;
mod failure;
mod gc;
mod job;
mod ls;
mod models;
mod prefill;

use std::process::ExitCode;
use std::time::Instant;

use crate::cli::{Cli, Command};
use app::App;

/// Runs a parsed command line; `started` is when the process began.
pub fn run(cli: Cli, started: Instant) -> ExitCode {
    let app = App::new(cli.global, started);
    let result = match cli.command {
        Command::Build(args) => build::run(&app, &args),
        Command::Ask(args) => ask::run(&app, &args),
        Command::Ls(args) => ls::run(&app, &args),
        Command::Gc(args) => gc::run(&app, &args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
