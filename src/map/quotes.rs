//! Quotes in columns that are not closed where they should be, which the reader of columns takes as they come.

use std::io::{self, BufRead};
use std::ops::Range;

/// Text that is read as it comes.
pub type Text = Box<dyn BufRead + Send>;

/// Text of which the quotes are watched: one that is not closed where its cell ends takes what follows into the cell, and
/// the reader of columns does not mind.
pub struct Quotes {
    text: Text,
    delimiter: u8,
    place: Place,
    /// The line at hand, from 1 on, and that of the last quote that was opened.
    line: u64,
    opened: u64,
    /// Lines in which quotes were opened that are not closed where a cell ends.
    stray: Vec<u64>,
}

/// Position of a character in a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    CellBegins,
    Plain,
    Quoted,
    /// Behind a quote in a quoted cell: its end, or half of two quotes that mean one.
    Closed,
}

impl Quotes {
    /// Nothing is read yet.
    pub fn new(text: Text, delimiter: u8) -> Self {
        Self { text, delimiter, place: Place::CellBegins, line: 1, opened: 1, stray: Vec::new() }
    }

    fn watch(&mut self, byte: u8) {
        let ends = byte == self.delimiter || byte == b'\n' || byte == b'\r';
        self.place = match (self.place, byte) {
            (Place::Quoted, b'"') => Place::Closed,
            (Place::Quoted, _) | (Place::Closed, b'"') => Place::Quoted,
            (Place::CellBegins, b'"') => {
                self.opened = self.line;
                Place::Quoted
            }
            _ if ends => Place::CellBegins,
            (Place::Closed, _) => {
                self.stray.push(self.opened);
                Place::Plain
            }
            _ => Place::Plain,
        };
        self.line += u64::from(byte == b'\n');
    }

    /// Returns true if the text so far ends within quotes.
    pub fn is_open(&self) -> bool {
        self.place == Place::Quoted
    }

    /// Returns true if a quote that was opened in a line of `lines` is not closed where its cell ends.
    pub fn are_stray(&self, lines: Range<u64>) -> bool {
        // They are in order, and a file may be full of them.
        let first = self.stray.partition_point(|line| *line < lines.start);
        self.stray.get(first).is_some_and(|line| *line < lines.end)
    }
}

impl io::Read for Quotes {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.text.read(bytes)?;
        bytes[..read].iter().for_each(|byte| self.watch(*byte));
        if read == 0 && self.is_open() {
            self.stray.push(self.opened);
        }
        Ok(read)
    }
}
