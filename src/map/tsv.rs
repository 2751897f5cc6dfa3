//! Rows whose cells are parted by tabs. A quotation mark is text there, as in most files of that kind, unless the marks enclose their
//! cell as programs for tables write one that has a tab or a newline in it.

use std::io::{self, BufRead};

use super::quotes::Text;

/// Lines that a cell in quotation marks has at most: what is not closed by then is text.
const MAX_LINES: usize = 1000;

/// A cell in quotation marks, and what stands behind the tab that ends it.
type Quoted = (Vec<u8>, Option<Vec<u8>>);

/// Rows, read one after the other.
pub struct Rows {
    text: Text,
    /// Lines that were read, and those that were looked at beyond them.
    line: u64,
    ahead: Vec<Vec<u8>>,
}

impl Rows {
    /// Nothing is read yet.
    pub fn new(text: Text) -> Self {
        Self { text, line: 0, ahead: Vec::new() }
    }

    /// The next row that is not empty, and the line in which it begins, from 1 on.
    ///
    /// # Errors
    /// When the text cannot be read.
    pub fn next(&mut self) -> io::Result<Option<(Vec<Vec<u8>>, u64)>> {
        loop {
            let Some(first) = self.next_line()? else { return Ok(None) };
            self.line += 1;
            let begins = self.line;
            if content(&first).is_empty() {
                continue;
            }
            return Ok(Some((self.cells(first)?, begins)));
        }
    }

    /// The cells of a row that begins with `line`.
    fn cells(&mut self, line: Vec<u8>) -> io::Result<Vec<Vec<u8>>> {
        let (mut cells, mut rest) = (Vec::new(), line);
        loop {
            let opens = rest.first() == Some(&b'"');
            if let Some((cell, after)) = if opens { self.quoted(&rest)? } else { None } {
                cells.push(cell);
                match after {
                    Some(after) => rest = after,
                    None => return Ok(cells),
                }
                continue;
            }
            let plain = content(&rest);
            match plain.iter().position(|byte| *byte == b'\t') {
                Some(tab) => {
                    cells.push(plain[..tab].to_vec());
                    rest.drain(..=tab);
                }
                None => {
                    cells.push(plain.to_vec());
                    return Ok(cells);
                }
            }
        }
    }

    /// A cell that quotation marks enclose, and what stands behind the tab that ends it; `None` where they do not. It may go over
    /// several lines, but there is no tab in it: that ends a cell whose mark is text.
    fn quoted(&mut self, begins: &[u8]) -> io::Result<Option<Quoted>> {
        let mut text = begins.to_vec();
        let (mut at, mut lines) = (1, 0);
        let mut cell = Vec::new();
        let found = loop {
            match text.get(at) {
                Some(b'"') if text.get(at + 1) == Some(&b'"') => {
                    cell.push(b'"');
                    at += 2;
                }
                Some(b'"') => {
                    let after = &text[at + 1..];
                    break match after.first() {
                        Some(b'\t') => Some((cell, Some(after[1..].to_vec()))),
                        _ if content(after).is_empty() => Some((cell, None)),
                        _ => None,
                    };
                }
                Some(b'\t') => break None,
                Some(byte) => {
                    cell.push(*byte);
                    at += 1;
                }
                None if lines == MAX_LINES => break None,
                None => match self.line_ahead(lines)? {
                    Some(more) => {
                        text.extend(more);
                        lines += 1;
                    }
                    None => break None,
                },
            }
        };
        if found.is_some() {
            self.ahead.drain(..lines);
            self.line += lines as u64;
        }
        Ok(found)
    }

    fn line_ahead(&mut self, number: usize) -> io::Result<Option<Vec<u8>>> {
        if number == self.ahead.len() {
            match read_line(&mut self.text)? {
                Some(line) => self.ahead.push(line),
                None => return Ok(None),
            }
        }
        Ok(self.ahead.get(number).cloned())
    }

    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.ahead.is_empty() { read_line(&mut self.text) } else { Ok(Some(self.ahead.remove(0))) }
    }
}

fn read_line(text: &mut Text) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    Ok((text.read_until(b'\n', &mut line)? > 0).then_some(line))
}

/// A line without its end.
fn content(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// A cell as it is written: as it is, but for what would be read as something else.
pub fn written(cell: &str) -> String {
    let needs_marks = cell.contains(['\t', '\n', '\r']) || cell.starts_with('"') && cell.ends_with('"');
    match (needs_marks, cell.contains('\t')) {
        (false, _) => cell.to_owned(),
        // A tab within quotation marks would end the cell.
        (true, true) => format!("\"{}\"", cell.replace('"', "\"\"").replace('\t', " ")),
        (true, false) => format!("\"{}\"", cell.replace('"', "\"\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Vec<(Vec<String>, u64)> {
        let mut rows = Rows::new(Box::new(io::Cursor::new(text.as_bytes().to_vec())));
        let text = |cell: Vec<u8>| String::from_utf8(cell).unwrap();
        std::iter::from_fn(|| rows.next().unwrap())
            .map(|(cells, line)| (cells.into_iter().map(text).collect(), line))
            .collect()
    }

    fn row(cells: &[&str], line: u64) -> (Vec<String>, u64) {
        (cells.iter().map(|cell| (*cell).to_owned()).collect(), line)
    }

    /// One cell that began with a mark swallowed 5 of 6 records.
    #[test]
    fn a_mark_is_text_unless_it_encloses_its_cell() {
        let found = rows("a\tb\n\"open\t1\nx\t\"two\" words\n\"a \"\"b\"\"\"\t\"\"\ny\t5\"\r\n\nz\t\"end");
        let expected = [
            row(&["a", "b"], 1),
            row(&["\"open", "1"], 2),
            row(&["x", "\"two\" words"], 3),
            row(&["a \"b\"", ""], 4),
            row(&["y", "5\""], 5),
            row(&["z", "\"end"], 7),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_cell_in_marks_may_go_over_lines() {
        let found = rows("a\tb\n1\t\"two\nlines\"\n\"x\ny\"\t2\n3\t\"never\n4\tclosed\n");
        let expected = [
            row(&["a", "b"], 1),
            row(&["1", "two\nlines"], 2),
            row(&["x\ny", "2"], 4),
            row(&["3", "\"never"], 6),
            row(&["4", "closed"], 7),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_written_is_read_again() {
        for cell in ["plain", "5\" pipe", "\"open", "\"both\"", "two\nlines", "\"", "\"\"", "a\r", ""] {
            let read = rows(&format!("{}\tx\n", written(cell)));
            assert_eq!(read, [row(&[cell, "x"], 1)], "{cell:?}");
        }
        assert_eq!(written("a\tb"), "\"a b\"");
    }
}
