//! Segments: which object restores which chain key.

use rusqlite::{OptionalExtension, Transaction, params};

use super::super::Result;
use super::{Index, SegmentRow, rows};
use crate::key::{ChainKey, ObjectId, StateKey};

const COLUMNS: &str = "chain, parent, object, layout, first, count, raw_bytes, file_bytes";

impl Index {
    /// The segment of a chain key, unless it is going.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn segment(&self, chain: &ChainKey) -> Result<Option<SegmentRow>> {
        let sql = format!("SELECT {COLUMNS} FROM segments WHERE chain = ?1 AND going = 0");
        self.said(
            self.db
                .prepare_cached(&sql)
                .and_then(|mut q| q.query_row([chain.as_bytes()], rows::segment).optional()),
        )
    }

    /// The segments of a state, in order.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn segments_of(&self, state: &StateKey) -> Result<Vec<SegmentRow>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM segments JOIN state_segments USING (chain)
             WHERE state = ?1 AND going = 0 ORDER BY ordinal"
        );
        self.said(
            self.db
                .prepare_cached(&sql)
                .and_then(|mut q| q.query_map([state.as_bytes()], rows::segment)?.collect()),
        )
    }

    /// The segments of a state that no other state uses, those of `but` not counted.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn own_segments(&self, state: &StateKey, but: &[StateKey]) -> Result<Vec<SegmentRow>> {
        let but = serde_json::to_string(but).unwrap_or_default();
        let sql = format!(
            "SELECT {COLUMNS} FROM segments JOIN state_segments own USING (chain)
             WHERE own.state = ?1 AND NOT EXISTS (SELECT 1 FROM state_segments other JOIN states ON key = other.state
                 WHERE other.chain = own.chain AND other.state <> ?1 AND states.going = 0
                 AND other.state NOT IN (SELECT unhex(value) FROM json_each(?2)))"
        );
        self.said(
            self.db
                .prepare_cached(&sql)
                .and_then(|mut q| q.query_map(params![state.as_bytes(), but], rows::segment)?.collect()),
        )
    }

    /// Whether any row names the object: a segment's, or a state's whose record it is.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn names_object(&self, object: &ObjectId) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM segments WHERE object = ?1)
                   OR EXISTS (SELECT 1 FROM states WHERE record = ?1)";
        self.said(self.db.query_row(sql, [object.as_bytes()], |row| row.get(0)))
    }

    /// Number and bytes of the segments that no state uses.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn unused_segments(&self) -> Result<(usize, u64)> {
        let sql = "SELECT count(*), coalesce(sum(file_bytes), 0) FROM segments
                   WHERE going = 0 AND chain NOT IN (SELECT chain FROM state_segments)";
        self.said(self.db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))))
    }

    /// All segments, those that are going too, each with when it was adopted (if it was) and whether it is going.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn all_segments(&self) -> Result<Vec<(SegmentRow, Option<i64>, bool)>> {
        let sql = format!("SELECT {COLUMNS}, adopted, going FROM segments");
        self.said(self.db.prepare(&sql).and_then(|mut q| {
            q.query_map([], |row| Ok((rows::segment(row)?, row.get(8)?, row.get(9)?)))?.collect()
        }))
    }

    /// Commits a published object as the segment of its chain key. `adopted` is the time at which gc found it.
    /// Answers with the object that had the chain key before, if it was another one.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn put_segment(
        &mut self,
        row: &SegmentRow,
        now: i64,
        adopted: Option<i64>,
    ) -> Result<Option<ObjectId>> {
        self.transaction(|tx| put_segment(tx, row, now, adopted))
    }

    /// As [`Self::put_segment`], for several that were just published, in one transaction.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn put_segments(&mut self, rows: &[SegmentRow], now: i64) -> Result<()> {
        self.transaction(|tx| rows.iter().try_for_each(|row| put_segment(tx, row, now, None).map(drop)))
    }
}

/// See [`Index::put_segment`].
pub(super) fn put_segment(
    tx: &Transaction<'_>,
    row: &SegmentRow,
    now: i64,
    adopted: Option<i64>,
) -> rusqlite::Result<Option<ObjectId>> {
    let before: Option<ObjectId> = tx
        .query_row("SELECT object FROM segments WHERE chain = ?1", [row.chain.as_bytes()], |r| {
            rows::hash(r, 0)
        })
        .optional()?;
    // A row of another chain key that names this object is wrong: the object says which segment it is.
    tx.execute(
        "DELETE FROM segments WHERE object = ?1 AND chain <> ?2",
        params![row.object.as_bytes(), row.chain.as_bytes()],
    )?;
    tx.execute(
        "INSERT INTO segments (chain, parent, object, layout, first, count, raw_bytes,
                     file_bytes, created, adopted) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                 ON CONFLICT (chain) DO UPDATE SET object = excluded.object, parent = excluded.parent,
                     layout = excluded.layout, first = excluded.first, count = excluded.count,
                     raw_bytes = excluded.raw_bytes, file_bytes = excluded.file_bytes,
                     adopted = excluded.adopted, going = 0",
        params![
            row.chain.as_bytes(),
            row.parent.as_bytes(),
            row.object.as_bytes(),
            row.layout.name(),
            row.first as i64,
            row.count as i64,
            row.raw_bytes as i64,
            row.file_bytes as i64,
            now,
            adopted,
        ],
    )?;
    Ok(before.filter(|object| *object != row.object))
}
