//! Errors that end a command, and their exit codes.

use std::io::{self, Write};

use pcache_store::StoreError;

/// Failures that scripts tell apart by the exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The call makes no sense.
    #[error("{0}")]
    Usage(String),
    /// There is no such state.
    #[error("{0}")]
    NotFound(String),
    /// A hit was required and there was none.
    #[error("{0}")]
    Miss(String),
    /// The index contradicts itself.
    #[error("{0}")]
    Corrupt(String),
    /// The user pressed Ctrl-C.
    #[error("{0}")]
    Interrupted(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::NotFound(_) | Self::Miss(_) => 3,
            Self::Corrupt(_) => 4,
            Self::Interrupted(_) => 130,
        }
    }
}

/// Prints the error and its causes in one line, and says how to exit. A reader that went away is not an error.
pub fn report(error: &anyhow::Error) -> u8 {
    let closed = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    if error.chain().any(|e| e.downcast_ref::<io::Error>().is_some_and(closed)) {
        return 0;
    }
    let _ = writeln!(io::stderr(), "pcache: {error:#}");
    if let Some(advice) = error.downcast_ref().and_then(advice) {
        let _ = writeln!(io::stderr(), "pcache: {advice}");
    }
    match (error.downcast_ref::<Failure>(), error.downcast_ref::<StoreError>()) {
        (Some(failure), _) => failure.code(),
        (_, Some(StoreError::DamagedIndex { .. })) => 4,
        _ => 1,
    }
}

/// What to do about a disk that is full or cannot be written.
fn advice(error: &StoreError) -> Option<&'static str> {
    if error.is_full() {
        Some(
            "the disk is full: pcache gc --max-size SIZE or pcache rm KEY makes room, as does whatever else can go from it; or choose another --cache-dir",
        )
    } else if error.is_read_only() {
        Some(
            "the store cannot be written: ls, show, explain, verify and ask work; choose another --cache-dir to build",
        )
    } else {
        None
    }
}
