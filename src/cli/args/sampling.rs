//! How answers are sampled, and what shape they have.

use std::path::PathBuf;

use clap::Args;

use super::values::{penalty, probability, temperature};

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
