//! Help: a screen on `-h`, everything on `--help`, and only the options that a command uses.

use std::ffi::OsString;

use clap::{Arg, Command};

/// Amount of help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The main options, one a line.
    Screen,
    /// All options, and examples.
    Whole,
}

impl Level {
    /// Level that the arguments ask for.
    pub fn asked_for(arguments: impl Iterator<Item = OsString>) -> Self {
        let mut arguments = arguments.peekable();
        if arguments.peek().is_none() {
            return Self::Screen;
        }
        let short = arguments.find(|arg| ["-h", "--help", "--"].iter().any(|known| arg == known));
        if short.is_some_and(|arg| arg == "-h") { Self::Screen } else { Self::Whole }
    }
}

/// Options that some commands accept without using them, with these commands.
const UNUSED: [(&[&str], &[&str]); 5] = [
    (
        &["threads", "same_compute"],
        &["explain", "tokens", "show", "ls", "rm", "pin", "unpin", "rename", "recode", "gc"],
    ),
    (&["gpu_layers"], &["tokens", "show", "ls", "rm", "pin", "unpin", "rename", "recode", "gc"]),
    (&["model"], &["rm", "pin", "unpin", "rename", "recode", "gc"]),
    (
        &["threads", "same_compute", "gpu_layers", "model", "trust_owner"],
        &["models", "config", "completions", "man"],
    ),
    // They are the state's own; giving another value is an error.
    (
        &[
            "kv_type",
            "flash_attn",
            "rope_scaling",
            "rope_freq_base",
            "rope_freq_scale",
            "yarn_ext_factor",
            "yarn_attn_factor",
            "yarn_beta_fast",
            "yarn_beta_slow",
            "yarn_orig_ctx",
        ],
        &["ask", "map", "chat", "extend"],
    ),
];

/// Options that a screen shows of commands with many.
const MAIN: [(&str, &[&str]); 15] = [
    (
        "build",
        &["name", "pin", "ttl", "max_size", "system", "user", "raw", "kv_type", "stats", "model", "json"],
    ),
    (
        "ask",
        &[
            "questions_file",
            "max_tokens",
            "temp",
            "seed",
            "stop",
            "json_schema",
            "require_hit",
            "no_cache",
            "stats",
            "json",
        ],
    ),
    (
        "map",
        &[
            "input",
            "output",
            "field",
            "template",
            "into",
            "limit",
            "parallel",
            "max_tokens",
            "temp",
            "json_schema",
            "stats",
        ],
    ),
    ("chat", &["resume", "max_tokens", "temp", "seed", "stats"]),
    ("extend", &["replace_from", "name", "pin", "ttl", "max_size", "stats", "json"]),
    ("eval", &["generate", "trials", "temp", "prompt", "pass", "strict", "all", "output", "model", "format"]),
    ("tokens", &["list", "question", "system", "raw", "model", "json"]),
    ("explain", &["system", "raw", "kv_type", "model", "json"]),
    ("ls", &["sort", "model", "json", "quiet"]),
    ("show", &["prompt", "all", "json"]),
    ("verify", &["repair", "logits", "json"]),
    ("gc", &["max_size", "max_age", "keep", "dry_run", "json"]),
    ("rm", &["all", "force", "dry_run", "json"]),
    ("models", &["json"]),
    ("bench", &["max_tokens", "runs", "kv_type", "codec", "prompt", "save", "model", "json"]),
];

/// Commands that the screen leaves out.
const RARE: [&str; 7] = ["tokens", "unpin", "recode", "config", "completions", "man", "help"];

/// Options of every command; a command that [`MAIN`] does not have shows none of them on a screen.
const GLOBAL: [&str; 12] = [
    "color",
    "cache_dir",
    "trust_owner",
    "model",
    "threads",
    "gpu_layers",
    "same_compute",
    "format",
    "json",
    "log",
    "quiet",
    "verbose",
];

/// Arranges the help of the program and of its commands.
pub fn arranged(mut command: Command, level: Level) -> Command {
    // Gives the commands their copies of the global options.
    command.build();
    let command = match level {
        Level::Whole => command,
        Level::Screen => command
            .mut_args(|arg| arg.hide(true))
            .mut_subcommands(|inner| {
                let rare = RARE.contains(&inner.get_name());
                inner.hide(rare)
            })
            .after_help("A command's options: pcache COMMAND -h. All commands and options: pcache --help"),
    };
    command.mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        command_at(command, &name, level)
    })
}

