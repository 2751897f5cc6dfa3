//! Options of sampling and of constraints.

use std::path::PathBuf;

use clap::Args;

use super::dashes::escaped_and_something;
use super::values::{penalty, probability, temperature};

/// Options of sampling.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Maximum number of tokens to generate
    #[arg(short = 'n', long, aliases = ["predict", "n-predict"], value_name = "N", default_value_t = 512, allow_negative_numbers = true)]
    pub max_tokens: usize,
    /// Temperature; 0 always takes the most likely token
    #[arg(long, alias = "temperature", value_name = "T", default_value_t = 0.0, value_parser = temperature, allow_negative_numbers = true)]
    pub temp: f32,
    /// Sample from the K most likely tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 40, value_parser = clap::value_parser!(i32).range(0..))]
    pub top_k: i32,
    /// Sample from the most likely tokens that together have probability P
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = probability)]
    pub top_p: f32,
    /// Sample from tokens at least P times as likely as the most likely one
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = probability)]
    pub min_p: f32,
    /// Penalty for repeated tokens; 1 is none
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = penalty)]
    pub repeat_penalty: f32,
    /// Seed, with --temp above 0
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub seed: u32,
    /// Stop sequence, \n for a newline; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = escaped_and_something())]
    pub stop: Vec<String>,
}

/// Constrained output.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Constrained output")]
pub struct ConstraintArgs {
    /// GBNF grammar (llama.cpp's) that answers must follow
    #[arg(long, value_name = "FILE", conflicts_with = "json_schema")]
    pub grammar: Option<PathBuf>,
    /// JSON schema that answers must satisfy
    #[arg(long, value_name = "FILE")]
    pub json_schema: Option<PathBuf>,
}
