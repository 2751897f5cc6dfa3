//! Destination of answers, in the order of their records: lines that the caller prints, a pipe or a device, or a file that a
//! later run continues.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

use super::journal::JournaledFile;
use super::layout::{Layout, Outcome};
use super::records::Record;
use crate::cache::{Call, Failure};

/// Time after which it is said that nobody reads.
const PATIENCE: Duration = Duration::from_secs(1);

/// Opens a pipe or a device. A named pipe waits for its reader, and a signal should end that as it ends anything else.
fn opened_to_write(call: Call<'_>, path: &Path) -> Result<fs_err::File> {
    let (send, receive) = mpsc::channel();
    let own = path.to_owned();
    // A thread that still waits goes with the program.
    thread::spawn(move || send.send(fs_err::OpenOptions::new().write(true).open(own)));
    let mut waited = Duration::ZERO;
    loop {
        let pause = Duration::from_millis(100);
        match receive.recv_timeout(pause) {
            Ok(opened) => return Ok(opened?),
            Err(_) if call.is_cancelled() => {
                bail!(Failure::Interrupted(format!("interrupted: nobody reads {}", path.display())))
            }
            Err(_) => waited += pause,
        }
        if waited == PATIENCE {
            call.say(format!("waiting for a reader of {}", path.display()));
        }
    }
}

/// Destination of answers.
pub struct Output<'a> {
    layout: Layout,
    to: To<'a>,
}

/// The kinds of places.
enum To<'a> {
    /// Lines that the caller prints.
    Lines(Print<'a>),
    /// A pipe or a device: it keeps nothing to go on with.
    Stream(fs_err::File),
    /// A file that a run can go on with.
    File(Box<JournaledFile>),
}

/// Prints a piece of the output.
pub type Print<'a> = Box<dyn FnMut(&str) -> Result<()> + 'a>;

impl<'a> Output<'a> {
    /// Answers are printed.
    ///
    /// # Errors
    /// When they cannot be.
    pub fn printed(layout: Layout, mut print: Print<'a>) -> Result<Self> {
        print(&layout.head())?;
        Ok(Self { layout, to: To::Lines(print) })
    }

    /// Answers go to a file, behind those that the same run has put there already. `run` names the state and the options.
    ///
    /// # Errors
    /// When the file cannot be written, or holds something else.
    pub fn to_file(call: Call<'_>, layout: Layout, path: &Path, run: &str, overwrite: bool) -> Result<Self> {
        if fs_err::metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
            let mut file = opened_to_write(call, path)?;
            file.write_all(layout.head().as_bytes())?;
            return Ok(Self { layout, to: To::Stream(file) });
        }
        let file = JournaledFile::open(path, run, &layout.head(), overwrite)?;
        Ok(Self { layout, to: To::File(Box::new(file)) })
    }

    /// Returns true if an interrupted run can be continued.
    pub fn is_file(&self) -> bool {
        matches!(self.to, To::File(_))
    }

    fn sink(&self) -> Option<&JournaledFile> {
        match &self.to {
            To::File(sink) => Some(sink),
            To::Lines(_) | To::Stream(_) => None,
        }
    }

    /// Number of records that are answered already.
    pub fn done(&self) -> usize {
        self.sink().map_or(0, JournaledFile::done)
    }

    /// Number of them that could not be answered.
    pub fn failed(&self) -> usize {
        self.sink().map_or(0, JournaledFile::failed)
    }

    /// Refuses a record that is not the one that was answered in its place.
    pub fn check_done(&self, record: &Record) -> Result<()> {
        self.sink().map_or(Ok(()), |sink| sink.check_done(record))
    }

    /// Why a record has no place in the output, if it has none.
    pub fn check(&self, record: &Record) -> Result<(), String> {
        self.layout.check(record)
    }

    /// Writes what became of the next record.
    pub fn write(&mut self, record: &Record, outcome: &Outcome) -> Result<()> {
        let line = self.layout.line(record, outcome);
        match &mut self.to {
            To::File(sink) => sink.write(&line, record, matches!(outcome, Outcome::Problem(_))),
            To::Stream(stream) => Ok(stream.write_all(line.as_bytes())?),
            To::Lines(print) => print(&line),
        }
    }

    /// The run is over. The same command answers what comes later.
    pub fn close(self) -> Result<()> {
        match self.to {
            To::File(sink) => sink.close(),
            To::Lines(_) | To::Stream(_) => Ok(()),
        }
    }
}
