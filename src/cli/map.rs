//! `pcache map`: one answer for each record of a file or a stream.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;
use same_file::Handle;

use super::app::App;
use super::failure::Failure;
use super::{place, sampling};
use crate::cache::open_state::CachePolicy;
use crate::cli::Run;
use crate::cli::args::dashes::text;
use crate::cli::args::values::named;
use crate::cli::args::{ConstraintArgs, Output as Format, ParamArgs, SamplingArgs, output};
use crate::map::journal::journal_of;
use crate::map::layout::Layout;
use crate::map::names::{self, stop_of};
use crate::map::output::Output;
use crate::map::question::Template;
use crate::map::records::{self, Records};
use crate::map::tally::Tally;
use crate::map::{self, Options, RecordFormat, Wording, input};
use crate::text::human;
use pcache_engine::constraint::Constraint;

/// Arguments of `map`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pcache map menu --input questions.txt         a question and an answer a line
  pcache map extract --input docs.jsonl --output answers.jsonl --field body
  pcache map rate --input in.csv --output out.csv --template \"{title}: {body}\"
  pcache map extract --input docs.jsonl | pcache map normalise --field answer
  pcache map extract --input docs.jsonl --output answers.jsonl --parallel 4
  pcache map dish --input in.csv --json-schema dish.json --columns dish,price

Records of JSON Lines and CSV come out as they went in, with the fields answer,
stop_reason and error added (--into NAME: NAME, NAME_stop_reason, error); white
space around an answer is removed. A record that cannot be answered has the
reason in its field error. With --output, the same command continues an
interrupted run. Failed records can be asked again:
  jq -c 'select(.stop_reason == null)' answers.jsonl |
    pcache map extract --output again.jsonl")]
pub struct Map {
    /// Key or name of a state, or a prompt file (built if missing)
    #[arg(value_name = "KEY", index = 1)]
    pub key: String,
    /// Records: .jsonl, .json, .csv, .tsv, lines; - is stdin
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub input: PathBuf,
    /// File for the answers [default: stdout]
    #[arg(short, long, value_name = "FILE", value_parser = output::file)]
    pub output: Option<PathBuf>,
    /// Format of the input, if its name does not say so
    #[arg(long, value_name = "FORMAT", value_parser = named(&RecordFormat::ALL, RecordFormat::name))]
    pub input_format: Option<RecordFormat>,
    /// Format of the output [default: by its name, else as the input]
    #[arg(long, value_name = "FORMAT", value_parser = named(&RecordFormat::ALL, RecordFormat::name))]
    pub output_format: Option<RecordFormat>,
    /// Delimiter of CSV columns, in the input and the output [default: ,]
    #[arg(long, value_name = "CHAR", value_parser = delimiter)]
    pub delimiter: Option<u8>,
    /// Answer only the first N records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Field of a record that holds the question
    #[arg(long, value_name = "NAME", default_value = "text", conflicts_with = "template")]
    pub field: String,
    /// Question; {NAME} inserts a field, \n a newline, {{ a {
    #[arg(long, value_name = "TEXT", value_parser = text())]
    pub template: Option<String>,
    /// Field for the answer
    #[arg(long, value_name = "NAME", default_value = "answer", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub into: String,
    /// With --json-schema: write these fields of the answer as columns
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', requires = "json_schema")]
    pub columns: Vec<String>,
    /// Replace fields that records already have
    #[arg(long)]
    pub replace: bool,
    /// Answer N at once; a few answers may differ (--exact)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub parallel: u32,
    /// With --parallel: the same bits as one at a time; slower
    #[arg(long, requires = "parallel")]
    pub exact: bool,
    /// Discard an existing output file and start over
    #[arg(long)]
    pub overwrite: bool,
    /// Fail (exit code 3) if the prompt cannot be restored
    #[arg(long)]
    pub require_hit: bool,
    /// Print a timing table on stderr
    #[arg(long)]
    pub stats: bool,
    /// Sampling.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Constrained output.
    #[command(flatten)]
    pub constraint: ConstraintArgs,
    /// Parameters that the state was built with; only needed to say where a LoRA adapter lies now.
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
}

fn run(app: &App, args: &Map) -> Result<()> {
    let is_typed = args.input.as_os_str() == "-" && std::io::stdin().is_terminal();
    // A bar would stand between the lines that are typed.
    let options = Options { progress: !is_typed, ..options(args)? };
    let policy = CachePolicy { no_cache: false, require_hit: args.require_hit };
    let place = place::find(app, &args.key, &args.params, policy)?.state;
    check_columns(args, options.constraint.as_ref())?;
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
        let answer = if args.columns.is_empty() { std::slice::from_ref(&args.into) } else { &args.columns };
        let stop = stop_of(&args.into);
        let own: Vec<&str> = answer.iter().chain([&stop]).map(String::as_str).collect();
        records.check_free(&own)?;
    }
    let layout = Layout::new(
        &records,
        format(app, args, &records)?,
        &args.into,
        args.delimiter.or(records.separator()).unwrap_or(b','),
    )?;
    let layout = layout.with_parts(args.columns.clone())?;
    let total = records::count(&args.input, args.input_format, args.delimiter)?;
    let open = |layout, run: &str| match &args.output {
        Some(path) => Output::to_file(app.call(), layout, path, run, args.overwrite),
        None => Output::printed(layout, Box::new(|text| app.write(text))),
    };
    let tally = map::run(app.call(), &place, &options, (records, total), layout, open)?;
    tell(app, &tally, args.stats)
}

