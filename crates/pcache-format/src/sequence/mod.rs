//! llama.cpp's sequence state, taken apart before llama.cpp sees it: every length, count, type and position.
//!
//! [`SequenceState::parse`] checks a state; [`SequenceState::cut`] takes a segment out of the state of a whole sequence;
//! [`join`] puts segments together to the state of a whole sequence. What is cut out of a state and what llama.cpp writes for
//! the same positions alone are the same bytes.
//!
//! llama.cpp compares some of these numbers with its model and refuses the state; on others it relies, and aborts the
//! process or reads what it should not. A hash says only who wrote the bytes, not that they make sense. So whatever is
//! restored passes [`check`] first: it walks over the numbers, skips the data between them, and must end where the
//! bytes do. Little-endian, as llama.cpp (`state_write` in `llama-kv-cache.cpp` and `llama-memory-recurrent.cpp`)
//! writes it:
//!
//! ```text
//! u32 magic, i32 sequence
//! then the caches that the model has, one after the other, each one of
//!
//! attention   u32 streams; for each stream but the sequence's own u32 cells = 0; for that one u32 cells and
//!             cells ×  i32 position, u32 sequences = 1, [i32 x, i32 y, i32 token], i32 sequence
//!             u32 whether V lies transposed, u32 layers, u32 rotation of K, u32 rotation of V
//!             layers × K: i32 type, u64 bytes a row, cells × row
//!             layers × V: the same; or transposed i32 type, u32 bytes an element, u32 rows, rows × cells × element;
//!                      or none, where the attention is latent
//! recurrent   u32 cells = 1, i32 position, u32 sequences = 0, u32 transposed = 0, u32 layers
//!             some × R: i32 type = F32, u64 bytes a row, row, [u64 bytes, the history of a convolution]
//!             as many × S: the same
//! ```
//!
//! Whether the parts in brackets and V are there depends on the architecture. The walk tries what
//! is possible; only one way ends where the bytes end. A cache of a sliding window holds only the last cells.
//! A context whose sequences have cells of their own has as many streams as sequences, else one.
//! How many caches and layers there are and how wide they are, llama.cpp compares with its model, and refuses in peace.

mod cursor;
mod splice;
mod walk;

pub use splice::{Window, join};

use std::ops::Range;

use crate::{KvType, Layout, Params};
use walk::Cache;

/// Place of a sequence in a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The sequence's number.
    pub sequence: i32,
    /// Number of streams of the context: 1 where all sequences share one pool of cells.
    pub streams: u32,
    /// Stream that has the sequence's cells.
    pub stream: u32,
}

impl Place {
    /// A sequence of a context in which all share one pool of cells.
    pub fn unified(sequence: i32) -> Self {
        Self { sequence, streams: 1, stream: 0 }
    }

    /// A sequence of a context of so many streams, each sequence in the stream of its number.
    pub fn in_stream(sequence: u32, streams: u32) -> Self {
        Self { sequence: i32::try_from(sequence).unwrap_or(i32::MAX), streams, stream: sequence }
    }
}

/// Properties that a state must have, known without looking at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Segment or snapshot; only a snapshot has recurrent caches.
    pub layout: Layout,
    /// The sequence that it was saved from.
    pub place: Place,
    /// Its first position.
    pub first: usize,
    /// Its number of positions.
    pub count: usize,
    /// The type of K and V.
    pub kv_type: KvType,
    /// V lies transposed: without flash attention.
    pub transposed: bool,
    /// The model's layers, of which each cache holds some.
    pub layers: usize,
}

impl Expected {
    /// The state of `positions` on a model of `layers` layers.
    pub fn new(
        layout: Layout,
        place: Place,
        positions: &Range<usize>,
        params: &Params,
        layers: usize,
    ) -> Self {
        Self {
            layout,
            place,
            first: positions.start,
            count: positions.len(),
            kv_type: params.kv_type,
            transposed: !params.flash_attention,
            layers,
        }
    }

    /// The position after the last.
    fn end(&self) -> usize {
        self.first.saturating_add(self.count)
    }
}

/// Place at which a state differs from the expected one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at} of the state: {what} is {found}, expected {expected}")]
pub struct SequenceError {
    /// Offset in bytes.
    pub at: usize,
    /// The number.
    pub what: &'static str,
    /// Value that was found.
    pub found: i128,
    /// Value that was expected.
    pub expected: String,
}

/// Checks that `state` is a sequence state of the kind expected, whole and with nothing after it. Pure and total, and
/// fast: it reads a few numbers a cell and a layer.
///
/// # Errors
/// The number that is wrong; of several ways to read the bytes, in the one that came furthest.
pub fn check(state: &[u8], expected: &Expected) -> Result<(), SequenceError> {
    walk::sequence(state, expected).map(drop)
}

/// A checked state, and where its parts lie.
#[derive(Debug, Clone)]
pub struct SequenceState<'a> {
    bytes: &'a [u8],
    caches: Vec<Cache>,
    /// Positions that it holds.
    positions: Range<usize>,
}

impl<'a> SequenceState<'a> {
    /// Takes a state apart.
    ///
    /// # Errors
    /// As [`check`].
    pub fn parse(state: &'a [u8], expected: &Expected) -> Result<Self, SequenceError> {
        let caches = walk::sequence(state, expected)?;
        Ok(Self { bytes: state, caches, positions: expected.first..expected.end() })
    }

    /// Writes the state of `positions` alone, as `place` would save it, into `into`, which is emptied first. The bytes are
    /// those that llama.cpp writes for these positions. A recurrent cache cannot be cut: then only all positions can be
    /// asked for.
    ///
    /// # Errors
    /// When a cache does not hold all of the positions.
    pub fn cut(
        &self,
        positions: Range<usize>,
        place: Place,
        into: &mut Vec<u8>,
    ) -> Result<(), SequenceError> {
        splice::cut(self, positions, place, into)
    }
}

#[cfg(test)]
mod tests;
