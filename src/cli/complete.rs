//! Shell completions, with keys and names of states, and man pages.

use std::ffi::OsStr;
use std::path::PathBuf;

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use super::app::{App, user_cache};
use super::models::catalog::Places;
use crate::cli::args::config::Config;
use crate::cli::args::{Cli, Completions, Man, Shell};
use pcache_format::ComputeIdentity;
use pcache_store::{Options, Store};

/// The variable by which a shell asks for completions.
pub const VARIABLE: &str = "PCACHE_COMPLETE";
/// States offered by key at most; all names are offered.
const MOST_KEYS: usize = 50;

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

/// Prints the script that makes a shell ask for completions.
pub fn completions(app: &App, args: &Completions) -> Result<()> {
    let shell: &dyn EnvCompleter = match args.shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "pcache", "pcache", "pcache", &mut script)?;
    app.write(&String::from_utf8_lossy(&script))
}

/// Prints the main man page, or writes all of them into a folder.
pub fn man(app: &App, args: &Man) -> Result<()> {
    let command = Cli::command();
    let Some(dir) = &args.dir else { return app.write(&page(command)?) };
    fs_err::create_dir_all(dir)?;
    let commands = command.get_subcommands().map(|c| {
        let name = format!("pcache-{}", c.get_name());
        c.clone().name(name).version(env!("CARGO_PKG_VERSION"))
    });
    for command in commands.chain([command.clone()]) {
        let file = dir.join(format!("{}.1", command.get_name()));
        fs_err::write(file, page(command)?)?;
    }
    app.say(format!("wrote the man pages into {}", dir.display()));
    Ok(())
}

/// A man page; its examples keep their columns.
fn page(command: clap::Command) -> Result<String> {
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.after_help(None)).render(&mut page)?;
    let mut page = String::from_utf8_lossy(&page).into_owned();
    page.push_str(".SH EXAMPLES\n.nf\n");
    for line in examples.lines().filter(|l| *l != "Examples:") {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        // A line that began with one of these would be a request to the formatter.
        let guard = if line.starts_with(['.', '\'']) { "\\&" } else { "" };
        page.push_str(&format!("{guard}{line}\n"));
    }
    page.push_str(".fi\n");
    Ok(page)
}

/// Names and keys of states. Whatever goes wrong, there are only fewer of them.
fn states(current: &OsStr) -> Vec<CompletionCandidate> {
    let (Some(current), Some(store)) = (current.to_str(), store()) else { return Vec::new() };
    let names = store.names().unwrap_or_default();
    let keys = store.last_used(MOST_KEYS).unwrap_or_default();
    let named = names.iter().map(|(name, key)| CompletionCandidate::new(name).help(Some(key.short().into())));
    let keyed = keys.iter().map(|key| CompletionCandidate::new(key.short()));
    named.chain(keyed).filter(|c| c.get_value().to_string_lossy().starts_with(current)).collect()
}

fn store() -> Option<Store> {
    let from_env = std::env::var_os("PCACHE_DIR").filter(|v| !v.is_empty()).map(PathBuf::from);
    let from_file = || {
        let settings = Config::of_user().ok()?.effective(&Cli::command());
        settings.into_iter().find(|s| s.name == "cache-dir")?.value.map(PathBuf::from)
    };
    let dir = from_env.or_else(from_file).or_else(|| Some(user_cache().ok()?.join("states")))?;
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
