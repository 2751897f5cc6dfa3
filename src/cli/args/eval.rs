//! Arguments of `eval`.

use std::path::PathBuf;

use clap::Args;

use super::prompt::ParamArgs;

/// Arguments of `eval`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache eval suite.toml                            a table of what passed
  pcache eval suite.toml --trials 5 --temp 0,0.8    five seeds at 0.8, one at 0
  pcache eval suite.toml --model a.gguf             another model than the suite names
  pcache eval suite.toml --output junit > report.xml
  pcache eval suite.toml --generate 5               questions that the model makes up itself

docs/eval.md describes suites. The exit code is 1 when a check fails.")]
pub struct Eval {
    /// The suite
    #[arg(value_name = "SUITE")]
    pub suite: PathBuf,
    /// Let the model make up N questions for each prompt, ask each in several wordings, and look for contradictions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub generate: Option<u32>,
    /// Seeds for each question, instead of what the suite says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub trials: Option<u32>,
    /// Temperatures, instead of what the suite says
    #[arg(long, value_name = "T", value_delimiter = ',', value_parser = super::values::temperature)]
    pub temp: Vec<f32>,
    /// The first seed, instead of what the suite says
    #[arg(long, value_name = "N")]
    pub seed: Option<u32>,
    /// Tokens of an answer at most, instead of what the suite says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// Only the questions of prompts with this name; may be given several times
    #[arg(long, value_name = "NAME")]
    pub prompt: Vec<String>,
    /// Share of the checked answers that must pass, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, value_parser = super::values::share)]
    pub pass: f64,
    /// Answers that disagree, or that the model takes back, are failures, too
    #[arg(long)]
    pub strict: bool,
    /// Show every answer, and not only those that failed or disagree
    #[arg(long)]
    pub all: bool,
    /// What the states are built with.
    #[command(flatten)]
    pub params: ParamArgs,
}
