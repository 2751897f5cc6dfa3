//! Names and file formats of saved states. Pure: bytes in, bytes out; no disk, no model, no terminal.
//!
//! **Names.** A prefix of tokens has a chain key, which follows from the prefix alone:
//!
//! ```text
//! root   = BLAKE3 derive_key("pcache state v1", canonical(model, params))
//! h[0]   = root
//! h[i+1] = BLAKE3 keyed by h[i] over (count as u32, token ids as i32, little-endian) of segment i
//! key    = h[last], and where the state has an ending, one more link over it (see [`Chain::state_key`])
//! ```
//!
//! Two prompts share the keys of the segments that they share. Nothing that leaves the state's meaning and layout alone is
//! part of it: sampler, seed, threads, context size, paths and names. What only changes the *rounding* is no part of the
//! key either, but of the [`compute`] identity: equal keys mean the same state, equal keys and [`Lineage`]s the same bytes.
//!
//! **Files.** [`object`]: one segment's state. [`manifest`]: an immutable description of a state and its objects.
//! [`label`]: what may change about a state. [`record`]: the one file that was both, in version 0.1.
//!
//! **States.** [`sequence`] takes llama.cpp's own bytes apart: to check them before llama.cpp reads them, to cut the state
//! of a whole sequence into segments, and to join segments to the state of a whole sequence.

pub mod chain;
pub mod compute;
pub mod epoch;
pub mod id;
pub mod kind;
pub mod label;
pub mod manifest;
pub mod object;
pub mod params;
pub mod record;
pub mod sequence;

pub use chain::{Chain, MAX_TOKENS, SEGMENT_TOKENS, Segment};
pub use compute::{ComputeId, ComputeIdentity, Lineage};
pub use id::{ChainKey, ModelHash, ObjectId, PromptDigest, StateKey, TextDigest};
pub use kind::FileKind;
pub use label::Label;
pub use manifest::{Manifest, RenderedWith, StateKind};
pub use object::{Codec, DecodeBuffers, Encoded, FormatError, Layout, Meta, Object, Stored};
pub use params::{Difference, KvType, Lora, Namespace, Params, Rope, RopeFactors, RopeScaling};
