//! Answers on their way out, in the order of their records.
//!
//! A file has a journal beside it (`FILE.progress`) until it is complete: which run it belongs to, and after each answer
//! which record it was and how long the file was then. What a crash left half-written behind the last such line is cut
//! off, and what is answered is not asked again.

use std::fs::{File, TryLockError};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use same_file::Handle;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fields::Fields;
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
    /// Nothing was asked, so there is nothing.
    Blank,
}

/// How answers are written.
pub struct Layout {
    pub format: RecordFormat,
    /// The field for the answer.
    pub into: String,
    /// The columns of the input, where the output has columns.
    pub columns: Vec<String>,
    /// What stands between columns of CSV.
    pub delimiter: u8,
}

/// The field that says why an answer ended, for an answer in the field `into`.
pub fn stop_of(into: &str) -> String {
    if into == ANSWER { STOP.to_owned() } else { format!("{into}_{STOP}") }
}

/// The field for answers if no other is named.
pub const ANSWER: &str = "answer";
const STOP: &str = "stop_reason";

impl Layout {
    /// What stands before the first answer.
    fn head(&self) -> String {
        self.row(self.names())
    }

    /// The columns of the output: those of the input, then those of its own that are not among them: the answer, why it
    /// ended, and what went wrong.
    fn names(&self) -> impl Iterator<Item = String> {
        let own = [self.into.clone(), stop_of(&self.into), ERROR.to_owned()];
        let own = own.into_iter().filter(|name| !self.columns.contains(name));
        self.columns.iter().cloned().chain(own)
    }

    /// One record with what became of it, as it is written.
    pub fn line(&self, record: &Record, outcome: &Outcome) -> String {
        match self.format {
            RecordFormat::Jsonl => format!("{}\n", self.object(record, outcome).line()),
            RecordFormat::Lines => format!("{}\n", one_line(outcome)),
            RecordFormat::Csv | RecordFormat::Tsv => self.row(self.cells(record, outcome).into_iter()),
        }
    }

    fn object(&self, record: &Record, outcome: &Outcome) -> Fields {
        let mut fields = record.fields.clone();
        match outcome {
            Outcome::Answer { value, stop } => {
                if record.failed_before(&self.into) {
                    fields.remove(ERROR);
                }
                fields.set(&self.into, value);
                fields.set(&stop_of(&self.into), stop);
            }
            Outcome::Problem(_) | Outcome::Blank => {
                // What the record came with stays until there is an answer.
                if fields.get(&self.into).is_none() {
                    fields.set(&self.into, &Value::Null);
                }
                if let Some(problem) = self.problem(record, outcome) {
                    fields.set(ERROR, &problem.into());
                }
            }
        }
        fields
    }

    /// The cells of a row.
    fn cells(&self, record: &Record, outcome: &Outcome) -> Vec<String> {
        let by_place = record.fields.cells();
        let same = record.fields.names().eq(self.columns.iter().map(String::as_str));
        let (answer, stop) = match outcome {
            Outcome::Answer { value, stop } => (Some(cell(value)), Some(cell(stop))),
            // What the record came with stays there.
            Outcome::Problem(_) | Outcome::Blank => (None, None),
        };
        let own = |place: usize, name: &str| {
            let came = if same { by_place.get(place).cloned() } else { record.fields.cell(name) };
            let new = match name {
                ERROR => Some(self.problem(record, outcome).unwrap_or_default()),
                _ if name == self.into => answer.clone(),
                _ if name == stop_of(&self.into) => stop.clone(),
                _ => None,
            };
            new.or(came).unwrap_or_default()
        };
        self.names().enumerate().map(|(place, name)| own(place, &name)).collect()
    }

    /// What is wrong with a record: that it has no answer, or what it came with.
    fn problem(&self, record: &Record, outcome: &Outcome) -> Option<String> {
        let before = record.fields.cell(ERROR).filter(|error| !error.is_empty());
        let before = before.filter(|_| !record.failed_before(&self.into));
        match (outcome, before) {
            (Outcome::Problem(problem), Some(before)) if !problem.ends_with(&before) => {
                Some(format!("{problem}; it came with the error: {before}"))
            }
            (Outcome::Problem(problem), _) => Some(problem.clone()),
            (Outcome::Answer { .. } | Outcome::Blank, before) => before,
        }
    }

