//! Reading: from any bytes to an object or a typed refusal.

use std::collections::HashMap;
use std::ops::Range;
use std::str::FromStr;

use safetensors::tensor::{Dtype, SafeTensors};

use super::{FORMAT, Layout, Meta, codec};
use crate::Lineage;
use crate::MAX_TOKENS;

/// Elements have no more bytes than this.
const MAX_STRIDE: usize = 8;
/// Bytes of a header: the longest is that of a manifest of many segments, with the text around a question.
const MAX_HEADER: u64 = 16 << 20;

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
        /// Value that was found.
        found: String,
        /// Values that would be understood.
        expected: &'static str,
    },
    /// The tensors are not the two that an object has.
    #[error("tensor {0:?} is missing or has another type or shape")]
    Tensor(&'static str),
    /// An encoded state cannot be decoded.
    #[error("the encoded state is damaged: {0}")]
    Codec(String),
    /// The record of a state makes no sense.
    #[error("not the record of a state: {0}")]
    Record(String),
    /// The manifest of a state makes no sense.
    #[error("not the manifest of a state: {0}")]
    Manifest(String),
    /// The label of a state makes no sense.
    #[error("not the label of a state: {0}")]
    Label(String),
    /// A later version wrote it.
    #[error("a later version of pcache wrote it ({0})")]
    Newer(String),
}

/// A decoded object: what it says about itself, and where its state lies in the bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Object {
    /// The description.
    pub meta: Meta,
    /// The token ids, one per position.
    pub tokens: Vec<i32>,
    /// Place of the state in the decoded bytes, stored as `stored` says.
    pub state: Range<usize>,
    /// Storage of the state.
    pub stored: Stored,
    /// BLAKE3 of the raw state.
    pub raw_blake3: blake3::Hash,
}

/// Storage of a state, and the data that reading it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// As it is.
    Raw,
    /// In planes, compressed.
    Zstd {
        /// Bytes of an element, and so planes.
        stride: usize,
        /// Bytes of the raw state.
        raw_bytes: usize,
    },
}

/// Memory for decoding, reused from state to state.
#[derive(Debug, Default)]
pub struct DecodeBuffers {
    planes: Vec<Vec<u8>>,
    raw: Vec<u8>,
}

impl Stored {
    /// The codec's name.
    pub fn codec(self) -> &'static str {
        match self {
            Self::Raw => codec::RAW,
            Self::Zstd { .. } => codec::ZSTD,
        }
    }

    /// The raw state of the bytes of an object's state: the same bytes, or decoded into `buffers`.
    ///
    /// # Errors
    /// [`FormatError::Codec`] when they cannot be decoded to what they should be.
    pub fn raw<'a>(self, state: &'a [u8], buffers: &'a mut DecodeBuffers) -> Result<&'a [u8], FormatError> {
        match self {
            Self::Raw => Ok(state),
            Self::Zstd { stride, raw_bytes } => {
                codec::decode(state, stride, raw_bytes, &mut buffers.planes, &mut buffers.raw)?;
                Ok(&buffers.raw)
            }
        }
    }

    /// Bytes of the raw state of an object's state of `bytes`.
    pub fn raw_bytes(self, bytes: usize) -> usize {
        match self {
            Self::Raw => bytes,
            Self::Zstd { raw_bytes, .. } => raw_bytes,
        }
    }
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

    // Version 0.1 did not say.
    let lineage = fields.lineage("compute")?.unwrap_or(Lineage::Unknown);
    let meta = Meta {
        chain: fields.parse("chain", "64 hex digits")?,
        parent: fields.parse("parent", "64 hex digits")?,
        model: fields.parse("model", "64 hex digits")?,
        params: fields.get("params")?.to_owned(),
        layout: Layout::named(fields.get("layout")?)
            .ok_or_else(|| fields.unexpected("layout", "\"segment\" or \"snapshot\""))?,
        first: fields.parse("first", "a position")?,
        lineage,
        parent_lineage: fields.lineage("compute_parent")?.unwrap_or(lineage),
    };
    let count: usize = fields.parse("count", "a number of tokens")?;
    let stored = fields.stored()?;
    if meta.first > MAX_TOKENS {
        return Err(fields.unexpected("first", "a position that a model can have"));
    }
    if count == 0 || (meta.layout == Layout::Snapshot && meta.first != 0) {
        return Err(fields.unexpected("first", "0 for a snapshot, and at least one token"));
    }

    let tokens = i32_tensor(bytes)?;
    let tensors = SafeTensors::deserialize(bytes).map_err(container)?;
    let state = tensors.tensor("state").map_err(|_| FormatError::Tensor("state"))?;
    if state.dtype() != Dtype::U8 || state.shape().len() != 1 || tensors.len() != 2 {
        return Err(FormatError::Tensor("state"));
    }
    fields.check_raw_size(stored, state.data().len())?;
    if tokens.len() != count {
        return Err(FormatError::Tensor("tokens"));
    }
    let start = state.data().as_ptr().addr() - bytes.as_ptr().addr();
    let raw_blake3 = fields.parse("raw_blake3", "64 hex digits")?;
    Ok(Object { meta, tokens, state: start..start + state.data().len(), stored, raw_blake3 })
}

