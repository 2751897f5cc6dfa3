//! Reads records: JSON Lines, an array of objects, lines of text, or columns.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;
use std::vec;

use anyhow::{Context, Result, bail};
use serde_json::value::RawValue;

use super::RecordFormat;
use super::fields::{Fields, LINE};
use super::quotes::{Quotes, Text};
use crate::cache::Failure;
use crate::text::human;

/// Lines that are looked at for what they are.
const LOOKED_AT: usize = 8;

/// The field for a line that is no record.
const UNREAD: &str = "line";

/// A source of records.
pub enum Input {
    /// A record a line.
    Lines { text: Text, format: RecordFormat, line: u64 },
    /// A JSON array, read whole.
    Array(vec::IntoIter<Box<RawValue>>),
    /// Rows under a header.
    Columns { reader: Box<csv::Reader<Quotes>>, names: Vec<String> },
}

/// A record as it was read.
pub struct Read {
    pub fields: Fields,
    /// Why it cannot be asked.
    pub problem: Option<String>,
    /// The line in which it begins.
    pub line: Option<u64>,
}

impl Input {
    /// Opens a file, or stdin for `-`.
    pub fn open(
        path: &Path,
        asked: Option<RecordFormat>,
        delimiter: Option<u8>,
    ) -> Result<(Self, RecordFormat)> {
        let mut text = text_of(path)?;
        let first = text.fill_buf().with_context(|| format!("cannot read {}", name(path)))?;
        let format = format_of(path, asked, first);
        if delimiter.is_some() && format != RecordFormat::Csv {
            bail!(Failure::Usage(format!("a delimiter is for CSV; {} is not", name(path))));
        }
        let is_array = begins_array(first) && !is_json_lines(path);
        let input = match format {
            RecordFormat::Jsonl if is_array => array(path, text)?,
            RecordFormat::Jsonl | RecordFormat::Lines => Self::Lines { text, format, line: 0 },
            RecordFormat::Csv => columns(path, text, delimiter.unwrap_or(b','))?,
            RecordFormat::Tsv => columns(path, text, b'\t')?,
        };
        Ok((input, format))
    }

    /// Returns true if every record has the same fields.
    pub fn has_columns(&self) -> bool {
        matches!(self, Self::Columns { .. })
    }

    /// The names of the columns, if there are any.
    pub fn columns(&self) -> &[String] {
        match self {
            Self::Columns { names, .. } => names,
            Self::Lines { .. } | Self::Array(_) => &[],
        }
    }

    /// The next record.
    ///
    /// # Errors
    /// When the input cannot be read any further.
    pub fn next(&mut self) -> Result<Option<Read>> {
        match self {
            Self::Lines { text, format, line } => next_line(text.as_mut(), *format, line),
            Self::Array(values) => Ok(values.next().map(|value| of_json(value.get(), None))),
            Self::Columns { reader, names } => next_row(reader, names),
        }
    }
}

fn text_of(path: &Path) -> Result<Text> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(BufReader::new(io::stdin())));
    }
    let file = fs_err::File::open(path)?;
    if file.metadata()?.is_dir() {
        bail!("{} is a folder; the input is a file", path.display());
    }
    Ok(Box::new(BufReader::new(file)))
}

/// Returns a file's format, as asked for, by its name, or for stdin by its first bytes.
fn format_of(path: &Path, asked: Option<RecordFormat>, first: &[u8]) -> RecordFormat {
    asked.or_else(|| by_name(path)).unwrap_or_else(|| {
        // One broken line should not make text of the others.
        let mut lines = first.split_inclusive(|byte| *byte == b'\n').take(LOOKED_AT);
        let is_object = |line: &[u8]| serde_json::from_slice::<Fields>(line).is_ok();
        let is_json =
            first.trim_ascii_start().starts_with(b"{") || begins_array(first) || lines.any(is_object);
        if is_json { RecordFormat::Jsonl } else { RecordFormat::Lines }
    })
}

/// Returns the format that a file's name says.
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

/// Returns true if a file's name says that each line of it is a record, so that an array would be one that is none.
fn is_json_lines(path: &Path) -> bool {
    let endings = ["jsonl", "ndjson"];
    path.extension().is_some_and(|ending| endings.into_iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

/// Returns true if a text begins as an array of objects does, or an empty one.
pub fn begins_array(text: &[u8]) -> bool {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text).trim_ascii_start();
    let inner = text.strip_prefix(b"[").map(<[u8]>::trim_ascii_start);
    inner.is_some_and(|inner| inner.first().is_none_or(|byte| b"{]".contains(byte)))
}

fn array(path: &Path, mut text: Text) -> Result<Input> {
    let mut bytes = Vec::new();
    text.read_to_end(&mut bytes).with_context(|| format!("cannot read {}", name(path)))?;
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&bytes);
    let values: Vec<Box<RawValue>> =
        serde_json::from_slice(bytes).with_context(|| format!("{} is no JSON array", name(path)))?;
    Ok(Input::Array(values.into_iter()))
}

