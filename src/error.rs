//! Errors of the library, with kinds.

use crate::cache::{Failure, Hint};
use crate::text::file::Missing;
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
    /// Input was refused.
    Refused,
    /// It was cancelled.
    Cancelled,
    /// The model is missing, has moved, or is another one.
    Model,
    /// llama.cpp refused or failed.
    Engine,
    /// A file or a disk failed, or anything else.
    Io,
}

impl ErrorKind {
    /// Kind of an error.
    pub(crate) fn new(error: &anyhow::Error) -> Self {
        let of_failure = |failure: &Failure| match failure {
            Failure::Usage(_) | Failure::Refused { .. } => Self::Refused,
            Failure::NotFound(_) => Self::NotFound,
            Failure::Miss(_) => Self::Miss,
            Failure::Corrupt(_) => Self::Corrupt,
            Failure::Model(_) => Self::Model,
            Failure::NoRoom(_) => Self::NoSpace,
            Failure::Interrupted(_) => Self::Cancelled,
        };
        let of_store = |error: &StoreError| match error {
            StoreError::Busy { .. } | StoreError::Replaced { .. } => Self::Busy,
            StoreError::DamagedIndex { .. } => Self::Corrupt,
            error if error.is_full() => Self::NoSpace,
            StoreError::Newer { .. } | StoreError::NewerSchema { .. } => Self::Refused,
            _ => Self::Io,
        };
        let engine = error.downcast_ref::<EngineError>().map(|_| Self::Engine);
        let missing = is_missing_file(error).then_some(Self::NotFound);
        let kind = error.downcast_ref().map(of_failure);
        kind.or_else(|| error.downcast_ref().map(of_store)).or(engine).or(missing).unwrap_or(Self::Io)
    }

    /// Name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Miss => "miss",
            Self::Corrupt => "corrupt",
            Self::Busy => "busy",
            Self::NoSpace => "no_space",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::Model => "model",
            Self::Engine => "engine",
            Self::Io => "io",
        }
    }
}

/// A file that was named does not exist.
pub(crate) fn is_missing_file(error: &anyhow::Error) -> bool {
    error.chain().any(<dyn std::error::Error>::is::<Missing>)
}

/// Why an operation failed.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    source: anyhow::Error,
}

impl Error {
    /// Returns a possible remedy, if there is one.
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
        f.write_str(&in_a_line(&self.source))
    }
}

/// An error and its causes in one line. Libraries that say their cause, too, would have it said twice.
pub(crate) fn in_a_line(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if !parts.last().is_some_and(|before| before.ends_with(&cause)) {
            parts.push(cause);
        }
    }
    parts.join(": ")
}

impl std::error::Error for Error {}

impl From<anyhow::Error> for Error {
    fn from(source: anyhow::Error) -> Self {
        let kind = ErrorKind::new(&source);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_is_said_already_is_not_said_twice() {
        let cause = std::io::Error::other("no room");
        let wrapped = anyhow::Error::from(cause).context("cannot write x: no room").context("saving");
        assert_eq!(in_a_line(&wrapped), "saving: cannot write x: no room");
    }
}
