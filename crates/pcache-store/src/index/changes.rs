//! Changing states: committing, using, deleting.

use std::collections::HashSet;

use pcache_format::label::Provenance;
use pcache_format::{ChainKey, Label, Lineage, Manifest, ObjectId, StateKey};
use rusqlite::{OptionalExtension, Transaction, params};

use super::rows::ManifestRow;
use super::segments::{lineage_id, put_segment};
use super::{Index, SegmentRow, rows};
use crate::Result;

/// Seconds within which another use changes nothing where each commit is synced.
const COARSE_S: i64 = 300;

/// Change of a state's row.
pub(crate) struct StateChange<'a> {
    /// Label as its file says now.
    pub(crate) label: &'a Label,
    /// Size of the file; 0 where there is none.
    pub(crate) label_bytes: u64,
    /// Description of a state that is new, or whose manifest was written.
    pub(crate) described: Option<Described<'a>>,
    /// Time at which it was built or asked, where it was.
    pub(crate) used: Option<i64>,
    /// The record of version 0.1 is no longer needed, or is the only file that there is.
    pub(crate) record: Option<(ObjectId, u64)>,
}

/// A state's manifest, or the record that says the same.
pub(crate) struct Described<'a> {
    pub(crate) manifest: &'a Manifest,
    /// Row of the manifest; none where a record is all that there is.
    pub(crate) row: Option<ManifestRow>,
    /// Segments that restore it, as far as they are saved.
    pub(crate) segments: &'a [(ChainKey, Lineage)],
}

impl Index {
    /// Notes that the labels of states are about to be replaced: if the process dies, their files count.
    pub(crate) fn intend(&self, keys: &[StateKey]) -> Result<()> {
        self.transaction(|tx| {
            let mut insert = tx.prepare_cached("INSERT OR IGNORE INTO intents VALUES (?1)")?;
            keys.iter().try_for_each(|key| insert.execute([key.as_bytes()]).map(drop))
        })
    }

    /// Forgets that labels were about to be replaced: nothing is left of the states.
    pub(crate) fn forget_intents(&self, keys: &[StateKey]) -> Result<()> {
        self.transaction(|tx| keys.iter().try_for_each(|key| forget_intent(tx, key)))
    }

