//! What a collection or a repair finds: rows, files, and files without rows.

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::path::Path;

use super::super::disk::Entry;
use super::super::index::{ListedState, SegmentRow};
use super::super::lock::{TURN, is_held};
use super::super::scratch;
use super::super::usage::Usage;
use super::super::{Result, Store};
use crate::format::{self, Record};
use crate::key::{ChainKey, ObjectId, StateKey};

/// What there is, read once.
pub(in crate::store) struct Scene {
    pub(super) usage: Usage,
    pub(super) states: Vec<ListedState>,
    pub(super) segments: Vec<SegmentRow>,
    /// Segments without a state: the row, and when it was adopted if gc may not take it yet.
    pub(super) unused: Vec<(SegmentRow, Option<i64>)>,
    /// What is intact on disk and has no row yet.
    pub(in crate::store) found: Found,
    /// States whose deletion was begun, with their records.
    pub(super) going_states: Vec<(StateKey, Option<ObjectId>)>,
}

/// Objects that have no row.
#[derive(Default)]
pub(in crate::store) struct Found {
    pub(in crate::store) segments: Vec<SegmentRow>,
    pub(in crate::store) records: Vec<(Record, ObjectId, u64)>,
    /// Damaged, superseded, or of no use.
    pub(super) stray: Vec<Entry>,
    /// Those of the former that are records of the states found.
    pub(in crate::store) superseded: Vec<(StateKey, ObjectId)>,
    /// The disk or the system did not let them be read. They may be intact, so they stay.
    pub(super) unreadable: Vec<Entry>,
}

impl Scene {
    /// A file that is damaged or gone takes other bytes than its row says.
    fn take_sizes_from_the_disk(&mut self) {
        let sizes: HashMap<ObjectId, u64> = self.usage.objects.iter().map(|(id, e)| (*id, e.bytes)).collect();
        let size = |object: &ObjectId| sizes.get(object).copied().unwrap_or(0);
        let rows = self.segments.iter_mut().chain(self.unused.iter_mut().map(|(row, _)| row));
        rows.for_each(|row| row.file_bytes = size(&row.object));
        self.states.iter_mut().for_each(|s| s.record_bytes = s.record.as_ref().map_or(0, size));
    }

    /// Lists the states that were found on disk as if they had their rows.
    fn add_found_states(&mut self, rows: &[(SegmentRow, Option<i64>, bool)], now: i64) {
        let all = rows.iter().filter(|(.., going)| !going).map(|(row, ..)| row).chain(&self.found.segments);
        let all: HashMap<ChainKey, &SegmentRow> = all.map(|row| (row.chain, row)).collect();
        let mut numbers: HashMap<ChainKey, usize> =
            self.segments.iter().enumerate().map(|(n, row)| (row.chain, n)).collect();
        for (record, object, bytes) in &self.found.records {
            let mut state = listed(record, *object, *bytes, now);
            for piece in record.pieces() {
                let Some(row) = all.get(&piece.chain) else { continue };
                let number = *numbers.entry(piece.chain).or_insert_with(|| {
                    self.segments.push((*row).clone());
                    self.segments.len() - 1
                });
                state.segments.push(number);
            }
            self.states.insert(0, state);
        }
    }
}

fn listed(record: &Record, object: ObjectId, bytes: u64, now: i64) -> ListedState {
    ListedState {
        key: record.key,
        name: record.name.clone(),
        model: record.model,
        model_path: record.model_path.clone(),
        tokens: record.tokens.len(),
        created: record.created,
        last_used: now,
        hits: 0,
        pinned: record.pinned,
        expires: record.expires,
        origin: record.origin.clone(),
        cost_s: record.full_cost_s(),
        record: Some(object),
        record_bytes: bytes,
        segments: Vec::new(),
    }
}