fn is_global(arg: &Arg) -> bool {
    GLOBAL.contains(&arg.get_id().as_str())
}

fn command_at(command: Command, name: &str, level: Level) -> Command {
    let unused =
        |id: &str| UNUSED.iter().any(|(ids, commands)| ids.contains(&id) && commands.contains(&name));
    let command = command.mut_args(|arg| {
        let hidden = arg.is_hide_set() || unused(arg.get_id().as_str());
        arg.hide(hidden)
    });
    let command = if level == Level::Screen { on_a_screen(command, name) } else { command };
    command.mut_subcommands(|inner| {
        let path = format!("{name} {}", inner.get_name());
        command_at(inner, &path, level)
    })
}

/// Leaves the main options, each in a line.
fn on_a_screen(command: Command, name: &str) -> Command {
    let main = MAIN.iter().find(|(command, _)| *command == name).map(|(_, ids)| *ids);
    let command = command.mut_args(|arg| {
        let id = arg.get_id().as_str().to_owned();
        let shown = arg.is_positional() || main.map_or(!is_global(&arg), |ids| ids.contains(&id.as_str()));
        let hidden = arg.is_hide_set() || !shown;
        arg.hide(hidden)
            .help_heading("Options")
            .hide_default_value(true)
            .hide_env(true)
            .hide_possible_values(true)
    });
    let command =
        command.mut_args(|arg| if arg.is_positional() { arg.help_heading("Arguments") } else { arg });
    command.after_help(format!("All options and examples: pcache {name} --help"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn help(level: Level) -> Vec<(String, String)> {
        let command = arranged(Cli::command().term_width(80), level);
        let commands = command.get_subcommands().cloned();
        commands.map(|mut c| (c.get_name().to_owned(), c.render_help().to_string())).collect()
    }

    /// A terminal has at least 24 lines of 80 columns, one of them for the next prompt.
    #[test]
    fn short_help_fits_a_screen() {
        let main = arranged(Cli::command().term_width(80), Level::Screen).render_help().to_string();
        assert!(main.lines().count() < 24, "{} lines\n{main}", main.lines().count());
        let long: Vec<_> = help(Level::Screen)
            .into_iter()
            .filter(|(name, _)| name != "help")
            .filter(|(_, help)| help.lines().count() >= 24)
            .collect();
        assert!(long.is_empty(), "{long:#?}");
    }

    #[test]
    fn all_help_has_examples_and_no_airy_layout() {
        for (name, help) in help(Level::Whole).into_iter().filter(|(name, _)| name != "help") {
            assert!(help.contains("Examples:\n"), "{name}");
            assert!(help.lines().count() < 120, "{name}: {} lines\n{help}", help.lines().count());
        }
    }

    /// A line that clap has to wrap can no longer be copied, or read as two columns.
    #[test]
    fn examples_are_not_wrapped() {
        let command = Cli::command();
        for command in command.get_subcommands() {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let long: Vec<&str> = text.lines().filter(|line| line.chars().count() > 80).collect();
            assert!(long.is_empty(), "{}: {long:#?}", command.get_name());
        }
    }

    /// An option that is not there would be shown nowhere, without an error.
    #[test]
    fn the_options_of_the_lists_exist() {
        let command = arranged(Cli::command(), Level::Screen);
        let named = UNUSED.iter().flat_map(|(ids, commands)| commands.iter().map(|command| (*command, *ids)));
        for (name, ids) in MAIN.into_iter().chain(named) {
            let command = command.find_subcommand(name).unwrap_or_else(|| panic!("{name}"));
            for id in ids {
                assert!(command.get_arguments().any(|arg| arg.get_id() == id), "{name} {id}");
            }
        }
    }

    #[test]
    fn the_level_is_that_of_the_first_flag() {
        let level = |args: &[&str]| Level::asked_for(args.iter().map(OsString::from));
        assert_eq!(level(&["ask", "-h"]), Level::Screen);
        assert_eq!(level(&["ask", "--help", "-h"]), Level::Whole);
        assert_eq!(level(&["ask", "key", "--", "-h"]), Level::Whole);
        assert_eq!(level(&[]), Level::Screen);
    }
}
