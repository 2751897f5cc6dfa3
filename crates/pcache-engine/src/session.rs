//! One context: evaluate, snapshot, restore, logits.

use std::ops::Range;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use super::context::{Context, ContextShape};
use super::model::{Model, whole_segments};
use super::sequences::{MAIN, Sequences, Slots};
use super::{EngineError, Result};
use pcache_format::{Params, RopeFactors, SEGMENT_TOKENS};

/// The cells of a context for `wanted` positions: whole segments, on the side of the line between the model's two sets
/// of rotary factors (if it has two) that the parameters say.
fn cells_for(model: &Model, params: &Params, wanted: usize) -> usize {
    let cells = wanted.next_multiple_of(SEGMENT_TOKENS);
    match (params.rope_factors, model.short_context()) {
        (Some(RopeFactors::Long), Some(short)) => cells.max((short + 1).next_multiple_of(SEGMENT_TOKENS)),
        (Some(RopeFactors::Short), Some(short)) => cells.min(whole_segments(short)),
        _ => cells,
    }
}

/// Positions that a session has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Those of the sequence that is evaluated.
    pub shared: usize,
    /// Those of each slot behind it.
    pub each: usize,
    /// The slots.
    pub slots: Slots,
}

impl Capacity {
    /// Capacity for one sequence.
    pub fn one(positions: usize) -> Self {
        Self { shared: positions, each: 0, slots: Slots::None }
    }
}

/// A context on a model, and how far its sequence goes.
pub struct Session {
    context: Context,
    sequences: Box<dyn Sequences>,
    batch: LlamaBatch<'static>,
    position: usize,
    /// End of the states that were taken last.
    taken: usize,
    /// Positions that a sequence has room for; where all share one pool, all of them together.
    cells: usize,
    has_logits: bool,
    /// Something may be in the cache.
    used: bool,
}

impl Session {
    /// Makes a context of at least `cells` positions. Its cost is proportional to them, so ask for what the
    /// job needs.
    ///
    /// # Errors
    /// When llama.cpp refuses, mostly for want of memory.
    pub fn new(model: &Model, params: &Params, cells: usize, threads: u32) -> Result<Self> {
        Self::with_slots(model, params, Capacity::one(cells), threads)
    }

    /// As [`Self::new`], with slots besides the sequence that is evaluated: see [`super::scheduler`].
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_slots(model: &Model, params: &Params, room: Capacity, threads: u32) -> Result<Self> {
        let sequences = room.slots.make(model.layout());
        let pool = cells_for(model, params, sequences.pool(room.shared, room.each));
        let shape = ContextShape {
            cells: pool.saturating_mul(sequences.pools()),
            sequences: sequences.count(),
            unified: sequences.pools() == 1,
            threads,
        };
        Ok(Self {
            context: Context::new(model, params, shape)?,
            sequences,
            batch: LlamaBatch::new(SEGMENT_TOKENS, 1),
            position: 0,
            taken: 0,
            cells: pool,
            has_logits: false,
            used: false,
        })
    }

    /// Positions evaluated or restored so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Positions there is room for.
    pub fn cells(&self) -> usize {
        self.cells
    }

    /// It has the cells that a room needs.
    pub fn has_room(&self, room: Capacity) -> bool {
        self.sequences.pool(room.shared, room.each) <= self.cells
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.context.model()
    }

    /// Forgets everything. Zeroes the cache, so it costs what making the context did; a new one is left alone.
    pub fn reset(&mut self) {
        if !std::mem::take(&mut self.used) {
            return;
        }
        self.context.clear();
        self.sequences.forget();
        (self.position, self.taken) = (0, 0);
        self.has_logits = false;
    }

    /// Evaluates `tokens` at the current position, in batches of [`SEGMENT_TOKENS`]. With `logits` those after
    /// the last token can be read and sampled from.
    ///
    /// # Errors
    /// When there is no room for them or llama.cpp fails.
    pub fn evaluate(&mut self, tokens: &[i32], logits: bool) -> Result<()> {
        let batches = tokens.chunks(SEGMENT_TOKENS).len();
        for (i, ids) in tokens.chunks(SEGMENT_TOKENS).enumerate() {
            self.evaluate_batch(ids, logits && i + 1 == batches)?;
        }
        Ok(())
    }

