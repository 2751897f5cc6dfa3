//! Records on their way in: JSON Lines, lines of text, or columns. One that cannot be read is an error in its place.

use std::io::{self, BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::fields::Fields;
use crate::cli::RecordFormat;
use crate::commands::failure::Failure;

/// The field that a line of text is in.
pub const LINE: &str = "text";
/// The field that says why a record has no answer.
pub const ERROR: &str = "error";

/// One record.
#[derive(Debug, Clone)]
pub struct Record {
    /// From 1 on.
    pub number: usize,
    /// Its fields, as far as it could be read.
    pub fields: Fields,
    /// Why it cannot be asked.
    pub problem: Option<String>,
}

impl Record {
    /// Names what the record says, to see whether it is still the same.
    pub fn digest(&self) -> String {
        let text = format!("{:?} {}", self.problem, self.fields.line());
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }
}

/// What a file holds, by what was asked for, its name, or for stdin its first bytes.
pub fn format_of(path: &Path, asked: Option<RecordFormat>, first: &[u8]) -> RecordFormat {
    asked.or_else(|| by_name(path)).unwrap_or_else(|| {
        let object = first.trim_ascii_start().starts_with(b"{");
        if object { RecordFormat::Jsonl } else { RecordFormat::Lines }
    })
}

/// What a file's name says that it holds.
pub fn by_name(path: &Path) -> Option<RecordFormat> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    match ending.as_str() {
        "jsonl" | "ndjson" | "json" => Some(RecordFormat::Jsonl),
        "csv" => Some(RecordFormat::Csv),
        "tsv" => Some(RecordFormat::Tsv),
        "txt" | "text" | "lines" => Some(RecordFormat::Lines),
        _ => None,
    }
}

/// A source of records.
pub struct Records {
    lines: Lines,
    number: usize,
    pub format: RecordFormat,
    /// The columns, where there are any.
    pub columns: Vec<String>,
}

enum Lines {
    Text(Box<dyn BufRead + Send>),
    Columns(Box<csv::Reader<Box<dyn BufRead + Send>>>),
}

impl Records {
    /// Opens a file, or stdin for `-`.
    pub fn open(path: &Path, asked: Option<RecordFormat>) -> Result<Self> {
        let mut input: Box<dyn BufRead + Send> = if path.as_os_str() == "-" {
            Box::new(BufReader::new(io::stdin()))
        } else {
            let file = fs_err::File::open(path)?;
            if file.metadata()?.is_dir() {
                bail!("{} is a folder; --input needs a file", path.display());
            }
            Box::new(BufReader::new(file))
        };
        let first = input.fill_buf().with_context(|| format!("cannot read {}", name(path)))?;
        let format = format_of(path, asked, first);
        let mut columns = Vec::new();
        let lines = match format {
            RecordFormat::Jsonl | RecordFormat::Lines => Lines::Text(input),
            RecordFormat::Csv | RecordFormat::Tsv => {
                let delimiter = if format == RecordFormat::Csv { b',' } else { b'\t' };
                let mut reader =
                    csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(input);
                let header = reader.headers().with_context(|| format!("the header of {}", name(path)))?;
                columns = header.iter().map(|c| c.trim_start_matches('\u{feff}').to_owned()).collect();
                Lines::Columns(Box::new(reader))
            }
        };
        Ok(Self { lines, number: 0, format, columns })
    }

    /// Refuses fields that no record can have, where the columns are known.
    pub fn check_fields(&self, fields: &[String]) -> Result<()> {
        if !matches!(self.lines, Lines::Columns(_)) {
            return Ok(());
        }
        for field in fields {
            if !self.columns.contains(field) {
                let columns = self.columns.join(", ");
                bail!(Failure::Usage(format!("there is no column {field:?}; there are {columns}")));
            }
        }
        Ok(())
    }

