//! Reading states: one with everything, or all of them in short.

use std::collections::HashMap;

use rusqlite::{OptionalExtension, Row};

use super::super::Result;
use super::{Index, ListedState, SegmentRow, Use, rows};
use crate::format::Record;
use crate::key::{ChainKey, ObjectId, StateKey};

impl Index {
    /// A state with its tokens.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn state(&self, key: &StateKey) -> Result<Option<Record>> {
        let sql =
            "SELECT name, model, path, params, layout, ids, carried, suffix, framing, own_first, own_bytes,
                       text, (SELECT digest FROM prompts WHERE prompts.state = key), origin, created, expires,
                       pinned, build_s, evaluated, revision
                   FROM states JOIN models ON hash = model JOIN tokens ON tokens.state = key
                   WHERE key = ?1 AND going = 0";
        let read = |row: &Row<'_>| {
            let own: (Option<usize>, Option<usize>) = (row.get(9)?, row.get(10)?);
            Ok(Record {
                key: *key,
                name: row.get(0)?,
                model: rows::hash(row, 1)?,
                model_path: row.get(2)?,
                params: rows::params(row, 3)?,
                layout: rows::layout(row, 4)?,
                tokens: rows::tokens_from_blob(&row.get::<_, Vec<u8>>(5)?),
                carried: row.get(6)?,
                suffix: row.get(7)?,
                framing: row.get(8)?,
                own: own.0.zip(own.1),
                text: rows::maybe_hash(row, 11)?,
                digest: rows::maybe_hash(row, 12)?,
                origin: row.get(13)?,
                created: row.get(14)?,
                expires: row.get(15)?,
                pinned: row.get(16)?,
                build_s: row.get(17)?,
                evaluated: row.get(18)?,
                revision: row.get(19)?,
            })
        };
        self.said(
            self.db
                .prepare_cached(sql)
                .and_then(|mut query| query.query_row([key.as_bytes()], read).optional()),
        )
    }

    /// How a state was used, and where its record lies.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn use_of(&self, key: &StateKey) -> Result<Option<Use>> {
        let sql = "SELECT last_used, hits, record, record_bytes FROM states WHERE key = ?1 AND going = 0";
        let read = |row: &Row<'_>| {
            Ok(Use {
                last_used: row.get(0)?,
                hits: row.get(1)?,
                record: rows::maybe_hash(row, 2)?,
                record_bytes: row.get(3)?,
            })
        };
        self.said(self.db.query_row(sql, [key.as_bytes()], read).optional())
    }

    /// All states, newest use first, and the segments that any of them use.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn list(&self) -> Result<(Vec<ListedState>, Vec<SegmentRow>)> {
        self.said(self.try_list())
    }

    fn try_list(&self) -> rusqlite::Result<(Vec<ListedState>, Vec<SegmentRow>)> {
        let tx = self.db.unchecked_transaction()?;
        let mut states: Vec<ListedState> = tx
            .prepare(
                "SELECT key, name, model, path, token_count, created, last_used, hits, pinned, expires, origin,
                     build_s, evaluated, record, record_bytes
                 FROM states JOIN models ON hash = model WHERE going = 0
                 ORDER BY last_used DESC, last_use DESC",
            )?
            .query_map([], listed)?
            .collect::<rusqlite::Result<_>>()?;
        let by_key: HashMap<StateKey, usize> = states.iter().enumerate().map(|(i, s)| (s.key, i)).collect();

        // Two passes over two tables, each in its own order, are several times faster than their join.
        let mut segments: Vec<SegmentRow> = Vec::new();
        let mut numbers: HashMap<ChainKey, usize> = HashMap::new();
        let mut query = tx.prepare(
            "SELECT chain, parent, object, layout, first, count, raw_bytes, file_bytes
             FROM segments WHERE going = 0",
        )?;
        for segment in query.query_map([], rows::segment)? {
            let segment = segment?;
            numbers.insert(segment.chain, segments.len());
            segments.push(segment);
        }
        let mut used = vec![false; segments.len()];
        let mut query = tx.prepare("SELECT chain, state FROM state_segments ORDER BY state, ordinal")?;
        let mut found = query.query([])?;
        // Links come state by state, so a state is looked up once.
        let mut current: Option<(StateKey, Option<usize>)> = None;
        while let Some(row) = found.next()? {
            let key = rows::hash(row, 1)?;
            let state = match current {
                Some((same, state)) if same == key => state,
                _ => by_key.get(&key).copied(),
            };
            current = Some((key, state));
            if let (Some(&n), Some(i)) = (numbers.get(&rows::hash(row, 0)?), state) {
                states[i].segments.push(n);
                used[n] = true;
            }
        }
        Ok(without_unused(states, segments, &used))
    }

    /// States whose deletion was begun, each with its record.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn going_states(&self) -> Result<Vec<(StateKey, Option<ObjectId>)>> {
        let sql = "SELECT key, record FROM states WHERE going = 1";
        self.said(self.db.prepare(sql).and_then(|mut q| {
            q.query_map([], |row| Ok((rows::hash(row, 0)?, rows::maybe_hash(row, 1)?)))?.collect()
        }))
    }

    /// Number of states.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn count(&self) -> Result<usize> {
        self.said(self.db.query_row("SELECT count(*) FROM states WHERE going = 0", [], |r| r.get(0)))
    }
}

/// Leaves out the segments that no state uses, and numbers the others anew.
fn without_unused(
    mut states: Vec<ListedState>,
    segments: Vec<SegmentRow>,
    used: &[bool],
) -> (Vec<ListedState>, Vec<SegmentRow>) {
    let mut next = 0;
    let numbers: Vec<usize> = used
        .iter()
        .map(|used| {
            let number = next;
            next += usize::from(*used);
            number
        })
        .collect();
    states.iter_mut().flat_map(|s| &mut s.segments).for_each(|n| *n = numbers[*n]);
    let segments = segments.into_iter().zip(used).filter(|(_, used)| **used).map(|(s, _)| s).collect();
    (states, segments)
}

fn listed(row: &Row<'_>) -> rusqlite::Result<ListedState> {
    let (tokens, evaluated): (usize, usize) = (row.get(4)?, row.get(12)?);
    let build_s: f64 = row.get(11)?;
    Ok(ListedState {
        key: rows::hash(row, 0)?,
        name: row.get(1)?,
        model: rows::hash(row, 2)?,
        model_path: row.get(3)?,
        tokens,
        created: row.get(5)?,
        last_used: row.get(6)?,
        hits: row.get(7)?,
        pinned: row.get(8)?,
        expires: row.get(9)?,
        origin: row.get(10)?,
        cost_s: if evaluated == 0 { 0.0 } else { build_s * tokens as f64 / evaluated as f64 },
        record: rows::maybe_hash(row, 13)?,
        record_bytes: row.get(14)?,
        segments: Vec::new(),
    })
}
