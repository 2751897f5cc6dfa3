//! What the tables hold, as types.

use rusqlite::Row;
use rusqlite::types::Type;

use crate::format::Layout;
use crate::key::{ChainKey, ModelHash, ObjectId, Params, StateKey};

/// A saved segment: the object that restores a chain key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRow {
    /// Key of the prefix up to the segment's end.
    pub chain: ChainKey,
    /// Key of the prefix before it.
    pub parent: ChainKey,
    /// The object file.
    pub object: ObjectId,
    /// Segment or snapshot.
    pub layout: Layout,
    /// First position.
    pub first: usize,
    /// Number of tokens.
    pub count: usize,
    /// Size of the state in bytes.
    pub raw_bytes: u64,
    /// Size of the file in bytes.
    pub file_bytes: u64,
}

/// How a state was used, and where its record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// When it was last asked or built again.
    pub last_used: i64,
    /// How often it was asked or built again.
    pub hits: u64,
    /// The object that holds its record; states of older versions have none.
    pub record: Option<ObjectId>,
    /// That object's size.
    pub record_bytes: u64,
}

/// A state as `ls` and `gc` need it.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedState {
    /// Its key.
    pub key: StateKey,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The model.
    pub model: ModelHash,
    /// Where the model was last seen.
    pub model_path: String,
    /// Number of tokens.
    pub tokens: usize,
    /// When it was built.
    pub created: i64,
    /// When it was last asked or built again.
    pub last_used: i64,
    /// How often it was asked or built again.
    pub hits: u64,
    /// Kept by gc.
    pub pinned: bool,
    /// When it is no longer wanted.
    pub expires: Option<i64>,
    /// The prompt file.
    pub origin: String,
    /// Seconds that evaluating all of it costs, as far as that is known.
    pub cost_s: f64,
    /// The object that holds its record.
    pub record: Option<ObjectId>,
    /// That object's size.
    pub record_bytes: u64,
    /// Its segments, by number in the list that came with it.
    pub segments: Vec<usize>,
}

/// A hash column.
pub(super) fn hash<T: From<[u8; 32]>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    row.get::<_, [u8; 32]>(column).map(T::from)
}

/// A hash column that may be empty.
pub(super) fn maybe_hash<T: From<[u8; 32]>>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    Ok(row.get::<_, Option<[u8; 32]>>(column)?.map(T::from))
}

pub(super) fn layout(row: &Row<'_>, column: usize) -> rusqlite::Result<Layout> {
    let name: String = row.get(column)?;
    Layout::named(&name).ok_or_else(|| unreadable(column, format!("layout {name:?}")))
}

pub(super) fn params(row: &Row<'_>, column: usize) -> rusqlite::Result<Params> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|e| unreadable(column, format!("parameters: {e}")))
}

pub(super) fn segment(row: &Row<'_>) -> rusqlite::Result<SegmentRow> {
    Ok(SegmentRow {
        chain: hash(row, 0)?,
        parent: hash(row, 1)?,
        object: hash(row, 2)?,
        layout: layout(row, 3)?,
        first: row.get(4)?,
        count: row.get(5)?,
        raw_bytes: row.get(6)?,
        file_bytes: row.get(7)?,
    })
}

pub(super) fn tokens_to_blob(tokens: &[i32]) -> Vec<u8> {
    tokens.iter().flat_map(|t| t.to_le_bytes()).collect()
}

pub(super) fn tokens_from_blob(blob: &[u8]) -> Vec<i32> {
    blob.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn unreadable(column: usize, what: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, what.into())
}
