//! Several sequences that go on from one prefix and are evaluated in the same batches.
//!
//! The prefix is restored once; each slot shares its cells and has the rest of the context to itself and the other slots.
//! One batch for several sequences reads the model's weights once for all of them, which is what a processor spends its
//! time on. It also computes the same sums in another order than a batch for one: the logits of a slot are not those
//! of a session bit for bit.

use super::Result;
use super::session::{FIRST_SLOT, Session};

/// Slots on a session that [`Session::with_slots`] made, evaluated or restored up to the end of the prefix.
pub struct Slots<'s> {
    session: &'s mut Session,
    /// How far each slot's sequence goes.
    positions: Vec<usize>,
}

impl<'s> Slots<'s> {
    /// `count` slots, as many as the session was made for.
    pub fn new(session: &'s mut Session, count: usize) -> Self {
        let positions = vec![session.position(); count];
        Self { session, positions }
    }

    /// The session, for its logits.
    pub fn session(&self) -> &Session {
        self.session
    }

    /// Positions of a slot, the prefix counted.
    pub fn position(&self, slot: usize) -> usize {
        self.positions[slot]
    }

    /// Starts `slot` anew from the prefix.
    ///
    /// # Errors
    /// When llama.cpp refuses.
    pub fn begin(&mut self, slot: usize) -> Result<()> {
        self.session.fork(sequence(slot))?;
        self.positions[slot] = self.session.position();
        Ok(())
    }

    /// Goes on in some slots, each by the tokens that are given for it: all of them in one batch, so at most
    /// [`pcache_format::SEGMENT_TOKENS`] together. Gives for each where the logits after its last token are.
    ///
    /// # Errors
    /// When llama.cpp fails, for instance because the context is full.
    pub fn go_on(&mut self, parts: &[(usize, &[i32])]) -> Result<Vec<i32>> {
        let mut batch = Vec::new();
        let mut logits = Vec::new();
        for (slot, tokens) in parts {
            let first = self.positions[*slot];
            let place = |(i, id): (usize, &i32)| (*id, first + i, sequence(*slot), i + 1 == tokens.len());
            batch.extend(tokens.iter().enumerate().map(place));
            logits.push(i32::try_from(batch.len()).unwrap_or(0) - 1);
        }
        self.session.decode(self.session.position(), batch.into_iter())?;
        parts.iter().for_each(|(slot, tokens)| self.positions[*slot] += tokens.len());
        Ok(logits)
    }
}

fn sequence(slot: usize) -> i32 {
    FIRST_SLOT + i32::try_from(slot).unwrap_or(0)
}
