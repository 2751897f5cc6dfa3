//! The command line: clap structs only.

use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::key::KvType;

/// Saves the state of a language model after a long prompt, and answers from it in milliseconds.
#[derive(Debug, Parser)]
#[command(
    name = "pcache",
    version,
    after_help = "\
A first session:
  pcache build -m model.gguf menu.txt        prints the state's key
  pcache ask KEY \"Is there soup today?\"      answers from the saved state
  pcache ls                                  what is saved, and what it costs
  pcache gc --max-size 10GiB                 throws away what was not used

stdout is data (a key, an answer, a table, JSON); everything else goes to stderr.
Exit codes: 0 done, 1 failed, 2 usage, 3 no such state or a miss under --require-hit, 4 corrupt,
130 interrupted."
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
pub struct Global {
    /// Folder of the saved states [default: pcache/states in your cache folder]
    #[arg(long, env = "PCACHE_DIR", value_name = "DIR", global = true, value_parser = path())]
    pub cache_dir: Option<PathBuf>,
    /// The GGUF file, or the name of one in pcache's models folder
    #[arg(short, long, env = "PCACHE_MODEL", value_name = "PATH", global = true, value_parser = path())]
    pub model: Option<PathBuf>,
    /// Threads that evaluate [default: the machine's cores]
    #[arg(long, value_name = "N", global = true, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Layers on a GPU, in builds that support one [default: 0; ask takes those of the state]
    #[arg(long, value_name = "N", global = true)]
    pub gpu_layers: Option<u32>,
    /// How results are printed; jsonl streams events as they happen
    #[arg(long, value_name = "FORMAT", global = true, default_value = "text")]
    pub output: Output,
    /// Short for --output json
    #[arg(long, global = true, conflicts_with = "output")]
    pub json: bool,
    /// Nothing on stderr but warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// More on stderr, llama.cpp's log included
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// Whether the model was named on the command line, and not by the environment.
    #[arg(skip)]
    pub model_is_explicit: bool,
}

impl Cli {
    /// Parses the program's arguments; prints help or an error and exits as clap does.
    pub fn of_process() -> Self {
        let matches = Self::command().get_matches();
        let mut cli = Self::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
        let set = |path: &PathBuf| !path.as_os_str().is_empty();
        cli.global.cache_dir = cli.global.cache_dir.filter(set);
        cli.global.model = cli.global.model.filter(set);
        let explicit = Some(ValueSource::CommandLine);
        cli.global.model_is_explicit = matches.value_source("model") == explicit
            || matches.subcommand().is_some_and(|(_, m)| m.value_source("model") == explicit);
        cli
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One object per result, one a line.
    Json,
    /// One object per event.
    Jsonl,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Evaluate prompts and save their states
    Build(Build),
    /// Answer questions from a saved state
    Ask(Ask),
    /// List the saved states
    Ls(Ls),
    /// Throw away states by age, number and size
    Gc(Gc),
}

/// Arguments of `build`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache build menu.txt                      uses the only model in pcache's models folder
  pcache build -m model.gguf a.txt b.txt     what the prompts share is evaluated and stored once
  pcache build --name menu menu.txt          then: pcache ask menu \"...\"
  generate-prompt | pcache build -           reads stdin
  pcache build --raw story.txt               no chat template; for base models")]
pub struct Build {
    /// Prompt files; - reads stdin
    #[arg(required = true, value_name = "PROMPT")]
    pub prompts: Vec<PathBuf>,
    /// A name for the state, beside its key
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Take the prompt as it is: no chat template, control tokens in it count
    #[arg(long)]
    pub raw: bool,
    /// How the cache's numbers are stored: smaller is less exact
    #[arg(long, value_enum, value_name = "TYPE", default_value_t)]
    pub kv_type: KvType,
    /// Print the timing table on stderr
    #[arg(long)]
    pub stats: bool,
}

/// Arguments of `ask`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache ask 4f2a91 \"Where was the plane going?\"
  pcache ask menu \"Is there soup?\" \"And cake?\"        each from the same restored state
  pcache ask menu --questions questions.txt --json     one question a line
  pcache ask menu --temp 0.8 --seed 7 --trials 3 \"Recommend a dish.\"
  pcache ask menu --stats \"Is there soup?\"             where the time went
  pcache ask menu --no-cache --stats \"Is there soup?\"  what it would cost without the cache")]
