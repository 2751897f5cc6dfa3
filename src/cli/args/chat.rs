//! Arguments of `chat`.

use std::path::PathBuf;

use clap::Args;

use super::ask::SamplingArgs;
use super::prompt::ParamArgs;

/// Arguments of `chat`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache chat menu
  pcache chat menu --temp 0.7
  pcache chat --resume monday             goes on with what /save monday kept

In a conversation:
  /save NAME    keep it as a state of its own
  /retry        another answer to the last message
  /drop [N]     forget the oldest N messages with their answers
  /reset        begin anew from the state
  /stats        where the time of the last answer went
  /help, /quit  (or Ctrl-D)
A line that ends with \\ goes on in the next one. Ctrl-C stops an answer.")]
pub struct Chat {
    /// Key of the state (6 digits or more), or its name
    #[arg(value_name = "KEY", required_unless_present = "resume", conflicts_with = "resume")]
    pub key: Option<String>,
    /// Go on with a conversation that /save kept
    #[arg(long, value_name = "NAME")]
    pub resume: Option<String>,
    /// The template that the state was built with, if not the model's own
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// A variable of the template that the state was built with
    #[arg(long = "template-arg", value_name = "NAME=VALUE", value_parser = super::values::argument)]
    pub template_args: Vec<(String, serde_json::Value)>,
    /// Print the timing table on stderr after each answer
    #[arg(long)]
    pub stats: bool,
    /// How answers are sampled.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// What the state was built with; only needed to say where a LoRA adapter lies now.
    #[command(flatten)]
    pub params: ParamArgs,
}