/// Refuses columns that no answer would fill, and those that have another meaning.
fn check_columns(args: &Map, constraint: Option<&Constraint>) -> Result<()> {
    let known: Option<Vec<&String>> = match constraint {
        Some(Constraint::Schema(schema)) => {
            schema.get("properties").and_then(|p| p.as_object()).map(|p| p.keys().collect())
        }
        _ => None,
    };
    for (place, name) in args.columns.iter().enumerate() {
        let problem = match &known {
            _ if name.is_empty() => "a column needs a name".to_owned(),
            _ if args.columns[..place].contains(name) => format!("column {name:?} is named twice"),
            _ if [names::ERROR, &stop_of(&args.into)].contains(&name.as_str()) => {
                format!("column {name:?} says why an answer ended or failed")
            }
            Some(known) if !known.contains(&name) => {
                let known: Vec<&str> = known.iter().map(|name| name.as_str()).collect();
                format!("the schema has no property {name:?}; it has {}", known.join(", "))
            }
            _ => continue,
        };
        bail!(Failure::Usage(format!("--columns: {problem}")));
    }
    Ok(())
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
            Some(text) => Template::new(text)?,
        },
        asked: Wording { field: args.field.clone(), template: args.template.clone() },
        into: args.into.clone(),
        replace: args.replace,
        delimiter: args.delimiter,
        sampling: sampling::of_args(&args.sampling, args.sampling.seed),
        constraint: sampling::constraint(&args.constraint)?,
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
        RecordFormat::Tsv => {
            "the input is read as lines of text, but has tabs as TSV does; --input-format tsv reads its columns"
        }
        _ => {
            "the input is read as lines of text, but looks like JSON; --input-format jsonl reads it as records"
        }
    }
}

/// Returns the output's format: as asked for, by its name, or as the input.
fn format(app: &App, args: &Map, records: &Records) -> Result<RecordFormat> {
    if let Some(path) = &args.output
        && args.output_format.is_none()
        && path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"))
    {
        bail!(Failure::Usage(format!(
            "{} would hold JSON Lines and no JSON; name it .jsonl (jq -s . makes JSON of it), or pass --output-format jsonl",
            path.display()
        )));
    }
    let by_name = match &args.output {
        Some(path) => input::by_name(path),
        None if app.output() != Format::Text => Some(RecordFormat::Jsonl),
        None => None,
    };
    Ok(args.output_format.or(by_name).unwrap_or(records.format))
}

fn tell(app: &App, tally: &Tally, stats: bool) -> Result<()> {
    let took = app.started.elapsed().as_secs_f64();
    let rate = tally.answered as f64 / took.max(f64::MIN_POSITIVE);
    let took = format!("in {} ({rate:.1} records/s)", human::seconds(took));
    app.say(tally.text(&took, "cut off by --max-tokens or a full context"));
    if tally.goes_on {
        app.say("there are more; the same command without --limit continues");
    }
    if stats {
        app.say(tally.timings.table().trim_end());
    }
    tally.verdict()
}

/// A file, to see whether another path leads to it. A named pipe is not opened: that would wait for its other end.
fn handle_of_file(path: &Path) -> Option<Handle> {
    let is_file = std::fs::metadata(path).is_ok_and(|meta| meta.is_file());
    if is_file { Handle::from_path(path).ok() } else { None }
}

/// Refuses what cannot be written, and what would be written into the input, before anything is loaded.
fn check_files(app: &App, args: &Map) -> Result<()> {
    // Of devices and pipes, what is written does not come back.
    let is_file = |handle: &Handle| handle.as_file().metadata().is_ok_and(|meta| meta.is_file());
    let input = match args.input.as_os_str() == "-" {
        true => Handle::stdin().ok().filter(is_file),
        false => handle_of_file(&args.input),
    };
    let log = app.global.log.as_deref().and_then(handle_of_file);
    let mut written: Vec<Handle> = Vec::new();
    match &args.output {
        Some(path) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir());
            if let Some(folder) = folder {
                bail!("cannot write {}: there is no folder {}", path.display(), folder.display());
            }
            let names = [path, &journal_of(path)];
            written.extend(names.into_iter().filter_map(|name| handle_of_file(name)));
        }
        None => written.extend(Handle::stdout().ok()),
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
