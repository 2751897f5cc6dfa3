//! Writes records with their answers: as JSON Lines, as lines of text, or in columns.

use anyhow::{Result, bail};
use serde_json::Value;

use super::RecordFormat;
use super::fields::Fields;
use super::names::{ERROR, stop_of};
use super::records::{Record, Records};
use super::tsv;
use crate::cache::Failure;
use crate::text::file::MARK;

/// Result for a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The answer, and why it ended.
    Answer {
        /// The answer.
        value: Value,
        /// Why it ended.
        stop: Value,
    },
    /// Why there is none.
    Problem(String),
    /// Nothing was asked, so there is nothing.
    Blank,
}

/// Format of answers.
pub struct Layout {
    /// The format.
    pub format: RecordFormat,
    /// The field for the answer.
    pub into: String,
    /// The columns of the input, where the output has columns.
    pub columns: Vec<String>,
    /// Delimiter of CSV.
    pub delimiter: u8,
    /// Fields of an answer under a schema that get columns of their own, in place of the answer's.
    pub parts: Vec<String>,
    /// The input began with a line that names the delimiter, so CSV does, too.
    names_separator: bool,
    /// It began with a byte order mark, without which spreadsheets take other letters for those of columns.
    is_marked: bool,
}

impl Layout {
    /// Records as the input has them, with answers in the field `into`.
    ///
    /// # Errors
    /// When the records do not fit the format.
    pub fn new(records: &Records, format: RecordFormat, into: &str, delimiter: u8) -> Result<Self> {
        let has_columns = [RecordFormat::Csv, RecordFormat::Tsv].contains(&format);
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
        Ok(Self {
            format,
            into: into.to_owned(),
            columns,
            delimiter,
            parts: Vec::new(),
            names_separator: records.separator().is_some(),
            is_marked: records.is_marked,
        })
    }

    /// Gives fields of an answer under a schema columns of their own.
    ///
    /// # Errors
    /// When the output has no columns.
    pub fn with_parts(mut self, parts: Vec<String>) -> Result<Self> {
        if !parts.is_empty() && ![RecordFormat::Csv, RecordFormat::Tsv].contains(&self.format) {
            let format = self.format.name();
            bail!(Failure::Usage(format!("columns are for CSV and TSV; {format} keeps the whole answer")));
        }
        self.parts = parts;
        Ok(self)
    }

    /// Text before the first answer.
    pub fn head(&self) -> String {
        let separator = match (self.format, self.names_separator) {
            (RecordFormat::Csv, true) => format!("sep={}\n", char::from(self.delimiter)),
            _ => String::new(),
        };
        let has_columns = [RecordFormat::Csv, RecordFormat::Tsv].contains(&self.format);
        let mark = if self.is_marked && has_columns { MARK } else { "" };
        format!("{mark}{separator}{}", self.row(self.names()))
    }

    /// The columns of the output: those of the input, then those of its own that are not among them: the answer, why it
    /// ended, and what went wrong.
    fn names(&self) -> impl Iterator<Item = String> {
        let whole = self.parts.is_empty().then(|| self.into.clone());
        let answer = self.parts.iter().cloned().chain(whole);
        let own = answer.chain([stop_of(&self.into), ERROR.to_owned()]);
        let own = own.filter(|name| !self.columns.contains(name));
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
            Outcome::Answer { value, stop } => (Some(value), Some(cell(stop))),
            // What the record came with stays there.
            Outcome::Problem(_) | Outcome::Blank => (None, None),
        };
        let own = |place: usize, name: &str| {
            let came = if same { by_place.get(place).cloned() } else { record.fields.cell(name) };
            let new = match name {
                ERROR => Some(self.problem(record, outcome).unwrap_or_default()),
                _ if self.parts.iter().any(|part| part == name) => answer.map(|answer| cell(&answer[name])),
                _ if name == self.into && self.parts.is_empty() => answer.map(cell),
                _ if name == stop_of(&self.into) => stop.clone(),
                _ => None,
            };
            new.or(came).unwrap_or_default()
        };
        self.names().enumerate().map(|(place, name)| own(place, &name)).collect()
    }

    /// Describes a record's error: that it has no answer, or the one that it came with.
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
    pub fn check(&self, record: &Record) -> std::result::Result<(), String> {
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
        match self.format {
            RecordFormat::Csv => {}
            RecordFormat::Tsv => {
                return cells.map(|cell| tsv::written(&cell)).collect::<Vec<_>>().join("\t") + "\n";
            }
            RecordFormat::Jsonl | RecordFormat::Lines => return String::new(),
        }
        let mut writer = csv::WriterBuilder::new().delimiter(self.delimiter).from_writer(Vec::new());
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
        Layout {
            format,
            into: "answer".into(),
            columns,
            delimiter: b',',
            parts: Vec::new(),
            names_separator: false,
            is_marked: false,
        }
    }

    fn answer(text: &str) -> Outcome {
        Outcome::Answer { value: text.into(), stop: "eos".into() }
    }

    /// A table of what a schema asks for needs no second program to take answers apart.
    #[test]
    fn fields_of_an_answer_can_have_columns() {
        let layout = layout(RecordFormat::Csv).with_parts(vec!["dish".into(), "price".into()]).unwrap();
        assert_eq!(layout.head(), "id,text,answer,dish,price,stop_reason,error\n");
        let value = json!({ "dish": "soup", "price": 5.5, "more": true });
        let line = layout
            .line(&record(json!({ "id": 1, "text": "a" })), &Outcome::Answer { value, stop: json!("eos") });
        assert_eq!(line, "1,a,,soup,5.5,eos,\n");
        let failed = layout.line(&record(json!({ "id": 2, "text": "b" })), &Outcome::Problem("why".into()));
        assert_eq!(failed, "2,b,,,,,why\n");
        let jsonl = Layout { format: RecordFormat::Jsonl, ..layout };
        assert!(jsonl.with_parts(vec!["dish".into()]).is_err());
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
