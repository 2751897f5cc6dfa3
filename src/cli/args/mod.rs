//! The command line: clap structs, the values of options, and the config file that gives them other defaults.

pub mod config;
mod output;
pub mod prompt;
pub mod sampling;
pub mod values;

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser};

use super::Command;
use config::Config;
use output::OutputParser;
pub use output::{Output, OutputTo};
pub use prompt::{FlashAttention, FramingArgs, KeepArgs, ParamArgs};
pub use sampling::{SamplingArgs, ShapeArgs};
use values::path;
pub use values::{LoraFile, Ttl};

/// Saves the state of a language model after a long prompt, and answers from it in milliseconds.
#[derive(Debug, Parser)]
#[command(
    name = "pcache",
    version,
    propagate_version = true,
    after_help = "\
A first session:
  pcache build -m model.gguf menu.txt     prints the state's key
  pcache ask KEY \"Is there soup today?\"   answers from the saved state
  pcache ls                               what is saved, and what it costs
  pcache gc --max-size 10GiB              throws away what was not used

stdout is data (a key, an answer, a table, JSON), stderr is talk.
Exit codes: 0 done; 1 failed; 2 usage; 3 no such state, or a miss under
--require-hit; 4 corrupt and not healed; 130 interrupted."
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Folder of the saved states [default: pcache/states in your cache folder]
    #[arg(long, env = "PCACHE_DIR", value_name = "DIR", global = true, value_parser = path())]
    pub cache_dir: Option<PathBuf>,
    /// Use a store that belongs to another user, who could put forged states into it
    #[arg(long, global = true)]
    pub trust_owner: bool,
    /// The GGUF file, or the name of a model that pcache models lists
    #[arg(short, long, env = "PCACHE_MODEL", value_name = "PATH", global = true, value_parser = path())]
    pub model: Option<PathBuf>,
    /// Threads that evaluate [default: the machine's cores]
    #[arg(long, value_name = "N", global = true, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Layers on a GPU, in builds that support one [default: 0]
    #[arg(long, value_name = "N", global = true)]
    pub gpu_layers: Option<u32>,
    /// Use only what this very machine and program computed: answers are then
    /// bit-identical to those without a cache
    #[arg(long, global = true)]
    pub same_compute: bool,
    /// How results are printed; jsonl streams events as they happen, junit is for eval. For map also a file
    #[arg(long, value_name = "FORMAT", global = true, default_value = "text", value_parser = OutputParser)]
    pub output: OutputTo,
    /// Short for --output json
    #[arg(long, global = true, conflicts_with = "output")]
    pub json: bool,
    /// Append every stage as it happens to FILE, as JSON lines (docs/log.md)
    #[arg(long, value_name = "FILE", global = true, value_parser = path())]
    pub log: Option<PathBuf>,
    /// Nothing on stderr but warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// More on stderr: why something is a miss; twice (-vv): llama.cpp's log, too
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Whether the model was named on the command line, and not by the environment.
    #[arg(skip)]
    pub model_is_explicit: bool,
}

impl Cli {
    /// Parses the program's arguments, with the config file's values as defaults; prints help or an error and exits as
    /// clap does.
    pub fn of_process() -> Self {
        let config = Config::of_user().unwrap_or_else(|e| {
            // Help is given all the same: this ends the program when it was asked for.
            let _ = Self::command().get_matches();
            // A file that cannot be understood should not change what a command does without a word.
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("pcache: {e}\n"));
            std::process::exit(2);
        });
        let matches = with_plain_usage(config.applied_to(Self::command())).get_matches();
        let mut cli = Self::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
        cli.check_output().unwrap_or_else(|e| e.exit());
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
    /// Refuses a way of printing that the command does not have.
    fn check_output(&self) -> Result<(), clap::Error> {
        let problem = match &self.global.output {
            OutputTo::File(_) if self.command.writes_a_file() => return Ok(()),
            OutputTo::Junit if self.command.has_junit() => return Ok(()),
            OutputTo::File(path) => format!("--output {}: only map writes to a file", path.display()),
            OutputTo::Junit => "--output junit: only eval has it".into(),
            OutputTo::Format(_) => return Ok(()),
        };
        let problem = format!("{problem}; expected text, json or jsonl\n");
        Err(Self::command().error(clap::error::ErrorKind::InvalidValue, problem))
    }
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
