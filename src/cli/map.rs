//! `pcache map`: one answer for each record of a file or a stream.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use same_file::Handle;

use super::app::App;
use super::failure::Failure;
use super::{place, sampling};
use crate::cli::Run;
use crate::cli::args::values::named;
use crate::cli::args::{Output as Format, OutputTo, ParamArgs, SamplingArgs, ShapeArgs};
use crate::map::journal::journal_of;
use crate::map::layout::Layout;
use crate::map::names::{self, stop_of};
use crate::map::output::Output;
use crate::map::question::Template;
use crate::map::records::{self, Records};
use crate::map::tally::Tally;
use crate::map::{self, Options, RecordFormat, Wording, input};

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

impl Run for Map {
    fn run(&self, app: &App) -> Result<()> {
        run(app, self)
    }

    fn evaluates(&self) -> bool {
        true
    }

    fn writes_a_file(&self) -> bool {
        true
    }
}

fn run(app: &App, args: &Map) -> Result<()> {
    let is_typed = args.input.as_os_str() == "-" && std::io::stdin().is_terminal();
    // A bar would stand between the lines that are typed.
    let options = Options { progress: !is_typed, ..options(args)? };
    let place = place::find(app, &args.key, &args.params)?;
    check_files(app, args)?;
    if is_typed {
        app.say("type one question a line; Ctrl-D ends");
    }
    let records = Records::open(&args.input, args.input_format, args.delimiter)?;
    records.check_fields(&options.template.fields())?;
    if let Some(doubt) = records.doubt().filter(|_| args.input_format.is_none()) {
        app.warn(doubtful(doubt));
    }
    if !args.replace {
        records.check_free(&[&args.into, &stop_of(&args.into)])?;
    }
    let layout =
        Layout::of(&records, format(app, args, &records)?, &args.into, args.delimiter.unwrap_or(b','))?;
    let total = records::count(&args.input, args.input_format, args.delimiter)?;
    let open = |layout, run: &str| match &app.global.output {
        OutputTo::File(path) => Output::to_file(layout, path, run, args.overwrite),
        _ => Output::printed(layout, Box::new(|text| app.write(text))),
    };
    let tally = map::run(app.call(), &place, &options, (records, total), layout, open)?;
    tell(app, &tally, args.stats)
}

fn options(args: &Map) -> Result<Options> {
    if args.into == names::ERROR {
        bail!(Failure::Usage(
            "--into error: that field says why there is no answer; choose another one".into()
        ));
    }
    Ok(Options {
        template: match &args.template {
            None => Template::field(&args.field),
            Some(text) => Template::of(text)?,
        },
        asked: Wording { field: args.field.clone(), template: args.template.clone() },
        into: args.into.clone(),
        replace: args.replace,
        delimiter: args.delimiter,
        sampling: sampling::of_args(&args.sampling, args.sampling.seed),
        shape: sampling::shape(&args.shape)?,
        parallel: args.parallel,
        exact: args.exact,
        require_hit: args.require_hit,
        limit: args.limit,
        progress: true,
    })
}

fn doubtful(looks_like: RecordFormat) -> &'static str {
    match looks_like {
        RecordFormat::Csv => {
            "the input is read as lines of text, but begins as CSV does; --input-format csv reads its columns"
        }
        _ => {
            "the input is read as lines of text, but looks like JSON; --input-format jsonl reads it as records"
        }
    }
}

/// What the output holds: by what was asked for, its name, or as the input.
fn format(app: &App, args: &Map, records: &Records) -> Result<RecordFormat> {
    if let OutputTo::File(path) = &app.global.output
        && args.output_format.is_none()
        && path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"))
    {
        bail!(Failure::Usage(format!(
            "{} would hold JSON Lines and no JSON; name it .jsonl (jq -s . makes JSON of it), or pass --output-format jsonl",
            path.display()
        )));
    }
    let by_name = match &app.global.output {
        OutputTo::File(path) => input::by_name(path),
        _ if app.output() != Format::Text => Some(RecordFormat::Jsonl),
        _ => None,
    };
    Ok(args.output_format.or(by_name).unwrap_or(records.format))
}

fn tell(app: &App, tally: &Tally, stats: bool) -> Result<()> {
    app.say(tally.text("cut off by --max-tokens or a full context"));
    if tally.goes_on {
        app.say("there are more; the same command without --limit goes on from here");
    }
    if stats {
        app.say(tally.timings.table().trim_end());
    }
    tally.verdict()
}

/// Refuses what cannot be written, and what would be written into the input, before anything is loaded.
fn check_files(app: &App, args: &Map) -> Result<()> {
    let input = if args.input.as_os_str() == "-" { Handle::stdin() } else { Handle::from_path(&args.input) };
    // Of devices and pipes, what is written does not come back.
    let is_file = |handle: &Handle| handle.as_file().metadata().is_ok_and(|meta| meta.is_file());
    let input = input.ok().filter(is_file);
    let log = app.global.log.as_ref().and_then(|log| Handle::from_path(log).ok()).filter(is_file);
    let mut written: Vec<Handle> = Vec::new();
    match &app.global.output {
        OutputTo::File(path) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir());
            if let Some(folder) = folder {
                bail!("cannot write {}: there is no folder {}", path.display(), folder.display());
            }
            let names = [path, &journal_of(path)];
            written.extend(names.into_iter().filter_map(|name| Handle::from_path(name).ok()));
        }
        _ => written.extend(Handle::stdout().ok()),
    }
    if log.as_ref().is_some_and(|log| written.contains(log)) {
        bail!(Failure::Usage("the log and the output would be one file; choose another name for one".into()));
    }
    written.extend(log);
    if input.is_some_and(|input| written.contains(&input)) {
        let input = input::name(&args.input);
        bail!(Failure::Usage(format!("{input} would be read and written at once; choose another output")));
    }
    Ok(())
}
