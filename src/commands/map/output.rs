//! Answers on their way out, in the order of their records.
//!
//! A file has a journal beside it (`FILE.progress`) until it is complete: which run it belongs to, and after each answer
//! which record it was and how long the file was then. What a crash left half-written behind the last such line is cut
//! off, and what is answered is not asked again.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::records::{ERROR, Record};
use crate::cli::RecordFormat;
use crate::commands::app::App;
use crate::commands::failure::Failure;

/// What became of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The answer, and why it ended.
    Answer { value: Value, stop: Value },
    /// Why there is none.
    Problem(String),
}

/// How answers are written.
pub struct Layout {
    pub format: RecordFormat,
    /// The field for the answer.
    pub into: String,
    /// The columns of the input, where the output has columns.
    pub columns: Vec<String>,
}

impl Layout {
    /// What stands before the first answer.
    fn head(&self) -> String {
        self.row(self.names())
    }

    /// The columns of the output: those of the input, then the answer and what went wrong.
    fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.columns.iter().map(String::as_str).filter(|c| *c != self.into && *c != ERROR);
        names.chain([self.into.as_str(), ERROR])
    }

    /// One record with what became of it, as it is written.
    pub fn line(&self, record: &Record, outcome: &Outcome) -> String {
        match self.format {
            RecordFormat::Jsonl => format!("{}\n", Value::Object(self.object(record, outcome))),
            RecordFormat::Lines => format!("{}\n", one_line(outcome)),
            RecordFormat::Csv | RecordFormat::Tsv => {
                let fields = self.object(record, outcome);
                let cells: Vec<_> = self.names().map(|name| cell(fields.get(name))).collect();
                self.row(cells.iter().map(String::as_str))
            }
        }
    }

    fn object(&self, record: &Record, outcome: &Outcome) -> Map<String, Value> {
        let mut fields = record.fields.clone();
        // What an earlier stage said of its own answer is not said of this one.
        fields.shift_remove(ERROR);
        fields.shift_remove(STOP);
        match outcome {
            Outcome::Answer { value, stop } => {
                fields.insert(self.into.clone(), value.clone());
                fields.insert(STOP.to_owned(), stop.clone());
            }
            Outcome::Problem(problem) => {
                fields.insert(self.into.clone(), Value::Null);
                fields.insert(ERROR.to_owned(), problem.as_str().into());
            }
        }
        fields
    }

    fn row<'c>(&self, cells: impl Iterator<Item = &'c str>) -> String {
        let delimiter = match self.format {
            RecordFormat::Csv => b',',
            RecordFormat::Tsv => b'\t',
            RecordFormat::Jsonl | RecordFormat::Lines => return String::new(),
        };
        let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
        // Into memory, where nothing fails.
        let _ = writer.write_record(cells);
        let bytes = writer.into_inner().unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The field that says why an answer ended.
const STOP: &str = "stop_reason";

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// An answer as one line of text.
fn one_line(outcome: &Outcome) -> String {
    let text = match outcome {
        Outcome::Answer { value, .. } => cell(Some(value)),
        Outcome::Problem(problem) => format!("error: {problem}"),
    };
    text.split(['\n', '\r']).map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Where answers go.
pub struct Output<'a> {
    app: &'a App,
    layout: Layout,
    file: Option<Sink>,
}

struct Sink {
    path: PathBuf,
    file: fs_err::File,
    length: u64,
    journal: fs_err::File,
    /// Digests of the records that are answered, in order.
    done: Vec<String>,
}

/// The first line of a journal.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    run: String,
    begins_at: u64,
}

/// A line of a journal.
#[derive(Debug, Serialize, Deserialize)]
struct Step {
    record: String,
    end: u64,
}

impl<'a> Output<'a> {
    /// Answers go to stdout.
    pub fn to_stdout(app: &'a App, layout: Layout) -> Result<Self> {
        app.write(&layout.head())?;
        Ok(Self { app, layout, file: None })
    }

    /// Answers go to a file, behind those that the same run has put there already. `run` names the state and the options.
    pub fn to_file(app: &'a App, layout: Layout, path: &Path, run: &str, overwrite: bool) -> Result<Self> {
        let journal_path = journal_of(path);
        if overwrite {
            let _ = std::fs::remove_file(&journal_path);
        } else if let Some(sink) = resumed(path, &journal_path, run)? {
            return Ok(Self { app, layout, file: Some(sink) });
        }
        if !overwrite && fs_err::metadata(path).is_ok_and(|meta| meta.len() > 0) {
            bail!(Failure::Usage(format!(
                "{} exists, and is no run that was cut short; --overwrite begins it anew",
                path.display()
            )));
        }
        let head = layout.head();
        let length = head.len() as u64;
        // First, so that no file is without its journal.
        let mut journal = fs_err::File::create(&journal_path)?;
        write_line(&mut journal, &Head { run: run.to_owned(), begins_at: length })?;
        let mut file = fs_err::File::create(path)?;
        file.write_all(head.as_bytes())?;
        let path = path.to_owned();
        Ok(Self { app, layout, file: Some(Sink { path, file, length, journal, done: Vec::new() }) })
    }

