//! The full log: what happens, as it happens, one JSON object a line. `docs/log.md` describes it.

use std::fs::File;
use std::io::Write;
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
    /// Appends to `file`; times count from `started` on.
    pub fn new(file: File, started: Instant) -> Self {
        Self { file: Arc::new(Mutex::new(Some(file))), started }
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