    /// The next record.
    ///
    /// # Errors
    /// When the input cannot be read any further.
    pub fn next(&mut self) -> Result<Option<Record>> {
        let read = match &mut self.lines {
            Lines::Text(input) => next_line(input.as_mut(), self.format)?,
            Lines::Columns(reader) => next_row(reader, &self.columns)?,
        };
        Ok(read.map(|(fields, problem)| {
            self.number += 1;
            Record { number: self.number, fields, problem }
        }))
    }
}

/// How many records a file has; nothing for stdin.
pub fn count(path: &Path, asked: Option<RecordFormat>) -> Result<Option<usize>> {
    // A pipe can be read once.
    if path.as_os_str() == "-" || !fs_err::metadata(path)?.is_file() {
        return Ok(None);
    }
    let mut records = Records::open(path, asked)?;
    let mut count = 0;
    while records.next()?.is_some() {
        count += 1;
    }
    Ok(Some(count))
}

/// A record's fields, and why it cannot be asked.
type Read = Option<(Fields, Option<String>)>;

fn next_line(input: &mut dyn BufRead, format: RecordFormat) -> Result<Read> {
    loop {
        let mut bytes = Vec::new();
        if input.read_until(b'\n', &mut bytes).context("cannot read the input")? == 0 {
            return Ok(None);
        }
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        if format == RecordFormat::Jsonl && bytes.trim_ascii().is_empty() {
            continue;
        }
        return Ok(Some(match std::str::from_utf8(bytes) {
            Err(e) => {
                let problem = format!("not UTF-8 text from byte {} on", e.valid_up_to());
                (of_text(&String::from_utf8_lossy(bytes)), Some(problem))
            }
            Ok(line) if format == RecordFormat::Lines => (of_text(line), None),
            Ok(line) => match serde_json::from_str(line) {
                Ok(fields) => (fields, None),
                Err(e) if e.is_data() => (of_text(line), Some("not a JSON object".into())),
                Err(e) => (of_text(line), Some(format!("not JSON: {e}"))),
            },
        }));
    }
}

fn of_text(line: &str) -> Fields {
    Fields::of_text(LINE, line)
}

fn next_row(reader: &mut csv::Reader<Box<dyn BufRead + Send>>, columns: &[String]) -> Result<Read> {
    let mut row = csv::ByteRecord::new();
    if !reader.read_byte_record(&mut row).context("cannot read the input")? {
        return Ok(None);
    }
    let mut problem = None;
    if row.len() != columns.len() {
        problem = Some(format!("it has {} columns, expected {}", row.len(), columns.len()));
    }
    let mut fields = Fields::default();
    for (name, cell) in columns.iter().zip(row.iter()) {
        if std::str::from_utf8(cell).is_err() {
            problem = Some(format!("column {name:?} is not UTF-8 text"));
        }
        fields.push(name, &String::from_utf8_lossy(cell).into());
    }
    Ok(Some((fields, problem)))
}

/// A file's name, for people.
pub fn name(path: &Path) -> String {
    if path.as_os_str() == "-" { "stdin".into() } else { path.display().to_string() }
}

/// A file that was opened to be read, as far as its beginning goes: whether two paths are one file.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    match (fs_err::canonicalize(one), fs_err::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(name: &str, content: &[u8]) -> Vec<Record> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let mut records = Records::open(&path, None).unwrap();
        std::iter::from_fn(|| records.next().unwrap()).collect()
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
            ["", "it has 1 columns, expected 2", "column \"body\" is not UTF-8 text"]
        );
        assert_eq!(all("a.tsv", b"a\tb\n1\t2\n")[0].fields.text("b").unwrap(), "2");
    }

    #[test]
    fn the_first_bytes_decide_where_no_name_does() {
        let of = |first: &[u8]| format_of(Path::new("-"), None, first);
        assert_eq!((of(b" {\"a\": 1}"), of(b"hello")), (RecordFormat::Jsonl, RecordFormat::Lines));
    }
}
