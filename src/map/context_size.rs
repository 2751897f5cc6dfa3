//! Size of the context: the need of the records is not known before they are read.

use anyhow::{Result, bail};

use super::{Options, RecordFormat};
use crate::cache::memory;
use crate::cache::open_state::{ContextSize, OpenState, Question};
use crate::cache::{Call, Failure};
use crate::text::human;
use pcache_engine::Slots;
use pcache_engine::model::Model;
use pcache_engine::scheduler;
use pcache_format::SEGMENT_TOKENS;
use pcache_store::{Prefix, State};

/// Tokens of a question that there is room for from the beginning.
const LINE: usize = 128;
const DOCUMENT: usize = 512;

/// Positions for a record of the usual length, in each slot.
pub fn first(model: &Model, prefix: &Prefix, options: &Options, format: RecordFormat) -> ContextSize {
    let question = if format == RecordFormat::Lines { LINE } else { DOCUMENT };
    let limit = Question::limit(model, prefix, question, options.sampling.max_tokens);
    let slots = match options.parallel {
        1 => Slots::None,
        n if options.exact => Slots::Streams(n),
        n => Slots::Tagged(n),
    };
    ContextSize { limit, slots }
}

/// Refuses as many copies of the state as there is no memory for.
pub fn check_memory(state: &State, prefix: &Prefix, room: ContextSize) -> Result<()> {
    let Slots::Streams(count) = room.slots else { return Ok(()) };
    let bytes: u64 = state.manifest.segments.iter().map(|segment| segment.raw_bytes).sum();
    let each = bytes as f64 * room.limit as f64 / prefix.tokens.len().max(1) as f64;
    let needed = (each * f64::from(count + 1)) as u64;
    match memory::available().filter(|available| *available < needed) {
        None => Ok(()),
        Some(available) => bail!(Failure::Usage(format!(
            "exact answers need a copy of the state for each of {count} at once: {}, and {} of memory are left; answer fewer at once",
            human::bytes(needed),
            human::bytes(available)
        ))),
    }
}

/// The slots with which answers are those of one after the other, if that was asked for: none, where this machine's kernels
/// add in another order for several tokens than for one.
pub fn exact(call: Call<'_>, opened: &mut OpenState<'_>, slots: Slots) -> Result<Slots> {
    if !matches!(slots, Slots::Streams(_)) {
        return Ok(slots);
    }
    opened.prepare(&mut call.timings())?;
    if scheduler::is_exact(&mut opened.session, slots.count())? {
        return Ok(slots);
    }
    call.say("this machine's kernels add in another order for several tokens than for one: answering one after the other");
    let room = ContextSize { limit: opened.limit, slots: Slots::None };
    opened.session = room.session(opened.session.model(), &opened.prefix, opened.call.threads)?;
    Ok(Slots::None)
}

/// Sets the limit for a question, and makes a larger context if it needs one. The caller restores the state into it.
pub fn ensure(
    opened: &mut OpenState<'_>,
    question: &Question,
    max_tokens: usize,
    slots: Slots,
) -> Result<()> {
    let (model, prefix) = (opened.session.model(), &opened.prefix);
    let limit = |tokens| Question::limit(model, prefix, tokens, max_tokens);
    let needed = ContextSize { limit: limit(question.tokens.len()), slots };
    let is_enough = opened.session.has_room(needed.within(prefix));
    // Some more, so that the next one that is a little longer has room too.
    let more = question.tokens.len().next_multiple_of(SEGMENT_TOKENS) + SEGMENT_TOKENS;
    let room = ContextSize { limit: limit(more), slots };
    opened.limit = needed.limit;
    if !is_enough {
        opened.session = room.session(opened.session.model(), &opened.prefix, opened.call.threads)?;
    }
    Ok(())
}
