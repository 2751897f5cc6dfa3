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
use super::tsv::Rows;
use crate::cache::Failure;
use crate::text::{file, human};

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
    /// JSON objects that go over several lines.
    Objects(Objects),
    /// Rows under a header.
    Columns { reader: Box<csv::Reader<Quotes>>, names: Vec<String>, separator: Option<u8> },
    /// Rows under a header, with tabs.
    Tabs { rows: Rows, names: Vec<String> },
}

/// JSON values one behind the other, whatever is between them.
pub type Objects = Box<dyn Iterator<Item = serde_json::Result<Box<RawValue>>> + Send>;

/// A record as it was read.
pub struct Read {
    pub fields: Fields,
    /// Why it cannot be asked.
    pub problem: Option<String>,
    /// The line in which it begins.
    pub line: Option<u64>,
}

impl Input {
    /// Opens a file, or stdin for `-`. Returns its format, and whether it begins with a byte order mark.
    pub fn open(
        path: &Path,
        asked: Option<RecordFormat>,
        delimiter: Option<u8>,
    ) -> Result<(Self, RecordFormat, bool)> {
        let (mut text, is_marked) = text_of(path)?;
        let failed = || format!("cannot read {}", name(path));
        let first = text.fill_buf().with_context(failed)?;
        let format = format_of(path, asked, first);
        if delimiter.is_some() && format != RecordFormat::Csv {
            bail!(Failure::Usage(format!("a delimiter is for CSV; {} is not", name(path))));
        }
        let is_array = begins_array(first) && !is_json_lines(path);
        let input = match format {
            RecordFormat::Jsonl if is_array => array(path, text)?,
            RecordFormat::Jsonl => json(text).with_context(failed)?,
            RecordFormat::Lines => Self::Lines { text, format, line: 0 },
            RecordFormat::Csv => columns(path, text, delimiter)?,
            RecordFormat::Tsv => tabs(path, text)?,
        };
        Ok((input, format, is_marked))
    }

    /// Returns true if every record has the same fields.
    pub fn has_columns(&self) -> bool {
        matches!(self, Self::Columns { .. } | Self::Tabs { .. })
    }

    /// Delimiter that the first line names, as `sep=;` does.
    pub fn separator(&self) -> Option<u8> {
        match self {
            Self::Columns { separator, .. } => *separator,
            _ => None,
        }
    }

    /// The names of the columns, if there are any.
    pub fn columns(&self) -> &[String] {
        match self {
            Self::Columns { names, .. } | Self::Tabs { names, .. } => names,
            Self::Lines { .. } | Self::Array(_) | Self::Objects(_) => &[],
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
            Self::Objects(values) => Ok(next_object(values)),
            Self::Columns { reader, names, separator } => next_row(reader, names, separator.is_some()),
            Self::Tabs { rows, names } => {
                let row = rows.next().context("cannot read the input")?;
                Ok(row.map(|(cells, line)| of_cells(names, &cells, Some(line))))
            }
        }
    }
}

fn text_of(path: &Path) -> Result<(Text, bool)> {
    if path.as_os_str() == "-" {
        return file::without_mark(BufReader::new(io::stdin())).context("cannot read stdin");
    }
    let opened = fs_err::File::open(path).map_err(|e| file::Missing::or(path, e))?;
    if opened.metadata()?.is_dir() {
        bail!("{} is a folder; the input is a file", path.display());
    }
    file::without_mark(BufReader::new(opened)).with_context(|| format!("cannot read {}", path.display()))
}

