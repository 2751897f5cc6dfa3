//! Arguments of `extend`.

use std::path::PathBuf;

use clap::Args;

use super::prompt::{KeepArgs, ParamArgs};

/// Arguments of `extend`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache extend menu today.txt                      the prompt, and today.txt behind it
  pcache extend menu today.txt --name menu          and the name goes to the new state
  pcache extend base today.txt --replace-from \"## Today\" --name menu
                                                    each day: what follows the line
                                                    \"## Today\" is replaced, and the name goes
                                                    over from yesterday's version

Evaluated are the segments of 256 tokens from the one on where old and new
part. The old state stays until gc takes it.")]
pub struct Extend {
    /// Key of the state (6 digits or more), or its name
    #[arg(value_name = "KEY", index = 1)]
    pub key: String,
    /// The text to add; - reads stdin
    #[arg(value_name = "UPDATE", index = 2)]
    pub update: PathBuf,
    /// Put the text in the place of all that follows this line of the prompt
    #[arg(long, value_name = "LINE")]
    pub replace_from: Option<String>,
    /// How the new state is kept.
    #[command(flatten)]
    pub keep: KeepArgs,
    /// What the state was built with; only needed to say where a LoRA adapter lies now.
    #[command(flatten)]
    pub params: ParamArgs,
}
