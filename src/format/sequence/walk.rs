//! The walk over a sequence state, cache by cache.

use super::cursor::Cursor;
use super::{Expected, Layout, SequenceError};
use crate::key::KvType;

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

pub(super) fn sequence(state: &[u8], expected: &Expected) -> Result<()> {
    let mut cursor = Cursor::new(state);
    cursor.expect("the magic number", MAGIC)?;
    cursor.expect_signed("the sequence", expected.sequence)?;
    let mut furthest = None;
    if caches(cursor, expected, 0, &mut furthest) {
        return Ok(());
    }
    Err(furthest.unwrap_or_else(|| cursor.wrong::<0>("the number of caches", 0, "at least 1")))
}

/// Whether some way of reading caches ends where the bytes do. Of what stood in the way of the others, that which was
/// found last in the bytes is kept.
fn caches(
    cursor: Cursor<'_>,
    expected: &Expected,
    read: usize,
    furthest: &mut Option<SequenceError>,
) -> bool {
    if read > 0 && cursor.left() == 0 {
        return true;
    }
    if read == MAX_CACHES {
        note(furthest, cursor.wrong::<0>("what follows the last cache", cursor.left() as i128, "nothing"));
        return false;
    }
    let mut goes_on = |after: Result<Cursor<'_>>| match after {
        Ok(after) => caches(after, expected, read + 1, furthest),
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
) -> Result<Cursor<'a>> {
    cursor.expect("the number of streams", 1)?;
    let cells = cursor.u32("the number of cells")?;
    if cells == 0 || cells as usize > expected.count {
        return Err(cursor.wrong::<4>("the number of cells", cells, format!("1 to {}", expected.count)));
    }
    let first = expected.end() - cells as usize;
    for i in 0..cells as usize {
        cell(&mut cursor, expected.sequence, first + i, extended)?;
    }
    cursor.expect("whether V is transposed", expected.transposed.into())?;
    let layers = layers(&mut cursor, expected)?;
    rotation(&mut cursor, "the rotation of K")?;
    rotation(&mut cursor, "the rotation of V")?;
    for _ in 0..layers {
        rows(&mut cursor, expected.kv_type, cells)?;
    }
    for _ in 0..if has_v { layers } else { 0 } {
        match expected.transposed {
            true => transposed_rows(&mut cursor, expected.kv_type, cells)?,
            false => rows(&mut cursor, expected.kv_type, cells)?,
        }
    }
    Ok(cursor)
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

fn rows(cursor: &mut Cursor<'_>, kv_type: KvType, cells: u32) -> Result<()> {
    let (number, block) = ggml_type(kv_type);
    cursor.expect_signed("the type of a layer", number)?;
    let row = cursor.u64("the size of a row")?;
    if row == 0 || !row.is_multiple_of(block) {
        return Err(cursor.wrong::<8>("the size of a row", row, format!("a multiple of {block}")));
    }
    cursor.skip("the size of a layer", &[row, cells.into()])
}

fn transposed_rows(cursor: &mut Cursor<'_>, kv_type: KvType, cells: u32) -> Result<()> {
    let (number, block) = ggml_type(kv_type);
    cursor.expect_signed("the type of a layer", number)?;
    let element = cursor.u32("the size of an element")?;
    if u64::from(element) != block {
        return Err(cursor.wrong::<4>("the size of an element", element, block));
    }
    let rows = cursor.u32("the number of rows")?;
    if rows == 0 {
        return Err(cursor.wrong::<4>("the number of rows", rows, "at least 1"));
    }
    cursor.skip("the size of a layer", &[element.into(), rows.into(), cells.into()])
}

fn recurrent<'a>(mut cursor: Cursor<'a>, expected: &Expected) -> Result<Cursor<'a>> {
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
    recurrent_rows(&mut cursor, expected.layers)?;
    Ok(cursor)
}

/// The rows of R, some of which have the history of a convolution behind them, and then those of S, for the same
/// layers; all of R are of one size, and so are all of S. A size is never 0 or 1, which begin a row and a cache.
fn recurrent_rows(cursor: &mut Cursor<'_>, layers: usize) -> Result<()> {
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
        if cursor.peek().is_some_and(|next| next > 1) {
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
