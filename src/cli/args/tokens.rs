//! Arguments of `tokens`.

use std::path::PathBuf;

use clap::Args;

use super::prompt::{FramingArgs, ParamArgs};

/// Arguments of `tokens`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache tokens menu.txt                  how many, and where the segments fall
  pcache tokens menu.txt --list           every token with its place and number
  pcache tokens menu.txt --question \"Is there soup?\" --list
  pcache tokens menu.txt --raw --json

Nothing is evaluated or saved; only the vocabulary of the model is loaded.")]
pub struct Tokens {
    /// The prompt file; - reads stdin
    #[arg(value_name = "PROMPT")]
    pub prompt: PathBuf,
    /// Every token: its position, its number in the vocabulary, its text and who wrote it
    #[arg(long)]
    pub list: bool,
    /// Show the tokens of a question behind the state, too
    #[arg(long, value_name = "TEXT")]
    pub question: Option<String>,
    /// How the prompt is put before the model.
    #[command(flatten)]
    pub framing: FramingArgs,
    /// What the state would be built with.
    #[command(flatten)]
    pub params: ParamArgs,
}
