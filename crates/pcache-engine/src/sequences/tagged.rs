//! Sequences that share one pool of cells.

use std::ops::Range;

use super::{MAIN, Sequences};
use crate::context::Context;
use crate::{EngineError, Result};
use pcache_format::Layout;
use pcache_format::sequence::{self, Place};

/// The sequence through which segments go in and out; it only ever shares cells with [`MAIN`].
const TRANSFER_SEQUENCE: i32 = 1;

/// A pool of cells with tags.
pub(super) struct Tagged {
    layout: Layout,
    slots: u32,
}

impl Tagged {
    pub(super) fn new(layout: Layout, slots: u32) -> Self {
        Self { layout, slots }
    }

    /// The sequence through which states go in and out.
    fn transfer_sequence(&self) -> i32 {
        match self.layout {
            Layout::Segment => TRANSFER_SEQUENCE,
            Layout::Snapshot => MAIN,
        }
    }

    /// Place that every saved state names.
    fn place(&self) -> Place {
        Place::unified(self.transfer_sequence())
    }
}

/// Place that a state names, whichever sequence it came from: that of a context in which all share one pool of cells.
pub(super) fn canonical(layout: Layout) -> Place {
    Tagged::new(layout, 0).place()
}

impl Sequences for Tagged {
    fn count(&self) -> u32 {
        match self.layout {
            Layout::Snapshot if self.slots == 0 => 1,
            Layout::Segment | Layout::Snapshot => 2 + self.slots,
        }
    }

    fn pools(&self) -> usize {
        1
    }

    fn pool(&self, shared: usize, each: usize) -> usize {
        shared.saturating_add(each.saturating_mul(self.slots.max(1) as usize))
    }

    fn of_slot(&self, slot: usize) -> i32 {
        TRANSFER_SEQUENCE + 1 + i32::try_from(slot).unwrap_or(0)
    }

    fn snapshot(
        &mut self,
        context: &mut Context,
        _position: usize,
        positions: &Range<usize>,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        match self.layout {
            Layout::Snapshot => context.save(MAIN, buffer)?,
            Layout::Segment => {
                // Tags cells only; positions beyond i32::MAX are none of a context's.
                context.copy(
                    MAIN,
                    TRANSFER_SEQUENCE,
                    Some((positions.start as u32, positions.end as u32)),
                )?;
                let saved = context.save(TRANSFER_SEQUENCE, buffer);
                context.empty(TRANSFER_SEQUENCE)?;
                saved?;
            }
        }
        sequence::check(buffer, &context.expected(self.place(), positions)).map_err(EngineError::UnknownState)
    }

    fn take(&mut self, context: &mut Context, positions: &Range<usize>, state: &[u8]) -> Result<()> {
        sequence::check(state, &context.expected(self.place(), positions))
            .map_err(|reason| EngineError::NoState { first: positions.start, reason })?;
        let transfer_sequence = self.transfer_sequence();
        context.load(transfer_sequence, positions, state)?;
        if transfer_sequence == TRANSFER_SEQUENCE {
            context.copy(TRANSFER_SEQUENCE, MAIN, None)?;
            context.empty(TRANSFER_SEQUENCE)?;
        }
        Ok(())
    }

    fn put(&mut self, _context: &mut Context, _position: usize) -> Result<()> {
        Ok(())
    }
}