fn columns(path: &Path, text: Text, delimiter: u8) -> Result<Input> {
    let text = Quotes::new(text, delimiter);
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(text);
    let header = reader.headers().with_context(|| format!("the header of {}", name(path)))?;
    let names: Vec<_> = header.iter().map(|c| c.trim_start_matches('\u{feff}').to_owned()).collect();
    if names.is_empty() {
        bail!(Failure::Usage(format!(
            "{} is empty: it needs a header, the names of its columns",
            name(path)
        )));
    }
    let next = reader.position().line();
    if names.iter().any(|name| name.contains('\n')) && reader.get_ref().are_stray(0..next) {
        bail!(Failure::Usage(format!("a quote in the header of {} is never closed", name(path))));
    }
    Ok(Input::Columns { reader: Box::new(reader), names })
}

fn next_line(text: &mut dyn BufRead, format: RecordFormat, number: &mut u64) -> Result<Option<Read>> {
    loop {
        let mut bytes = Vec::new();
        if text.read_until(b'\n', &mut bytes).context("cannot read the input")? == 0 {
            return Ok(None);
        }
        *number += 1;
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        if format == RecordFormat::Jsonl && bytes.trim_ascii().is_empty() {
            continue;
        }
        let line = Some(*number);
        return Ok(Some(match std::str::from_utf8(bytes) {
            Err(e) => {
                let problem = Some(format!("not UTF-8 text from byte {} on", e.valid_up_to()));
                let name = if format == RecordFormat::Lines { LINE } else { UNREAD };
                Read { fields: Fields::of_text(name, &String::from_utf8_lossy(bytes)), problem, line }
            }
            Ok(text) if format == RecordFormat::Lines => {
                Read { fields: Fields::of_text(LINE, text), problem: None, line }
            }
            Ok(text) => of_json(text, line),
        }));
    }
}

fn of_json(text: &str, line: Option<u64>) -> Read {
    match serde_json::from_str(text) {
        Ok(fields) => Read { fields, problem: None, line },
        Err(e) if e.is_data() => {
            Read { fields: Fields::of_text(UNREAD, text), problem: Some("not a JSON object".into()), line }
        }
        Err(e) => {
            // It counts lines within the record.
            let why = e.to_string().replace(" at line 1 column", " at column");
            Read { fields: Fields::of_text(UNREAD, text), problem: Some(format!("not JSON: {why}")), line }
        }
    }
}

fn next_row(reader: &mut csv::Reader<Quotes>, names: &[String]) -> Result<Option<Read>> {
    let mut row = csv::ByteRecord::new();
    if !reader.read_byte_record(&mut row).context("cannot read the input")? {
        return Ok(None);
    }
    let line = row.position().map(csv::Position::line);
    let mut problem = None;
    if row.len() != names.len() {
        let over: Vec<_> = row.iter().skip(names.len()).map(String::from_utf8_lossy).collect();
        let over = if over.is_empty() { String::new() } else { format!("; too many: {}", over.join(", ")) };
        problem =
            Some(format!("it has {}, expected {}{over}", human::count(row.len(), "column"), names.len()));
    }
    let next = reader.position().line().max(line.unwrap_or(0) + 1);
    let spans_lines = row.iter().any(|cell| cell.contains(&b'\n'));
    let is_open = reader.get_ref().is_open();
    if (spans_lines || is_open) && reader.get_ref().are_stray(line.unwrap_or(0)..next) {
        problem = Some(match next - line.unwrap_or(0) {
            0 | 1 => "unclosed quote: the rest of the line was read as one cell".into(),
            _ => format!("unclosed quote: lines {}–{} were read as one cell", line.unwrap_or(0), next - 1),
        });
    }
    let mut fields = Fields::default();
    for (name, cell) in names.iter().zip(row.iter()) {
        if std::str::from_utf8(cell).is_err() {
            problem = Some(format!("column {name:?} is not UTF-8 text"));
        }
        fields.push(name, &String::from_utf8_lossy(cell).into());
    }
    Ok(Some(Read { fields, problem, line }))
}

/// A file's name, for people.
pub fn name(path: &Path) -> String {
    if path.as_os_str() == "-" { "stdin".into() } else { path.display().to_string() }
}

/// The columns that there are, for people.
pub struct Columns<'c>(pub &'c [String]);

/// A column's name that looks like several, with another character between them.
pub fn is_parted(name: &str) -> bool {
    name.contains([';', '\t', '|'])
}

impl fmt::Display for Columns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [one] => write!(f, "the only one is {one:?}"),
            several => write!(f, "there are {}", several.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_decide_where_no_name_does() {
        let of = |first: &[u8]| format_of(Path::new("-"), None, first);
        assert_eq!((of(b" {\"a\": 1}"), of(b"hello")), (RecordFormat::Jsonl, RecordFormat::Lines));
        assert_eq!(of(b"oops\n{\"text\": \"b\"}\n"), RecordFormat::Jsonl);
        assert_eq!((of(b"[\n  {"), of(b"[1] is a note")), (RecordFormat::Jsonl, RecordFormat::Lines));
    }

    #[test]
    fn columns_that_another_character_parts_are_recognised() {
        assert!(is_parted("id;text") && !is_parted("text"));
    }
}
