//! `pcache map`: one answer for each record of a file or a stream, in order.
//!
//! The model is loaded once. One after the other, each record starts from the restored state just as a question of `ask`
//! does; with `--parallel` the state is restored once and several records go on from it in the same batches.

mod fields;
mod incoming;
mod input;
mod journal;
mod layout;
mod one_by_one;
mod output;
mod question;
mod quotes;
mod records;
mod room;
mod tally;
mod together;

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::{Result, bail};

use super::app::App;
use super::failure::Failure;
use super::{place, sampling};
use crate::cache::opened::{Opened, Question, Use};
use crate::cache::progress::{Progress, Silent, Unit};
use crate::cache::source::named;
use crate::cli::args::{Map, Output as Format, OutputTo, RecordFormat};
use crate::text::human;
use incoming::Incoming;
use layout::{Layout, Outcome};
use output::Output;
use pcache_engine::generate::{Answer, Sampling, StopReason};
use pcache_engine::model::Model;
use pcache_engine::shape::Shape;
use pcache_engine::{EngineError, Slots};
use pcache_format::StateKey;
use pcache_store::Prefix;
use pcache_store::State;
use question::Template;
use records::{Record, Records};
use tally::Tally;

pub fn run(app: &App, args: &Map) -> Result<()> {
    let template = Template::of_args(args)?;
    let shape = sampling::shape(&args.shape)?;
    if args.into == records::ERROR {
        bail!(Failure::Usage(
            "--into error: that field says why there is no answer; choose another one".into()
        ));
    }
    let place = place::find(app, &args.key, &args.params)?;
    output::check(app, args)?;
    let is_typed = args.input.as_os_str() == "-" && std::io::stdin().is_terminal();
    if is_typed {
        app.say("type one question a line; Ctrl-D ends");
    }
    let records = Records::open(&args.input, args.input_format, args.delimiter)?;
    records.check_fields(&template.fields())?;
    if let Some(doubt) = records.doubt().filter(|_| args.input_format.is_none()) {
        app.warn(doubt);
    }
    if !args.replace {
        records.check_free(&[&args.into, &layout::stop_of(&args.into)])?;
    }
    let sampling = sampling::of_args(&args.sampling, args.sampling.seed);
    let layout = layout(app, args, &records)?;
    let run = run_id(&place.state.key(), args, &sampling, shape.as_ref(), &layout);
    let total = records::count(&args.input, args.input_format, args.delimiter)?;
    let json = matches!(shape, Some(Shape::Schema(_)));
    let format = records.format;
    let how = Use { no_cache: false, require_hit: args.require_hit };
    let mut tally = Tally { is_lines: layout.format == RecordFormat::Lines, ..Tally::default() };
    let size = |model: &Model, state: &State, prefix: &Prefix| {
        let room = room::first(model, prefix, args, format);
        room::check_memory(state, prefix, room)?;
        Ok((room, room.slots))
    };
    let (mut opened, slots, timings) = place.open(app.call(), how, shape.as_ref(), size)?;
    tally.timings = timings;
    let slots = room::exact(app, &mut opened, slots)?;
    // Only now: what cannot be answered should leave no file.
    let output = match &app.global.output {
        OutputTo::File(path) => Output::to_file(app, layout, path, &run, args.overwrite)?,
        _ => Output::to_stdout(app, layout)?,
    };
    let limit = args.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX).max(output.done()));
    let records = Incoming::of(records, limit);
    // A bar would stand between the lines that are typed.
    let progress = if is_typed { Box::new(Silent) } else { app.progress() };
    let mut work = Work { app, args, template, sampling, records, output, json, progress, tally: &mut tally };
    work.skip_done(limit.map_or(total, |limit| total.map(|total| total.min(limit))))?;
    let done = match slots {
        Slots::None => one_by_one::run(&mut opened, &mut work),
        slots => together::run(&mut opened, &mut work, slots),
    };
    work.progress.finish();
    done?;
    let is_complete = limit.is_none_or(|limit| work.tally.done() < limit || total == Some(limit));
    work.tally.goes_on = !is_complete && work.output.is_file();
    work.output.close(is_complete)?;
    opened.note_use();
    tally.tell(app, args.stats)
}

