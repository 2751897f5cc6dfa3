//! The command line: arguments and the config file, a file for each command, what is printed, signals.
//!
//! A command is a file with its arguments and how it runs ([`Run`]), and a line in the list here.

mod app;
mod args;
mod ask;
mod bench;
mod build;
mod chat;
mod completions;
mod config;
mod eval;
mod explain;
mod extend;
mod failure;
mod gc;
mod log;
mod ls;
mod man;
mod map;
mod models;
mod observer;
mod pin;
mod place;
mod progress;
mod recode;
mod rename;
mod rm;
mod sampling;
mod show;
mod signals;
mod source;
mod states;
mod table;
mod target;
mod terminal;
mod tokens;
mod try_model;
mod verify;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Subcommand;

use app::App;
pub use args::Cli;

/// Answers a shell that asks for completions, and ends the program; does nothing otherwise.
pub fn complete_for_a_shell() {
    clap_complete::CompleteEnv::with_factory(completions::command).var(completions::VARIABLE).complete();
}

pub use try_model::try_for_another_process;

/// Runs a parsed command line; `started` is when the process began.
pub fn run(cli: Cli, started: Instant) -> ExitCode {
    signals::survive_size_limits();
    signals::open_many_files();
    let mut app = App::new(cli.global, started);
    pcache_engine::sys::log::show(app.shows_log());
    let result = app.start_log().and_then(|()| cli.command.as_run().run(&app));
    // A word of an answer that failed is still held back.
    let _ = app.end_stream("");
    let code = match &result {
        Ok(()) => 0,
        Err(error) => failure::report(error, app.signals.exit_code(), app.output() != args::Output::Text),
    };
    app.end_log(&result, code);
    ExitCode::from(code)
}

/// A command: its arguments, and what is done with them.
trait Run {
    /// Does what the arguments ask for.
    ///
    /// # Errors
    /// Why it could not be done.
    fn run(&self, app: &App) -> Result<()>;

    /// It evaluates tokens, or may.
    fn evaluates(&self) -> bool {
        false
    }

    /// It has results for CI.
    fn has_junit(&self) -> bool {
        false
    }
}

/// Makes the commands of their list: a name, and where its arguments are.
macro_rules! commands {
    ($($(#[$about:meta])* $name:ident($args:ty),)+) => {
        /// The commands.
        #[derive(Debug, Subcommand)]
        pub enum Command {
            $($(#[$about])* $name($args),)+
        }

        impl Command {
            fn as_run(&self) -> &dyn Run {
                match self {
                    $(Self::$name(args) => args,)+
                }
            }
        }
    };
}

commands! {
    /// Evaluate prompts and save their states
    Build(build::Build),
    /// Answer questions from a saved state
    Ask(ask::Ask),
    /// Answer each record of a file or stream from a saved state
    Map(map::Map),
    /// Chat from a saved state
    Chat(chat::Chat),
    /// Build a new state by adding text to a saved one
    Extend(extend::Extend),
    /// Run a suite of questions and check the answers
    Eval(eval::Eval),
    /// Show how a prompt is tokenised and cut into segments
    Tokens(tokens::Tokens),
    /// List the saved states
    #[command(aliases = ["list", "du", "usage", "stats"])]
    Ls(ls::Ls),
    /// Show everything about one state
    #[command(aliases = ["info", "inspect"])]
    Show(show::Show),
    /// Explain why a prompt is a hit or a miss
    Explain(explain::Explain),
    /// Check every saved byte; --repair repairs damage
    Verify(verify::Verify),
    /// Remove states
    #[command(aliases = ["remove", "delete"])]
    Rm(rm::Rm),
    /// Protect states from gc
    Pin(pin::Pin),
    /// Let gc remove states again
    Unpin(pin::Unpin),
    /// Name a state, or rename it
    Rename(rename::Rename),
    /// Store states in another codec
    Recode(recode::Recode),
    /// Evict states by age, count or size, and remove leftovers
    #[command(alias = "prune")]
    Gc(gc::Gc),
    /// Measure what saving and restoring costs on this machine
    Bench(bench::Bench),
    /// List the models that -m finds by name
    Models(models::list::Models),
    /// Show all settings and where their values come from
    Config(config::Config),
    /// Print a completion script for a shell
    Completions(completions::Completions),
    /// Print or write man pages
    Man(man::Man),
}

impl Command {
    /// It evaluates tokens, or may.
    pub fn evaluates(&self) -> bool {
        self.as_run().evaluates()
    }

    fn has_junit(&self) -> bool {
        self.as_run().has_junit()
    }
}
