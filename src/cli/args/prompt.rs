//! Arguments of the commands that take prompts: what is put before the model, and with which parameters.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use jiff::civil::Date;

use super::values::{LoraFile, Ttl, argument, base, date, factor, finite, lora, named, size, ttl};
use crate::text::escapes::question_format;
use pcache_format::Codec;
use pcache_format::{KvType, RopeScaling};

/// How a state is kept.
#[derive(Debug, Clone, Default, Args)]
pub struct KeepArgs {
    /// A name for the state, beside its key
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// gc and budgets leave the state alone
    #[arg(long)]
    pub pin: bool,
    /// The state may go after this time, as 30d or 12h, or never; a build with --ttl starts anew
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    pub ttl: Option<Ttl>,
    /// Keep the whole folder under this size, as 20GiB: the least recently used states go
    #[arg(long, env = "PCACHE_MAX_SIZE", value_name = "SIZE", value_parser = size)]
    pub max_size: Option<u64>,
    /// How what is evaluated is stored: raw, or zstd, which takes a seventh less and restores slower; zstd:LEVEL
    #[arg(long, value_name = "CODEC", default_value = "raw", value_parser = str::parse::<Codec>)]
    pub codec: Codec,
    /// Print the timing table on stderr
    #[arg(long)]
    pub stats: bool,
}

/// How a prompt is put before the model.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "The prompt and its template")]
pub struct FramingArgs {
    /// Take the prompt as it is: no chat template, control tokens in it count
    #[arg(long, conflicts_with_all = ["template", "user", "system", "template_args", "date"])]
    pub raw: bool,
    /// With --raw: what a question is put into, as "Q: {question}\nA:"
    #[arg(long, value_name = "FORMAT", requires = "raw", value_parser = question_format)]
    pub question_format: Option<(String, String)>,
    /// A Jinja chat template instead of the model's own
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// The prompt is the beginning of the user's message, not the system message
    #[arg(long)]
    pub user: bool,
    /// A system message beside the prompt, which then is the user's; @FILE reads it from a file
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// A variable of the template, as enable_thinking=false
    #[arg(long = "template-arg", value_name = "NAME=VALUE", value_parser = argument)]
    pub template_args: Vec<(String, serde_json::Value)>,
    /// The date that the template writes, if it writes one, as 2026-01-31; else today
    #[arg(long, value_name = "DATE", value_parser = date)]
    pub date: Option<Date>,
}

/// Parameters that are part of the key.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Parameters of the state (part of its key)")]
pub struct ParamArgs {
    /// How the cache's numbers are stored: smaller is less exact [default: f16]
    #[arg(long, value_name = "TYPE", value_parser = named(&KvType::ALL, KvType::name))]
    pub kv_type: Option<KvType>,
    /// llama.cpp's fused attention; auto is off for an f16 cache on the CPU, else on [default: auto]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub flash_attn: Option<FlashAttention>,
    /// A LoRA adapter on top of the model, with its scale
    #[arg(long, value_name = "FILE[=SCALE]", value_parser = lora)]
    pub lora: Option<LoraFile>,
    /// How positions are scaled beyond the trained context
    #[arg(long, value_name = "KIND", value_parser = named(&RopeScaling::ALL, RopeScaling::name))]
    pub rope_scaling: Option<RopeScaling>,
    /// Base frequency of the rotary embedding
    #[arg(long, value_name = "X", value_parser = base, allow_negative_numbers = true)]
    pub rope_freq_base: Option<f32>,
    /// Factor of its frequencies; 0.5 doubles the context
    #[arg(long, value_name = "X", value_parser = factor, allow_negative_numbers = true)]
    pub rope_freq_scale: Option<f32>,
    /// YaRN: mix of extrapolation and interpolation
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    pub yarn_ext_factor: Option<f32>,
    /// YaRN: scaling of attention
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    pub yarn_attn_factor: Option<f32>,
    /// YaRN: low correction dimension
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    pub yarn_beta_fast: Option<f32>,
    /// YaRN: high correction dimension
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    pub yarn_beta_slow: Option<f32>,
    /// YaRN: the context that the model was first trained for
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub yarn_orig_ctx: Option<u32>,
}

/// When attention is fused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FlashAttention {
    /// By a fixed rule.
    Auto,
    /// Always.
    On,
    /// Never; needs an f16 cache.
    Off,
}
