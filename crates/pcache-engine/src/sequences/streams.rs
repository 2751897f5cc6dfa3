//! Sequences with cells of their own.

use std::ops::Range;

use super::tagged::canonical;
use super::{MAIN, Sequences};
use crate::context::Context;
use crate::{EngineError, Result};
use pcache_format::Layout;
use pcache_format::sequence::{self, Place, SequenceState, Window};

/// Streams of cells.
pub(super) struct Streams {
    layout: Layout,
    slots: u32,
    /// States that follow each other and are not yet in the sequence.
    taken: Vec<(Range<usize>, Vec<u8>)>,
}

impl Streams {
    pub(super) fn new(layout: Layout, slots: u32) -> Self {
        Self { layout, slots, taken: Vec::new() }
    }

    /// The place of the first sequence.
    fn place(&self) -> Place {
        Place::in_stream(MAIN.unsigned_abs(), self.count())
    }

    /// Cuts `positions` out of the first sequence's state, which is `position` long.
    fn cut(
        &self,
        context: &Context,
        position: usize,
        positions: Range<usize>,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        let mut whole = Vec::new();
        context.save(MAIN, &mut whole)?;
        let own = context.expected(self.place(), &(0..position));
        let parsed = SequenceState::parse(&whole, &own).map_err(EngineError::UnknownState)?;
        parsed.cut(positions, canonical(self.layout), buffer).map_err(EngineError::UnknownState)
    }
}

impl Sequences for Streams {
    fn count(&self) -> u32 {
        1 + self.slots
    }

    fn pools(&self) -> usize {
        self.count() as usize
    }

    fn pool(&self, shared: usize, each: usize) -> usize {
        shared.saturating_add(each)
    }

    fn of_slot(&self, slot: usize) -> i32 {
        MAIN + 1 + i32::try_from(slot).unwrap_or(0)
    }

    fn snapshot(
        &mut self,
        context: &mut Context,
        position: usize,
        positions: &Range<usize>,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        self.cut(context, position, positions.clone(), buffer)
    }

    fn take(&mut self, context: &mut Context, positions: &Range<usize>, state: &[u8]) -> Result<()> {
        sequence::check(state, &context.expected(canonical(self.layout), positions))
            .map_err(|reason| EngineError::NoState { first: positions.start, reason })?;
        self.taken.push((positions.clone(), state.to_vec()));
        Ok(())
    }

    fn forget(&mut self) {
        self.taken.clear();
    }

    fn put(&mut self, context: &mut Context, position: usize) -> Result<()> {
        let mut taken = std::mem::take(&mut self.taken);
        let Some(first) = taken.first().map(|(positions, _)| positions.start) else { return Ok(()) };
        if first > 0 {
            let mut before = Vec::new();
            self.cut(context, position, 0..position, &mut before)?;
            taken.insert(0, (0..position, before));
        }
        let refused = |reason| EngineError::NoState { first, reason };
        let place = canonical(self.layout);
        let parts: Vec<SequenceState<'_>> = taken
            .iter()
            .map(|(positions, state)| SequenceState::parse(state, &context.expected(place, positions)))
            .collect::<Result<_, _>>()
            .map_err(refused)?;
        let mut joined = Vec::new();
        sequence::join(&parts, Window::Held, self.place(), &mut joined).map_err(refused)?;
        let end = taken.last().map_or(0, |(positions, _)| positions.end);
        context.load(MAIN, &(0..end), &joined)
    }
}
