//! Kinds of files, by what their metadata says.

use crate::{object, record};

/// Kind of file that bytes whose hash is right can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// An object.
    Object,
    /// A record of version 0.1.
    Record,
    /// Of a later version, or of another program: it is left alone.
    Unknown,
}

impl FileKind {
    /// Kind that the metadata of a file says.
    pub fn new(bytes: &[u8]) -> Self {
        let format = object::metadata(bytes).ok().and_then(|mut strings| strings.remove("format"));
        match format.as_deref() {
            Some(object::FORMAT) => Self::Object,
            Some(record::FORMAT) => Self::Record,
            _ => Self::Unknown,
        }
    }
}
