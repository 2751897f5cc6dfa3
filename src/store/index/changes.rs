//! Changing states: committing, using, deleting.

use std::collections::HashSet;

use rusqlite::{OptionalExtension, Transaction, params};

use super::super::Result;
use super::segments::put_segment;
use super::{Index, SegmentRow, rows};
use crate::format::Record;
use crate::key::{ChainKey, ObjectId, StateKey};

impl Index {
    /// Commits states with their new records, all or none. Says false, and commits nothing, if somebody else changed one
    /// in between: each record must have the revision that follows.
    ///
    /// # Errors
    /// When SQLite fails, for instance because a name is taken.
    pub fn commit_states(&mut self, states: &[Published<'_>], used: Option<i64>) -> Result<bool> {
        self.transaction(|tx| {
            for state in states {
                if !follows(tx, state.record)? {
                    return Ok(false);
                }
            }
            states.iter().try_for_each(|state| commit_state(tx, state, used))?;
            Ok(true)
        })
    }

    /// Gives a state found on disk its row back, as used now, with the revision that it has. Without its name, if
    /// another state has it.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn adopt_state(&mut self, record: &Record, object: &ObjectId, bytes: u64, now: i64) -> Result<()> {
        self.transaction(|tx| adopt_state(tx, record, object, bytes, now))
    }

    /// Gives segments and states that were found on disk their rows back, all or none: a crash in between leaves an index
    /// that still shows that it lost something.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn adopt_all(
        &mut self,
        segments: &[SegmentRow],
        records: &[(Record, ObjectId, u64)],
        now: i64,
    ) -> Result<()> {
        self.transaction(|tx| {
            segments.iter().try_for_each(|row| put_segment(tx, row, now, Some(now)).map(drop))?;
            records
                .iter()
                .try_for_each(|(record, object, bytes)| adopt_state(tx, record, object, *bytes, now))
        })
    }

    /// Notes that a state was used.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn touch(&mut self, key: &StateKey, now: i64) -> Result<()> {
        self.said(
            self.db
                .execute(
                    "UPDATE states SET last_used = ?2, hits = hits + 1,
                         last_use = (SELECT max(last_use) + 1 FROM states) WHERE key = ?1",
                    params![key.as_bytes(), now],
                )
                .map(drop),
        )
    }

    /// Marks states and segments as going: from now on nobody finds them, and the names are free.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn mark_going(&mut self, states: &[StateKey], segments: &[ChainKey]) -> Result<()> {
        self.transaction(|tx| {
            let mut state = tx.prepare("UPDATE states SET going = 1, name = NULL WHERE key = ?1")?;
            states.iter().try_for_each(|k| state.execute([k.as_bytes()]).map(drop))?;
            let mut removed = tx.prepare("INSERT OR IGNORE INTO removed VALUES (?1)")?;
            states.iter().try_for_each(|k| removed.execute([k.as_bytes()]).map(drop))?;
            let mut segment = tx.prepare("UPDATE segments SET going = 1 WHERE chain = ?1")?;
            segments.iter().try_for_each(|c| segment.execute([c.as_bytes()]).map(drop))
        })
    }

    /// The states that were removed since gc last looked.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn removed(&self) -> Result<HashSet<StateKey>> {
        let read = self.db.prepare("SELECT key FROM removed");
        self.said(read.and_then(|mut query| query.query_map([], |row| rows::hash(row, 0))?.collect()))
    }

    /// Forgets which states were removed, and which records are of no use: nothing of them is left.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn forget_removed(&mut self) -> Result<()> {
        self.transaction(|tx| {
            tx.execute("DELETE FROM removed", [])?;
            tx.execute("DELETE FROM spare_records", []).map(drop)
        })
    }

    /// Notes that a state has records that are about to be on disk, or are there, and do not count (yet).
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn note_spare_records(&mut self, spare: &[(StateKey, ObjectId)]) -> Result<()> {
        self.transaction(|tx| spare.iter().try_for_each(|(key, object)| note_spare(tx, key, object)))
    }

    /// Records of a state that may be on disk and do not count.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn spare_records(&self, key: &StateKey) -> Result<Vec<ObjectId>> {
        let read = self.db.prepare_cached("SELECT object FROM spare_records WHERE state = ?1");
        self.said(read.and_then(|mut q| q.query_map([key.as_bytes()], |row| rows::hash(row, 0))?.collect()))
    }

    /// Deletes the rows of states and segments whose files are gone.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn delete_going(&mut self, states: &[StateKey], segments: &[ChainKey]) -> Result<()> {
        self.transaction(|tx| {
            let mut state = tx.prepare("DELETE FROM states WHERE key = ?1 AND going = 1")?;
            states.iter().try_for_each(|k| state.execute([k.as_bytes()]).map(drop))?;
            let mut spare = tx.prepare("DELETE FROM spare_records WHERE state = ?1")?;
            states.iter().try_for_each(|k| spare.execute([k.as_bytes()]).map(drop))?;
            let mut segment = tx.prepare("DELETE FROM segments WHERE chain = ?1 AND going = 1")?;
            segments.iter().try_for_each(|c| segment.execute([c.as_bytes()]).map(drop))
        })
    }
}

fn note_spare(tx: &Transaction<'_>, key: &StateKey, object: &ObjectId) -> rusqlite::Result<()> {
    let insert = "INSERT OR REPLACE INTO spare_records VALUES (?1, ?2)";
    tx.execute(insert, params![object.as_bytes(), key.as_bytes()]).map(drop)
}

