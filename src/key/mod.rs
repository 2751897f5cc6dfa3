//! What names a state: the model's hash, the parameters and the tokens, as a chain of hashes.
//!
//! ```text
//! root   = BLAKE3 derive_key("pcache state v1", canonical(model, params))
//! h[0]   = root
//! h[i+1] = BLAKE3 keyed by h[i] over (count as u32, token ids as i32, little-endian) of segment i
//! key    = h[last], and where the state has an ending, one more link over it (see [`chain::Chain`])
//! ```
//!
//! A prefix's key is therefore computable from the prefix alone, and two prompts share the keys of the
//! segments they share. Nothing that leaves the state's bytes and meaning alone is part of it: sampler,
//! seed, threads, context size, paths and names.

pub mod chain;
pub mod epoch;
pub mod fingerprint;
pub mod id;
pub mod params;

pub use chain::{Chain, SEGMENT_TOKENS, Segment};
pub use id::{ChainKey, ModelHash, ObjectId, PromptDigest, StateKey, TextDigest};
pub use params::{Difference, KvType, Lora, Params, Rope, RopeFactors, RopeScaling};