/// What the output holds: by what was asked for, its name, or as the input.
fn layout(app: &App, args: &Map, records: &Records) -> Result<Layout> {
    let by_name = match &app.global.output {
        OutputTo::File(path) => input::by_name(path),
        _ if app.output() != Format::Text => Some(RecordFormat::Jsonl),
        _ => None,
    };
    let format = args.output_format.or(by_name).unwrap_or(records.format);
    let has_columns = [RecordFormat::Csv, RecordFormat::Tsv].contains(&format);
    if let OutputTo::File(path) = &app.global.output
        && args.output_format.is_none()
        && input::is_json(path)
    {
        bail!(Failure::Usage(format!(
            "{} would hold JSON Lines and no JSON; name it .jsonl (jq -s . makes JSON of it), or pass --output-format jsonl",
            path.display()
        )));
    }
    let twice = records.columns.iter().enumerate().find(|(n, name)| records.columns[..*n].contains(name));
    if let Some((_, name)) = twice.filter(|_| format == RecordFormat::Jsonl) {
        bail!(Failure::Usage(format!(
            "there are two columns {name:?}, of which JSON Lines would keep one; write .csv"
        )));
    }
    let columns = match records.columns.as_slice() {
        [] if has_columns => records.names()?,
        known => known.to_vec(),
    };
    let delimiter = args.delimiter.unwrap_or(b',');
    Ok(Layout { format, into: args.into.clone(), columns, delimiter })
}

/// Names everything that the answers follow from but the records: by name, so that no change of the code changes it
/// unnoticed.
fn run_id(key: &StateKey, args: &Map, sampling: &Sampling, shape: Option<&Shape>, layout: &Layout) -> String {
    let number = |n: f32| n.to_string();
    let mut parts: Vec<(&str, String)> = vec![
        ("key", key.to_hex()),
        ("temperature", number(sampling.temperature)),
        ("top_k", sampling.top_k.to_string()),
        ("top_p", number(sampling.top_p)),
        ("min_p", number(sampling.min_p)),
        ("repeat_penalty", number(sampling.repeat_penalty)),
        ("seed", sampling.seed.to_string()),
        ("max_tokens", sampling.max_tokens.to_string()),
        ("format", layout.format.name().to_owned()),
        ("replace", args.replace.to_string()),
    ];
    parts.extend(sampling.stop.iter().map(|stop| ("stop", stop.clone())));
    parts.extend(shape.map(|shape| (shape.kind(), shape.source())));
    parts.push(("field", args.field.clone()));
    parts.extend(args.template.iter().map(|template| ("template", template.clone())));
    parts.push(("into", args.into.clone()));
    parts.extend(args.delimiter.map(|delimiter| ("delimiter", delimiter.to_string())));
    parts.extend(layout.columns.iter().map(|column| ("column", column.clone())));
    let parts: Vec<(&str, &str)> = parts.iter().map(|(name, value)| (*name, value.as_str())).collect();
    hex::encode(&blake3::derive_key("pcache map run v1", named(&parts).as_bytes())[..16])
}

/// A record, and what it asks or why it does not.
type Asked = (Record, Result<Question, Unasked>);

/// Why a record asks nothing.
enum Unasked {
    /// There is nothing in it.
    Blank,
    Problem(String),
}

impl From<Unasked> for Outcome {
    fn from(why: Unasked) -> Self {
        match why {
            Unasked::Blank => Self::Blank,
            Unasked::Problem(problem) => Self::Problem(problem),
        }
    }
}

/// Tokens that a record took.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    restored: usize,
    question: usize,
    answer: usize,
}

/// What comes next.
enum Arrival {
    Record(Record, Result<Question, Unasked>),
    /// There is none yet: whoever sends them has not.
    NotYet,
    End,
}

/// What a question is tokenised for.
#[derive(Clone)]
struct Asking {
    model: Model,
    state: Arc<State>,
    prefix: Arc<Prefix>,
}

impl Asking {
    fn of(opened: &Opened<'_>) -> Self {
        Self {
            model: opened.session.model().clone(),
            state: Arc::clone(&opened.state),
            prefix: Arc::clone(&opened.prefix),
        }
    }
}

/// What is done with each record.
struct Work<'a> {
    app: &'a App,
    args: &'a Map,
    template: Template,
    sampling: Sampling,
    records: Incoming,
    output: Output<'a>,
    /// Whether answers are JSON.
    json: bool,
    progress: Box<dyn Progress>,
    tally: &'a mut Tally,
}

