//! One file per subcommand: orchestration only. What several of them need lies beside them.

mod app;
mod args;
mod ask;
mod bench;
mod build;
mod chat;
mod complete;
mod config;
mod edit;
mod eval;
mod explain;
mod extend;
mod failure;
mod gc;
mod log;
mod ls;
mod map;
mod models;
mod observer;
mod place;
mod progress;
mod recode;
mod rm;
mod sampling;
mod show;
mod signals;
mod source;
mod states;
mod table;
mod target;
mod tokens;
mod verify;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
pub use args::Cli;
use args::Command;

use app::App;

/// Answers a shell that asks for completions, and ends the program; does nothing otherwise.
pub fn complete_for_a_shell() {
    clap_complete::CompleteEnv::with_factory(complete::command).var(complete::VARIABLE).complete();
}

/// Runs a parsed command line; `started` is when the process began.
pub fn run(cli: Cli, started: Instant) -> ExitCode {
    signals::survive_size_limits();
    signals::open_many_files();
    let mut app = App::new(cli.global, started);
    pcache_engine::sys::log::show(app.shows_log());
    let result = app.start_log().and_then(|()| run_command(&app, cli.command));
    let code = match &result {
        Ok(()) => 0,
        Err(error) => failure::report(error, app.signals.exit_code()),
    };
    app.end_log(&result, code);
    ExitCode::from(code)
}

fn run_command(app: &App, command: Command) -> Result<()> {
    match command {
        Command::Build(args) => build::run(app, &args),
        Command::Ask(args) => ask::run(app, &args),
        Command::Map(args) => map::run(app, &args),
        Command::Chat(args) => chat::run(app, &args),
        Command::Extend(args) => extend::run(app, &args),
        Command::Eval(args) => eval::run(app, &args),
        Command::Tokens(args) => tokens::run(app, &args),
        Command::Ls(args) => ls::run(app, &args),
        Command::Show(args) => show::run(app, &args),
        Command::Explain(args) => explain::run(app, &args),
        Command::Verify(args) => verify::run(app, &args),
        Command::Rm(args) => rm::run(app, &args),
        Command::Pin(args) => edit::pin(app, &args, true),
        Command::Unpin(args) => edit::pin(app, &args, false),
        Command::Rename(args) => edit::rename(app, &args),
        Command::Recode(args) => recode::run(app, &args),
        Command::Gc(args) => gc::run(app, &args),
        Command::Bench(args) => bench::run(app, &args),
        Command::Models(args) => models::list::run(app, &args),
        Command::Config => config::run(app),
        Command::Completions(args) => complete::completions(app, &args),
        Command::Man(args) => complete::man(app, &args),
    }
}
