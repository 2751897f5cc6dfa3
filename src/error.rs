//! Errors of the library, with kinds.

use crate::cache::{Failure, Hint};
use pcache_engine::EngineError;
use pcache_store::StoreError;

/// Kinds of errors that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such state.
    NotFound,
    /// A hit was required, and there was none.
    Miss,
    /// Something saved contradicts itself, and was not mended.
    Corrupt,
    /// Another process has it for too long.
    Busy,
    /// A disk has no room.
    NoSpace,
    /// What was given makes no sense.
    Refused,
    /// It was cancelled.
    Cancelled,
    /// llama.cpp refused or failed.
    Engine,
    /// A file or a disk failed, or anything else.
    Io,
}

/// Why an operation failed.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    source: anyhow::Error,
}

impl Error {
    /// What can be done about it, where something can.
    pub fn hint(&self) -> Option<Hint> {
        match self.source.downcast_ref() {
            Some(Failure::Refused { hint, .. }) => Some(*hint),
            _ => None,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.source)
    }
}

impl std::error::Error for Error {}

impl From<anyhow::Error> for Error {
    fn from(source: anyhow::Error) -> Self {
        let of_failure = |failure: &Failure| match failure {
            Failure::Usage(_) | Failure::Refused { .. } => ErrorKind::Refused,
            Failure::NotFound(_) => ErrorKind::NotFound,
            Failure::Miss(_) => ErrorKind::Miss,
            Failure::Corrupt(_) => ErrorKind::Corrupt,
            Failure::NoRoom(_) => ErrorKind::NoSpace,
            Failure::Interrupted(_) => ErrorKind::Cancelled,
        };
        let of_store = |error: &StoreError| match error {
            StoreError::Busy { .. } | StoreError::Replaced { .. } => ErrorKind::Busy,
            StoreError::DamagedIndex { .. } => ErrorKind::Corrupt,
            error if error.is_full() => ErrorKind::NoSpace,
            StoreError::Newer { .. } | StoreError::NewerSchema { .. } => ErrorKind::Refused,
            _ => ErrorKind::Io,
        };
        let engine = source.downcast_ref::<EngineError>().map(|_| ErrorKind::Engine);
        let kind = source.downcast_ref().map(of_failure);
        let kind = kind.or_else(|| source.downcast_ref().map(of_store)).or(engine).unwrap_or(ErrorKind::Io);
        Self { kind, source }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        anyhow::Error::from(error).into()
    }
}

/// A result of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;
