//! One file per subcommand: orchestration only. What several of them need lies beside them.

mod app;
mod ask;
mod bench;
mod build;
mod complete;
mod config;
mod edit;
mod explain;
mod failure;
mod gc;
mod job;
mod ls;
mod models;
mod prefill;
mod recode;
mod rm;
mod saving;
mod show;
mod source;
mod states;
mod target;
mod verify;

use std::process::ExitCode;
use std::time::Instant;

use crate::cli::{Cli, Command};
use app::App;

/// Answers a shell that asks for completions, and ends the program; does nothing otherwise.
pub fn complete_for_a_shell() {
    clap_complete::CompleteEnv::with_factory(complete::command).var(complete::VARIABLE).complete();
}

/// Runs a parsed command line; `started` is when the process began.
pub fn run(cli: Cli, started: Instant) -> ExitCode {
    let app = App::new(cli.global, started);
    let result = match cli.command {
        Command::Build(args) => build::run(&app, &args),
        Command::Ask(args) => ask::run(&app, &args),
        Command::Ls(args) => ls::run(&app, &args),
        Command::Show(args) => show::run(&app, &args),
        Command::Explain(args) => explain::run(&app, &args),
        Command::Verify(args) => verify::run(&app, &args),
        Command::Rm(args) => rm::run(&app, &args),
        Command::Pin(args) => edit::pin(&app, &args, true),
        Command::Unpin(args) => edit::pin(&app, &args, false),
        Command::Rename(args) => edit::rename(&app, &args),
        Command::Recode(args) => recode::run(&app, &args),
        Command::Gc(args) => gc::run(&app, &args),
        Command::Bench(args) => bench::run(&app, &args),
        Command::Models(args) => models::list::run(&app, &args),
        Command::Config => config::run(&app),
        Command::Completions(args) => complete::completions(&app, &args),
        Command::Man(args) => complete::man(&app, &args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
