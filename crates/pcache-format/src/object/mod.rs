//! The object file: one segment (or snapshot) of a state as a valid safetensors file.
//!
//! ```text
//! u64 LE                 length of the header
//! header (JSON)          "__metadata__" (strings), "tokens" (I32 [count]), "state" (U8 [bytes]); padded with
//!                        spaces so that the data begins on a 64-byte boundary
//! tokens                 count × i32 LE
//! state                  llama.cpp's sequence state, raw or encoded ([`Codec`])
//! ```
//!
//! Metadata keys are written in sorted order, so the same segment always gives the same bytes and with
//! them the same name. Decoding is pure and total: any bytes give an object or a typed refusal. What lies in `state` is
//! llama.cpp's own and is taken apart in [`crate::sequence`] before llama.cpp may read it.

mod codec;
mod decode;
mod encode;

pub use codec::{Codec, MAX_RATIO};
pub use decode::{DecodeBuffers, FormatError, Object, Stored, decode};
pub(crate) use decode::{i32_tensor, metadata};
pub use encode::Encoded;

use serde::{Deserialize, Serialize};

use crate::{Chain, ChainKey, Lineage, ModelHash, Segment};

/// Version in the metadata of every object.
pub const FORMAT: &str = "pcache object v1";

/// A string of the metadata of a file, of which the beginning is enough. Nothing is verified.
pub fn peek(bytes: &[u8], name: &str) -> Option<String> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let header = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let header: serde_json::Value = serde_json::from_slice(header).ok()?;
    header.get("__metadata__")?.get(name)?.as_str().map(str::to_owned)
}

/// Share of a prompt that one object restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// The positions `first..first + count` alone; the segments before it must be restored first.
    Segment,
    /// The whole sequence up to `count`, for models whose state cannot be cut; `first` is 0.
    Snapshot,
}

impl Layout {
    /// The name in metadata and in the index.
    pub fn name(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Snapshot => "snapshot",
        }
    }

    /// Returns the parts of a prompt that are saved as objects: its segments, or for a model that cannot be cut the whole as
    /// one.
    pub fn pieces(self, chain: &Chain) -> Vec<Segment> {
        match self {
            Self::Segment => chain.segments().to_vec(),
            Self::Snapshot => chain.prefix(chain.segments().len()).into_iter().collect(),
        }
    }

    /// The layout of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Segment, Self::Snapshot].into_iter().find(|l| l.name() == name)
    }
}

/// Metadata of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Key of the prefix up to the object's end.
    pub chain: ChainKey,
    /// Key of the prefix before it; the chain's root for the first.
    pub parent: ChainKey,
    /// The model that computed it.
    pub model: ModelHash,
    /// The parameters, as [`crate::Params::canonical`] writes them.
    pub params: String,
    /// Segment or snapshot.
    pub layout: Layout,
    /// First position.
    pub first: usize,
    /// Compute identity of it and of the prefix before it.
    pub lineage: Lineage,
    /// Compute identity of the prefix before it; the same for the first segment and for a snapshot.
    pub parent_lineage: Lineage,
}

#[cfg(test)]
mod tests;
