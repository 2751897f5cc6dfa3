//! The command line: clap structs, the values of options, and the config file that gives them other defaults.

pub mod config;
pub mod dashes;
pub mod help;
pub mod output;
pub mod prompt;
pub mod sampling;
mod tips;
pub mod values;

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Args, ColorChoice, CommandFactory, FromArgMatches, Parser, ValueEnum};

use super::{Command, failure};
use crate::error::ErrorKind;
use config::Config;
use help::Level;
pub use output::{Format, Output};
use pcache_format::epoch::LLAMA_CPP_BUILD;
pub use prompt::{FlashAttention, KeepArgs, ParamArgs, PromptFormatArgs};
pub use sampling::{ConstraintArgs, SamplingArgs};
pub use values::{LoraFile, Ttl};
use values::{choice, path};

/// Prompt cache for local GGUF models: a long prompt is evaluated only once
#[derive(Debug, Parser)]
#[command(
    name = "pcache",
    version,
    after_help = "\
A first session:
  pcache build -m model.gguf menu.txt     prints the state's key
  pcache ask KEY \"Is there soup today?\"   answers from the saved state
  pcache ls                               saved states and their sizes
  pcache gc --max-size 10GiB              evicts the least recently used states

Results go to stdout (a key, an answer, a table, JSON), messages to stderr.
Exit codes: 0 done; 1 failed; 2 usage; 3 no such state or file, or a miss under
--require-hit; 4 damaged and not repaired; 5 model missing, or not the one that
the state was built with; 129, 130 or 143: stopped by a signal."
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// Command
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub struct Global {
    /// Folder of saved states [default: ~/.cache/pcache/states]
    #[arg(long, env = "PCACHE_DIR", hide_env_values = true, value_name = "DIR", global = true, value_parser = path())]
    pub cache_dir: Option<PathBuf>,
    /// Use a folder owned by another user, who could forge states in it
    #[arg(long, global = true)]
    pub trust_owner: bool,
    /// GGUF file, or a name that `pcache models` lists
    #[arg(short, long, env = "PCACHE_MODEL", hide_env_values = true, value_name = "MODEL", global = true, value_parser = path())]
    pub model: Option<PathBuf>,
    /// Number of threads [default: the machine's cores]
    #[arg(short, long, value_name = "N", global = true, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Number of layers on the GPU, in builds with GPU support [default: 0]
    #[arg(long, alias = "n-gpu-layers", value_name = "N", global = true)]
    pub gpu_layers: Option<u32>,
    /// Restore only states that this machine computed with this build of pcache
    #[arg(long, global = true)]
    pub same_compute: bool,
    /// Format of results
    #[arg(long, value_name = "FORMAT", global = true, default_value = "text", value_parser = choice::<Format>())]
    pub format: Format,
    /// Short for --format json
    #[arg(long, global = true, conflicts_with = "format")]
    pub json: bool,
    /// Append every step (load, restore, evaluate, …) to FILE as JSON Lines
    #[arg(long, value_name = "FILE", global = true, value_parser = path())]
    pub log: Option<PathBuf>,
    /// Only warnings and errors on stderr
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Explain misses on stderr; twice (-vv): with llama.cpp's log
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Colour of help and errors: auto, always or never
    #[arg(long, value_name = "WHEN", global = true, default_value = "auto", value_parser = choice::<ColorChoice>())]
    pub color: ColorChoice,
    /// The model was named on the command line, and not by the environment.
    #[arg(skip)]
    pub model_is_explicit: bool,
}

impl Cli {
    /// Parses the program's arguments, with the config file's values as defaults; prints help or an error and exits as
    /// clap does.
    pub fn of_process() -> Self {
        let (level, color) = (Level::asked_for(std::env::args_os().skip(1)), color());
        let config = if needs_no_settings() { Ok(Config::default()) } else { Config::of_user() };
        let config = config.unwrap_or_else(|e| {
            // Help is given all the same: this ends the program when it was asked for.
            let _ = help::arranged(Self::command().color(color), level).version(version()).get_matches();
            // A file that cannot be understood should not change what a command does without a word.
            failure::print(ErrorKind::Refused, &e.to_string(), None, wants_json());
            std::process::exit(2);
        });
        let mut command =
            help::arranged(with_plain_usage(config.applied_to(Self::command().color(color))), level)
                .version(version());
        if std::env::args_os().len() < 2 {
            let _ = command.print_help();
            std::process::exit(2);
        }
        if let Some((option, tip)) = tips::foreign_option(own_arguments()) {
            failure::print(
                ErrorKind::Refused,
                &format!("there is no option {option}"),
                Some(tip),
                wants_json(),
            );
            std::process::exit(2);
        }
        command.build();
        let arguments = dashes::marked(&command, std::env::args_os());
        let matches = command.try_get_matches_from_mut(arguments);
        let matches = matches.unwrap_or_else(|e| refuse(tips::with_tip(e, &command)));
        let mut cli = Self::from_arg_matches(&matches).unwrap_or_else(|e| refuse(e));
        cli.check_format().unwrap_or_else(|e| refuse(e));
        let set = |path: &PathBuf| !path.as_os_str().is_empty();
        cli.global.cache_dir = cli.global.cache_dir.filter(set);
        cli.global.model = cli.global.model.filter(set);
        let explicit = Some(ValueSource::CommandLine);
        cli.global.model_is_explicit = matches.value_source("model") == explicit
            || matches.subcommand().is_some_and(|(_, m)| m.value_source("model") == explicit);
        cli
    }
}

