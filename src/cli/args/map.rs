//! Arguments of `map`.

use std::path::PathBuf;

use clap::Args;

use super::ask::{SamplingArgs, ShapeArgs};
use super::prompt::ParamArgs;
use super::values::named;
use crate::map::RecordFormat;

/// Arguments of `map`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache map menu --input questions.txt                 one question a line, one answer a line
  pcache map extract --input docs.jsonl --output answers.jsonl --field text
  pcache map reviews --input reviews.csv --output rated.csv --template \"{title}: {body}\"
  pcache map extract --input docs.jsonl | pcache map normalise --field answer --into employer
  pcache map extract --input docs.jsonl --output answers.jsonl --parallel 4
  pcache map extract --input docs.jsonl --json-schema person.schema.json --output people.jsonl

Records of JSON Lines and CSV come out as they went in, with the fields answer,
stop_reason and error added (--into NAME: NAME, NAME_stop_reason, error); white
space around an answer is cut off. A record that cannot be answered has the
reason in its field error. A run that was cut short goes on where it stopped when
the same command is given again; what has failed can be asked again:
  jq -c 'select(.stop_reason == null)' answers.jsonl | pcache map extract --output again.jsonl")]
pub struct Map {
    /// Key of the state (6 digits or more), or its name
    #[arg(value_name = "KEY", index = 1)]
    pub key: String,
    /// The records: .jsonl, .json (an array), .csv, .tsv, or lines of text; - reads stdin
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub input: PathBuf,
    /// What the input holds, if its name does not say so
    #[arg(long, value_name = "FORMAT", value_parser = named(&RecordFormat::ALL, RecordFormat::name))]
    pub input_format: Option<RecordFormat>,
    /// What the output holds [default: what its name says, else what the input holds]
    #[arg(long, value_name = "FORMAT", value_parser = named(&RecordFormat::ALL, RecordFormat::name))]
    pub output_format: Option<RecordFormat>,
    /// What is between the columns of CSV, in the input and the output [default: ,]
    #[arg(long, value_name = "CHAR", value_parser = delimiter)]
    pub delimiter: Option<u8>,
    /// The first N records only; without it the same command goes on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// The field of a record that is asked
    #[arg(long, value_name = "NAME", default_value = "text", conflicts_with = "template")]
    pub field: String,
    /// What is asked instead, with fields in braces; {{ and }} are braces, \n a new line
    #[arg(long, value_name = "TEXT")]
    pub template: Option<String>,
    /// The field for the answer
    #[arg(long, value_name = "NAME", default_value = "answer", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub into: String,
    /// Put the answer, and why it ended, in the place of fields that records came with
    #[arg(long)]
    pub replace: bool,
    /// Answer N records in the same batches: faster, and where two tokens are nearly as likely an answer may differ
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub parallel: u32,
    /// With --parallel: give each record cells of its own, so that every answer is the one that it has alone,
    /// to the bit; slower, and one after the other where this machine's kernels cannot
    #[arg(long, requires = "parallel")]
    pub exact: bool,
    /// Begin anew where the output exists
    #[arg(long)]
    pub overwrite: bool,
    /// Fail with exit code 3 rather than evaluate any of the prompt
    #[arg(long)]
    pub require_hit: bool,
    /// Print where the time went on stderr
    #[arg(long)]
    pub stats: bool,
    /// How answers are sampled.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// What shape answers have.
    #[command(flatten)]
    pub shape: ShapeArgs,
    /// What the state was built with; only needed to say where a LoRA adapter lies now.
    #[command(flatten)]
    pub params: ParamArgs,
}

/// One character that parts columns; `\t` or `tab` for a tab.
fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"\\t" | b"tab" => Ok(b'\t'),
        [one] if !b"\"\r\n".contains(one) && one.is_ascii() => Ok(*one),
        _ => Err("expected one character, as ; or |, or tab".into()),
    }
}
