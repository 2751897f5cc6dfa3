//! Reading states: one with everything, or all of them in short.

use std::collections::{HashMap, HashSet};

use pcache_format::label::{Name, Provenance, full_cost_s};
use pcache_format::{ComputeIdentity, Label, Lineage, Manifest, ObjectId, RenderedWith, StateKey, StateKind};
use rusqlite::{Connection, OptionalExtension, Row};

use super::rows::{ManifestRow, SEGMENT, SEGMENT_FROM, Usage};
use super::{Index, ListedState, SegmentRow, StateRow, rows};
use crate::Result;
use crate::removal::Doomed;

impl Index {
    /// A state without its tokens.
    pub(crate) fn state(&self, key: &StateKey) -> Result<Option<StateRow>> {
        self.read(|db| state(db, key))
    }

    /// Returns the usage of a state.
    pub(crate) fn usage(&self, key: &StateKey) -> Result<Option<Usage>> {
        Ok(self.state(key)?.map(|state| state.usage))
    }

    /// Compute identity that a lineage ends with, where it is known.
    pub(crate) fn identity_of(&self, lineage: Lineage) -> Result<ComputeIdentity> {
        let sql = "SELECT identity FROM lineages WHERE name = ?1";
        let found: Option<String> =
            self.read(|db| db.query_row(sql, [lineage.to_string()], |row| row.get(0)).optional())?;
        Ok(ComputeIdentity::parse(&found.unwrap_or_default()))
    }

    /// All states, newest use first, and the segments that any of them use.
    pub(crate) fn list(&self) -> Result<(Vec<ListedState>, Vec<SegmentRow>)> {
        self.read(list)
    }