    /// Commits states whose files are written, all or none.
    pub(crate) fn commit_states(&self, changes: &[StateChange<'_>]) -> Result<()> {
        self.transaction(|tx| commit_all(tx, changes))
    }

    /// Gives segments and states that were found on disk their rows back, all or none: a crash in between leaves an index
    /// that still shows that it lost something.
    pub(crate) fn adopt(&self, segments: &[SegmentRow], states: &[StateChange<'_>], now: i64) -> Result<()> {
        self.transaction(|tx| {
            segments.iter().try_for_each(|row| put_segment(tx, row, now, Some(now)).map(drop))?;
            commit_all(tx, states)
        })
    }

    /// Notes that a state was used. Nothing is synced: after a loss of power it may look less used than it was.
    pub(crate) fn touch(&self, key: &StateKey, now: i64) -> Result<()> {
        self.unsynced(|db| {
            let journal: String = db.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
            // Without a write-ahead log each commit is synced: then only now and then.
            let before = if journal == "wal" { i64::MAX } else { now.saturating_sub(COARSE_S) };
            db.prepare_cached(
                "UPDATE states SET last_used = ?2, hits = hits + 1,
                     last_use = (SELECT max(last_use) + 1 FROM states)
                 WHERE key = ?1 AND (last_used < ?3 OR last_used > ?2)",
            )?
            .execute(params![key.as_bytes(), now, before])
            .map(drop)
        })
    }

    /// Takes times that lie in the future, because a clock was set back since, for the present.
    pub(crate) fn clamp_times(&self, now: i64) -> Result<()> {
        let future = "SELECT EXISTS (SELECT 1 FROM states WHERE last_used > ?1)
                      OR EXISTS (SELECT 1 FROM segments WHERE adopted > ?1)";
        if !self.read(|db| db.query_row(future, [now], |row| row.get(0)))? {
            return Ok(());
        }
        self.transaction(|tx| {
            tx.execute("UPDATE states SET last_used = ?1 WHERE last_used > ?1", [now])?;
            tx.execute("UPDATE segments SET adopted = ?1 WHERE adopted > ?1", [now]).map(drop)
        })
    }

    /// Puts tombstones on states and segments: from now on they are not found, and the names are free.
    pub(crate) fn tombstone(&self, states: &[StateKey], segments: &[(ChainKey, Lineage)]) -> Result<()> {
        self.transaction(|tx| {
            for key in states {
                tx.prepare_cached("DELETE FROM names WHERE state = (SELECT id FROM states WHERE key = ?1)")?
                    .execute([key.as_bytes()])?;
                tx.prepare_cached("UPDATE states SET tombstone = 1 WHERE key = ?1")?
                    .execute([key.as_bytes()])?;
                tx.prepare_cached("INSERT OR IGNORE INTO removed VALUES (?1)")?.execute([key.as_bytes()])?;
            }
            for (chain, lineage) in segments {
                let lineage = lineage_id(tx, *lineage)?;
                tx.prepare_cached("UPDATE segments SET tombstone = 1 WHERE chain = ?1 AND lineage = ?2")?
                    .execute(params![chain.as_bytes(), lineage])?;
            }
            Ok(())
        })
    }

    /// Deletes the rows of states and segments whose files are gone.
    pub(crate) fn delete_tombstoned(
        &self,
        states: &[StateKey],
        segments: &[(ChainKey, Lineage)],
    ) -> Result<()> {
        self.transaction(|tx| {
            for key in states {
                for sql in [
                    "DELETE FROM states WHERE key = ?1 AND tombstone = 1",
                    "DELETE FROM spare_records WHERE state = ?1",
                    "DELETE FROM intents WHERE key = ?1",
                ] {
                    tx.prepare_cached(sql)?.execute([key.as_bytes()])?;
                }
            }
            for (chain, lineage) in segments {
                let lineage = lineage_id(tx, *lineage)?;
                let sql = "DELETE FROM segments WHERE chain = ?1 AND lineage = ?2 AND tombstone = 1";
                tx.prepare_cached(sql)?.execute(params![chain.as_bytes(), lineage])?;
            }
            Ok(())
        })
    }

    /// States that were removed since gc last looked.
    pub(crate) fn removed(&self) -> Result<HashSet<StateKey>> {
        self.read(|db| {
            db.prepare("SELECT key FROM removed")?.query_map([], |row| rows::hash(row, 0))?.collect()
        })
    }

    /// Forgets which states were removed, and which records are superseded: nothing of them is left.
    pub(crate) fn forget_removed(&self) -> Result<()> {
        self.transaction(|tx| {
            tx.execute("DELETE FROM removed", [])?;
            tx.execute("DELETE FROM spare_records", []).map(drop)
        })
    }

    /// Notes that a state has records of version 0.1 on disk that no longer count.
    pub(crate) fn note_superseded(&self, records: &[(StateKey, ObjectId)]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        self.transaction(|tx| records.iter().try_for_each(|(key, object)| note_superseded(tx, key, object)))
    }

    /// Records of a state that may be on disk and do not count.
    pub(crate) fn superseded(&self, key: &StateKey) -> Result<Vec<ObjectId>> {
        self.read(|db| {
            db.prepare_cached("SELECT object FROM spare_records WHERE state = ?1")?
                .query_map([key.as_bytes()], |row| rows::hash(row, 0))?
                .collect()
        })
    }
}

fn note_superseded(tx: &Transaction<'_>, key: &StateKey, object: &ObjectId) -> rusqlite::Result<()> {
    let insert = "INSERT OR REPLACE INTO spare_records VALUES (?1, ?2)";
    tx.prepare_cached(insert)?.execute(params![object.as_bytes(), key.as_bytes()]).map(drop)
}

fn forget_intent(tx: &Transaction<'_>, key: &StateKey) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM intents WHERE key = ?1")?.execute([key.as_bytes()]).map(drop)
}

fn state_id(tx: &Transaction<'_>, key: &StateKey) -> rusqlite::Result<Option<i64>> {
    let sql = "SELECT id FROM states WHERE key = ?1";
    tx.prepare_cached(sql)?.query_row([key.as_bytes()], |row| row.get(0)).optional()
}

fn commit_all(tx: &Transaction<'_>, changes: &[StateChange<'_>]) -> rusqlite::Result<()> {
    // A name that goes from one state to another is free in between.
    for change in changes {
        if let Some(id) = state_id(tx, &change.label.key)? {
            tx.prepare_cached("DELETE FROM names WHERE state = ?1")?.execute([id])?;
        }
    }
    changes.iter().try_for_each(|change| commit(tx, change))
}

fn commit(tx: &Transaction<'_>, change: &StateChange<'_>) -> rusqlite::Result<()> {
    let key = &change.label.key;
    let before: Option<(i64, bool, Option<ObjectId>)> = tx
        .prepare_cached("SELECT id, tombstone, record FROM states WHERE key = ?1")?
        .query_row([key.as_bytes()], |r| Ok((r.get(0)?, r.get(1)?, rows::maybe_hash(r, 2)?)))
        .optional()?;
    let record = before.as_ref().and_then(|(.., record)| *record);
    if let Some((id, true, _)) = before {
        tx.execute("DELETE FROM states WHERE id = ?1", [id])?;
    }
    if let Some(described) = &change.described {
        describe(tx, change.label, described, change.used)?;
    }
    let Some(id) = state_id(tx, key)? else { return forget_intent(tx, key) };
    put_label(tx, id, change)?;
    if let Some(old) = record.filter(|old| change.record.is_none_or(|(new, _)| new != *old)) {
        note_superseded(tx, key, &old)?;
    }
    if let Some(now) = change.used {
        let again = u32::from(matches!(before, Some((_, false, _))));
        tx.prepare_cached(
            "UPDATE states SET last_used = ?2, hits = hits + ?3,
                 last_use = (SELECT max(last_use) + 1 FROM states) WHERE id = ?1",
        )?
        .execute(params![id, now, again])?;
    }
    forget_intent(tx, key)
}

/// Number of a row that is added where there is none like it.
fn number_of(
    tx: &Transaction<'_>,
    insert: &str,
    find: &str,
    values: impl rusqlite::Params + Clone,
) -> rusqlite::Result<i64> {
    tx.prepare_cached(insert)?.execute(values.clone())?;
    tx.prepare_cached(find)?.query_row(values, |row| row.get(0))
}

/// Writes what a manifest says. A row that exists keeps its times of use and its hits.
fn describe(
    tx: &Transaction<'_>,
    label: &Label,
    described: &Described<'_>,
    used: Option<i64>,
) -> rusqlite::Result<()> {
    let manifest = described.manifest;
    let key = manifest.key.as_bytes();
    tx.prepare_cached("DELETE FROM removed WHERE key = ?1")?.execute([key])?;
    tx.prepare_cached("INSERT INTO models (hash, path, size) VALUES (?1, ?2, 0) ON CONFLICT DO NOTHING")?
        .execute(params![manifest.model.as_bytes(), label.model_path])?;
    let params_id = number_of(
        tx,
        "INSERT OR IGNORE INTO params (text) VALUES (?1)",
        "SELECT id FROM params WHERE text = ?1",
        [manifest.params.canonical()],
    )?;
    let format = number_of(
        tx,
        "INSERT OR IGNORE INTO prompt_formats (suffix, raw, description) VALUES (?1, ?2, ?3)",
        "SELECT id FROM prompt_formats WHERE suffix = ?1 AND raw = ?2 AND description = ?3",
        params![manifest.suffix, manifest.raw, label.prompt_format],
    )?;
    let lineage = lineage_id(tx, manifest.lineage)?;
    let identity = manifest.computed_by.canonical();
    if !identity.is_empty() {
        tx.prepare_cached("UPDATE lineages SET identity = ?2 WHERE id = ?1 AND identity <> ?2")?
            .execute(params![lineage, identity])?;
    }
    let span = manifest.prompt_span.as_ref();
    tx.prepare_cached(
        "INSERT INTO states (key, model, params, format, lineage, kind, layout, token_count, pending_text,
             span_first, span_end, origin, created, build_s, evaluated, pinned, revision, last_used, last_use)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, '', 0, 0, 0, 0, 0, ?12,
             (SELECT coalesce(max(last_use), 0) + 1 FROM states))
         ON CONFLICT (key) DO UPDATE SET model = excluded.model, params = excluded.params, format = excluded.format,
             lineage = excluded.lineage, kind = excluded.kind, layout = excluded.layout,
             token_count = excluded.token_count, pending_text = excluded.pending_text,
             span_first = excluded.span_first, span_end = excluded.span_end",
    )?
    .execute(params![
        key,
        manifest.model.as_bytes(),
        params_id,
        format,
        lineage,
        manifest.kind.name(),
        manifest.layout.name(),
        manifest.tokens.len() as i64,
        manifest.pending_text,
        span.map(|span| span.start as i64),
        span.map(|span| span.end as i64),
        used.unwrap_or(label.created),
    ])?;
    let Some(id) = state_id(tx, &manifest.key)? else { return Ok(()) };
    if let Some(row) = &described.row {
        let lineage = lineage_id(tx, row.lineage)?;
        tx.prepare_cached("INSERT OR REPLACE INTO manifests VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            id,
            lineage,
            row.blake3.as_bytes(),
            row.bytes as i64
        ])?;
    }
    link(tx, id, described.segments)
}

