//! The walk over a sequence state, cache by cache.

use std::ops::Range;

use super::cursor::Cursor;
use super::{Expected, Place, SequenceError};
use crate::{KvType, Layout};

type Result<T> = std::result::Result<T, SequenceError>;

/// The first number of each sequence state.
const MAGIC: u32 = 0xaf14_3cd8;
/// No model has more caches than this: two of attention (full and sliding) and of an indexer, one recurrent.
const MAX_CACHES: usize = 4;
/// ggml's number for F32, the type of every recurrent state.
const F32: i32 = 0;

/// The cells' two possible forms, and V's.
const FORMS: [(bool, bool); 4] = [(false, true), (true, true), (false, false), (true, false)];

/// ggml's number for a type, and the bytes of one of its blocks.
fn ggml_type(kv_type: KvType) -> (i32, u64) {
    match kv_type {
        KvType::F16 => (1, 2),
        KvType::Q4_0 => (2, 18),
        KvType::Q8_0 => (8, 34),
    }
}

/// One cache of a state, and where its parts lie in the bytes.
#[derive(Debug, Clone)]
pub(super) enum Cache {
    Attention(Attention),
    /// All of it, which is the same in every context.
    Recurrent(Range<usize>),
}

/// A cache of attention.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    /// Position of its first cell.
    pub(super) first: usize,
    /// Number of cells.
    pub(super) cells: usize,
    /// A cell has its place in two dimensions and its token, too.
    pub(super) extended: bool,
    /// The cells' positions.
    pub(super) tags: Range<usize>,
    /// Numbers between the cells and the layers.
    pub(super) numbers: Range<usize>,
    /// K and then V, layer by layer.
    pub(super) layers: Vec<Layer>,
}

/// K or V of a layer.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// Type and sizes.
    pub(super) head: Range<usize>,
    /// Rows of all cells one after the other: one row for each cell, or one for each channel.
    pub(super) data: Range<usize>,
    /// Number of rows, each with a part for every cell: 1 where the cells lie one after the other.
    pub(super) rows: usize,
    /// Bytes of a cell in a row.
    pub(super) cell: usize,
}

/// The number that every sequence state begins with.
pub(super) fn head(place: Place) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[4..].copy_from_slice(&place.sequence.to_le_bytes());
    bytes
}

pub(super) fn sequence(state: &[u8], expected: &Expected) -> Result<Vec<Cache>> {
    let mut cursor = Cursor::new(state);
    cursor.expect("the magic number", MAGIC)?;
    cursor.expect_signed("the sequence", expected.place.sequence)?;
    let (mut furthest, mut read) = (None, Vec::new());
    if caches(cursor, expected, &mut read, &mut furthest) {
        return Ok(read);
    }
    Err(furthest.unwrap_or_else(|| cursor.wrong::<0>("the number of caches", 0, "at least 1")))
}

/// Returns true if some way of reading caches ends where the bytes do. Of the errors of the others, the one found last in
/// the bytes is kept.
fn caches(
    cursor: Cursor<'_>,
    expected: &Expected,
    read: &mut Vec<Cache>,
    furthest: &mut Option<SequenceError>,
) -> bool {
    if !read.is_empty() && cursor.left() == 0 {
        return true;
    }
    if read.len() == MAX_CACHES {
        note(furthest, cursor.wrong::<0>("what follows the last cache", cursor.left() as i128, "nothing"));
        return false;
    }
    let mut goes_on = |after: Result<(Cursor<'_>, Cache)>| match after {
        Ok((after, cache)) => {
            read.push(cache);
            let ends = caches(after, expected, read, furthest);
            if !ends {
                read.pop();
            }
            ends
        }
        Err(error) => {
            note(furthest, error);
            false
        }
    };
    FORMS.iter().any(|form| goes_on(attention(cursor, expected, *form)))
        || (expected.layout == Layout::Snapshot && goes_on(recurrent(cursor, expected)))
}

