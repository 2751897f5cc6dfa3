//! Records on their way in. One that cannot be read is an error in its place.

use std::path::Path;

use anyhow::{Result, bail};

use super::RecordFormat;
use super::fields::{Fields, LINE};
use super::input::{self, Columns, Input};
use super::names::{ERROR, stop_of};
use crate::cache::{Failure, Hint};

/// One record.
#[derive(Debug, Clone)]
pub struct Record {
    /// From 1 on.
    pub number: usize,
    /// The line of the input in which it begins, from 1 on; nothing where records are no lines.
    pub line: Option<u64>,
    /// Its fields, as far as it could be read.
    pub fields: Fields,
    /// Why it cannot be asked.
    pub problem: Option<String>,
    /// It is a line with nothing in it, between lines of text.
    pub blank: bool,
}

impl Record {
    /// Names what the record says, to see whether it is still the same.
    pub fn digest(&self) -> String {
        let text = format!("{:?} {}", self.problem, self.fields.line());
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }

    /// Name for people.
    pub fn label(&self) -> String {
        match self.line {
            Some(line) if line != self.number as u64 => format!("record {} (line {line})", self.number),
            _ => format!("record {}", self.number),
        }
    }

    /// Returns true if an earlier run has put an error in the place of the answer that `into` is for.
    pub fn failed_before(&self, into: &str) -> bool {
        // In columns there is no null, but the column beside it.
        let is_empty = |name: &str| self.fields.cell(name).is_some_and(|cell| cell.is_empty());
        let has_none = self.fields.get(into) == Some(serde_json::Value::Null)
            || is_empty(into) && is_empty(&stop_of(into));
        has_none && self.fields.cell(ERROR).is_some_and(|error| !error.is_empty())
    }

    /// Returns true if it has something in a field.
    pub fn has(&self, name: &str) -> bool {
        self.fields.cell(name).is_some_and(|value| !value.is_empty())
    }
}

/// A source of records.
pub struct Records {
    input: Input,
    number: usize,
    /// The first record, which was read to see what records are like.
    peeked: Option<Record>,
    /// The format.
    pub format: RecordFormat,
    /// The columns, where there are any.
    pub columns: Vec<String>,
    /// The input begins with a byte order mark.
    pub is_marked: bool,
}

impl Records {
    /// Opens a file, or stdin for `-`, and reads the first record.
    pub fn open(path: &Path, asked: Option<RecordFormat>, delimiter: Option<u8>) -> Result<Self> {
        let (input, format, is_marked) = Input::open(path, asked, delimiter)?;
        let columns = input.columns().to_vec();
        let mut records = Self { input, number: 0, peeked: None, format, columns, is_marked };
        records.peeked = records.read()?;
        Ok(records)
    }

    /// Delimiter that the first line of the input names.
    pub fn separator(&self) -> Option<u8> {
        self.input.separator()
    }

    /// The first record, as long as it was not taken.
    pub fn first(&self) -> Option<&Record> {
        self.peeked.as_ref()
    }

    /// Refuses fields that no record can have, where it is known which ones they have.
    pub fn check_fields(&self, fields: &[String]) -> Result<()> {
        if self.format == RecordFormat::Lines
            && let Some(field) = fields.iter().find(|field| *field != LINE)
        {
            bail!(
                Hint::NameFormat
                    .with(format!("there is no field {field:?}: lines of text have only {LINE:?}"))
            );
        }
        if !self.input.has_columns() {
            return Ok(());
        }
        if let Some(field) = fields.iter().find(|field| !self.columns.contains(field)) {
            let what = format!("there is no column {field:?}; {}", Columns(&self.columns));
            bail!(match self.columns.as_slice() {
                [one] if input::is_parted(one) => Hint::NameDelimiter.with(what),
                _ => Hint::NameColumn.with(what),
            });
        }
        Ok(())
    }

    /// Refuses to write over fields that the first record came with.
    pub fn check_free(&self, names: &[&str]) -> Result<()> {
        match names.iter().find(|name| self.first().is_some_and(|record| record.has(name))) {
            Some(name) => bail!(Hint::NameField.with(taken(name))),
            None => Ok(()),
        }
    }

    /// Returns the format that lines of text look like, if they do: JSON or CSV that would be asked as it stands.
    pub fn doubt(&self) -> Option<RecordFormat> {
        if self.format != RecordFormat::Lines {
            return None;
        }
        let line = self.first().and_then(|record| record.fields.text(LINE))?;
        if line.contains('\t') {
            return Some(RecordFormat::Tsv);
        }
        let cells: Vec<_> = line.split([',', ';']).map(str::trim).collect();
        let is_name = |cell: &&str| {
            !cell.is_empty() && cell.chars().all(|c| c.is_alphanumeric() || c == '_') && cell.len() < 30
        };
        if cells.len() > 1 && (cells.contains(&LINE) || cells.iter().all(is_name)) {
            return Some(RecordFormat::Csv);
        }
        let is_json = input::begins_array(line.as_bytes())
            || line.starts_with('{') && serde_json::from_str::<Fields>(&line).is_ok();
        is_json.then_some(RecordFormat::Jsonl)
    }