/// Returns a file's format, as asked for, by its name, or for stdin by its first bytes.
fn format_of(path: &Path, asked: Option<RecordFormat>, first: &[u8]) -> RecordFormat {
    asked.or_else(|| by_name(path)).unwrap_or_else(|| {
        if first.starts_with(b"sep=") || first.starts_with(b"\"sep=") {
            return RecordFormat::Csv;
        }
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
    let inner = text.trim_ascii_start().strip_prefix(b"[").map(<[u8]>::trim_ascii_start);
    inner.is_some_and(|inner| inner.first().is_none_or(|byte| b"{]".contains(byte)))
}

fn array(path: &Path, mut text: Text) -> Result<Input> {
    let mut bytes = Vec::new();
    text.read_to_end(&mut bytes).with_context(|| format!("cannot read {}", name(path)))?;
    let values: Vec<Box<RawValue>> =
        serde_json::from_slice(&bytes).with_context(|| format!("{} is no JSON array", name(path)))?;
    Ok(Input::Array(values.into_iter()))
}

/// Objects a line, or such that go over several: a first line shows which.
fn json(mut text: Text) -> io::Result<Input> {
    let mut first = Vec::new();
    while first.trim_ascii().is_empty() && text.read_until(b'\n', &mut first)? > 0 {}
    let goes_on = match serde_json::from_slice::<serde::de::IgnoredAny>(&first) {
        // A text that its line cuts off is a broken line.
        Err(e) => {
            e.is_eof() && first.trim_ascii_start().starts_with(b"{") && !e.to_string().contains("string")
        }
        Ok(_) => false,
    };
    let text: Text = Box::new(io::Cursor::new(first).chain(text));
    if goes_on {
        return Ok(Input::Objects(Box::new(serde_json::Deserializer::from_reader(text).into_iter())));
    }
    Ok(Input::Lines { text, format: RecordFormat::Jsonl, line: 0 })
}

fn next_object(values: &mut Objects) -> Option<Read> {
    Some(match values.next()? {
        Ok(value) => of_json(value.get(), None),
        Err(e) => {
            // Behind a mistake nobody knows where the next one begins.
            *values = Box::new(std::iter::empty());
            let problem = format!("not JSON from here on: {e}");
            Read { fields: Fields::of_text(UNREAD, ""), problem: Some(problem), line: None }
        }
    })
}

/// The delimiter that a first line names, if that is all that it says, and the text behind it.
fn separator(mut text: Text) -> io::Result<(Option<u8>, Text)> {
    let mut line = Vec::new();
    text.read_until(b'\n', &mut line)?;
    let said = line.trim_ascii_end();
    let said = said.strip_prefix(b"\"").and_then(|said| said.strip_suffix(b"\"")).unwrap_or(said);
    match said.strip_prefix(b"sep=") {
        Some([one]) => Ok((Some(*one), text)),
        // A tab at the end of the line is no white space here.
        _ if line.trim_ascii_end() == b"sep=" && line.contains(&b'\t') => Ok((Some(b'\t'), text)),
        _ => Ok((None, Box::new(io::Cursor::new(line).chain(text)))),
    }
}

fn tabs(path: &Path, text: Text) -> Result<Input> {
    let mut rows = Rows::new(text);
    let header = rows.next().with_context(|| format!("the header of {}", name(path)))?;
    let names = header.map(|(cells, _)| cells).unwrap_or_default();
    let names = names.iter().map(|cell| std::str::from_utf8(cell).map(str::to_owned));
    let names = names.collect::<Result<Vec<_>, _>>();
    let names = names.with_context(|| format!("the header of {} is not UTF-8 text", name(path)))?;
    has_header(path, &names)?;
    Ok(Input::Tabs { rows, names })
}

fn has_header(path: &Path, names: &[String]) -> Result<()> {
    if names.is_empty() {
        bail!(Failure::Usage(format!(
            "{} is empty: it needs a header, the names of its columns",
            name(path)
        )));
    }
    Ok(())
}

fn columns(path: &Path, text: Text, delimiter: Option<u8>) -> Result<Input> {
    let (separator, text) = separator(text).with_context(|| format!("cannot read {}", name(path)))?;
    let delimiter = delimiter.or(separator).unwrap_or(b',');
    let text = Quotes::new(text, delimiter);
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(text);
    let header = reader.headers().with_context(|| format!("the header of {}", name(path)))?;
    let names: Vec<_> = header.iter().map(str::to_owned).collect();
    has_header(path, &names)?;
    let next = reader.position().line();
    if names.iter().any(|name| name.contains('\n')) && reader.get_ref().are_stray(0..next) {
        bail!(Failure::Usage(format!("a quote in the header of {} is never closed", name(path))));
    }
    Ok(Input::Columns { reader: Box::new(reader), names, separator })
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
        Ok(fields) => Read { problem: Fields::problem(&fields), fields, line },
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

/// A row of columns. With `below` there is a line above the header that the reader has not seen.
fn next_row(reader: &mut csv::Reader<Quotes>, names: &[String], below: bool) -> Result<Option<Read>> {
    let mut row = csv::ByteRecord::new();
    if !reader.read_byte_record(&mut row).context("cannot read the input")? {
        return Ok(None);
    }
    let line = row.position().map(csv::Position::line);
    let cells: Vec<&[u8]> = row.iter().collect();
    let mut read = of_cells(names, &cells, line.map(|line| line + u64::from(below)));
    let next = reader.position().line().max(line.unwrap_or(0) + 1);
    let spans_lines = row.iter().any(|cell| cell.contains(&b'\n'));
    let is_open = reader.get_ref().is_open();
    if (spans_lines || is_open) && reader.get_ref().are_stray(line.unwrap_or(0)..next) {
        let first = read.line.unwrap_or(0);
        let last = next - 1 + u64::from(below);
        read.problem = Some(match last > first {
            false => "unclosed quote: the rest of the line was read as one cell".into(),
            true => format!("unclosed quote: lines {first}–{last} were read as one cell"),
        });
    }
    Ok(Some(read))
}

/// A record of the cells of a row. Those without a column are kept in the error, so that nothing is lost.
fn of_cells(names: &[String], row: &[impl AsRef<[u8]>], line: Option<u64>) -> Read {
    let mut problem = None;
    if row.len() != names.len() {
        let over = row.iter().skip(names.len()).map(|cell| String::from_utf8_lossy(cell.as_ref()));
        let over: Vec<_> = over.collect();
        let over = if over.is_empty() { String::new() } else { format!("; too many: {}", over.join(", ")) };
        problem =
            Some(format!("it has {}, expected {}{over}", human::count(row.len(), "column"), names.len()));
    }
    let mut fields = Fields::default();
    for (name, cell) in names.iter().zip(row) {
        let cell = cell.as_ref();
        if std::str::from_utf8(cell).is_err() {
            problem = Some(format!("column {name:?} is not UTF-8 text"));
        }
        fields.push(name, &String::from_utf8_lossy(cell).into());
    }
    Read { fields, problem, line }
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