impl Cli {
    /// Refuses a format that the command does not have.
    fn check_format(&self) -> Result<(), clap::Error> {
        if self.global.format != Format::Junit || self.command.has_junit() {
            return Ok(());
        }
        let problem = "--format junit: only eval has it; expected text, json or jsonl\n";
        Err(Self::command().error(clap::error::ErrorKind::InvalidValue, problem))
    }
}

/// Ends the program with an error of the command line, or with the help that was asked for.
fn refuse(error: clap::Error) -> ! {
    if error.use_stderr() && wants_json() {
        let text = in_own_words(&error.render().to_string());
        let mut paragraphs = text.trim_start_matches("pcache: ").split("\n\n");
        let message = paragraphs.next().unwrap_or_default().trim();
        let tip = paragraphs.find_map(|text| text.trim().strip_prefix("tip: "));
        failure::print(ErrorKind::Refused, message, tip, true);
        std::process::exit(error.exit_code());
    }
    if error.use_stderr() {
        let (mut stderr, text) = (std::io::stderr(), error.render());
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_colored = match color() {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => std::io::IsTerminal::is_terminal(&stderr) && !no_color,
        };
        let text = if is_colored { text.ansi().to_string() } else { text.to_string() };
        let _ = std::io::Write::write_all(&mut stderr, in_own_words(&text).as_bytes());
        std::process::exit(error.exit_code());
    }
    // Help that nobody could read was not given.
    let is_read = error.print().is_ok() && std::io::Write::flush(&mut std::io::stdout()).is_ok();
    std::process::exit(if is_read { error.exit_code() } else { 1 })
}

/// An error of the command line, as those of the commands are written.
fn in_own_words(error: &str) -> String {
    let own = error.replacen("error:", "pcache:", 1);
    own.replace("invalid digit found in string", "expected a whole number")
        .replace("number too large to fit in target type", "the number is too large")
        .replace("cannot parse integer from empty string", "expected a whole number")
}

/// Version of the program and of llama.cpp, and the processor's kernels.
fn version() -> String {
    let (version, kernels) = (env!("CARGO_PKG_VERSION"), pcache_engine::compute::kernels());
    format!("{version} ({LLAMA_CPP_BUILD}; kernels: {kernels})")
}

/// The command is one that no setting changes: a file that cannot matter stops nothing.
fn needs_no_settings() -> bool {
    let command = own_arguments().find(|arg| !arg.starts_with('-'));
    command.is_some_and(|command| ["completions", "man", "help"].contains(&command.as_str()))
}

/// Use of colour, before the command line is understood: help and errors have it, too.
fn color() -> ColorChoice {
    let given = given("--color").and_then(|value| ColorChoice::from_str(&value, false).ok());
    given.unwrap_or(ColorChoice::Auto)
}

/// Returns true if errors are to be JSON, before the command line is understood.
fn wants_json() -> bool {
    own_arguments().any(|arg| arg == "--json")
        || given("--format").is_some_and(|format| ["json", "jsonl"].contains(&format.as_str()))
}

/// Value of an option, before the command line is understood.
fn given(option: &str) -> Option<String> {
    let mut arguments = own_arguments().skip_while(|arg| arg.split('=').next() != Some(option));
    let first = arguments.next()?;
    first.split_once('=').map(|(_, value)| value.to_owned()).or_else(|| arguments.next())
}

/// Arguments of the program up to `--`, which ends its options.
fn own_arguments() -> impl Iterator<Item = String> {
    let arguments = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned());
    arguments.take_while(|arg| arg != "--")
}

/// Usage lines as the definition has them: clap's own would list what the environment sets as if it had to be given.
fn with_plain_usage(command: clap::Command) -> clap::Command {
    fn plain(command: clap::Command, path: &str) -> clap::Command {
        command.mut_subcommands(|c| {
            let usage = c.clone().render_usage().to_string();
            let usage =
                usage.trim_start_matches("Usage: ").replace("\n       ", &format!("\n       {path} "));
            let inner = format!("{path} {}", c.get_name());
            plain(c, &inner).override_usage(format!("{path} {usage}"))
        })
    }
    plain(command, "pcache")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
