//! Cutting a state into segments, and joining segments to one state.
//!
//! Both write what llama.cpp itself would: the heads for the place that the state is to have, the cells one after the
//! other, and of each layer the rows of these cells. Where V lies transposed a row has a channel of all cells, and is cut and
//! joined channel by channel.

use std::ops::Range;

use super::walk::{Attention, Cache, Layer, head};
use super::{Place, SequenceError, SequenceState};

/// Number of i32 of a cell between its position and its sequence: the number of sequences, and where it is extended its
/// place in two dimensions and its token.
fn cell_numbers(cache: &Attention) -> usize {
    if cache.extended { 4 } else { 1 }
}

pub(super) fn cut(
    state: &SequenceState<'_>,
    positions: Range<usize>,
    place: Place,
    into: &mut Vec<u8>,
) -> Result<(), SequenceError> {
    into.clear();
    into.extend(head(place));
    for cache in &state.caches {
        match cache {
            Cache::Attention(cache) => {
                let cells = cells_at(cache, &positions, state.positions.end)?;
                write_attention(&[(state.bytes, cache, cells)], place, into);
            }
            Cache::Recurrent(_) if positions != state.positions => {
                return Err(differs("the end of a recurrent cache", positions.end, state.positions.end));
            }
            Cache::Recurrent(range) => into.extend(&state.bytes[range.clone()]),
        }
    }
    Ok(())
}

/// Cells of a sliding window's cache that are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Every position: the model has no window, or parts have let go of nothing.
    None,
    /// Cells from this position on, which a window at the end of the last part reaches: as llama.cpp saves it.
    From(usize),
    /// Cells that the parts have: those in the cache when they are loaded one after the other.
    Held,
}

/// Writes the state that `parts`, which follow each other without a gap, are together, as `place` would save it, into `into`,
/// which is emptied first. A single part only gets other heads.
///
/// # Errors
/// When a part does not begin where the one before it ends, when their caches are not of one form, when one of
/// several has a recurrent cache, or when a part has let go of what a window reaches.
pub fn join(
    parts: &[SequenceState<'_>],
    window: Window,
    place: Place,
    into: &mut Vec<u8>,
) -> Result<(), SequenceError> {
    into.clear();
    into.extend(head(place));
    let Some(first) = parts.first() else { return Err(differs("the number of parts", 0, 1)) };
    for (before, after) in parts.iter().zip(&parts[1..]) {
        if before.positions.end != after.positions.start {
            return Err(differs("the first position of a part", after.positions.start, before.positions.end));
        }
        if before.caches.len() != after.caches.len() {
            return Err(differs("the number of caches of a part", after.caches.len(), before.caches.len()));
        }
    }
    for n in 0..first.caches.len() {
        match &first.caches[n] {
            Cache::Recurrent(_) if parts.len() > 1 => {
                return Err(differs("the number of parts of a recurrent cache", parts.len(), 1));
            }
            Cache::Recurrent(range) => into.extend(&first.bytes[range.clone()]),
            Cache::Attention(model) => {
                // With nothing before it, a part's own window is what counts.
                let wanted = match window {
                    _ if parts.len() == 1 => Window::Held,
                    window if n == WINDOWED => window,
                    _ => Window::None,
                };
                let same = parts.iter().map(|part| same_form(first, model, part, &part.caches[n], wanted));
                write_attention(&same.collect::<Result<Vec<_>, _>>()?, place, into);
            }
        }
    }
    Ok(())
}

/// Which cache has the layers with a sliding window, in a model that has such layers.
const WINDOWED: usize = 1;

/// A cache of a part, and the range of its cells that is wanted.
type Piece<'a> = (&'a [u8], &'a Attention, Range<usize>);

/// The cache of a part, if it has the form of the first part's and the positions that are wanted.
fn same_form<'a>(
    first: &SequenceState<'_>,
    model: &Attention,
    part: &SequenceState<'a>,
    cache: &'a Cache,
    wanted: Window,
) -> Result<Piece<'a>, SequenceError> {
    let Cache::Attention(cache) = cache else { return Err(differs("the kind of a cache", 1, 0)) };
    let form = |state: &SequenceState<'_>, cache: &Attention| {
        let heads: Vec<Vec<u8>> = cache.layers.iter().map(|l| state.bytes[l.head.clone()].to_vec()).collect();
        (cache.extended, state.bytes[cache.numbers.clone()].to_vec(), heads)
    };
    if form(first, model) != form(part, cache) {
        return Err(differs("the form of a cache", 1, 0));
    }
    let from = match wanted {
        Window::Held => return Ok((part.bytes, cache, 0..cache.cells)),
        Window::None => 0,
        Window::From(first) => first,
    };
    let wanted = part.positions.start.max(from)..part.positions.end;
    let cells = if wanted.is_empty() { 0..0 } else { cells_at(cache, &wanted, usize::MAX)? };
    Ok((part.bytes, cache, cells))
}

/// The cells that hold `positions`, all of which the cache must have; but where they go up to `last`, the end of a state,
/// a window lacks some of them in any case.
fn cells_at(cache: &Attention, positions: &Range<usize>, last: usize) -> Result<Range<usize>, SequenceError> {
    let end = cache.first + cache.cells;
    let start = if positions.end == last { positions.start.max(cache.first) } else { positions.start };
    let positions = start..positions.end;
    if positions.is_empty() || positions.start < cache.first || positions.end > end {
        let found = if positions.end > end { end } else { cache.first };
        return Err(differs("the first position of a cache", found, positions.start));
    }
    Ok(positions.start - cache.first..positions.end - cache.first)
}

/// Writes one cache made of the cells of several, which are of one form.
fn write_attention(pieces: &[Piece<'_>], place: Place, into: &mut Vec<u8>) {
    let empty = 0u32.to_le_bytes();
    into.extend(place.streams.to_le_bytes());
    (0..place.stream).for_each(|_| into.extend(empty));
    let count: usize = pieces.iter().map(|(_, _, cells)| cells.len()).sum();
    into.extend((count as u32).to_le_bytes());
    for (bytes, cache, cells) in pieces {
        let size = 4 + 4 * cell_numbers(cache) + 4;
        let tags = &bytes[cache.tags.clone()][cells.start * size..cells.end * size];
        for tag in tags.chunks_exact(size) {
            into.extend(&tag[..size - 4]);
            into.extend(place.sequence.to_le_bytes());
        }
    }
    let (bytes, cache, _) = &pieces[0];
    into.extend(&bytes[cache.numbers.clone()]);
    for n in 0..cache.layers.len() {
        into.extend(&bytes[cache.layers[n].head.clone()]);
        for row in 0..cache.layers[n].rows {
            for (bytes, cache, cells) in pieces {
                into.extend(row_of(bytes, cache, &cache.layers[n], row, cells));
            }
        }
    }
    (place.stream + 1..place.streams).for_each(|_| into.extend(empty));
}

/// The part of a row that belongs to some cells.
fn row_of<'a>(
    bytes: &'a [u8],
    cache: &Attention,
    layer: &Layer,
    row: usize,
    cells: &Range<usize>,
) -> &'a [u8] {
    let start = row * cache.cells;
    &bytes[layer.data.clone()][(start + cells.start) * layer.cell..(start + cells.end) * layer.cell]
}

/// Error of a number of parts or positions that is not the one that it must be.
fn differs(what: &'static str, found: usize, expected: usize) -> SequenceError {
    SequenceError { at: 0, what, found: found as i128, expected: expected.to_string() }
}
