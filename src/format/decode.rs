//! Reading: from any bytes to an object or a typed refusal.

use std::collections::HashMap;
use std::ops::Range;
use std::str::FromStr;

use safetensors::tensor::{Dtype, SafeTensors};

use super::{FORMAT, Layout, Meta};

/// Why bytes are not an object of this program.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    /// Not a safetensors file, or a damaged one.
    #[error("not a valid safetensors file: {0}")]
    Container(String),
    /// A metadata entry is absent.
    #[error("metadata {0:?} is missing")]
    Missing(&'static str),
    /// A metadata entry has a value that is not understood.
    #[error("metadata {key:?} is {found:?}, expected {expected}")]
    Value {
        /// The entry.
        key: &'static str,
        /// What it holds.
        found: String,
        /// What would be understood.
        expected: &'static str,
    },
    /// The tensors are not the two that an object has.
    #[error("tensor {0:?} is missing or has another type or shape")]
    Tensor(&'static str),
    /// The record of a state makes no sense.
    #[error("not the record of a state: {0}")]
    Record(String),
}

/// A decoded object: what it says about itself, and where its state lies in the bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Object {
    /// The description.
    pub meta: Meta,
    /// The token ids, one per position.
    pub tokens: Vec<i32>,
    /// Where the raw state lies in the decoded bytes.
    pub state: Range<usize>,
}

/// Decodes an object file.
///
/// # Errors
/// A [`FormatError`] for anything that is not exactly what [`super::Encoded`] writes. The content's hash is
/// not checked here: callers compare the BLAKE3 of all bytes with the object's name first.
pub fn decode(bytes: &[u8]) -> Result<Object, FormatError> {
    let strings = metadata(bytes)?;
    let fields = Fields(&strings);
    fields.expect("format", FORMAT)?;
    fields.expect("codec", "raw")?;

    let meta = Meta {
        chain: fields.parse("chain", "64 hex digits")?,
        parent: fields.parse("parent", "64 hex digits")?,
        model: fields.parse("model", "64 hex digits")?,
        params: fields.get("params")?.to_owned(),
        layout: Layout::named(fields.get("layout")?)
            .ok_or_else(|| fields.unexpected("layout", "\"segment\" or \"snapshot\""))?,
        first: fields.parse("first", "a position")?,
    };
    let count: usize = fields.parse("count", "a number of tokens")?;
    let raw_bytes: usize = fields.parse("raw_bytes", "a size in bytes")?;
    if count == 0 || (meta.layout == Layout::Snapshot && meta.first != 0) {
        return Err(fields.unexpected("first", "0 for a snapshot, and at least one token"));
    }

    let tokens = i32_tensor(bytes)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(container)?;
    let state = tensors.tensor("state").map_err(|_| FormatError::Tensor("state"))?;
    if state.dtype() != Dtype::U8 || state.shape() != [raw_bytes] || tensors.len() != 2 {
        return Err(FormatError::Tensor("state"));
    }
    if tokens.len() != count {
        return Err(FormatError::Tensor("tokens"));
    }
    let start = state.data().as_ptr().addr() - bytes.as_ptr().addr();
    Ok(Object { meta, tokens, state: start..start + state.data().len() })
}

fn container(error: safetensors::SafeTensorError) -> FormatError {
    FormatError::Container(error.to_string())
}

/// The string metadata of a file.
pub(super) fn metadata(bytes: &[u8]) -> Result<HashMap<String, String>, FormatError> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(container)?;
    header.metadata().clone().ok_or(FormatError::Missing("__metadata__"))
}

/// The tensor `tokens` of a file.
pub(super) fn i32_tensor(bytes: &[u8]) -> Result<Vec<i32>, FormatError> {
    let tensors = SafeTensors::deserialize(bytes).map_err(container)?;
    let view = tensors.tensor("tokens").map_err(|_| FormatError::Tensor("tokens"))?;
    if view.dtype() != Dtype::I32 || view.shape().len() != 1 {
        return Err(FormatError::Tensor("tokens"));
    }
    Ok(view.data().chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

struct Fields<'a>(&'a HashMap<String, String>);

impl Fields<'_> {
    fn get(&self, key: &'static str) -> Result<&str, FormatError> {
        self.0.get(key).map(String::as_str).ok_or(FormatError::Missing(key))
    }

    fn unexpected(&self, key: &'static str, expected: &'static str) -> FormatError {
        let found = self.0.get(key).cloned().unwrap_or_default();
        FormatError::Value { key, found, expected }
    }

    fn expect(&self, key: &'static str, value: &'static str) -> Result<(), FormatError> {
        if self.get(key)? == value { Ok(()) } else { Err(self.unexpected(key, value)) }
    }

    fn parse<T: FromStr>(&self, key: &'static str, expected: &'static str) -> Result<T, FormatError> {
        self.get(key)?.parse().map_err(|_| self.unexpected(key, expected))
    }
}