impl Store {
    /// Looks at objects that have no row: which could get one, and which are of no use.
    fn unindexed(
        &self,
        usage: &Usage,
        rows: &[(SegmentRow, Option<i64>, bool)],
        states: &[ListedState],
        going: &[(StateKey, Option<ObjectId>)],
        removed: &HashSet<StateKey>,
    ) -> Found {
        let records = states.iter().filter_map(|s| s.record).chain(going.iter().filter_map(|(_, r)| *r));
        let known: HashSet<ObjectId> = rows.iter().map(|(row, ..)| row.object).chain(records).collect();
        let chains: HashSet<ChainKey> = rows.iter().map(|(row, ..)| row.chain).collect();
        let keys: HashSet<StateKey> = states.iter().map(|s| s.key).collect();
        let mut found = Found::default();
        let mut records: HashMap<StateKey, (Record, ObjectId, Entry)> = HashMap::new();
        let mut new_chains: HashSet<ChainKey> = HashSet::new();
        for (id, entry) in usage.objects.iter().filter(|(id, _)| !known.contains(id)) {
            match self.read_unindexed(id, entry) {
                Unindexed::Gone => {}
                Unindexed::Unreadable => found.unreadable.push(entry.clone()),
                // Of two that restore the same, in two codecs, one is enough.
                Unindexed::Segment(row) if !chains.contains(&row.chain) && new_chains.insert(row.chain) => {
                    found.segments.push(row);
                }
                Unindexed::Record(record)
                    if !keys.contains(&record.key) && !removed.contains(&record.key) =>
                {
                    // Of two records of one state the later one counts. A change that was cut short can leave one of
                    // the same revision as the next change has; that was written later.
                    let new = (*record, *id, entry.clone());
                    let age =
                        |(record, _, entry): &(Record, ObjectId, Entry)| (record.revision, entry.modified);
                    let older = match records.remove(&new.0.key) {
                        Some(other) if age(&other) > age(&new) => {
                            let older = new;
                            records.insert(other.0.key, other);
                            Some(older)
                        }
                        other => {
                            records.insert(new.0.key, new);
                            other
                        }
                    };
                    found.superseded.extend(older.iter().map(|(record, id, _)| (record.key, *id)));
                    found.stray.extend(older.map(|(_, _, entry)| entry));
                }
                _ => found.stray.push(entry.clone()),
            }
        }
        // A record whose segments are gone is of no use: it is what a removal left of an older one.
        let there: HashSet<ChainKey> = rows
            .iter()
            .filter(|(.., going)| !going)
            .map(|(row, ..)| row)
            .chain(&found.segments)
            .map(|row| row.chain)
            .collect();
        let (whole, useless): (Vec<_>, Vec<_>) = records
            .into_values()
            .partition(|(record, ..)| record.pieces().iter().any(|piece| there.contains(&piece.chain)));
        found.stray.extend(useless.into_iter().map(|(_, _, entry)| entry));
        found.records = whole.into_iter().map(|(record, id, entry)| (record, id, entry.bytes)).collect();
        found.records.sort_by_key(|(record, ..)| record.key);
        found
    }

    /// What an object says of itself, if its bytes are what its name says.
    fn read_unindexed(&self, id: &ObjectId, entry: &Entry) -> Unindexed {
        let map = match self.disk.map(&entry.path) {
            Ok(map) => map,
            Err(error) => {
                return match error.kind() {
                    ErrorKind::NotFound => Unindexed::Gone,
                    ErrorKind::InvalidData => Unindexed::Useless,
                    _ => Unindexed::Unreadable,
                };
            }
        };
        if ObjectId::from(blake3::hash(&map)) != *id {
            return Unindexed::Useless;
        }
        if let Ok(record) = Record::decode(&map) {
            return Unindexed::Record(Box::new(record));
        }
        let Ok(object) = format::decode(&map) else { return Unindexed::Useless };
        Unindexed::Segment(SegmentRow {
            chain: object.meta.chain,
            parent: object.meta.parent,
            object: *id,
            layout: object.meta.layout,
            first: object.meta.first,
            count: object.tokens.len(),
            raw_bytes: object.stored.raw_bytes(object.state.len()) as u64,
            file_bytes: entry.bytes,
        })
    }

    pub(in crate::store) fn scene(&self, now: i64) -> Result<Scene> {
        let (disk, root) = (self.disk.as_ref(), self.root.as_path());
        // The folder and the index are read beside each other: with many states each takes its time.
        let (usage, listed) = std::thread::scope(|scope| {
            let usage = scope.spawn(|| Usage::of(disk, root));
            let listed = self.index.list();
            (usage.join(), listed)
        });
        let mut usage = usage.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let (states, segments) = listed?;
        let rows = self.index.all_segments()?;
        let going_states = self.index.going_states()?;
        let removed = self.index.removed()?;
        let found = self.unindexed(&usage, &rows, &states, &going_states, &removed);
        // Somebody waits for this collection to end, to evaluate what nobody else should meanwhile; or measures.
        let held = |e: &Entry| {
            e.name.starts_with(TURN) && is_held(&e.path) || scratch::is_in_use(&self.root, &e.path)
        };
        let (held, staging) = std::mem::take(&mut usage.staging).into_iter().partition(held);
        usage.staging = staging;
        usage.other.extend::<Vec<Entry>>(held);
        let left: HashSet<&Path> = found.unreadable.iter().map(|e| e.path.as_path()).collect();
        usage.objects.retain(|(_, entry)| !left.contains(entry.path.as_path()));
        usage.other.extend(found.unreadable.iter().cloned());
        let mut scene = Scene { usage, states, segments, unused: Vec::new(), found, going_states };
        scene.add_found_states(&rows, now);
        let used: HashSet<ChainKey> = scene.segments.iter().map(|s| s.chain).collect();
        let found = scene.found.segments.iter().map(|row| (row.clone(), Some(now), false));
        scene.unused = rows
            .into_iter()
            .chain(found)
            .filter(|(row, _, going)| *going || !used.contains(&row.chain))
            .map(|(row, adopted, going)| (row, adopted.filter(|_| !going)))
            .collect();
        scene.take_sizes_from_the_disk();
        Ok(scene)
    }
}

enum Unindexed {
    Segment(SegmentRow),
    Record(Box<Record>),
    /// Damaged, no file, or nothing of this program's.
    Useless,
    /// The disk or the system does not let it be read.
    Unreadable,
    /// Somebody removed it between the listing and the look.
    Gone,
}