    fn evaluate_batch(&mut self, ids: &[i32], logits: bool) -> Result<()> {
        let first = self.position;
        if first + ids.len() > self.cells {
            let reason = format!("the context has {} cells", self.cells);
            return Err(EngineError::Evaluate { first, count: ids.len(), reason });
        }
        let place = |(i, id): (usize, &i32)| (*id, first + i, MAIN, logits && i + 1 == ids.len());
        self.decode(first, ids.iter().enumerate().map(place))?;
        self.position += ids.len();
        self.has_logits = logits;
        Ok(())
    }

    /// Evaluates tokens, each with its position, its sequence and whether its logits are wanted; at most
    /// [`SEGMENT_TOKENS`]. `first` is for error messages.
    pub(super) fn decode(
        &mut self,
        first: usize,
        tokens: impl ExactSizeIterator<Item = (i32, usize, i32, bool)>,
    ) -> Result<()> {
        let count = tokens.len();
        let failed = |reason| EngineError::Evaluate { first, count, reason };
        self.used = true;
        self.batch.clear();
        for (id, position, sequence, logits) in tokens {
            let position = i32::try_from(position).map_err(|e| failed(e.to_string()))?;
            let added = self.batch.add(LlamaToken(id), position, &[sequence], logits);
            added.map_err(|e| failed(e.to_string()))?;
        }
        self.context.decode(first, &mut self.batch)
    }

    /// Empties a slot and lets it go on from what was evaluated.
    ///
    /// # Errors
    /// When llama.cpp refuses.
    pub(super) fn fork(&mut self, slot: usize) -> Result<()> {
        let to = self.of_slot(slot);
        self.sequences.fork(&mut self.context, to)
    }

    /// The sequence of a slot.
    pub(super) fn of_slot(&self, slot: usize) -> i32 {
        self.sequences.of_slot(slot)
    }

    pub(super) fn splits_attention(&self) -> bool {
        self.context.splits_attention()
    }

    /// Each sequence has cells of its own: what is evaluated for it alone has the bits that it has in a session of its own.
    pub fn has_streams(&self) -> bool {
        self.sequences.pools() > 1
    }

    /// Positions that each of `slots` has behind what was evaluated.
    pub fn behind(&self, slots: usize) -> usize {
        let left = self.cells.saturating_sub(self.position);
        if self.has_streams() { left } else { left / slots.max(1) }
    }

    /// Waits until what was evaluated is computed, for timings.
    pub fn wait(&self) {
        self.context().synchronize();
    }

    /// Saves the state of `positions` into `buffer`: of them alone, or for a model whose state cannot be
    /// cut of everything up to the current position.
    ///
    /// # Errors
    /// When llama.cpp writes another size than it announced, or what [`Self::restore`] would refuse.
    pub fn snapshot(&mut self, positions: &Range<usize>, buffer: &mut Vec<u8>) -> Result<()> {
        self.sequences.snapshot(&mut self.context, self.position, positions, buffer)
    }

    /// Restores `state`, which [`Self::snapshot`] gave for `positions`, after what was restored so far.
    ///
    /// # Errors
    /// When it is not a state of those positions on this model, down to the last number in it, or when llama.cpp refuses
    /// it. The session must then be reset.
    pub fn restore(&mut self, positions: &Range<usize>, state: &[u8]) -> Result<()> {
        self.take(positions, state)?;
        self.put()
    }

    /// Takes one of several states that are restored together; [`Self::put`] ends that.
    ///
    /// # Errors
    /// As [`Self::restore`].
    pub fn take(&mut self, positions: &Range<usize>, state: &[u8]) -> Result<()> {
        self.used = true;
        self.sequences.take(&mut self.context, positions, state)?;
        self.taken = positions.end;
        Ok(())
    }

    /// Restores what was taken.
    ///
    /// # Errors
    /// As [`Self::restore`].
    pub fn put(&mut self) -> Result<()> {
        self.sequences.put(&mut self.context, self.position)?;
        self.position = self.taken;
        self.has_logits = false;
        Ok(())
    }

    /// The logits after the last evaluated token, one per token of the vocabulary, if they were asked for.
    pub fn logits(&self) -> Option<&[f32]> {
        self.has_logits.then(|| self.context().get_logits_ith(-1))
    }

    /// The logits number `index` of the last batch, one per token of the vocabulary; -1 is the last.
    pub(super) fn logits_at(&self, index: i32) -> &[f32] {
        self.context().get_logits_ith(index)
    }

    /// Returns true if the last evaluation left logits to sample from.
    pub fn has_logits(&self) -> bool {
        self.has_logits
    }

    pub(super) fn context(&self) -> &LlamaContext<'_> {
        self.context.llama()
    }
}
