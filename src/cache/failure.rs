//! Kinds of failures.

/// Failures that callers tell apart.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The call makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The call makes no sense, and there is something to do about it.
    #[error("{what}")]
    Refused {
        /// Reason.
        what: String,
        /// Possible remedy, which the caller puts into words.
        hint: Hint,
    },
    /// There is no such state.
    #[error("{0}")]
    NotFound(String),
    /// A hit was required and there was none.
    #[error("{0}")]
    Miss(String),
    /// The index contradicts itself.
    #[error("{0}")]
    Corrupt(String),
    /// The model is missing, has moved, or is another one.
    #[error("{0}")]
    Model(String),
    /// A disk has no room for it.
    #[error("{0}")]
    NoRoom(String),
    /// The caller cancelled it.
    #[error("{0}")]
    Interrupted(String),
}

/// Remedy for a call that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// Write the output anew.
    BeginAnew,
    /// Say what is between the columns.
    NameDelimiter,
    /// Say which column is asked, or how.
    NameColumn,
    /// Say what the input holds.
    NameFormat,
    /// Forget messages.
    Forget,
    /// Forget messages, or save them first.
    SaveOrForget,
    /// Go on with it as a conversation.
    Converse,
    /// Look at the prompt's lines.
    ShowPrompt,
    /// Give the template, and its arguments, that the state was built with.
    SameTemplate,
    /// Give the answer another field, or let it replace the one that is there.
    NameField,
}

impl Hint {
    /// A failure with this hint.
    pub fn with(self, what: String) -> Failure {
        Failure::Refused { what, hint: self }
    }
}
