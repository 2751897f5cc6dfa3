//! Collection: plan over the index and the folder, then apply. A dry run is the same plan, not applied.
//!
//! Everything happens under the exclusive lock, so nobody is staging, publishing or about to map.
//!
//! - States go by [`evict::plan`]; with them the segments that no other state uses.
//! - Segments without a state (of a build that was interrupted) go.
//! - Staging files go.
//! - An object without a row is never deleted at once: if it is intact it is *adopted*, that is, gets a row, so
//!   that a lost index costs no state: a record becomes a state again, used now; a segment that no state uses
//!   waits for one for [`ADOPTED_GRACE_S`]. If it is damaged, or its place is taken by another object by now, it
//!   is of no use and goes.

use std::collections::{HashMap, HashSet};

use super::disk::Entry;
use super::evict::{self, Eviction, Limits, Needed, Reason};
use super::index::{ListedState, SegmentRow};
use super::usage::Usage;
use super::{Result, Store};
use crate::format::{self, Record};
use crate::key::{ChainKey, ObjectId, StateKey};

/// How long an adopted segment waits for a state: seven days.
pub const ADOPTED_GRACE_S: i64 = 7 * 86_400;

/// A state that goes or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evicted {
    /// Its key.
    pub key: StateKey,
    /// Its name, if it had one.
    pub name: Option<String>,
    /// Why.
    pub reason: Reason,
    /// Bytes of objects that go with it.
    pub frees: u64,
}

/// A number of files and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Files {
    /// How many.
    pub count: usize,
    /// How many bytes together.
    pub bytes: u64,
}

impl Files {
    fn of(entries: &[Entry]) -> Self {
        Self { count: entries.len(), bytes: super::usage::bytes(entries) }
    }

    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What a collection did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// States that go, in order.
    pub evicted: Vec<Evicted>,
    /// Segments that no state used even before.
    pub orphans: Files,
    /// Staging files left behind.
    pub staging: Files,
    /// Objects without a row that are damaged or superseded.
    pub strays: Files,
    /// Segments without a row that got one.
    pub adopted: Files,
    /// States without a row that got one.
    pub adopted_states: usize,
    /// Bytes of the folder before.
    pub before: u64,
    /// Bytes of the folder after.
    pub after: u64,
    /// Of those, objects of states.
    pub live: Files,
    /// Of those, the index.
    pub index_bytes: u64,
    /// Of those, adopted segments that wait for a state.
    pub waiting: Files,
    /// Of those, everything else: tag, lock, notes, foreign files.
    pub other_bytes: u64,
}

impl Outcome {
    /// Bytes of the files that went or would go.
    pub fn freed_bytes(&self) -> u64 {
        let evicted: u64 = self.evicted.iter().map(|e| e.frees).sum();
        evicted + self.orphans.bytes + self.staging.bytes + self.strays.bytes
    }
}

/// What there is, read once.
pub(super) struct Scene {
    usage: Usage,
    states: Vec<ListedState>,
    segments: Vec<SegmentRow>,
    /// Segments without a state: the row, and when it was adopted if gc may not take it yet.
    unused: Vec<(SegmentRow, Option<i64>)>,
    /// What is intact on disk and has no row yet.
    pub(super) found: Found,
    /// States whose deletion was begun, with their records.
    going_states: Vec<(StateKey, Option<ObjectId>)>,
}

