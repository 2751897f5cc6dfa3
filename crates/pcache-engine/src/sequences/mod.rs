//! The sequences of a context, in two makes.
//!
//! - **Tagged**: all sequences share one pool of cells. A segment goes in and out through a second sequence that shares its
//!   cells for a moment, and a prefix is shared by any number of sequences without a copy. What is evaluated beside
//!   others has other bits than alone: attention walks over everybody's cells.
//! - **Streams**: each sequence has cells of its own. What the others do is not in its batches, and attention walks over its own
//!   cells alone; a prefix is copied into each sequence. Segments cannot go in one after the other, because loading empties a
//!   sequence first: a whole state is cut into segments after it was saved, and segments are joined to a whole state
//!   before it is loaded.

mod streams;
mod tagged;

use std::ops::Range;

use crate::Result;
use crate::context::Context;
use pcache_format::Layout;
use streams::Streams;
use tagged::Tagged;

/// The sequence that is evaluated.
pub(crate) const MAIN: i32 = 0;

/// Sequences besides the one that is evaluated, which go on from it: see [`crate::scheduler`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Slots {
    /// None.
    #[default]
    None,
    /// So many, which share one pool of cells.
    Tagged(u32),
    /// So many, each with cells of its own.
    Streams(u32),
}

impl Slots {
    /// Their number.
    pub fn count(self) -> usize {
        match self {
            Self::None => 0,
            Self::Tagged(count) | Self::Streams(count) => count as usize,
        }
    }

    pub(crate) fn make(self, layout: Layout) -> Box<dyn Sequences> {
        match self {
            Self::None => Box::new(Tagged::new(layout, 0)),
            Self::Tagged(count) => Box::new(Tagged::new(layout, count)),
            Self::Streams(count) => Box::new(Streams::new(layout, count)),
        }
    }
}

/// A make of sequences: the first is evaluated and saved, the others are slots that go on from it.
pub(crate) trait Sequences: Send {
    /// Number of sequences.
    fn count(&self) -> u32;

    /// Number of pools of cells.
    fn pools(&self) -> usize;

    /// Cells of a pool, where `shared` positions are the first sequence's and each slot has `each` behind them.
    fn pool(&self, shared: usize, each: usize) -> usize;

    /// The sequence of a slot.
    fn of_slot(&self, slot: usize) -> i32;

    /// Saves the state of `positions` of the first sequence, which is `position` long, into `buffer`, as every make of sequences
    /// saves it.
    fn snapshot(
        &mut self,
        context: &mut Context,
        position: usize,
        positions: &Range<usize>,
        buffer: &mut Vec<u8>,
    ) -> Result<()>;

    /// Takes a state for the first sequence, behind what was taken before.
    fn take(&mut self, context: &mut Context, positions: &Range<usize>, state: &[u8]) -> Result<()>;

    /// Puts what was taken into the first sequence, which is `position` long.
    fn put(&mut self, context: &mut Context, position: usize) -> Result<()>;

    /// Forgets what was taken.
    fn forget(&mut self) {}

    /// Empties the sequence `to` and lets it go on from the first.
    fn fork(&mut self, context: &mut Context, to: i32) -> Result<()> {
        context.empty(to)?;
        context.copy(MAIN, to, None)
    }
}

#[cfg(test)]
mod tests;