fn container(error: safetensors::SafeTensorError) -> FormatError {
    FormatError::Container(error.to_string())
}

/// The string metadata of a file.
pub(crate) fn metadata(bytes: &[u8]) -> Result<HashMap<String, String>, FormatError> {
    let header_bytes = bytes.first_chunk::<8>().map_or(0, |head| u64::from_le_bytes(*head));
    if header_bytes > MAX_HEADER {
        return Err(FormatError::Container(format!("its header has {header_bytes} bytes")));
    }
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(container)?;
    header.metadata().clone().ok_or(FormatError::Missing("__metadata__"))
}

/// The tensor `tokens` of a file.
pub(crate) fn i32_tensor(bytes: &[u8]) -> Result<Vec<i32>, FormatError> {
    let tensors = SafeTensors::deserialize(bytes).map_err(container)?;
    let view = tensors.tensor("tokens").map_err(|_| FormatError::Tensor("tokens"))?;
    if view.dtype() != Dtype::I32 || view.shape().len() != 1 || view.data().len() / 4 > MAX_TOKENS {
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

    /// Reads the storage of the state.
    fn stored(&self) -> Result<Stored, FormatError> {
        match self.get("codec")? {
            codec::RAW => Ok(Stored::Raw),
            codec::ZSTD => {
                let stride = self.parse("stride", "1 to 8")?;
                if !(1..=MAX_STRIDE).contains(&stride) {
                    return Err(self.unexpected("stride", "1 to 8"));
                }
                Ok(Stored::Zstd { stride, raw_bytes: self.parse("raw_bytes", "a size in bytes")? })
            }
            _ => Err(self.unexpected("codec", "\"raw\" or \"zstd\"")),
        }
    }

    /// Compares the raw size that the file says with that of its state, of `bytes`.
    fn check_raw_size(&self, stored: Stored, bytes: usize) -> Result<(), FormatError> {
        let said: usize = self.parse("raw_bytes", "a size in bytes")?;
        let most = (bytes as u64).saturating_mul(codec::MAX_RATIO);
        match stored {
            Stored::Raw if said != bytes => Err(self.unexpected("raw_bytes", "the size of the state")),
            Stored::Zstd { .. } if said as u64 > most => {
                Err(self.unexpected("raw_bytes", "at most 64 times the size of the encoded state"))
            }
            _ => Ok(()),
        }
    }

    /// A lineage, if the file says one.
    fn lineage(&self, key: &'static str) -> Result<Option<Lineage>, FormatError> {
        match self.0.contains_key(key) {
            true => self.parse(key, "32 hex digits or \"0.1\"").map(Some),
            false => Ok(None),
        }
    }

    fn parse<T: FromStr>(&self, key: &'static str, expected: &'static str) -> Result<T, FormatError> {
        self.get(key)?.parse().map_err(|_| self.unexpected(key, expected))
    }
}
