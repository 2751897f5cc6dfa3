//! Parse, run, print the error chain, exit code.

use std::process::ExitCode;

use pcache::cli::Cli;
use pcache::commands;

fn main() -> ExitCode {
    let started = std::time::Instant::now();
    commands::complete_for_a_shell();
    commands::run(Cli::of_process(), started)
}
