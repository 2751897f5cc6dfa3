//! Kinds of failures.

/// Failures that callers tell apart.
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
    /// A disk has no room for it.
    #[error("{0}")]
    NoRoom(String),
    /// Somebody cancelled it.
    #[error("{0}")]
    Interrupted(String),
}