fn note(furthest: &mut Option<SequenceError>, error: SequenceError) {
    if furthest.as_ref().is_none_or(|f| f.at < error.at) {
        *furthest = Some(error);
    }
}

fn attention<'a>(
    mut cursor: Cursor<'a>,
    expected: &Expected,
    (extended, has_v): (bool, bool),
) -> Result<(Cursor<'a>, Cache)> {
    cursor.expect("the number of streams", expected.place.streams)?;
    others(&mut cursor, expected.place.stream)?;
    let cells = cursor.u32("the number of cells")?;
    if cells == 0 || cells as usize > expected.count {
        return Err(cursor.wrong::<4>("the number of cells", cells, format!("1 to {}", expected.count)));
    }
    let first = expected.end() - cells as usize;
    let tags = cursor.at();
    for i in 0..cells as usize {
        cell(&mut cursor, expected.place.sequence, first + i, extended)?;
    }
    let numbers = cursor.at();
    cursor.expect("whether V is transposed", expected.transposed.into())?;
    let layers = layers(&mut cursor, expected)?;
    rotation(&mut cursor, "the rotation of K")?;
    rotation(&mut cursor, "the rotation of V")?;
    let (tags, numbers) = (tags..numbers, numbers..cursor.at());
    let mut read = Vec::new();
    for _ in 0..layers {
        read.push(rows(&mut cursor, expected.kv_type, cells)?);
    }
    for _ in 0..if has_v { layers } else { 0 } {
        read.push(match expected.transposed {
            true => transposed_rows(&mut cursor, expected.kv_type, cells)?,
            false => rows(&mut cursor, expected.kv_type, cells)?,
        });
    }
    let after = expected.place.streams.saturating_sub(expected.place.stream).saturating_sub(1);
    others(&mut cursor, after)?;
    let cells = cells as usize;
    let cache = Attention { first, cells, extended, tags, numbers, layers: read };
    Ok((cursor, Cache::Attention(cache)))
}

/// Streams of other sequences: none of their cells is part of the state.
fn others(cursor: &mut Cursor<'_>, streams: u32) -> Result<()> {
    (0..streams).try_for_each(|_| cursor.expect("the number of another stream's cells", 0))
}

fn cell(cursor: &mut Cursor<'_>, sequence: i32, position: usize, extended: bool) -> Result<()> {
    let found = cursor.i32("the position of a cell")?;
    if usize::try_from(found) != Ok(position) {
        return Err(cursor.wrong::<4>("the position of a cell", found, position));
    }
    cursor.expect("the number of sequences of a cell", 1)?;
    if extended {
        // Where text is in two dimensions, it is in the same place in both; elsewhere they are not used.
        for _ in ["x", "y"] {
            let place = cursor.i32("the place of a cell")?;
            if place != 0 && place != found {
                return Err(cursor.wrong::<4>("the place of a cell", place, format!("0 or {found}")));
            }
        }
        let token = cursor.i32("the token of a cell")?;
        if token < -1 {
            return Err(cursor.wrong::<4>("the token of a cell", token, "a token or -1"));
        }
    }
    cursor.expect_signed("the sequence of a cell", sequence)
}

fn layers(cursor: &mut Cursor<'_>, expected: &Expected) -> Result<u32> {
    // Some architectures cache a layer beside those that they count.
    let most = expected.layers.saturating_mul(2);
    match cursor.u32("the number of layers")? {
        found if found as usize <= most => Ok(found),
        found => Err(cursor.wrong::<4>("the number of layers", found, format!("at most {most}"))),
    }
}

fn rotation(cursor: &mut Cursor<'_>, what: &'static str) -> Result<()> {
    match cursor.u32(what)? {
        found if found == 0 || found.is_power_of_two() => Ok(()),
        found => Err(cursor.wrong::<4>(what, found, "0 or a power of two")),
    }
}

