//! The full log: what happens, as it happens, one JSON object a line. `docs/guide/log.md` describes it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::Serialize;
use serde_json::{Value, json};

/// The version of the log's schema: raised when a field changes its meaning.
pub const SCHEMA: u32 = 1;

/// A log that can be written from several places.
#[derive(Debug, Clone)]
pub struct Log {
    file: Arc<Mutex<Option<File>>>,
    started: Instant,
}

impl Log {
    /// Appends to the file at `path`; times count from `started` on. A line that a full disk cut short there is ended first.
    ///
    /// # Errors
    /// When the file cannot be opened, or holds something else: what a command reads should not get lines of a log.
    pub fn open(path: &Path, started: Instant) -> std::io::Result<Self> {
        if !may_be_log(path) {
            let problem = format!("{} is there and holds no log; choose another name", path.display());
            return Err(std::io::Error::other(problem));
        }
        let mut file = fs_err::OpenOptions::new().append(true).create(true).open(path)?.into_parts().0;
        if is_cut_short(path) {
            // What cannot be written is told with the first event.
            let _ = file.write_all(b"\n");
        }
        Ok(Self { file: Arc::new(Mutex::new(Some(file))), started })
    }

    /// Writes an event of this name with the fields of `value`. A log that cannot be written any more ends, and never
    /// fails what it is the log of; says whether that has just happened.
    pub fn event(&self, name: &str, value: &impl Serialize) -> Result<(), std::io::Error> {
        let t = self.started.elapsed().as_secs_f64();
        let mut line = json!({ "event": name, "t": t, "process": std::process::id() });
        if let (Value::Object(line), Ok(Value::Object(fields))) = (&mut line, serde_json::to_value(value)) {
            fields.into_iter().filter(|(key, _)| key != "event").for_each(|(key, value)| {
                line.insert(key, value);
            });
        }
        let mut file = self.file.lock().unwrap_or_else(|e| e.into_inner());
        let Some(open) = file.as_mut() else { return Ok(()) };
        // One write a line: several processes may append to one file.
        let written = open.write_all(format!("{line}\n").as_bytes());
        if written.is_err() {
            *file = None;
        }
        written
    }
}

/// Returns true if there is nothing at `path` yet, or a log: its first line is an event. Pipes and devices hold nothing.
fn may_be_log(path: &Path) -> bool {
    /// More than the first line of any log has.
    const MOST: u64 = 1 << 20;
    if !std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() > 0) {
        return true;
    }
    let first = || -> std::io::Result<Vec<u8>> {
        let mut line = Vec::new();
        BufReader::new(File::open(path)?.take(MOST)).read_until(b'\n', &mut line)?;
        Ok(line)
    };
    // One that may be written and not read can only be trusted.
    first().map_or(true, |line| {
        serde_json::from_slice::<Value>(&line)
            .is_ok_and(|event| event["event"].is_string() && event["t"].is_number())
    })
}

/// Returns true if a file's last line has no end. A pipe has no last line.
fn is_cut_short(path: &Path) -> bool {
    let last = || -> std::io::Result<u8> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok(last[0])
    };
    let is_file = std::fs::metadata(path).is_ok_and(|meta| meta.is_file());
    is_file && last().is_ok_and(|last| last != b'\n')
}
