//! `pcache completions`: shell completions, with keys and names of states.

use std::ffi::OsStr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use super::app::{App, user_cache};
use super::models::catalog::Places;
use crate::cli::Run;
use crate::cli::args::Cli;
use crate::cli::args::config::Config;
use crate::cli::args::values::choice;
use pcache_format::ComputeIdentity;
use pcache_store::{Options, Store};

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(pcache completions bash)       or in ~/.bashrc for every shell
  pcache completions zsh > ~/.zfunc/_pcache
  pcache completions fish > ~/.config/fish/completions/pcache.fish

Keys and names of states and models are completed as well.")]
pub struct Completions {
    /// Shell
    #[arg(value_name = "SHELL", value_parser = choice::<Shell>())]
    pub shell: Shell,
}

/// Shells with completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

/// The variable by which a shell asks for completions.
pub const VARIABLE: &str = "PCACHE_COMPLETE";
/// States offered by key at most; all names are offered.
const MAX_KEYS: usize = 50;

/// The definition of the command line, with completers for states and models.
pub fn command() -> clap::Command {
    let command = Cli::command().mut_subcommands(|command| {
        command
            .mut_args(|arg| if names_a_state(&arg) { arg.add(ArgValueCompleter::new(states)) } else { arg })
    });
    command.mut_arg("model", |a| a.add(ArgValueCompleter::new(models)))
}

/// An argument takes a key or a name of a state that is there.
fn names_a_state(arg: &clap::Arg) -> bool {
    let is_key = |name: &clap::builder::Str| name.as_str() == "KEY";
    arg.get_value_names().is_some_and(|names| names.iter().any(is_key)) || arg.get_id() == "resume"
}

impl Run for Completions {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }
}

/// Prints the script that makes a shell ask for completions.
fn run(app: &App, args: &Completions) -> Result<()> {
    let shell: &dyn EnvCompleter = match args.shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "pcache", "pcache", "pcache", &mut script)?;
    app.write(&String::from_utf8_lossy(&script))
}

/// Names and keys of states. Whatever goes wrong, there are only fewer of them.
fn states(current: &OsStr) -> Vec<CompletionCandidate> {
    let (Some(current), Some(store)) = (current.to_str(), store()) else { return Vec::new() };
    let names = store.names().unwrap_or_default();
    let keys = store.last_used(MAX_KEYS).unwrap_or_default();
    let named = names.iter().map(|(name, key)| CompletionCandidate::new(name).help(Some(key.short().into())));
    let keyed = keys.iter().map(|key| CompletionCandidate::new(key.short()));
    named.chain(keyed).filter(|c| c.get_value().to_string_lossy().starts_with(current)).collect()
}

/// Value of an option on the line that is being typed: it follows `--` among the arguments of this process.
fn given(option: &str) -> Option<std::ffi::OsString> {
    let mut words = std::env::args_os().skip_while(|word| word != "--").skip(1);
    while let Some(word) = words.next() {
        if word == option {
            return words.next().filter(|value| !value.is_empty());
        }
        let assigned = word.to_str().and_then(|word| word.strip_prefix(option)?.strip_prefix('='));
        if let Some(value) = assigned {
            return Some(value.into());
        }
    }
    None
}

fn store() -> Option<Store> {
    let from_line = || given("--cache-dir").map(PathBuf::from);
    let from_env = std::env::var_os("PCACHE_DIR").filter(|v| !v.is_empty()).map(PathBuf::from);
    let from_file = || {
        let settings = Config::of_user().ok()?.effective(&Cli::command());
        settings.into_iter().find(|s| s.name == "cache-dir")?.value.map(PathBuf::from)
    };
    let dir =
        from_line().or(from_env).or_else(from_file).or_else(|| Some(user_cache().ok()?.join("states")))?;
    Store::open_existing(&dir, &Options::new(ComputeIdentity::default())).ok().flatten()
}

fn models(current: &OsStr) -> Vec<CompletionCandidate> {
    let (Some(current), Ok(places)) = (current.to_str(), Places::of_user()) else { return Vec::new() };
    let models = places.models().into_iter().filter(|m| m.name.starts_with(current));
    models.map(|m| CompletionCandidate::new(m.name).help(Some(m.place.into()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some commands were forgotten when there was a list of them.
    #[test]
    fn every_command_that_takes_a_state_completes_it() {
        let command = command();
        let completed = |arg: &clap::Arg| arg.get::<ArgValueCompleter>().is_some();
        let all = command.get_subcommands().filter(|c| c.get_arguments().any(completed));
        let names: Vec<&str> = all.map(clap::Command::get_name).collect();
        let expected =
            ["ask", "map", "chat", "extend", "show", "rm", "pin", "unpin", "rename", "verify", "recode"];
        assert!(expected.iter().all(|name| names.contains(name)), "{names:?}");
        let by_key = |arg: &&clap::Arg| ["key", "keys", "resume"].contains(&arg.get_id().as_str());
        for arg in command.get_subcommands().flat_map(|c| c.get_arguments().filter(by_key)) {
            assert!(completed(arg), "{arg:?}");
        }
    }
}
