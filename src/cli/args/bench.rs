//! Arguments of `bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::prompt::FlashAttention;
use super::values::named;
use pcache_format::Codec;
use pcache_format::KvType;

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  pcache bench                            the whole picture, in a few minutes
  pcache bench --save before.json         and keeps every sample
  pcache bench --kv-type f16,q8_0 --codec raw,zstd
  pcache bench compare before.json after.json
  pcache bench report before.json -o report.html

It measures in a store of its own, in the same folder and so on the same disk,
which is removed afterwards. Your states are not touched."
)]
pub struct Bench {
    /// What to do with measurements; without it, measure.
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// What to measure.
    #[command(flatten)]
    pub measure: Measure,
}

/// What can be done with measurements.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Print how measurements differ, and where that is more than noise
    Compare(Compare),
    /// Draw measurements: an HTML, SVG or Markdown file
    Report(Report),
}

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Measure {
    /// The longest prompt; without it 2,048, or less where evaluating that often would take minutes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub max_tokens: Option<u32>,
    /// Samples of each stage, after one that does not count
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// How the cache's numbers are stored; several, as f16,q8_0, are compared
    #[arg(long, value_name = "TYPES", value_delimiter = ',', default_value = "f16", value_parser = named(&KvType::ALL, KvType::name))]
    pub kv_type: Vec<KvType>,
    /// How states are stored; several are compared
    #[arg(long, value_name = "CODECS", value_delimiter = ',', default_value = "raw,zstd", value_parser = str::parse::<Codec>)]
    pub codec: Vec<Codec>,
    /// llama.cpp's fused attention; auto is off for an f16 cache on the CPU, else on [default: auto]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub flash_attn: Option<FlashAttention>,
    /// A text to evaluate instead of the built-in one; it is repeated if it is too short
    #[arg(long, value_name = "FILE")]
    pub prompt: Option<PathBuf>,
    /// Keep the measurements, with every sample, in a JSON file
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
}

/// Arguments of `bench compare`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache bench compare before.json after.json
  pcache bench compare laptop.json server.json desktop.json

Ratios are times: 0.50 means half the time of the first file. What lies within
the spread of both files' samples is marked as noise.")]
pub struct Compare {
    /// Files of bench --save or --json; all are compared with the first
    #[arg(value_name = "FILE", num_args = 2.., required = true)]
    pub files: Vec<PathBuf>,
    /// Every length and stage, and not only the longest prompt and the first tokens
    #[arg(long)]
    pub all: bool,
}

/// Arguments of `bench report`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache bench report results.json -o report.html
  pcache bench report *.json -o report.md
  pcache bench report results.json -o report.svg    the main picture alone

The file needs nothing from the network, and is legible in light and dark.")]
pub struct Report {
    /// Files of bench --save or --json
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The file to write; its ending says which kind: .html, .svg or .md
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
}
