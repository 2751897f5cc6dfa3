//! Arguments of the commands that take prompts: what is put before the model, and with which parameters.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use jiff::civil::Date;

use super::dashes::escaped;
use super::values::{LoraFile, Ttl, argument, base, budget, choice, date, factor, finite, lora, named, ttl};
use crate::text::escapes::question_format;
use pcache_format::Codec;
use pcache_format::{KvType, RopeScaling};

/// Options for keeping a state.
#[derive(Debug, Clone, Default, Args)]
pub struct KeepArgs {
    /// Name for the state
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Protect the state from gc and --max-size
    #[arg(long)]
    pub pin: bool,
    /// Expire the state after TIME, e.g. 30d or 12h, or never
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    pub ttl: Option<Ttl>,
    /// Evict least recently used states beyond e.g. 20GiB
    #[arg(long, env = "PCACHE_MAX_SIZE", hide_env_values = true, value_name = "SIZE", value_parser = budget)]
    pub max_size: Option<u64>,
    /// Codec of saved segments: raw, or zstd[:LEVEL] (14% smaller, slower)
    #[arg(long, value_name = "CODEC", default_value = "raw", value_parser = str::parse::<Codec>)]
    pub codec: Codec,
    /// Print a timing table on stderr
    #[arg(long)]
    pub stats: bool,
}

/// Prompt format.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Prompt format")]
pub struct PromptFormatArgs {
    /// No chat template; special tokens in it are parsed
    #[arg(long, conflicts_with_all = ["template", "user", "system", "template_args", "date"])]
    pub raw: bool,
    /// With --raw: format of questions, e.g. "Q: {question}\nA:"
    #[arg(long, value_name = "FORMAT", requires = "raw", value_parser = question_format)]
    pub question_format: Option<(String, String)>,
    /// Jinja chat template instead of the model's own
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// Put the prompt into the user, not the system message
    #[arg(long)]
    pub user: bool,
    /// System message before the prompt, \n for a newline; @FILE reads a file
    #[arg(long, value_name = "TEXT", value_parser = escaped())]
    pub system: Option<String>,
    /// Variable of the template, e.g. enable_thinking=false
    #[arg(long = "template-arg", value_name = "NAME=VALUE", value_parser = argument)]
    pub template_args: Vec<(String, serde_json::Value)>,
    /// Date for templates that write one, e.g. 2026-01-31 [default: today]
    #[arg(long, value_name = "DATE", value_parser = date)]
    pub date: Option<Date>,
}

/// Parameters that are part of the key.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Parameters of the state, part of its key")]
pub struct ParamArgs {
    /// KV cache data type, smaller is less exact [default: f16]
    #[arg(long, value_name = "TYPE", value_parser = named(&KvType::ALL, KvType::name))]
    pub kv_type: Option<KvType>,
    /// Flash attention; auto is off for an f16 cache on the CPU, else on [default: auto]
    #[arg(long, value_name = "WHEN", value_parser = choice::<FlashAttention>())]
    pub flash_attn: Option<FlashAttention>,
    /// LoRA adapter, with its scale
    #[arg(long, value_name = "FILE[=SCALE]", value_parser = lora)]
    pub lora: Option<LoraFile>,
    /// RoPE scaling beyond the trained context
    #[arg(long, value_name = "KIND", value_parser = named(&RopeScaling::ALL, RopeScaling::name))]
    pub rope_scaling: Option<RopeScaling>,
    /// RoPE base frequency
    #[arg(long, value_name = "X", value_parser = base, allow_negative_numbers = true)]
    pub rope_freq_base: Option<f32>,
    /// RoPE frequency scale; 0.5 doubles the context
    #[arg(long, value_name = "X", value_parser = factor, allow_negative_numbers = true)]
    pub rope_freq_scale: Option<f32>,
    /// YaRN extrapolation mix factor
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    pub yarn_ext_factor: Option<f32>,
    /// YaRN attention scale
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    pub yarn_attn_factor: Option<f32>,
    /// YaRN low correction dimension
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    pub yarn_beta_fast: Option<f32>,
    /// YaRN high correction dimension
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    pub yarn_beta_slow: Option<f32>,
    /// YaRN original context size of the model
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub yarn_orig_ctx: Option<u32>,
}

/// Choice of fused attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FlashAttention {
    /// By a fixed rule.
    Auto,
    /// Always.
    On,
    /// Never; needs an f16 cache.
    Off,
}
