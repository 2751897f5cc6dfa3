//! Several sequences that go on from one prefix and are evaluated in the same batches.
//!
//! The prefix is restored once; each slot shares its cells and has the rest of the context to itself and the other slots.
//! One batch for several sequences reads the model's weights once for all of them, which is what a processor spends its
//! time on. It also computes the same sums in another order than a batch for one: the logits of a slot are not those
//! of a session bit for bit.

use super::Result;
use super::session::{FIRST_SLOT, Session};
use crate::key::SEGMENT_TOKENS;

/// Slots on a session that [`Session::with_slots`] made, evaluated or restored up to the end of the prefix.
pub struct Slots<'s, 'm> {
    session: &'s mut Session<'m>,
    /// How far each slot's sequence goes.
    positions: Vec<usize>,
}

impl<'s, 'm> Slots<'s, 'm> {
    /// `count` slots, as many as the session was made for.
    pub fn new(session: &'s mut Session<'m>, count: usize) -> Self {
        let positions = vec![session.position(); count];
        Self { session, positions }
    }

    /// The session, for its logits: after [`Self::begin`] those of the last token, number -1.
    pub fn session(&self) -> &Session<'m> {
        self.session
    }

    /// Positions of a slot, the prefix counted.
    pub fn position(&self, slot: usize) -> usize {
        self.positions[slot]
    }

    /// Starts `slot` anew from the prefix with `tokens`; the logits after the last of them can be read.
    ///
    /// # Errors
    /// When llama.cpp fails, for instance because the context is full.
    pub fn begin(&mut self, slot: usize, tokens: &[i32]) -> Result<()> {
        let sequence = sequence(slot);
        self.session.fork(sequence);
        let mut first = self.session.position();
        let batches = tokens.chunks(SEGMENT_TOKENS).len();
        for (n, ids) in tokens.chunks(SEGMENT_TOKENS).enumerate() {
            let last = n + 1 == batches;
            let place = |(i, id): (usize, &i32)| (*id, first + i, sequence, last && i + 1 == ids.len());
            self.session.decode(first, ids.iter().enumerate().map(place))?;
            first += ids.len();
        }
        self.positions[slot] = first;
        Ok(())
    }

    /// Goes on by a token in each of some slots, at most [`SEGMENT_TOKENS`] of them; the logits have the numbers that
    /// the pairs have.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn go_on(&mut self, tokens: &[(usize, i32)]) -> Result<()> {
        let positions = &self.positions;
        let place = |&(slot, id): &(usize, i32)| (id, positions[slot], sequence(slot), true);
        self.session.decode(self.session.position(), tokens.iter().map(place))?;
        tokens.iter().for_each(|(slot, _)| self.positions[*slot] += 1);
        Ok(())
    }
}

fn sequence(slot: usize) -> i32 {
    FIRST_SLOT + i32::try_from(slot).unwrap_or(0)
}
