//! `pcache map`: one answer for each record of a file or a stream.

use std::io::IsTerminal;

use anyhow::{Result, bail};
use same_file::Handle;

use super::app::App;
use super::args::{Map, Output as Format, OutputTo};
use super::failure::Failure;
use super::{place, sampling};
use crate::map::journal::journal_of;
use crate::map::layout::{Layout, stop_of};
use crate::map::output::Output;
use crate::map::question::Template;
use crate::map::records::{self, Records};
use crate::map::tally::Tally;
use crate::map::{self, Options, RecordFormat, Wording, input};

pub fn run(app: &App, args: &Map) -> Result<()> {
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
    if args.into == records::ERROR {
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