    /// States with a tombstone.
    pub(crate) fn tombstoned(&self) -> Result<Vec<Doomed>> {
        self.read(|db| {
            let keys: Vec<(i64, StateKey, Option<ObjectId>)> = db
                .prepare("SELECT id, key, record FROM states WHERE tombstone = 1")?
                .query_map([], |row| Ok((row.get(0)?, rows::hash(row, 1)?, rows::maybe_hash(row, 2)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let with_manifests = |(id, key, record)| {
                let manifests = manifests(db, id)?.into_iter().map(|m| m.lineage).collect();
                Ok(Doomed { key, manifests, record })
            };
            keys.into_iter().map(with_manifests).collect()
        })
    }

    /// Records of version 0.1 that are not split yet.
    pub(crate) fn records(&self) -> Result<HashMap<StateKey, ObjectId>> {
        self.read(|db| {
            db.prepare("SELECT key, record FROM states WHERE record IS NOT NULL AND tombstone = 0")?
                .query_map([], |row| Ok((rows::hash(row, 0)?, rows::hash(row, 1)?)))?
                .collect()
        })
    }

    /// All manifests, by key and lineage.
    pub(crate) fn manifest_ids(&self) -> Result<HashSet<(StateKey, Lineage)>> {
        let sql = "SELECT key, name FROM manifests JOIN states ON states.id = state
                   JOIN lineages ON lineages.id = manifests.lineage";
        self.read(|db| {
            db.prepare(sql)?.query_map([], |row| Ok((rows::hash(row, 0)?, rows::lineage(row, 1)?)))?.collect()
        })
    }

    /// Number of states.
    pub(crate) fn count(&self) -> Result<usize> {
        self.read(|db| db.query_row("SELECT count(*) FROM states WHERE tombstone = 0", [], |r| r.get(0)))
    }

    /// States whose label is being replaced, or was when a process died.
    pub(crate) fn intents(&self) -> Result<Vec<StateKey>> {
        self.read(|db| {
            db.prepare_cached("SELECT key FROM intents")?.query_map([], |row| rows::hash(row, 0))?.collect()
        })
    }
}

pub(super) fn state(db: &Connection, key: &StateKey) -> rusqlite::Result<Option<StateRow>> {
    let sql = "SELECT s.id, s.model, m.path, p.text, l.name, l.identity, s.kind, s.layout, s.pending_text, f.suffix,
                   f.raw, f.description, s.span_first, s.span_end, s.origin, s.text, s.prompt, s.created, s.build_s,
                   s.evaluated, s.provenance, s.pinned, s.expires, s.revision, s.label_bytes, s.record,
                   s.record_bytes, s.last_used, s.hits
               FROM states s JOIN models m ON m.hash = s.model JOIN params p ON p.id = s.params
                   JOIN lineages l ON l.id = s.lineage JOIN prompt_formats f ON f.id = s.format
               WHERE s.key = ?1 AND s.tombstone = 0";
    let read = |row: &Row<'_>| {
        let identity: String = row.get(5)?;
        let span: (Option<usize>, Option<usize>) = (row.get(12)?, row.get(13)?);
        let record: Option<ObjectId> = rows::maybe_hash(row, 25)?;
        let record_bytes: u64 = row.get(26)?;
        let skeleton = Manifest {
            key: *key,
            model: rows::hash(row, 1)?,
            params: rows::params(row, 3)?,
            lineage: rows::lineage(row, 4)?,
            computed_by: ComputeIdentity::parse(&identity),
            kind: rows::read(row, 6, StateKind::named)?,
            layout: rows::layout(row, 7)?,
            pending_text: row.get(8)?,
            suffix: row.get(9)?,
            prompt_span: span.0.zip(span.1).map(|(first, end)| first..end),
            raw: row.get(10)?,
            rendered_with: RenderedWith::default(),
            tokens: Vec::new(),
            segments: Vec::new(),
        };
        let label = Label {
            key: *key,
            revision: row.get(23)?,
            names: Vec::new(),
            pinned: row.get(21)?,
            expires: row.get(22)?,
            origin: row.get(14)?,
            prompt_format: row.get(11)?,
            model_path: row.get(2)?,
            text: rows::maybe_hash(row, 15)?,
            prompt: rows::maybe_hash(row, 16)?,
            created: row.get(17)?,
            build_s: row.get(18)?,
            evaluated: row.get(19)?,
            provenance: provenance(row, 20)?,
        };
        let usage = Usage {
            last_used: row.get(27)?,
            hits: row.get(28)?,
            manifests: Vec::new(),
            label_bytes: row.get(24)?,
            record: record.map(|object| (object, record_bytes)),
        };
        Ok((row.get(0)?, StateRow { skeleton, label, usage }))
    };
    let found: Option<(i64, StateRow)> =
        db.prepare_cached(sql)?.query_row([key.as_bytes()], read).optional()?;
    let Some((id, mut state)) = found else { return Ok(None) };
    state.label.names = names(db, id)?;
    state.usage.manifests = manifests(db, id)?;
    Ok(Some(state))
}

/// Names of a state, the oldest first.
fn names(db: &Connection, state: i64) -> rusqlite::Result<Vec<Name>> {
    let sql = "SELECT name, given, pinned, expires FROM names WHERE state = ?1 ORDER BY given, name";
    db.prepare_cached(sql)?.query_map([state], |row| name(row, 0))?.collect()
}

fn name(row: &Row<'_>, first: usize) -> rusqlite::Result<Name> {
    Ok(Name {
        name: row.get(first)?,
        given: row.get(first + 1)?,
        pinned: row.get(first + 2)?,
        expires: row.get(first + 3)?,
    })
}

fn manifests(db: &Connection, state: i64) -> rusqlite::Result<Vec<ManifestRow>> {
    let sql = "SELECT name, blake3, bytes FROM manifests JOIN lineages ON id = lineage WHERE state = ?1 ORDER BY id";
    let read = |row: &Row<'_>| {
        Ok(ManifestRow { lineage: rows::lineage(row, 0)?, blake3: rows::hash(row, 1)?, bytes: row.get(2)? })
    };
    db.prepare_cached(sql)?.query_map([state], read)?.collect()
}

fn provenance(row: &Row<'_>, column: usize) -> rusqlite::Result<Provenance> {
    match row.get::<_, Option<String>>(column)? {
        None => Ok(Provenance::Built),
        Some(_) => rows::read(row, column, |text| serde_json::from_str(text).ok()),
    }
}

fn list(db: &Connection) -> rusqlite::Result<(Vec<ListedState>, Vec<SegmentRow>)> {
    let tx = db.unchecked_transaction()?;
    let mut ids: Vec<i64> = Vec::new();
    let mut states: Vec<ListedState> = Vec::new();
    let mut query = tx.prepare(
        "SELECT s.id, s.key, s.model, m.path, s.kind, l.name, s.token_count, s.created, s.last_used, s.hits,
             s.pinned, s.expires, s.origin, s.build_s, s.evaluated, s.label_bytes, s.record_bytes,
             s.record IS NOT NULL
         FROM states s JOIN models m ON m.hash = s.model JOIN lineages l ON l.id = s.lineage
         WHERE s.tombstone = 0 ORDER BY s.last_use DESC",
    )?;
    let mut found = query.query([])?;
    while let Some(row) = found.next()? {
        ids.push(row.get(0)?);
        states.push(listed(row)?);
    }
    let by_id: HashMap<i64, usize> = ids.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    add_names(&tx, &mut states, &by_id)?;
    add_manifests(&tx, &mut states, &by_id)?;
    let segments = add_segments(&tx, &mut states, &by_id)?;
    Ok((states, segments))
}

fn listed(row: &Row<'_>) -> rusqlite::Result<ListedState> {
    let (tokens, evaluated): (usize, usize) = (row.get(6)?, row.get(14)?);
    let (label, record): (u64, u64) = (row.get(15)?, row.get(16)?);
    let has_record: bool = row.get(17)?;
    Ok(ListedState {
        key: rows::hash(row, 1)?,
        names: Vec::new(),
        model: rows::hash(row, 2)?,
        model_path: row.get(3)?,
        kind: rows::read(row, 4, StateKind::named)?,
        lineage: rows::lineage(row, 5)?,
        tokens,
        created: row.get(7)?,
        last_used: row.get(8)?,
        hits: row.get(9)?,
        pinned: row.get(10)?,
        expires: row.get(11)?,
        origin: row.get(12)?,
        cost_s: full_cost_s(row.get(13)?, evaluated, tokens),
        description_bytes: label + record,
        description_files: usize::from(label > 0) + usize::from(has_record),
        segments: Vec::new(),
    })
}

/// Adds the names, and what they want.
fn add_names(
    db: &Connection,
    states: &mut [ListedState],
    by_id: &HashMap<i64, usize>,
) -> rusqlite::Result<()> {
    let mut query = db.prepare("SELECT state, name, given, pinned, expires FROM names")?;
    let mut found = query.query([])?;
    while let Some(row) = found.next()? {
        if let Some(&i) = by_id.get(&row.get(0)?) {
            states[i].names.push(name(row, 1)?);
        }
    }
    for state in states.iter_mut().filter(|state| !state.names.is_empty()) {
        state.names.sort_by(|a, b| (a.given, &a.name).cmp(&(b.given, &b.name)));
        state.pinned |= state.names.iter().any(|n| n.pinned);
        let wanted = state.names.iter().map(|n| n.expires).chain(state.expires.map(Some));
        let all: Option<Vec<i64>> = wanted.collect();
        state.expires = all.and_then(|times| times.into_iter().max());
    }
    Ok(())
}

fn add_manifests(
    db: &Connection,
    states: &mut [ListedState],
    by_id: &HashMap<i64, usize>,
) -> rusqlite::Result<()> {
    let mut query = db.prepare("SELECT state, bytes FROM manifests")?;
    let mut found = query.query([])?;
    while let Some(row) = found.next()? {
        if let Some(&i) = by_id.get(&row.get(0)?) {
            states[i].description_bytes += row.get::<_, u64>(1)?;
            states[i].description_files += 1;
        }
    }
    Ok(())
}

/// Adds the segments of each state, by number in the list that is returned.
fn add_segments(
    db: &Connection,
    states: &mut [ListedState],
    by_id: &HashMap<i64, usize>,
) -> rusqlite::Result<Vec<SegmentRow>> {
    // Two passes over two tables, each in its own order, are several times faster than their join.
    let mut segments: Vec<SegmentRow> = Vec::new();
    let mut numbers: HashMap<i64, usize> = HashMap::new();
    let sql = format!("SELECT {SEGMENT}, s.id FROM {SEGMENT_FROM} WHERE s.tombstone = 0");
    let mut query = db.prepare(&sql)?;
    let mut found = query.query([])?;
    while let Some(row) = found.next()? {
        numbers.insert(row.get(11)?, segments.len());
        segments.push(rows::segment(row)?);
    }
    let mut used = vec![false; segments.len()];
    let mut query = db.prepare("SELECT state, segment FROM state_segments")?;
    let mut found = query.query([])?;
    while let Some(row) = found.next()? {
        if let (Some(&i), Some(&n)) = (by_id.get(&row.get(0)?), numbers.get(&row.get(1)?)) {
            states[i].segments.push(n);
            used[n] = true;
        }
    }
    Ok(without_unused(states, segments, &used))
}

/// Leaves out the segments that no state uses, and numbers the others anew.
fn without_unused(states: &mut [ListedState], segments: Vec<SegmentRow>, used: &[bool]) -> Vec<SegmentRow> {
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
    segments.into_iter().zip(used).filter(|(_, used)| **used).map(|(s, _)| s).collect()
}
