//! Segments: which object restores which chain key, and who computed it.

use pcache_format::{ChainKey, Lineage, ObjectId, StateKey};
use rusqlite::{OptionalExtension, Transaction, params};

use super::rows::{SEGMENT, SEGMENT_FROM};
use super::{Index, SegmentRow, rows};
use crate::Result;

/// A segment, the time at which it was found without a row (if it was), and its tombstone.
pub(crate) type AnySegment = (SegmentRow, Option<i64>, bool);

impl Index {
    /// Segments of a chain key, one for each lineage.
    pub(crate) fn segments_of_chain(&self, chain: &ChainKey) -> Result<Vec<SegmentRow>> {
        let sql = format!("SELECT {SEGMENT} FROM {SEGMENT_FROM} WHERE s.chain = ?1 AND s.tombstone = 0");
        self.read(|db| db.prepare_cached(&sql)?.query_map([chain.as_bytes()], rows::segment)?.collect())
    }

    /// Segments of a state, in order.
    pub(crate) fn segments_of(&self, state: &StateKey) -> Result<Vec<SegmentRow>> {
        let sql = format!(
            "SELECT {SEGMENT} FROM {SEGMENT_FROM} JOIN state_segments u ON u.segment = s.id
             JOIN states ON states.id = u.state
             WHERE states.key = ?1 AND s.tombstone = 0 ORDER BY s.first, s.count, s.lineage"
        );
        self.read(|db| db.prepare_cached(&sql)?.query_map([state.as_bytes()], rows::segment)?.collect())
    }

    /// Segments of a state that no other state uses, those of `but` not counted.
    pub(crate) fn own_segments(&self, state: &StateKey, but: &[StateKey]) -> Result<Vec<SegmentRow>> {
        let but = serde_json::to_string(but).unwrap_or_default();
        let sql = format!(
            "SELECT {SEGMENT} FROM {SEGMENT_FROM} JOIN state_segments u ON u.segment = s.id
             JOIN states ON states.id = u.state
             WHERE states.key = ?1 AND NOT EXISTS (
                 SELECT 1 FROM state_segments o JOIN states other ON other.id = o.state
                 WHERE o.segment = s.id AND other.key <> ?1 AND other.tombstone = 0
                 AND other.key NOT IN (SELECT unhex(value) FROM json_each(?2)))"
        );
        self.read(|db| {
            db.prepare_cached(&sql)?.query_map(params![state.as_bytes(), but], rows::segment)?.collect()
        })
    }

    /// A segment's row names the object.
    pub(crate) fn names_object(
        &self,
        (chain, lineage): (ChainKey, Lineage),
        object: &ObjectId,
    ) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM segments JOIN lineages ON lineages.id = lineage
                       WHERE chain = ?1 AND name = ?2 AND object = ?3)";
        let values = params![chain.as_bytes(), lineage.to_string(), object.as_bytes()];
        self.read(|db| db.query_row(sql, values, |row| row.get(0)))
    }

    /// Number and bytes of the segments that no state uses.
    pub(crate) fn unused_segments(&self) -> Result<(usize, u64)> {
        let sql = "SELECT count(*), coalesce(sum(file_bytes), 0) FROM segments
                   WHERE tombstone = 0 AND id NOT IN (SELECT segment FROM state_segments)";
        self.read(|db| db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))))
    }

    /// All segments, those with a tombstone too.
    pub(crate) fn all_segments(&self) -> Result<Vec<AnySegment>> {
        let sql = format!("SELECT {SEGMENT}, s.adopted, s.tombstone FROM {SEGMENT_FROM}");
        self.read(|db| {
            db.prepare(&sql)?
                .query_map([], |row| Ok((rows::segment(row)?, row.get(11)?, row.get(12)?)))?
                .collect()
        })
    }

    /// Commits published objects, each as the segment of its chain key and lineage. Returns for each the object that was
    /// it before, if that was another one.
    pub(crate) fn put_segments(&self, rows: &[SegmentRow], now: i64) -> Result<Vec<Option<ObjectId>>> {
        self.transaction(|tx| rows.iter().map(|row| put_segment(tx, row, now, None)).collect())
    }
}

/// Number of a lineage, which is added where it is new.
pub(super) fn lineage_id(tx: &Transaction<'_>, lineage: Lineage) -> rusqlite::Result<i64> {
    let name = lineage.to_string();
    let find = "SELECT id FROM lineages WHERE name = ?1";
    let found = tx.prepare_cached(find)?.query_row([&name], |row| row.get(0)).optional()?;
    found.map_or_else(
        || {
            tx.execute("INSERT INTO lineages (name) VALUES (?1)", [&name])?;
            Ok(tx.last_insert_rowid())
        },
        Ok,
    )
}

/// See [`Index::put_segments`]. `adopted` is the time at which the object was found.
pub(super) fn put_segment(
    tx: &Transaction<'_>,
    row: &SegmentRow,
    now: i64,
    adopted: Option<i64>,
) -> rusqlite::Result<Option<ObjectId>> {
    let (lineage, parent_lineage) = (lineage_id(tx, row.lineage)?, lineage_id(tx, row.parent_lineage)?);
    let before: Option<ObjectId> = tx
        .prepare_cached("SELECT object FROM segments WHERE chain = ?1 AND lineage = ?2")?
        .query_row(params![row.chain.as_bytes(), lineage], |r| rows::hash(r, 0))
        .optional()?;
    tx.prepare_cached(
        "INSERT INTO segments (chain, lineage, parent, parent_lineage, object, raw_blake3, layout, first, count,
             raw_bytes, file_bytes, created, adopted)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT (chain, lineage) DO UPDATE SET object = excluded.object, parent = excluded.parent,
             parent_lineage = excluded.parent_lineage, raw_blake3 = excluded.raw_blake3,
             layout = excluded.layout, first = excluded.first, count = excluded.count,
             raw_bytes = excluded.raw_bytes, file_bytes = excluded.file_bytes,
             adopted = excluded.adopted, tombstone = 0",
    )?
    .execute(params![
        row.chain.as_bytes(),
        lineage,
        row.parent.as_bytes(),
        parent_lineage,
        row.object.as_bytes(),
        row.raw_blake3.as_ref().map(ObjectId::as_bytes),
        row.layout.name(),
        row.first as i64,
        row.count as i64,
        row.raw_bytes as i64,
        row.file_bytes as i64,
        now,
        adopted,
    ])?;
    Ok(before.filter(|object| *object != row.object))
}