impl Work<'_> {
    /// Passes over what an earlier run has answered.
    fn skip_done(&mut self, total: Option<usize>) -> Result<()> {
        self.tally.before = self.output.done();
        self.tally.failed_before = self.output.failed();
        if self.tally.before > 0 {
            let before = human::count(self.tally.before, "record");
            self.app.say(format!("{before} done already; going on from there"));
        }
        for _ in 0..self.tally.before {
            match self.records.wait()? {
                Some(record) => self.output.check_done(&record)?,
                None => bail!(Failure::Usage(
                    "the input has fewer records than there are answers; --overwrite begins it anew".into()
                )),
            }
        }
        self.progress.start("answering", total.unwrap_or(0) as u64, Unit::Records);
        self.progress.set(self.tally.before as u64);
        Ok(())
    }

    /// The next record with what is to be asked, or why that cannot be. With `wait` until there is one.
    fn next(&mut self, asking: &Asking, wait: bool) -> Result<Arrival> {
        let record = loop {
            if self.app.interrupted() {
                return Err(interruption(self));
            }
            match self.records.next(wait)? {
                Some(record) => break record,
                None if self.records.ended => return Ok(Arrival::End),
                None if wait => {}
                None => return Ok(Arrival::NotYet),
            }
        };
        let question = self.question(&record, asking);
        Ok(Arrival::Record(record, question))
    }

    /// What a record asks, or what becomes of it without.
    fn question(&self, record: &Record, asking: &Asking) -> Result<Question, Unasked> {
        if record.blank {
            return Err(Unasked::Blank);
        }
        let stop = layout::stop_of(&self.args.into);
        let taken = [self.args.into.as_str(), &stop].into_iter().find(|name| record.has(name));
        let text = match (&record.problem, taken.filter(|_| !self.args.replace)) {
            (Some(problem), _) => Err(problem.clone()),
            (None, Some(name)) => Err(records::taken(name)),
            (None, None) => self.template.fill(&record.fields),
        };
        let question = text.and_then(|text| {
            self.output.check(record)?;
            Question::fitting(&asking.model, &asking.state, &asking.prefix, text).map_err(|e| e.to_string())
        });
        question.map_err(Unasked::Problem)
    }

    /// What an answer is in the output. An answer in the shape of a JSON schema is a value; one that was cut off is none.
    fn outcome(&self, answer: &Answer) -> Outcome {
        let text = answer.text.trim();
        let stop = serde_json::to_value(answer.stop).unwrap_or_default();
        if !self.json {
            return Outcome::Answer { value: text.into(), stop };
        }
        match serde_json::from_str(text) {
            Ok(value) => Outcome::Answer { value, stop },
            Err(_) => {
                let tokens = human::count(answer.tokens.len(), "token");
                Outcome::Problem(format!(
                    "its JSON was cut off after {tokens} ({}): {text}",
                    stop.as_str().unwrap_or_default()
                ))
            }
        }
    }

    /// Writes what became of a record.
    fn finish(&mut self, record: &Record, outcome: &Outcome, cost: &Cost) -> Result<()> {
        match outcome {
            Outcome::Answer { stop, .. } => {
                self.tally.answered += 1;
                let cut =
                    [StopReason::MaxTokens, StopReason::ContextFull].map(|s| serde_json::to_value(s).ok());
                self.tally.cut += usize::from(cut.contains(&Some(stop.clone())));
            }
            Outcome::Problem(problem) => {
                self.tally.problems += 1;
                let (app, label) = (self.app, record.label());
                self.progress.aside(&mut || app.warn(format!("{label}: {problem}")));
            }
            Outcome::Blank => self.tally.blank += 1,
        }
        let mut written = Ok(());
        let output = &mut self.output;
        self.progress.aside(&mut || written = output.write(record, outcome));
        written?;
        self.progress.set(self.tally.done() as u64);
        let outcome = match outcome {
            Outcome::Answer { value, stop } => serde_json::json!({ "answer": value, "stop_reason": stop }),
            Outcome::Problem(problem) => serde_json::json!({ "error": problem }),
            Outcome::Blank => serde_json::json!({ "answer": null }),
        };
        self.app.record(
            "record",
            &serde_json::json!({
                "record": record.number,
                "outcome": outcome,
                "restored_tokens": cost.restored,
                "question_tokens": cost.question,
                "answer_tokens": cost.answer,
            }),
        );
        Ok(())
    }
}

/// That Ctrl-C ends the run, and what is kept.
fn interruption(work: &Work<'_>) -> anyhow::Error {
    let done = human::count(work.tally.done(), "record");
    let then = if work.output.is_file() { "; the same command goes on from there" } else { "" };
    Failure::Interrupted(format!("interrupted after {done}{then}")).into()
}

/// A shape that an answer cannot keep is that record's problem; anything else is everybody's.
fn problem_of(error: anyhow::Error) -> Result<Outcome> {
    match error.downcast_ref::<EngineError>() {
        Some(EngineError::Shape(problem)) => Ok(Outcome::Problem(problem.clone())),
        _ => Err(error),
    }
}
