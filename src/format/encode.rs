//! Writing: the parts of an object file, without copying the state.

use std::collections::BTreeMap;

use serde_json::json;

use super::{FORMAT, Meta};
use crate::key::ObjectId;
use crate::key::epoch::LLAMA_CPP_BUILD;

/// The data begins on a multiple of this many bytes.
const DATA_ALIGN: usize = 64;

/// An object ready to be written: its parts in order, borrowed where they are large.
#[derive(Debug)]
pub struct Encoded<'a> {
    head: Vec<u8>,
    state: &'a [u8],
}

impl<'a> Encoded<'a> {
    /// Describes `state`, the raw sequence state of `tokens`.
    pub fn raw(meta: &Meta, tokens: &[i32], state: &'a [u8]) -> Self {
        let mut strings = BTreeMap::new();
        strings.insert("format", FORMAT.to_owned());
        strings.insert("chain", meta.chain.to_hex());
        strings.insert("parent", meta.parent.to_hex());
        strings.insert("model", meta.model.to_hex());
        strings.insert("params", meta.params.clone());
        strings.insert("layout", meta.layout.name().to_owned());
        strings.insert("first", meta.first.to_string());
        strings.insert("count", tokens.len().to_string());
        strings.insert("codec", "raw".to_owned());
        strings.insert("raw_bytes", state.len().to_string());
        strings.insert("raw_blake3", blake3::hash(state).to_hex().to_string());
        strings.insert("llama_cpp", LLAMA_CPP_BUILD.to_owned());

        Self::with_tokens(&strings, tokens, Some(state))
    }

    /// A file of metadata, tokens and, if there is one, a state.
    pub(super) fn with_tokens(
        strings: &BTreeMap<&str, String>,
        tokens: &[i32],
        state: Option<&'a [u8]>,
    ) -> Self {
        let tokens_end = tokens.len() * 4;
        let mut header = json!({
            "__metadata__": strings,
            "tokens": {"dtype": "I32", "shape": [tokens.len()], "data_offsets": [0, tokens_end]},
        });
        if let Some(state) = state {
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
        Self { head, state: state.unwrap_or_default() }
    }

    /// The file's bytes, in order.
    pub fn parts(&self) -> [&[u8]; 2] {
        [&self.head, self.state]
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
        hasher.update(self.state);
        ObjectId::from(hasher.finalize())
    }
}
