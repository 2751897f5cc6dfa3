//! How large the context is: what the records need is not known before they are read.

use anyhow::Result;

use crate::cache::opened::{Opened, Question, Room};
use crate::cli::{Map, RecordFormat};
use pcache_engine::model::Model;
use pcache_engine::session::Session;
use pcache_format::SEGMENT_TOKENS;
use pcache_store::Prefix;

/// Tokens of a question that there is room for from the beginning.
const LINE: usize = 128;
const DOCUMENT: usize = 512;

/// Room for a record of the usual length, in each slot.
pub fn first(model: &Model, prefix: &Prefix, args: &Map, format: RecordFormat) -> Room {
    let question = if format == RecordFormat::Lines { LINE } else { DOCUMENT };
    of(model, prefix, question, args.sampling.max_tokens, if args.parallel > 1 { args.parallel } else { 0 })
}

fn of(model: &Model, prefix: &Prefix, question: usize, max_tokens: usize, slots: u32) -> Room {
    let limit = Question::limit(model, prefix, question, max_tokens);
    let behind = limit.saturating_sub(prefix.tokens.len());
    Room { limit, cells: prefix.tokens.len() + behind * slots.max(1) as usize, slots }
}

/// Sets the limit for a question, and makes a larger context if it needs one. The caller restores the state into it. Says
/// whether it is a new one.
pub fn ensure(opened: &mut Opened<'_>, question: &Question, max_tokens: usize, slots: u32) -> Result<bool> {
    let model = opened.session.model();
    let needed = of(model, &opened.prefix, question.tokens.len(), max_tokens, slots);
    opened.limit = needed.limit;
    if needed.cells <= opened.session.cells() {
        return Ok(false);
    }
    // Some more, so that the next one that is a little longer has room too.
    let more = question.tokens.len().next_multiple_of(SEGMENT_TOKENS) + SEGMENT_TOKENS;
    let room = of(model, &opened.prefix, more, max_tokens, slots);
    opened.session =
        Session::with_slots(model, &opened.state.manifest.params, room.cells, opened.call.threads, slots)?;
    Ok(true)
}
