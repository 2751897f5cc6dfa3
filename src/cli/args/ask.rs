//! Arguments of `ask`.

use std::path::PathBuf;

use clap::Args;

use super::prompt::ParamArgs;
use super::values::{penalty, probability, temperature};

/// Arguments of `ask`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache ask 4f2a91 \"Where was the plane going?\"
  pcache ask menu \"Is there soup?\" \"And cake?\"    each from the same state
  pcache ask menu --questions questions.txt --json one question a line
  pcache ask menu --temp 0.8 --seed 7 --trials 3 \"Recommend a dish.\"
  pcache ask menu --json-schema dish.schema.json \"Which soup is there?\"
  pcache ask menu --stats \"Is there soup?\"         where the time went
  pcache ask menu --no-cache --stats \"Soup?\"       the same without the cache")]
pub struct Ask {
    /// Key of the state (6 digits or more), or its name
    #[arg(value_name = "KEY", index = 1)]
    pub key: String,
    /// Questions; without any they are read from stdin, as one
    #[arg(value_name = "QUESTION", index = 2)]
    pub questions: Vec<String>,
    /// A file with one question a line; - reads stdin
    #[arg(long = "questions", value_name = "FILE", conflicts_with = "questions")]
    pub questions_file: Option<PathBuf>,
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
    /// How answers are sampled.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// What shape answers have.
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// What the state was built with; only needed to say where a LoRA adapter lies now.
    #[command(flatten)]
    pub params: ParamArgs,
}

/// How answers are sampled.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
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
}

/// What shape answers have.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "The shape of answers")]
pub struct ShapeArgs {
    /// A grammar in GBNF, llama.cpp's notation, that each answer follows
    #[arg(long, value_name = "FILE", conflicts_with = "json_schema")]
    pub grammar: Option<PathBuf>,
    /// A JSON schema that each answer is valid under
    #[arg(long, value_name = "FILE")]
    pub json_schema: Option<PathBuf>,
}
