//! How errors end a command: the exit code, and advice.

use std::io::{self, Write};

use crate::cache::fingerprint::IsAdapter;
pub use crate::cache::{Failure, Hint};
use pcache_store::StoreError;

/// Exit code of a failure; `interrupted` is that of the signal that came.
fn code(failure: &Failure, interrupted: u8) -> u8 {
    match failure {
        Failure::NoRoom(_) => 1,
        Failure::Usage(_) | Failure::Refused { .. } => 2,
        Failure::NotFound(_) | Failure::Miss(_) => 3,
        Failure::Corrupt(_) => 4,
        Failure::Interrupted(_) => interrupted,
    }
}

/// Prints the error and its causes in one line, and says how to exit; `interrupted` is the exit code where a signal stopped it. A reader that went away is not an error.
pub fn report(error: &anyhow::Error, interrupted: u8) -> u8 {
    let closed = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    if error.chain().any(|e| e.downcast_ref::<io::Error>().is_some_and(closed)) {
        return 0;
    }
    let _ = writeln!(io::stderr(), "pcache: {error:#}");
    let no_room = matches!(error.downcast_ref(), Some(Failure::NoRoom(_)));
    let adapter = error.is::<IsAdapter>().then_some("pass it with --lora, and its model with --model");
    let hint = match error.downcast_ref() {
        Some(Failure::Refused { hint, .. }) => Some(words(*hint)),
        _ => None,
    };
    let advice = error.downcast_ref().and_then(advice).or(no_room.then_some(MAKE_ROOM)).or(adapter).or(hint);
    if let Some(advice) = advice {
        let _ = writeln!(io::stderr(), "pcache: {advice}");
    }
    match (error.downcast_ref::<Failure>(), error.downcast_ref::<StoreError>()) {
        (Some(failure), _) => code(failure, interrupted),
        (_, Some(StoreError::DamagedIndex { .. })) => 4,
        _ => 1,
    }
}

const MAKE_ROOM: &str = "the disk is full: pcache gc --max-size SIZE or pcache rm KEY makes room, as does whatever else can go from it; or choose another --cache-dir";

/// A hint in flags.
pub fn words(hint: Hint) -> &'static str {
    match hint {
        Hint::BeginAnew => "--overwrite begins it anew",
        Hint::NameDelimiter => "--delimiter CHAR says what is between columns",
        Hint::NameFormat => "--input-format jsonl, csv or tsv says what else the input is",
        Hint::NameField => {
            "--into NAME gives the answer another field, --replace puts it in that one's place"
        }
    }
}

/// What to do about a disk that is full or cannot be written.
fn advice(error: &StoreError) -> Option<&'static str> {
    if error.is_full() {
        Some(MAKE_ROOM)
    } else if error.is_read_only() {
        Some(
            "the store cannot be written: ls, show, explain, verify and ask work; choose another --cache-dir to build",
        )
    } else {
        None
    }
}
