//! `pcache bench`: what saving and restoring costs on this machine, and from how many tokens on it pays.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use super::app::{App, read_text};
use super::failure::Failure;
use super::{models, target};
use crate::bench::files::{names, read_all};
use crate::bench::measure::{self, Options, each_once};
use crate::bench::results::Results;
use crate::bench::{compare, html, markdown, pictures, text};
use crate::cache::target::Target;
use crate::cli::Run;
use crate::cli::args::values::{choice, named};
use crate::cli::args::{FlashAttention, Output, ParamArgs};
use pcache_format::{Codec, KvType};

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  pcache bench                            all stages, in a few minutes
  pcache bench --save before.json         saves every sample
  pcache bench --kv-type f16,q8_0 --codec raw,zstd
  pcache bench compare before.json after.json
  pcache bench report before.json -o report.html

Measures in a temporary store on the same disk. Your states are not touched."
)]
pub struct Bench {
    /// Subcommand; without one, measure.
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// Options of a measurement.
    #[command(flatten)]
    pub measure: Measure,
}

/// Subcommands on measurements.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Compare saved measurements, and mark differences beyond noise
    Compare(Compare),
    /// Draw measurements: an HTML, SVG or Markdown file
    Report(Report),
}

/// Options of a measurement.
#[derive(Debug, Clone, Args)]
pub struct Measure {
    /// Maximum prompt length [default: 2048, less if slow]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub max_tokens: Option<u32>,
    /// Number of samples of each stage, after one to warm up
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// KV cache data types to compare, e.g. f16,q8_0
    #[arg(long, value_name = "TYPES", value_delimiter = ',', default_value = "f16", value_parser = named(&KvType::ALL, KvType::name))]
    pub kv_type: Vec<KvType>,
    /// Codecs to compare, e.g. raw,zstd
    #[arg(long, value_name = "CODECS", value_delimiter = ',', default_value = "raw,zstd", value_parser = str::parse::<Codec>)]
    pub codec: Vec<Codec>,
    /// Flash attention; auto is off for an f16 cache on the CPU, else on [default: auto]
    #[arg(long, value_name = "WHEN", value_parser = choice::<FlashAttention>())]
    pub flash_attn: Option<FlashAttention>,
    /// Text to evaluate instead of the built-in one
    #[arg(long, value_name = "FILE")]
    pub prompt: Option<PathBuf>,
    /// Save all samples to a JSON file
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
}

/// Arguments of `bench compare`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache bench compare before.json after.json
  pcache bench compare laptop.json server.json desktop.json

Ratios are of times: 0.50 is half the time of the first file. Differences within
the spread of both files' samples are marked as noise.")]
pub struct Compare {
    /// Files saved by bench --save; all are compared with the first
    #[arg(value_name = "FILE", num_args = 2.., required = true)]
    pub files: Vec<PathBuf>,
    /// Compare every length and stage, not only the main ones
    #[arg(long)]
    pub all: bool,
}

/// Arguments of `bench report`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache bench report results.json -o report.html
  pcache bench report *.json -o report.md
  pcache bench report results.json -o report.svg    the main figure alone

The file is self-contained, and legible on light and dark backgrounds.")]
pub struct Report {
    /// Files saved by bench --save
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Report file: .html, .svg or .md
    #[arg(short, long = "output", alias = "out", value_name = "FILE")]
    pub out: PathBuf,
}

impl Run for Bench {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }

    fn evaluates(&self) -> bool {
        true
    }
}

fn run(app: &App, args: &Bench) -> Result<()> {
    match &args.command {
        None => measured(app, &args.measure),
        Some(BenchCommand::Compare(args)) => compared(app, args),
        Some(BenchCommand::Report(args)) => reported(app, args),
    }
}

fn measured(app: &App, args: &Measure) -> Result<()> {
    let text = args.prompt.as_deref().map(read_text).transpose()?;
    if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
        let file = args.prompt.as_deref().unwrap_or(Path::new("the prompt"));
        bail!("{} is empty: there is nothing to evaluate", file.display());
    }
    if let Some(file) = &args.save {
        check_can_be_written(file)?;
    }
    models::find(app).map(drop)?;
    let home = app.store()?;
    let params =
        |kv_type| ParamArgs { kv_type: Some(kv_type), flash_attn: args.flash_attn, ..ParamArgs::default() };
    let kv_types = each_once(&args.kv_type).into_iter();
    let targets: Vec<Target> =
        kv_types.map(|kv_type| target::of_args(app, Some(&home), &params(kv_type))).collect::<Result<_>>()?;
    app.signals.hear();
    let options = Options {
        codecs: args.codec.clone(),
        text,
        max_tokens: args.max_tokens.map(|n| n as usize),
        runs: args.runs as usize,
    };
    let results = measure::run(app.call(), &home, &targets, &options)?;
    // Shown first: a file that cannot be written loses nothing then.
    show(app, &results)?;
    if let Some(file) = &args.save {
        fs_err::write(file, json(&results)?)?;
        let file = file.display();
        app.say(format!("every sample is in {file}; pcache bench report {file} -o report.html draws it"));
    }
    Ok(())
}

/// A file that cannot be written should not be found after minutes of measuring.
fn check_can_be_written(file: &Path) -> Result<()> {
    let exists = file.exists();
    fs_err::OpenOptions::new().append(true).create(true).open(file)?;
    if !exists {
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

fn json(results: &Results) -> Result<String> {
    Ok(serde_json::to_string_pretty(results).context("cannot write the results as JSON")? + "\n")
}

fn show(app: &App, results: &Results) -> Result<()> {
    app.named_event("bench", results)?;
    match app.output() {
        Output::Text => app.write(&text::whole(results, app.explains()))?,
        Output::Json => app.print_json(results)?,
        Output::Jsonl => {}
    }
    text::warnings(results).into_iter().for_each(|warning| app.say(warning));
    Ok(())
}

fn compared(app: &App, args: &Compare) -> Result<()> {
    let all = read_all(&args.files)?;
    let Some(table) = compare::table(&all, &names(&args.files), args.all) else {
        bail!(Failure::Usage(
            "the measurements have nothing in common: no KV type, codec and length is in all of them".into()
        ));
    };
    let differences = compare::differences(&all);
    differences.iter().try_for_each(|row| app.named_event("difference", row))?;
    match app.output() {
        Output::Text => app.print(text::render(&table)),
        Output::Json => {
            app.print_json(&serde_json::json!({ "files": args.files, "differences": differences }))
        }
        Output::Jsonl => Ok(()),
    }
}

fn reported(app: &App, args: &Report) -> Result<()> {
    let all = read_all(&args.files)?;
    let names = names(&args.files);
    let ending = args.out.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let text = match ending.as_str() {
        "html" | "htm" => html::page(&all, &names),
        "md" => markdown::page(&all, &names),
        "svg" => pictures::first_tokens(&all, &names).standalone(),
        _ => bail!(Failure::Usage(format!(
            "{} says no kind of report; -o FILE ends with .html, .svg or .md",
            args.out.display()
        ))),
    };
    fs_err::write(&args.out, text)?;
    app.say(format!("wrote {}", args.out.display()));
    Ok(())
}
