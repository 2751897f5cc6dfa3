//! Exit codes and advice for errors.

use std::io::{self, Write};

use crate::cache::fingerprint::IsAdapter;
pub use crate::cache::{Failure, Hint};
use crate::cli::terminal::for_stderr;
use crate::error::{ErrorKind, in_a_line, is_missing_file};
use pcache_engine::template::TemplateError;
use pcache_store::StoreError;

/// Exit code of a failure; `interrupted` is that of the signal that came.
fn code(failure: &Failure, interrupted: u8) -> u8 {
    match failure {
        Failure::NoRoom(_)
        | Failure::Refused { hint: Hint::Converse | Hint::Forget | Hint::SaveOrForget, .. } => 1,
        Failure::Usage(_) | Failure::Refused { .. } => 2,
        Failure::NotFound(_) | Failure::Miss(_) => 3,
        Failure::Corrupt(_) => 4,
        Failure::Model(_) => 5,
        Failure::Interrupted(_) => interrupted,
    }
}

/// Prints the error and its causes in one line, as text or as JSON, and says how to exit; `interrupted` is the exit code where
/// a signal stopped it. A reader that went away is not an error.
pub fn report(error: &anyhow::Error, interrupted: u8, json: bool) -> u8 {
    let closed = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    if error.chain().any(|e| e.downcast_ref::<io::Error>().is_some_and(closed)) {
        return 0;
    }
    print(ErrorKind::new(error), &in_a_line(error), advice(error), json);
    match (error.downcast_ref::<Failure>(), error.downcast_ref::<StoreError>()) {
        (Some(failure), _) => code(failure, interrupted),
        (_, Some(StoreError::DamagedIndex { .. })) => 4,
        (None, None) if is_missing_file(error) => 3,
        _ => 1,
    }
}

/// Prints an error on stderr: a line of its own with its remedy, or an object with its kind.
pub fn print(kind: ErrorKind, message: &str, hint: Option<&str>, json: bool) {
    let mut stderr = io::stderr();
    if json {
        let error = serde_json::json!({ "kind": kind.name(), "message": message, "hint": hint });
        let _ = writeln!(stderr, "{}", serde_json::json!({ "error": error }));
        return;
    }
    for line in [Some(message), hint].into_iter().flatten() {
        let _ = writeln!(stderr, "{}", for_stderr(&format!("pcache: {line}")));
    }
}

const MAKE_ROOM: &str = "the disk is full: pcache gc --max-size SIZE or pcache rm KEY makes room, as does whatever else can go from it; or choose another --cache-dir";

/// Returns advice in flags, which the code below the command line does not know.
fn advice(error: &anyhow::Error) -> Option<&'static str> {
    let of_failure = error.downcast_ref().and_then(|failure| match failure {
        Failure::Refused { hint, .. } => Some(of_hint(*hint)),
        Failure::NoRoom(_) => Some(MAKE_ROOM),
        _ => None,
    });
    let of_adapter = error.is::<IsAdapter>().then_some("pass it with --lora, and its model with --model");
    let of_template = error.is::<TemplateError>().then_some(
        "--raw takes the prompt as it is (a base model continues it), --template FILE another template",
    );
    of_failure.or(of_adapter).or(of_template).or_else(|| error.downcast_ref().and_then(of_store))
}

pub fn of_hint(hint: Hint) -> &'static str {
    match hint {
        Hint::BeginAnew => "--overwrite replaces it",
        Hint::NameDelimiter => "--delimiter CHAR says what is between columns",
        Hint::NameColumn => {
            "--field NAME says which column holds the question, --template TEXT puts columns into one"
        }
        Hint::NameFormat => "--input-format jsonl, csv or tsv says what else the input is",
        Hint::NameField => {
            "--into NAME gives the answer another field, --replace puts it in that one's place"
        }
        Hint::Forget => "/drop forgets the oldest message, /reset all of them",
        Hint::SaveOrForget => {
            "/drop forgets the oldest message, /reset all of them; /save NAME keeps them first"
        }
        Hint::Converse => "pcache chat --resume KEY resumes a conversation",
        Hint::ShowPrompt => "pcache show KEY --prompt shows its lines",
        Hint::SameTemplate => "pass the same --template and --template-arg",
    }
}

fn of_store(error: &StoreError) -> Option<&'static str> {
    Some(match error {
        error if error.is_full() => MAKE_ROOM,
        error if error.is_read_only() => {
            "the store cannot be written: ls, show, explain, verify and ask work; choose another --cache-dir to build"
        }
        StoreError::NoLocks { .. } => "put the store on another disk with --cache-dir",
        StoreError::Busy { .. } => "try again, or put the store on another disk with --cache-dir",
        StoreError::DamagedIndex { .. } => "pcache verify --repair makes a new one from the saved objects",
        StoreError::NewerSchema { .. } => "use the newer pcache, or another --cache-dir",
        StoreError::ForeignOwner { .. } => "pass --trust-owner if you trust them",
        StoreError::NotAStore { .. } => "name an empty folder with --cache-dir",
        _ => return None,
    })
}
