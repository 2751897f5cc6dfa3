//! Writing: the parts of an object file, without copying the state.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::json;

use super::codec::{self, Codec};
use super::{FORMAT, Meta};
use crate::ObjectId;
use crate::epoch::LLAMA_CPP_BUILD;

/// The data begins on a multiple of this many bytes.
const DATA_ALIGN: usize = 64;

/// An object ready to be written: its parts in order, borrowed where they are large.
#[derive(Debug)]
pub struct Encoded<'a> {
    head: Vec<u8>,
    state: Cow<'a, [u8]>,
    /// BLAKE3 of the raw state; of nothing where there is none.
    raw_blake3: ObjectId,
}

impl<'a> Encoded<'a> {
    /// Describes `state`, the raw sequence state of `tokens`, and stores it as it is.
    pub fn raw(meta: &Meta, tokens: &[i32], state: &'a [u8]) -> Self {
        Self::with_state(meta, tokens, state, Cow::Borrowed(state), None)
    }

    /// As [`Self::raw`], in another codec; a state that this does not make smaller is stored as it is.
    pub fn with(codec: Codec, meta: &Meta, tokens: &[i32], state: &'a [u8]) -> Self {
        let Codec::Zstd { level } = codec else { return Self::raw(meta, tokens, state) };
        let stride = stride(&meta.params);
        match codec::encode(state, stride, level) {
            None => Self::raw(meta, tokens, state),
            Some(stored) => Self::with_state(meta, tokens, state, Cow::Owned(stored), Some(stride)),
        }
    }

    fn with_state(
        meta: &Meta,
        tokens: &[i32],
        raw: &[u8],
        stored: Cow<'a, [u8]>,
        stride: Option<usize>,
    ) -> Self {
        let mut strings = BTreeMap::new();
        strings.insert("format", FORMAT.to_owned());
        strings.insert("chain", meta.chain.to_hex());
        strings.insert("parent", meta.parent.to_hex());
        strings.insert("model", meta.model.to_hex());
        strings.insert("params", meta.params.clone());
        strings.insert("layout", meta.layout.name().to_owned());
        strings.insert("first", meta.first.to_string());
        strings.insert("count", tokens.len().to_string());
        strings.insert("codec", if stride.is_some() { codec::ZSTD } else { codec::RAW }.to_owned());
        strings.extend(stride.map(|n| ("stride", n.to_string())));
        strings.insert("raw_bytes", raw.len().to_string());
        let raw_blake3 = ObjectId::from(blake3::hash(raw));
        strings.insert("raw_blake3", raw_blake3.to_hex());
        strings.insert("llama_cpp", LLAMA_CPP_BUILD.to_owned());
        strings.insert("compute", meta.lineage.to_string());
        if meta.parent_lineage != meta.lineage {
            strings.insert("compute_parent", meta.parent_lineage.to_string());
        }

        Self { raw_blake3, ..Self::with_tokens(&strings, tokens, Some(stored)) }
    }

    /// A file of metadata, tokens and, if there is one, a state.
    pub(crate) fn with_tokens(
        strings: &BTreeMap<&str, String>,
        tokens: &[i32],
        state: Option<Cow<'a, [u8]>>,
    ) -> Self {
        let tokens_end = tokens.len() * 4;
        let mut header = json!({
            "__metadata__": strings,
            "tokens": {"dtype": "I32", "shape": [tokens.len()], "data_offsets": [0, tokens_end]},
        });
        if let Some(state) = &state {
            header["state"] = json!({
                "dtype": "U8",
                "shape": [state.len()],
                "data_offsets": [tokens_end, tokens_end + state.len()],
            });
        }
        let header = header.to_string();

        let padded = (8 + header.len()).next_multiple_of(DATA_ALIGN) - 8;
        let mut head = Vec::with_capacity(8 + padded + tokens_end);
        head.extend((padded as u64).to_le_bytes());
        head.extend(header.as_bytes());
        head.resize(8 + padded, b' ');
        tokens.iter().for_each(|t| head.extend(t.to_le_bytes()));
        let raw_blake3 = ObjectId::from(blake3::hash(&[]));
        Self { head, state: state.unwrap_or_default(), raw_blake3 }
    }

    /// The file's bytes, in order.
    pub fn parts(&self) -> [&[u8]; 2] {
        [&self.head, &self.state]
    }

    /// BLAKE3 of the raw state.
    pub fn raw_blake3(&self) -> ObjectId {
        self.raw_blake3
    }

    /// Size of the file in bytes.
    pub fn len(&self) -> u64 {
        (self.head.len() + self.state.len()) as u64
    }

    /// Never: there is always a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The file's name: the BLAKE3 of its bytes.
    pub fn id(&self) -> ObjectId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.head);
        hasher.update(&self.state);
        ObjectId::from(hasher.finalize())
    }
}

/// Bytes of an element of the cache: two of a 16-bit float. The blocks of quantised caches do not gain by planes
/// (1.040 and 1.048 with and without, for q8_0 and q4_0).
fn stride(params: &str) -> usize {
    if params.lines().any(|line| line == "kv_type=f16") { 2 } else { 1 }
}
