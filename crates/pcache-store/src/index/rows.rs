//! Rows of the tables, as types.

use pcache_format::label::Name;
use pcache_format::{
    ChainKey, Label, Layout, Lineage, Manifest, ModelHash, ObjectId, Params, StateKey, StateKind,
};
use rusqlite::Row;
use rusqlite::types::Type;

/// A saved segment: the object that restores a chain key in one lineage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRow {
    /// Key of the prefix up to the segment's end.
    pub chain: ChainKey,
    /// Compute identity of it and of the prefix before it.
    pub lineage: Lineage,
    /// Key of the prefix before it.
    pub parent: ChainKey,
    /// Compute identity of that prefix.
    pub parent_lineage: Lineage,
    /// Object file.
    pub object: ObjectId,
    /// BLAKE3 of the raw state; not known of what version 0.1 wrote.
    pub raw_blake3: Option<ObjectId>,
    /// Segment or snapshot.
    pub layout: Layout,
    /// First position.
    pub first: usize,
    /// Number of tokens.
    pub count: usize,
    /// Size of the raw state in bytes.
    pub raw_bytes: u64,
    /// Size of the file in bytes.
    pub file_bytes: u64,
}

impl SegmentRow {
    /// Chain key and lineage: what tells segments apart.
    pub fn id(&self) -> (ChainKey, Lineage) {
        (self.chain, self.lineage)
    }
}

/// A manifest on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestRow {
    /// Lineage in its name.
    pub lineage: Lineage,
    /// BLAKE3 of the file.
    pub blake3: ObjectId,
    /// Size of the file in bytes.
    pub bytes: u64,
}

/// Usage of a state, and the files that describe it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time of the last ask or build, in seconds since 1970.
    pub last_used: i64,
    /// Number of asks and further builds.
    pub hits: u64,
    /// Manifests.
    pub manifests: Vec<ManifestRow>,
    /// Size of the label in bytes; 0 where there is none.
    pub label_bytes: u64,
    /// Object that was manifest and label in version 0.1, with its size, until it is split.
    pub record: Option<(ObjectId, u64)>,
}

impl Usage {
    /// Bytes of the files that describe the state.
    pub fn bytes(&self) -> u64 {
        let manifests: u64 = self.manifests.iter().map(|m| m.bytes).sum();
        manifests + self.label_bytes + self.record.map_or(0, |(_, bytes)| bytes)
    }

    /// Number of the files that describe the state.
    pub fn files(&self) -> usize {
        self.manifests.len() + usize::from(self.label_bytes > 0) + usize::from(self.record.is_some())
    }
}

/// A state's row: all but its tokens and its objects.
#[derive(Debug, Clone)]
pub(crate) struct StateRow {
    /// Manifest without tokens and segments.
    pub(crate) skeleton: Manifest,
    pub(crate) label: Label,
    pub(crate) usage: Usage,
}

/// A state as `ls` and `gc` need it.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedState {
    /// Its key.
    pub key: StateKey,
    /// Its names, the oldest first, each with its pin and expiry.
    pub names: Vec<Name>,
    /// The state, or one of its names, is pinned.
    pub pinned: bool,
    /// Time at which the last one who wants it no longer does; `None` if never.
    pub expires: Option<i64>,
    /// The model.
    pub model: ModelHash,
    /// Place at which the model was last seen.
    pub model_path: String,
    /// Origin of its tokens.
    pub kind: StateKind,
    /// Lineage of the manifest that was committed last.
    pub lineage: Lineage,
    /// Number of tokens.
    pub tokens: usize,
    /// Time of the first build.
    pub created: i64,
    /// Time of the last ask or build.
    pub last_used: i64,
    /// Number of asks and further builds.
    pub hits: u64,
    /// Prompt file.
    pub origin: String,
    /// Seconds that evaluating all of it costs, as far as that is known.
    pub cost_s: f64,
    /// Bytes of the files that describe it: manifests, label, record.
    pub description_bytes: u64,
    /// Number of these files.
    pub description_files: usize,
    /// Its segments, by number in the list that came with it.
    pub segments: Vec<usize>,
}

impl ListedState {
    /// Oldest name.
    pub fn name(&self) -> Option<&str> {
        self.names.first().map(|n| n.name.as_str())
    }
}

/// A hash column.
pub(super) fn hash<T: From<[u8; 32]>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    row.get::<_, [u8; 32]>(column).map(T::from)
}

/// A hash column that may be empty.
pub(super) fn maybe_hash<T: From<[u8; 32]>>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    Ok(row.get::<_, Option<[u8; 32]>>(column)?.map(T::from))
}

/// A text column that a type reads.
pub(super) fn read<T>(
    row: &Row<'_>,
    column: usize,
    read: impl FnOnce(&str) -> Option<T>,
) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    read(&text).ok_or_else(|| {
        let problem = format!("{text:?} is not understood").into();
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, problem)
    })
}

pub(super) fn layout(row: &Row<'_>, column: usize) -> rusqlite::Result<Layout> {
    read(row, column, Layout::named)
}

pub(super) fn lineage(row: &Row<'_>, column: usize) -> rusqlite::Result<Lineage> {
    read(row, column, |text| text.parse().ok())
}

pub(super) fn params(row: &Row<'_>, column: usize) -> rusqlite::Result<Params> {
    read(row, column, |text| Params::parse(text).ok())
}

/// Columns of a segment, from `segments s` joined with the names of its lineages.
pub(super) const SEGMENT: &str =
    "s.chain, l.name, s.parent, p.name, s.object, s.raw_blake3, s.layout, s.first,
    s.count, s.raw_bytes, s.file_bytes";
/// Tables of [`SEGMENT`].
pub(super) const SEGMENT_FROM: &str =
    "segments s JOIN lineages l ON l.id = s.lineage JOIN lineages p ON p.id = s.parent_lineage";

pub(super) fn segment(row: &Row<'_>) -> rusqlite::Result<SegmentRow> {
    Ok(SegmentRow {
        chain: hash(row, 0)?,
        lineage: lineage(row, 1)?,
        parent: hash(row, 2)?,
        parent_lineage: lineage(row, 3)?,
        object: hash(row, 4)?,
        raw_blake3: maybe_hash(row, 5)?,
        layout: layout(row, 6)?,
        first: row.get(7)?,
        count: row.get(8)?,
        raw_bytes: row.get(9)?,
        file_bytes: row.get(10)?,
    })
}