/// Objects that have no row.
#[derive(Default)]
pub(super) struct Found {
    pub(super) segments: Vec<SegmentRow>,
    pub(super) records: Vec<(Record, ObjectId, u64)>,
    /// Damaged, or superseded.
    stray: Vec<Entry>,
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
            for piece in record.layout.pieces(&record.chain()) {
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

/// What is to be done.
struct Plan {
    outcome: Outcome,
    states: Vec<(StateKey, Option<ObjectId>)>,
    going: Vec<SegmentRow>,
}

impl Store {
    /// Collects by `limits`, or with `dry_run` only says what would go. The caller holds the exclusive lock.
    ///
    /// # Errors
    /// When the index or the disk fails. What was removed by then stays removed, consistently; a later run
    /// goes on.
    pub fn collect(&mut self, limits: &Limits, dry_run: bool) -> Result<Outcome> {
        self.collect_but(&Needed::default(), limits, dry_run)
    }

    /// As [`Self::collect`], for a build: what is `needed` stays, segments even if no state uses them yet.
    ///
    /// # Errors
    /// As [`Self::collect`].
    pub fn collect_but(&mut self, needed: &Needed, limits: &Limits, dry_run: bool) -> Result<Outcome> {
        let now = self.now();
        let scene = self.scene(now)?;
        let mut plan = plan(&scene, needed, limits, now);
        if !dry_run {
            self.apply(&plan, &scene, now)?;
            let usage = self.usage()?;
            plan.outcome.after = usage.total_bytes();
            plan.outcome.index_bytes = super::usage::bytes(&usage.index);
        }
        Ok(plan.outcome)
    }

    /// Looks at objects that have no row: which could get one, and which are of no use.
    fn unindexed(
        &self,
        usage: &Usage,
        rows: &[(SegmentRow, Option<i64>, bool)],
        states: &[ListedState],
        going: &[(StateKey, Option<ObjectId>)],
    ) -> Found {
        let records = states.iter().filter_map(|s| s.record).chain(going.iter().filter_map(|(_, r)| *r));
        let known: HashSet<ObjectId> = rows.iter().map(|(row, ..)| row.object).chain(records).collect();
        let chains: HashSet<ChainKey> = rows.iter().map(|(row, ..)| row.chain).collect();
        let keys: HashSet<StateKey> = states.iter().map(|s| s.key).collect();
        let mut found = Found::default();
        let mut records: HashMap<StateKey, (Record, ObjectId, Entry)> = HashMap::new();
        for (id, entry) in usage.objects.iter().filter(|(id, _)| !known.contains(id)) {
            match self.read_unindexed(id, entry) {
                Some(Unindexed::Segment(row)) if !chains.contains(&row.chain) => found.segments.push(row),
                Some(Unindexed::Record(record)) if !keys.contains(&record.key) => {
                    // Of two records of one state the later one counts.
                    let new = (*record, *id, entry.clone());
                    let older = match records.remove(&new.0.key) {
                        Some(other) if other.0.revision > new.0.revision => {
                            let older = new;
                            records.insert(other.0.key, other);
                            Some(older)
                        }
                        other => {
                            records.insert(new.0.key, new);
                            other
                        }
                    };
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
        let (whole, useless): (Vec<_>, Vec<_>) = records.into_values().partition(|(record, ..)| {
            record.layout.pieces(&record.chain()).iter().any(|piece| there.contains(&piece.chain))
        });
        found.stray.extend(useless.into_iter().map(|(_, _, entry)| entry));
        found.records = whole.into_iter().map(|(record, id, entry)| (record, id, entry.bytes)).collect();
        found.records.sort_by_key(|(record, ..)| record.key);
        found
    }

    /// What an object says of itself, if its bytes are what its name says.
    fn read_unindexed(&self, id: &ObjectId, entry: &Entry) -> Option<Unindexed> {
        let map = self.disk.map(&entry.path).ok()?;
        if ObjectId::from(blake3::hash(&map)) != *id {
            return None;
        }
        if let Ok(record) = Record::decode(&map) {
            return Some(Unindexed::Record(Box::new(record)));
        }
        let object = format::decode(&map).ok()?;
        Some(Unindexed::Segment(SegmentRow {
            chain: object.meta.chain,
            parent: object.meta.parent,
            object: *id,
            layout: object.meta.layout,
            first: object.meta.first,
            count: object.tokens.len(),
            raw_bytes: object.state.len() as u64,
            file_bytes: entry.bytes,
        }))
    }

    pub(super) fn scene(&self, now: i64) -> Result<Scene> {
        let (disk, root) = (self.disk.as_ref(), self.root.as_path());
        // The folder and the index are read beside each other: with many states each takes its time.
        let (usage, listed) = std::thread::scope(|scope| {
            let usage = scope.spawn(|| Usage::of(disk, root));
            let listed = self.index.list();
            (usage.join(), listed)
        });
        let usage = usage.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let (states, segments) = listed?;
        let rows = self.index.all_segments()?;
        let going_states = self.index.going_states()?;
        let found = self.unindexed(&usage, &rows, &states, &going_states);
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

    fn apply(&mut self, plan: &Plan, scene: &Scene, now: i64) -> Result<()> {
        // First what needs no index: on a full disk this makes the room that the rest takes.
        for entry in scene.found.stray.iter().chain(&scene.usage.staging) {
            self.remove(&entry.path)?;
        }
        let states: Vec<_> = plan.states.iter().chain(&scene.going_states).copied().collect();
        self.discard(&states, &plan.going)?;
        self.adopt(plan, scene, now)?;
        match self.index.compact() {
            Err(error) if !error.is_unwritable() => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives rows to what has none and stays; removes the records of found states that go.
    fn adopt(&mut self, plan: &Plan, scene: &Scene, now: i64) -> Result<()> {
        let going: HashSet<ChainKey> = plan.going.iter().map(|row| row.chain).collect();
        for row in &scene.found.segments {
            if going.contains(&row.chain) {
                self.remove(&self.object_path(&row.object))?;
            } else {
                self.index.put_segment(row, now, Some(now))?;
            }
        }
        let gone: HashSet<StateKey> = plan.states.iter().map(|(key, _)| *key).collect();
        for (record, object, bytes) in &scene.found.records {
            if gone.contains(&record.key) {
                self.remove(&self.object_path(object))?;
            } else {
                self.index.adopt_state(record, object, *bytes, now)?;
            }
        }
        Ok(())
    }
}

enum Unindexed {
    Segment(SegmentRow),
    Record(Box<Record>),
}

fn plan(scene: &Scene, needed: &Needed, limits: &Limits, now: i64) -> Plan {
    let unused = plan_unused(scene, needed, limits, now);
    let fixed = scene.usage.fixed_bytes();
    let beside = fixed + unused.waiting.bytes;
    let evictions = evict::plan(&scene.states, &scene.segments, needed, beside, limits, now);
    let gone: HashSet<usize> = evictions.iter().map(|e| e.state).collect();
    let kept: HashSet<usize> = (0..scene.states.len())
        .filter(|i| !gone.contains(i))
        .flat_map(|i| scene.states[i].segments.iter().copied())
        .collect();
    let (mut live, mut going) = (Files::default(), unused.going);
    let stays = (0..scene.states.len()).filter(|i| !gone.contains(i));
    stays.filter(|&i| scene.states[i].record.is_some()).for_each(|i| live.add(scene.states[i].record_bytes));
    for (n, row) in scene.segments.iter().enumerate() {
        if kept.contains(&n) || needed.chains.contains(&row.chain) {
            live.add(row.file_bytes);
        } else {
            going.push(row.clone());
        }
    }
    let index_bytes = super::usage::bytes(&scene.usage.index);
    let states = evictions.iter().map(|e| &scene.states[e.state]).map(|s| (s.key, s.record)).collect();
    let gone_keys: HashSet<StateKey> = gone.iter().map(|&i| scene.states[i].key).collect();
    let outcome = Outcome {
        adopted_states: scene.found.records.iter().filter(|(r, ..)| !gone_keys.contains(&r.key)).count(),
        evicted: evictions.into_iter().map(|e| evicted(&scene.states[e.state], &e)).collect(),
        orphans: unused.orphans,
        staging: Files::of(&scene.usage.staging),
        strays: Files::of(&scene.found.stray),
        adopted: unused.adopted,
        before: scene.usage.total_bytes(),
        after: fixed + live.bytes + unused.waiting.bytes,
        live,
        index_bytes,
        waiting: unused.waiting,
        other_bytes: fixed - index_bytes,
    };
    Plan { states, going, outcome }
}

fn evicted(state: &ListedState, eviction: &Eviction) -> Evicted {
    let (reason, frees) = (eviction.reason, eviction.frees);
    Evicted { key: state.key, name: state.name.clone(), reason, frees }
}

/// What becomes of the segments without a state.
#[derive(Default)]
struct Unused {
    going: Vec<SegmentRow>,
    orphans: Files,
    waiting: Files,
    adopted: Files,
}

/// Adopted segments may wait for a state, but not at the cost of one; the others go.
fn plan_unused(scene: &Scene, needed: &Needed, limits: &Limits, now: i64) -> Unused {
    let records: u64 = scene.states.iter().map(|s| s.record_bytes).sum();
    let live = records + scene.segments.iter().map(|row| row.file_bytes).sum::<u64>();
    let taken = scene.usage.fixed_bytes() + live;
    let mut budget =
        limits.max_bytes.map(|max| max.saturating_sub(limits.reserved_bytes).saturating_sub(taken));
    let found: HashSet<ChainKey> = scene.found.segments.iter().map(|row| row.chain).collect();
    let mut unused = Unused::default();
    for (row, adopted) in &scene.unused {
        let bytes = row.file_bytes;
        let young = adopted.is_some_and(|at| now.saturating_sub(at) < ADOPTED_GRACE_S);
        let wanted = needed.chains.contains(&row.chain);
        if wanted || young && budget.is_none_or(|left| bytes <= left) {
            budget = budget.map(|left| left.saturating_sub(bytes));
            unused.waiting.add(bytes);
            if found.contains(&row.chain) {
                unused.adopted.add(bytes);
            }
        } else {
            unused.orphans.add(bytes);
            unused.going.push(row.clone());
        }
    }
    unused
}