    /// The names of the first record's fields, for an output that has columns.
    ///
    /// # Errors
    /// When there is no such record.
    pub fn names(&self) -> Result<Vec<String>> {
        let Some(first) = self.first() else { return Ok(vec![LINE.to_owned()]) };
        if let Some(problem) = &first.problem {
            bail!(Failure::Usage(format!(
                "the columns would be the fields of the first record; it is {problem}"
            )));
        }
        let mut names: Vec<String> = Vec::new();
        for name in first.fields.names() {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// The next record.
    ///
    /// # Errors
    /// When the input cannot be read any further.
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        match self.peeked.take() {
            Some(first) => Ok(Some(first)),
            None => self.read(),
        }
    }

    fn read(&mut self) -> Result<Option<Record>> {
        let Some(read) = self.input.next()? else { return Ok(None) };
        self.number += 1;
        let is_line = self.format == RecordFormat::Lines && read.problem.is_none();
        let blank = is_line && read.fields.cell(LINE).is_none_or(|line| line.trim().is_empty());
        Ok(Some(Record {
            number: self.number,
            line: read.line,
            fields: read.fields,
            problem: read.problem,
            blank,
        }))
    }
}

/// Says that a record has a field which the answer would replace.
pub fn taken(name: &str) -> String {
    format!("there is a field {name:?} already; give the answer another field, or let it replace that one")
}

/// Number of records in a file; nothing for stdin.
pub fn count(path: &Path, asked: Option<RecordFormat>, delimiter: Option<u8>) -> Result<Option<usize>> {
    // A pipe can be read once.
    if path.as_os_str() == "-" || !fs_err::metadata(path)?.is_file() {
        return Ok(None);
    }
    let mut records = Records::open(path, asked, delimiter)?;
    let mut count = 0;
    while records.next_record()?.is_some() {
        count += 1;
    }
    Ok(Some(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(name: &str, content: &[u8]) -> Vec<Record> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let mut records = Records::open(&path, None, None).unwrap();
        std::iter::from_fn(|| records.next_record().unwrap()).collect()
    }

    fn problems(records: &[Record]) -> Vec<&str> {
        records.iter().map(|r| r.problem.as_deref().unwrap_or("")).collect()
    }

    #[test]
    fn json_lines_are_objects_and_the_others_are_errors_in_their_places() {
        let records = all("a.jsonl", b"\xef\xbb\xbf{\"text\": \"a\"}\r\n\n[1]\n{\"text\n\xff\n{}");
        let problems = problems(&records);
        assert_eq!((problems[0], problems[1], problems[4]), ("", "not a JSON object", ""));
        assert!(problems[2].starts_with("not JSON"), "{problems:?}");
        assert_eq!(problems[3], "not UTF-8 text from byte 0 on");
        assert_eq!(records[0].fields.text("text").unwrap(), "a");
        assert_eq!(records.iter().map(|r| r.number).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn lines_are_kept_one_for_one() {
        let records = all("a.txt", b"one\n\nthree");
        assert_eq!(
            records.iter().map(|r| r.fields.text("text").unwrap()).collect::<Vec<_>>(),
            ["one", "", "three"]
        );
    }

    #[test]
    fn rows_have_the_columns_of_the_header() {
        let records = all("a.csv", b"id,body\n1,\"two\nlines, and a comma\"\n2\n3,\xff\n");
        assert_eq!(records[0].fields.text("body").unwrap(), "two\nlines, and a comma");
        assert_eq!(
            problems(&records),
            ["", "it has 1 column, expected 2", "column \"body\" is not UTF-8 text"]
        );
        assert_eq!(all("a.tsv", b"a\tb\n1\t2\n")[0].fields.text("b").unwrap(), "2");
    }

    #[test]
    fn an_array_of_objects_is_as_many_records() {
        let records = all("a.json", b" [{\"text\": \"a\"}, 3,\n {\"text\": \"b\"}]");
        assert_eq!(problems(&records), ["", "not a JSON object", ""]);
        assert_eq!(records[2].fields.text("text").unwrap(), "b");
        assert_eq!(all("b.jsonl", b"[1]\n").len(), 1, "in JSON Lines it is one record");
    }

    /// The quote swallowed all further records, and nothing was said.
    #[test]
    fn a_quote_that_is_never_closed_is_told() {
        let records = all("a.csv", b"id,text\n1,good\n2,\"bad one\n3,great\n4,meh\n");
        let problems = problems(&records);
        assert_eq!((problems.len(), problems[0]), (2, ""));
        assert!(problems[1].starts_with("unclosed quote: "), "{problems:?}");
        for stray in [
            "text,b\nq,1\ntwo,\"2\nthree,\"3\"\nfour,4\n",
            "text,b\nq,1\n\"two,2\n\"three\",3\nfour,4\n",
            "text,b\nq,1\nx,\"",
        ] {
            let records = all("a.csv", stray.as_bytes());
            let told =
                records.iter().filter(|r| r.problem.as_ref().is_some_and(|p| p.contains("unclosed quote")));
            assert_eq!(told.count(), 1, "{stray:?}");
        }
        let inches = all("a.csv", b"id,text\n1,a 5\" pipe\n2,\"two\nlines\"\n3,c\n");
        assert!(inches.iter().all(|r| r.problem.is_none()));
    }

    #[test]
    fn records_know_their_lines() {
        let records = all("a.jsonl", b"{}\n\n\n{}\n");
        assert_eq!(
            (records[0].label(), records[1].label()),
            ("record 1".into(), "record 2 (line 4)".to_owned())
        );
        let rows = all("a.csv", b"a,b\n1,\"x\ny\"\n2,z\n");
        assert_eq!((rows[0].line, rows[1].line), (Some(2), Some(4)));
    }

    #[test]
    fn what_an_answer_would_replace_is_refused() {
        let open = |name: &str, content: &str| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            Records::open(&path, None, None).unwrap().check_free(&["answer", "stop_reason"])
        };
        assert!(open("a.jsonl", "{\"answer\": \"mine\"}").is_err());
        assert!(open("a.csv", "answer\nmine\n").is_err());
        assert!(open("a.csv", "text,answer\na,\n").is_ok(), "an empty column is for the answer");
        assert!(open("a.jsonl", "{\"answer\": null, \"error\": \"too long\"}").is_ok(), "it failed before");
    }
}