fn rows(cursor: &mut Cursor<'_>, kv_type: KvType, cells: u32) -> Result<Layer> {
    let (head, (number, block)) = (cursor.at(), ggml_type(kv_type));
    cursor.expect_signed("the type of a layer", number)?;
    let row = cursor.u64("the size of a row")?;
    if row == 0 || !row.is_multiple_of(block) {
        return Err(cursor.wrong::<8>("the size of a row", row, format!("a multiple of {block}")));
    }
    let data = cursor.at();
    cursor.skip("the size of a layer", &[row, cells.into()])?;
    // What was passed over lies in memory, so its sizes fit.
    Ok(Layer { head: head..data, data: data..cursor.at(), rows: 1, cell: row as usize })
}

fn transposed_rows(cursor: &mut Cursor<'_>, kv_type: KvType, cells: u32) -> Result<Layer> {
    let (head, (number, block)) = (cursor.at(), ggml_type(kv_type));
    cursor.expect_signed("the type of a layer", number)?;
    let element = cursor.u32("the size of an element")?;
    if u64::from(element) != block {
        return Err(cursor.wrong::<4>("the size of an element", element, block));
    }
    let rows = cursor.u32("the number of rows")?;
    if rows == 0 {
        return Err(cursor.wrong::<4>("the number of rows", rows, "at least 1"));
    }
    let data = cursor.at();
    cursor.skip("the size of a layer", &[element.into(), rows.into(), cells.into()])?;
    Ok(Layer { head: head..data, data: data..cursor.at(), rows: rows as usize, cell: element as usize })
}

fn recurrent<'a>(mut cursor: Cursor<'a>, expected: &Expected) -> Result<(Cursor<'a>, Cache)> {
    let start = cursor.at();
    cursor.expect("the number of recurrent cells", 1)?;
    let last = expected.end() as i128 - 1;
    let position = cursor.i32("the position of the recurrent cell")?;
    if i128::from(position) != last {
        return Err(cursor.wrong::<4>("the position of the recurrent cell", position, last));
    }
    cursor.expect("the number of sequences of the recurrent cell", 0)?;
    cursor.expect("whether S is transposed", 0)?;
    let layers = cursor.u32("the number of layers")?;
    if layers as usize != expected.layers {
        return Err(cursor.wrong::<4>("the number of layers", layers, expected.layers));
    }
    recurrent_rows(&mut cursor, expected)?;
    Ok((cursor, Cache::Recurrent(start..cursor.at())))
}

/// The rows of R, some of which have the history of a convolution behind them, and then those of S, for the same
/// layers; all of R are of one size, and so are all of S. A size is never 0 or the number of streams, which begin a row
/// and a cache.
fn recurrent_rows(cursor: &mut Cursor<'_>, expected: &Expected) -> Result<()> {
    let layers = expected.layers;
    let begins_cache = |next: i32| u32::try_from(next) == Ok(expected.place.streams);
    let mut sizes = Vec::new();
    // The next cache begins with another number.
    while sizes.len() < layers * 2 && cursor.left() > 0 && cursor.peek() == Some(F32) {
        cursor.expect_signed("the type of a layer", F32)?;
        let row = cursor.u64("the size of a row")?;
        if !row.is_multiple_of(4) {
            return Err(cursor.wrong::<8>("the size of a row", row, "a multiple of 4"));
        }
        cursor.skip("the size of a layer", &[row])?;
        sizes.push(row);
        if cursor.peek().is_some_and(|next| next > 1 && !begins_cache(next)) {
            let row = cursor.u64("the size of a convolution's row")?;
            cursor.skip("the size of a convolution's row", &[row])?;
        }
    }
    let (r, s) = sizes.split_at(sizes.len() / 2);
    if r.len() != s.len() || [r, s].iter().any(|half| half.iter().any(|size| *size != half[0])) {
        let expected = "the same number of R and of S, all R and all S of one size";
        return Err(cursor.wrong::<0>("the number of recurrent rows", sizes.len() as i128, expected));
    }
    Ok(())
}