fn adopt_state(
    tx: &Transaction<'_>,
    record: &Record,
    object: &ObjectId,
    bytes: u64,
    now: i64,
) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO models (hash, path, size) VALUES (?1, ?2, 0) ON CONFLICT DO NOTHING",
        params![record.model.as_bytes(), record.model_path],
    )?;
    let taken: bool = tx.query_row(
        "SELECT EXISTS (SELECT 1 FROM states WHERE name = ?1 AND key <> ?2)",
        params![record.name, record.key.as_bytes()],
        |r| r.get(0),
    )?;
    let name = record.name.clone().filter(|_| !taken);
    put_state(tx, &Record { name, ..record.clone() }, object, bytes)?;
    tx.execute("UPDATE states SET last_used = ?2 WHERE key = ?1", params![record.key.as_bytes(), now])?;
    Ok(())
}

/// A state's record and the object that holds it.
pub struct Published<'r> {
    /// The record.
    pub record: &'r Record,
    /// The object.
    pub object: ObjectId,
    /// Its size.
    pub bytes: u64,
}

/// Whether a record is the next one of its state.
fn follows(tx: &Transaction<'_>, record: &Record) -> rusqlite::Result<bool> {
    let before: Option<(u64, bool)> = tx
        .query_row("SELECT revision, going FROM states WHERE key = ?1", [record.key.as_bytes()], |r| {
            Ok((r.get(0)?, r.get(1)?))
        })
        .optional()?;
    Ok(match before {
        // What was about to go is made anew.
        Some((_, true)) => true,
        Some((revision, false)) => revision + 1 == record.revision,
        None => record.revision == 1,
    })
}

fn commit_state(tx: &Transaction<'_>, state: &Published<'_>, used: Option<i64>) -> rusqlite::Result<()> {
    let key = state.record.key.as_bytes();
    let before: Option<(bool, Option<ObjectId>)> = tx
        .query_row("SELECT going, record FROM states WHERE key = ?1", [key], |r| {
            Ok((r.get(0)?, rows::maybe_hash(r, 1)?))
        })
        .optional()?;
    if matches!(before, Some((true, _))) {
        tx.execute("DELETE FROM states WHERE key = ?1", [key])?;
    }
    put_state(tx, state.record, &state.object, state.bytes)?;
    let spare = before.as_ref().and_then(|(.., old)| *old);
    spare.map_or(Ok(()), |old| note_spare(tx, &state.record.key, &old))?;
    // Only now: it may have had the very same record.
    tx.execute("DELETE FROM spare_records WHERE object = ?1", [state.object.as_bytes()])?;
    if let Some(now) = used {
        let again = u32::from(matches!(before, Some((false, _))));
        tx.execute(
            "UPDATE states SET last_used = ?2, hits = hits + ?3,
                 last_use = (SELECT max(last_use) + 1 FROM states) WHERE key = ?1",
            params![key, now, again],
        )?;
    }
    Ok(())
}

/// Writes a state's row, tokens, links and text. A row that exists keeps its times of use and its hits.
fn put_state(
    tx: &Transaction<'_>,
    record: &Record,
    object: &ObjectId,
    object_bytes: u64,
) -> rusqlite::Result<()> {
    let key = record.key.as_bytes();
    tx.execute("DELETE FROM removed WHERE key = ?1", [key])?;
    tx.execute(
        "INSERT INTO states (key, name, model, params, layout, token_count, carried, suffix, created, last_used,
             last_use, pinned, expires, build_s, evaluated, origin, record, record_bytes, revision, framing,
             own_first, own_bytes, text)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9, (SELECT coalesce(max(last_use), 0) + 1 FROM states),
             ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)
         ON CONFLICT (key) DO UPDATE SET name = excluded.name, model = excluded.model, params = excluded.params,
             layout = excluded.layout, token_count = excluded.token_count, carried = excluded.carried,
             suffix = excluded.suffix, pinned = excluded.pinned, expires = excluded.expires,
             build_s = excluded.build_s, evaluated = excluded.evaluated, origin = excluded.origin,
             record = excluded.record, record_bytes = excluded.record_bytes, revision = excluded.revision,
             framing = excluded.framing, own_first = excluded.own_first, own_bytes = excluded.own_bytes,
             text = excluded.text",
        params![
            key,
            record.name,
            record.model.as_bytes(),
            serde_json::to_string(&record.params).unwrap_or_default(),
            record.layout.name(),
            record.tokens.len() as i64,
            record.carried,
            record.suffix,
            record.created,
            record.pinned,
            record.expires,
            record.build_s,
            record.evaluated as i64,
            record.origin,
            object.as_bytes(),
            object_bytes as i64,
            record.revision as i64,
            record.framing,
            record.own.map(|(first, _)| first as i64),
            record.own.map(|(_, bytes)| bytes as i64),
            record.text.as_ref().map(|t| t.as_bytes()),
        ],
    )?;
    tx.execute(
        "INSERT OR REPLACE INTO tokens VALUES (?1, ?2)",
        params![key, rows::tokens_to_blob(&record.tokens)],
    )?;
    tx.execute("DELETE FROM state_segments WHERE state = ?1", [key])?;
    let mut insert = tx.prepare_cached("INSERT INTO state_segments VALUES (?1, ?2, ?3)")?;
    for (i, piece) in record.pieces().iter().enumerate() {
        insert.execute(params![key, i as i64, piece.chain.as_bytes()])?;
    }
    if let Some(digest) = &record.digest {
        tx.execute("INSERT OR REPLACE INTO prompts VALUES (?1, ?2)", params![digest.as_bytes(), key])?;
    }
    Ok(())
}