pub struct Ask {
    /// Key of the state (6 digits or more), or its name
    #[arg(value_name = "KEY")]
    pub key: String,
    /// Questions; without any they are read from stdin, as one
    #[arg(value_name = "QUESTION")]
    pub questions: Vec<String>,
    /// A file with one question a line; - reads stdin
    #[arg(long = "questions", value_name = "FILE", conflicts_with = "questions")]
    pub questions_file: Option<PathBuf>,
    /// Tokens of an answer at most
    #[arg(long, value_name = "N", default_value_t = 512, allow_negative_numbers = true)]
    pub max_tokens: usize,
    /// 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.0, value_parser = temperature, allow_negative_numbers = true)]
    pub temp: f32,
    /// Choose from the K likeliest tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 40, value_parser = clap::value_parser!(i32).range(0..))]
    pub top_k: i32,
    /// Choose from the likeliest tokens that together have probability P
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = probability)]
    pub top_p: f32,
    /// Choose from tokens at least P times as likely as the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = probability)]
    pub min_p: f32,
    /// Above 1, makes repetition less likely
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = penalty)]
    pub repeat_penalty: f32,
    /// Seed of the random choice, with --temp above 0
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub seed: u32,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
    /// Answer each question N times, with the seeds SEED, SEED+1, …
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub trials: u32,
    /// Fail with exit code 3 rather than evaluate any of the prompt
    #[arg(long, conflicts_with = "no_cache")]
    pub require_hit: bool,
    /// Evaluate the prompt anew, for comparison; reads no saved state and writes none
    #[arg(long)]
    pub no_cache: bool,
    /// Print the timing table on stderr
    #[arg(long)]
    pub stats: bool,
}

/// Arguments of `ls`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache ls
  pcache ls --sort size
  pcache ls --model smollm2 --json           only states of models with this in their file name

SIZE is all a state needs, OWN what would be freed without it; the rest is shared with other states.")]
pub struct Ls {
    /// Order of the rows; newest, largest or most first
    #[arg(long, value_enum, value_name = "BY", default_value = "used")]
    pub sort: Sort,
}

/// Orders of `ls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// By last use.
    Used,
    /// By when it was built.
    Created,
    /// By size.
    Size,
    /// By number of tokens.
    Tokens,
    /// By number of hits.
    Hits,
    /// By name, then key.
    Name,
}

/// Arguments of `gc`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache gc --dry-run                        what lies in the folder, and what nobody needs
  pcache gc --max-age 30d                    states not used for 30 days go
  pcache gc --max-size 10GiB                 then the least recently used, until all fits
  pcache gc --keep 20                        only the 20 most recently used stay

Without limits only leftovers go: segments of interrupted builds, staging files.")]
pub struct Gc {
    /// Bytes of the whole folder, as 10GiB or 500MB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_size: Option<u64>,
    /// Time since a state's last use, as 30d or 12h
    #[arg(long, value_name = "AGE", value_parser = humantime::parse_duration)]
    pub max_age: Option<std::time::Duration>,
    /// Keep at most N states, the most recently used
    #[arg(long, value_name = "N")]
    pub keep: Option<usize>,
    /// Say what would go, and let it stay
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// A path that may be empty: an environment variable that is set to nothing is as good as unset.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn size(text: &str) -> Result<u64, String> {
    let bytes: Result<bytesize::ByteSize, _> = text.parse();
    bytes.map(|b| b.as_u64()).map_err(|_| "expected a size, as 10GiB, 500MB or 1000000".into())
}

fn temperature(text: &str) -> Result<f32, String> {
    number(text, "a number from 0 to 100", |t| (0.0..=100.0).contains(&t))
}

fn probability(text: &str) -> Result<f32, String> {
    number(text, "a probability from 0 to 1", |p| (0.0..=1.0).contains(&p))
}

fn penalty(text: &str) -> Result<f32, String> {
    number(text, "a number above 0 and up to 100", |x| x > 0.0 && x <= 100.0)
}

fn number(text: &str, expected: &str, fits: impl Fn(f32) -> bool) -> Result<f32, String> {
    let value = text.parse().ok().filter(|v| fits(*v));
    value.ok_or_else(|| format!("expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_numbers_are_checked() {
        assert_eq!(size("10GiB"), Ok(10 << 30));
        assert!(size("ten").is_err());
        assert!(temperature("-1").is_err());
        assert!(temperature("nan").is_err());
        assert!(probability("1.5").is_err());
        assert!(penalty("0").is_err());
    }
}