fn link(tx: &Transaction<'_>, id: i64, segments: &[(ChainKey, Lineage)]) -> rusqlite::Result<()> {
    let mut insert = tx.prepare_cached(
        "INSERT OR IGNORE INTO state_segments
         SELECT ?1, segments.id FROM segments JOIN lineages ON lineages.id = lineage
         WHERE chain = ?2 AND name = ?3",
    )?;
    segments.iter().try_for_each(|(chain, lineage)| {
        insert.execute(params![id, chain.as_bytes(), lineage.to_string()]).map(drop)
    })
}

/// Writes what a label says. Of two states that claim a name, the one that was given it later has it.
fn put_label(tx: &Transaction<'_>, id: i64, change: &StateChange<'_>) -> rusqlite::Result<()> {
    let label = change.label;
    let provenance = match &label.provenance {
        Provenance::Built => None,
        other => serde_json::to_string(other).ok(),
    };
    tx.prepare_cached(
        "UPDATE states SET origin = ?2, text = ?3, prompt = ?4, created = ?5, build_s = ?6, evaluated = ?7,
             provenance = ?8, pinned = ?9, expires = ?10, revision = ?11, label_bytes = ?12, record = ?13,
             record_bytes = ?14 WHERE id = ?1",
    )?
    .execute(params![
        id,
        label.origin,
        label.text.as_ref().map(|t| t.as_bytes()),
        label.prompt.as_ref().map(|p| p.as_bytes()),
        label.created,
        label.build_s,
        label.evaluated as i64,
        provenance,
        label.pinned,
        label.expires,
        label.revision as i64,
        change.label_bytes as i64,
        change.record.as_ref().map(|(object, _)| object.as_bytes()),
        change.record.map_or(0, |(_, bytes)| bytes as i64),
    ])?;
    tx.prepare_cached("DELETE FROM names WHERE state = ?1")?.execute([id])?;
    let mut insert = tx.prepare_cached(
        "INSERT INTO names VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (name) DO UPDATE SET state = excluded.state, given = excluded.given, pinned = excluded.pinned,
             expires = excluded.expires WHERE excluded.given > names.given",
    )?;
    label.names.iter().try_for_each(|name| {
        insert.execute(params![name.name, id, name.given, name.pinned, name.expires]).map(drop)
    })
}