    /// Why a record has no place in the columns, if it has none.
    fn check(&self, record: &Record) -> Result<(), String> {
        let has_columns = [RecordFormat::Csv, RecordFormat::Tsv].contains(&self.format);
        let has_place = |name: &&str| self.names().any(|column| column == *name);
        match record.fields.names().find(|name| !has_place(name)).filter(|_| has_columns) {
            Some(name) => Err(format!(
                "its field {name:?} is not in the first record, so it has no column; JSON Lines keep it"
            )),
            None => Ok(()),
        }
    }

    fn row(&self, cells: impl Iterator<Item = String>) -> String {
        let delimiter = match self.format {
            RecordFormat::Csv => self.delimiter,
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

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// An answer as one line of text.
fn one_line(outcome: &Outcome) -> String {
    let text = match outcome {
        Outcome::Answer { value, .. } => cell(value),
        Outcome::Problem(problem) => format!("error: {problem}"),
        Outcome::Blank => String::new(),
    };
    text.split(['\n', '\r']).map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Where answers go.
pub struct Output<'a> {
    app: &'a App,
    layout: Layout,
    file: Option<Sink>,
    /// A pipe or a device that was named.
    stream: Option<fs_err::File>,
}

struct Sink {
    path: PathBuf,
    file: fs_err::File,
    length: u64,
    /// Of all that is written.
    hash: blake3::Hasher,
    /// Locked for as long as the run lives: two of them would write into each other's lines.
    journal: File,
    /// Digests of the records that are done, in order.
    done: Vec<String>,
    /// How many of them could not be answered.
    failed: usize,
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
    /// Of the output up to there: what was changed since is not gone on with.
    output: String,
    /// Whether the record could not be answered.
    failed: bool,
}

impl<'a> Output<'a> {
    /// Answers go to stdout.
    pub fn to_stdout(app: &'a App, layout: Layout) -> Result<Self> {
        app.write(&layout.head())?;
        Ok(Self { app, layout, file: None, stream: None })
    }

    /// Answers go to a file, behind those that the same run has put there already. `run` names the state and the options.
    pub fn to_file(app: &'a App, layout: Layout, path: &Path, run: &str, overwrite: bool) -> Result<Self> {
        if fs_err::metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
            // A pipe or a device keeps nothing to go on with.
            let mut file = fs_err::OpenOptions::new().write(true).open(path)?;
            file.write_all(layout.head().as_bytes())?;
            return Ok(Self { app, layout, file: None, stream: Some(file) });
        }
        let journal = Journal::lock(path)?;
        if !overwrite && let Some(sink) = journal.resumed(path, run)? {
            return Ok(Self { app, layout, file: Some(sink), stream: None });
        }
        if !overwrite && fs_err::metadata(path).is_ok_and(|meta| meta.len() > 0) {
            journal.withdrawn();
            bail!(Failure::Usage(format!(
                "{} exists, and is no run that was cut short; --overwrite begins it anew",
                path.display()
            )));
        }
        let head = layout.head();
        let length = head.len() as u64;
        // First, so that no file is without its journal.
        let mut journal = journal.emptied()?;
        write_line(&mut journal, &Head { run: run.to_owned(), begins_at: length })?;
        let mut file = fs_err::File::create(path)?;
        file.write_all(head.as_bytes())?;
        let path = path.to_owned();
        let mut hash = blake3::Hasher::new();
        hash.update(head.as_bytes());
        let sink = Sink { path, file, length, hash, journal, done: Vec::new(), failed: 0 };
        Ok(Self { app, layout, file: Some(sink), stream: None })
    }

    /// Whether an interrupted run can be gone on with.
    pub fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// How many records are answered already.
    pub fn done(&self) -> usize {
        self.file.as_ref().map_or(0, |sink| sink.done.len())
    }

    /// How many of them could not be answered.
    pub fn failed(&self) -> usize {
        self.file.as_ref().map_or(0, |sink| sink.failed)
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

    /// Why a record has no place in the output, if it has none.
    pub fn check(&self, record: &Record) -> Result<(), String> {
        self.layout.check(record)
    }

    /// Writes what became of the next record.
    pub fn write(&mut self, record: &Record, outcome: &Outcome) -> Result<()> {
        let line = self.layout.line(record, outcome);
        match (&mut self.file, &mut self.stream) {
            (Some(sink), _) => sink.write(&line, record, matches!(outcome, Outcome::Problem(_))),
            (None, Some(stream)) => Ok(stream.write_all(line.as_bytes())?),
            (None, None) => self.app.write(&line),
        }
    }

    /// The run is over. When all records are answered the journal goes; else the same command goes on.
    pub fn close(self, is_complete: bool) -> Result<()> {
        let Some(sink) = self.file else { return Ok(()) };
        sink.file.sync_all()?;
        let written = Handle::from_file(sink.file.into_parts().0)?;
        if !Handle::from_path(&sink.path).is_ok_and(|found| found == written) {
            bail!(
                "{} was removed or replaced while it was written: the answers are lost",
                sink.path.display()
            );
        }
        // Still under its lock.
        match is_complete.then(|| fs_err::remove_file(journal_of(&sink.path))) {
            Some(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Sink {
    fn write(&mut self, line: &str, record: &Record, failed: bool) -> Result<()> {
        self.file.write_all(line.as_bytes()).context("what is answered so far is kept")?;
        self.length += line.len() as u64;
        self.hash.update(line.as_bytes());
        let step = Step { record: record.digest(), end: self.length, output: short(&self.hash), failed };
        let journal =
            || format!("cannot write {}; what is answered so far is kept", journal_of(&self.path).display());
        write_line(&mut self.journal, &step).with_context(journal)
    }
}

/// What a hash is called in a journal.
fn short(hash: &blake3::Hasher) -> String {
    hash.finalize().to_hex()[..16].to_owned()
}

fn write_line(file: &mut File, value: &impl Serialize) -> Result<()> {
    Ok(file.write_all(format!("{}\n", serde_json::to_string(value)?).as_bytes())?)
}

/// The journal of an output file.
pub fn journal_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".progress");
    name.into()
}

/// A journal that nobody else has.
struct Journal {
    path: PathBuf,
    file: File,
    text: String,
}

impl Journal {
    /// Opens and locks the journal of an output file; one that another run holds, or that is no journal, is refused.
    fn lock(output: &Path) -> Result<Self> {
        let path = journal_of(output);
        let file =
            fs_err::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let mut file = file.into_parts().0;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                bail!(Failure::Usage(format!("another map is writing {}", output.display())))
            }
            // Where there are no locks, nobody is kept out.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let first = text.lines().next().unwrap_or_default();
        if !bytes.is_empty() && serde_json::from_str::<Head>(first).is_err() && text.contains('\n') {
            bail!(Failure::Usage(format!(
                "{} is in the way: it is no journal of pcache map; choose another name for the output",
                path.display()
            )));
        }
        Ok(Self { path, file, text })
    }

    /// No run begins: a journal that was made for it goes.
    fn withdrawn(self) {
        if self.text.is_empty() {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// The journal with nothing in it.
    fn emptied(mut self) -> Result<File> {
        self.file.set_len(0).with_context(|| format!("cannot empty {}", self.path.display()))?;
        self.file.seek(SeekFrom::Start(0))?;
        Ok(self.file)
    }

    /// The output and its journal as a run that was cut short left them, with what is half-written cut off.
    fn resumed(&self, path: &Path, run: &str) -> Result<Option<Sink>> {
        resumed(path, self, run)
    }
}

fn resumed(path: &Path, journal: &Journal, run: &str) -> Result<Option<Sink>> {
    if journal.text.is_empty() || !path.exists() {
        return Ok(None);
    }
    let text = &journal.text;
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
    let mut read = Reread::new(&mut file, head.begins_at)?;
    let (mut done, mut failed, mut valid) = (Vec::new(), 0, first.len());
    for line in lines {
        let Ok(step) = serde_json::from_str::<Step>(line) else { break };
        if !(read.length..=written).contains(&step.end) {
            break;
        }
        let (part, hash) = read.up_to(step.end)?;
        if short(&hash) != step.output {
            // A file that was not written to its end when the power went has zeros there.
            if part.contains(&0) {
                break;
            }
            bail!(Failure::Usage(format!(
                "{} was changed since the run was cut short: record {} is not what was written; --overwrite begins it anew",
                path.display(),
                done.len() + 1
            )));
        }
        read.hash = hash;
        read.length = step.end;
        valid += line.len();
        failed += usize::from(step.failed);
        done.push(step.record);
    }
    let (length, hash) = (read.length, read.hash);
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length))?;
    let mut journal = journal.file.try_clone()?;
    journal.set_len(valid as u64)?;
    journal.seek(SeekFrom::End(0))?;
    Ok(Some(Sink { path: path.to_owned(), file, length, hash, journal, done, failed }))
}

/// An output that is read again, to see whether it is what was written.
struct Reread<'f> {
    file: BufReader<&'f mut fs_err::File>,
    length: u64,
    hash: blake3::Hasher,
}

impl<'f> Reread<'f> {
    /// Reads what stands before the first answer.
    fn new(file: &'f mut fs_err::File, begins_at: u64) -> Result<Self> {
        let mut read = Self { file: BufReader::new(file), length: 0, hash: blake3::Hasher::new() };
        read.hash = read.up_to(begins_at)?.1;
        read.length = begins_at;
        Ok(read)
    }

    /// The bytes up to a place, and the hash with them.
    fn up_to(&mut self, end: u64) -> Result<(Vec<u8>, blake3::Hasher)> {
        let mut part = vec![0; usize::try_from(end - self.length)?];
        self.file.read_exact(&mut part)?;
        let mut hash = self.hash.clone();
        hash.update(&part);
        Ok((part, hash))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(fields: Value) -> Record {
        let fields = serde_json::from_value(fields).unwrap();
        Record { number: 1, line: None, fields, problem: None, blank: false }
    }

    fn layout(format: RecordFormat) -> Layout {
        let columns = ["id", "text", "answer"].map(str::to_owned).to_vec();
        Layout { format, into: "answer".into(), columns, delimiter: b',' }
    }

    fn answer(text: &str) -> Outcome {
        Outcome::Answer { value: text.into(), stop: "eos".into() }
    }

    #[test]
    fn records_keep_their_fields_and_get_an_answer() {
        let record = record(json!({"text": "q", "id": 7}));
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
        assert_eq!(csv.head(), "id,text,answer,stop_reason,error\n");
        let replaced = Layout { into: "id".into(), ..layout(RecordFormat::Csv) };
        assert_eq!(replaced.head(), "id,text,answer,id_stop_reason,error\n");
        assert_eq!(replaced.line(&record, &answer("a")), "a,q,,eos,\n", "in its place");
        let twice =
            Layout { columns: vec!["id".into(), "text".into(), "id".into()], ..layout(RecordFormat::Csv) };
        let mut fields = Fields::of_text("id", "1");
        fields.push("text", &"q".into());
        fields.push("id", &"2".into());
        let doubled = Record { fields, ..record.clone() };
        assert_eq!(twice.line(&doubled, &answer("a")), "1,q,2,a,eos,\n", "each column keeps its cell");
        assert_eq!(csv.line(&record, &answer("a, \"b\"")), "7,q,\"a, \"\"b\"\"\",eos,\n");
        assert_eq!(csv.line(&record, &Outcome::Problem("why".into())), "7,q,,,why\n");
        let lines = layout(RecordFormat::Lines);
        assert_eq!(lines.line(&record, &answer("a\n\n b\r\n")), "a b\n");
        assert_eq!(lines.line(&record, &Outcome::Problem("why".into())), "error: why\n");
    }
    #[test]
    fn what_a_record_came_with_stays() {
        let own = record(json!({"text": "q", "error": "a bug report", "stop_reason": "full"}));
        let employer = Layout { into: "employer".into(), ..layout(RecordFormat::Jsonl) };
        assert_eq!(
            serde_json::from_str::<Value>(&employer.line(&own, &answer("a"))).unwrap(),
            json!({"text": "q", "error": "a bug report", "stop_reason": "full", "employer": "a", "employer_stop_reason": "eos"})
        );
        let line = employer.line(&own, &Outcome::Problem("too long".into()));
        assert!(line.contains("too long; it came with the error: a bug report"), "{line}");
        let has_answer = record(json!({"text": "q", "answer": "mine"}));
        let line = layout(RecordFormat::Jsonl).line(&has_answer, &Outcome::Problem("taken".into()));
        assert!(line.contains("\"answer\":\"mine\""), "{line}");
        let csv = layout(RecordFormat::Csv);
        let columns = ["text", "error"].map(str::to_owned).to_vec();
        let csv = Layout { columns, ..csv };
        assert_eq!(csv.line(&own, &answer("a")), "q,a bug report,a,eos\n");
    }

    #[test]
    fn an_error_that_an_earlier_run_left_goes_with_the_answer() {
        let failed = record(json!({"text": "q", "answer": null, "error": "too long"}));
        let line = layout(RecordFormat::Jsonl).line(&failed, &answer("a"));
        assert_eq!(line, "{\"text\":\"q\",\"answer\":\"a\",\"stop_reason\":\"eos\"}\n");
        assert_eq!(layout(RecordFormat::Csv).line(&failed, &answer("a")), ",q,a,eos,\n");
    }

    #[test]
    fn a_blank_line_stays_one() {
        let blank = Record { blank: true, ..record(json!({"text": ""})) };
        assert_eq!(layout(RecordFormat::Lines).line(&blank, &Outcome::Blank), "\n");
        assert_eq!(
            layout(RecordFormat::Jsonl).line(&blank, &Outcome::Blank),
            "{\"text\":\"\",\"answer\":null}\n"
        );
    }
}