    /// Whether an interrupted run can be gone on with.
    pub fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// How many records are answered already.
    pub fn done(&self) -> usize {
        self.file.as_ref().map_or(0, |sink| sink.done.len())
    }

    /// Refuses a record that is not the one that was answered in its place.
    pub fn check_done(&self, record: &Record) -> Result<()> {
        let Some(sink) = &self.file else { return Ok(()) };
        if sink.done.get(record.number - 1).is_some_and(|done| *done != record.digest()) {
            bail!(Failure::Usage(format!(
                "record {} is not the one that {} has an answer to; --overwrite begins it anew",
                record.number,
                sink.path.display()
            )));
        }
        Ok(())
    }

    /// Writes what became of the next record.
    pub fn write(&mut self, record: &Record, outcome: &Outcome) -> Result<()> {
        let line = self.layout.line(record, outcome);
        match &mut self.file {
            None => self.app.write(&line),
            Some(sink) => sink.write(&line, record),
        }
    }

    /// All records are answered: the journal goes.
    pub fn complete(self) -> Result<()> {
        let Some(sink) = self.file else { return Ok(()) };
        sink.file.sync_all()?;
        drop(sink.journal);
        Ok(fs_err::remove_file(journal_of(&sink.path))?)
    }
}

impl Sink {
    fn write(&mut self, line: &str, record: &Record) -> Result<()> {
        self.file.write_all(line.as_bytes()).context("what is answered so far is kept")?;
        self.length += line.len() as u64;
        write_line(&mut self.journal, &Step { record: record.digest(), end: self.length })
    }
}

fn write_line(file: &mut fs_err::File, value: &impl Serialize) -> Result<()> {
    Ok(file.write_all(format!("{}\n", serde_json::to_string(value)?).as_bytes())?)
}

fn journal_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".progress");
    name.into()
}

/// The file and its journal as a run that was cut short left them, with what is half-written cut off.
fn resumed(path: &Path, journal_path: &Path, run: &str) -> Result<Option<Sink>> {
    if !journal_path.exists() || !path.exists() {
        return Ok(None);
    }
    let text = fs_err::read_to_string(journal_path)?;
    // A line without its end was cut short.
    let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let Some((first, head)) = lines.next().and_then(|l| Some((l, serde_json::from_str::<Head>(l).ok()?)))
    else {
        return Ok(None);
    };
    if head.run != run && lines.clone().next().is_none() {
        // Nothing was answered yet, so nothing is lost.
        fs_err::File::create(path)?;
        return Ok(None);
    }
    if head.run != run {
        bail!(Failure::Usage(format!(
            "{} was begun with another state or other options; the same ones go on with it, --overwrite begins it anew",
            path.display()
        )));
    }
    let mut file = fs_err::OpenOptions::new().read(true).write(true).open(path)?;
    let written = file.metadata()?.len();
    if written < head.begins_at {
        file.set_len(0)?;
        return Ok(None);
    }
    let (mut length, mut done, mut valid) = (head.begins_at, Vec::new(), first.len());
    for line in lines {
        match serde_json::from_str::<Step>(line) {
            Ok(step) if (length..=written).contains(&step.end) => {
                length = step.end;
                valid += line.len();
                done.push(step.record);
            }
            _ => break,
        }
    }
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length))?;
    let mut journal = fs_err::OpenOptions::new().write(true).open(journal_path)?;
    journal.set_len(valid as u64)?;
    journal.seek(SeekFrom::End(0))?;
    Ok(Some(Sink { path: path.to_owned(), file, length, journal, done }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(fields: Value) -> Record {
        Record { number: 1, fields: fields.as_object().unwrap().clone(), problem: None }
    }

    fn layout(format: RecordFormat) -> Layout {
        Layout { format, into: "answer".into(), columns: vec!["id".into(), "text".into(), "answer".into()] }
    }

    fn answer(text: &str) -> Outcome {
        Outcome::Answer { value: text.into(), stop: "eos".into() }
    }

    #[test]
    fn records_keep_their_fields_and_get_an_answer() {
        let record = record(json!({"text": "q", "id": 7, "error": "old", "stop_reason": "old"}));
        let jsonl = layout(RecordFormat::Jsonl);
        assert_eq!(
            jsonl.line(&record, &answer("a\nb")),
            "{\"text\":\"q\",\"id\":7,\"answer\":\"a\\nb\",\"stop_reason\":\"eos\"}\n"
        );
        assert_eq!(
            jsonl.line(&record, &Outcome::Problem("why".into())),
            "{\"text\":\"q\",\"id\":7,\"answer\":null,\"error\":\"why\"}\n"
        );
        let csv = layout(RecordFormat::Csv);
        assert_eq!(csv.head(), "id,text,answer,error\n");
        assert_eq!(csv.line(&record, &answer("a, \"b\"")), "7,q,\"a, \"\"b\"\"\",\n");
        assert_eq!(csv.line(&record, &Outcome::Problem("why".into())), "7,q,,why\n");
        let lines = layout(RecordFormat::Lines);
        assert_eq!(lines.line(&record, &answer("a\n\n b\r\n")), "a b\n");
        assert_eq!(lines.line(&record, &Outcome::Problem("why".into())), "error: why\n");
    }
}
