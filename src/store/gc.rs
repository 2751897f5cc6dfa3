//! Collection: plan over the index and the folder, then apply. A dry run is the same plan, not applied.
//!
//! Everything happens under the exclusive lock, so nobody is staging, publishing or about to map.
//!
//! - States go by [`evict::plan`]; with them the segments that no other state uses.
//! - Segments without a state (of a build that was interrupted) go.
//! - Staging files go.
//! - An object without a row is never deleted at once: if it is intact it is *adopted*, that is, gets a row, so
//!   that a lost index costs no state; it goes when no state has used it for [`ADOPTED_GRACE_S`]. If it is
//!   damaged, or its segment has another object by now, it is of no use and goes.

use std::collections::{HashMap, HashSet};

use super::disk::Entry;
use super::evict::{self, Eviction, Limits, Reason};
use super::index::{ListedState, SegmentRow};
use super::usage::Usage;
use super::{Result, Store, StoreError};
use crate::format;
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
    /// Objects without a row that got one.
    pub adopted: Files,
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
struct Scene {
    usage: Usage,
    states: Vec<ListedState>,
    segments: Vec<SegmentRow>,
    /// Segments without a state: the row, and when it was adopted if gc may not take it yet.
    unused: Vec<(SegmentRow, Option<i64>)>,
    /// Those of the unused that have no row yet.
    found: Vec<SegmentRow>,
    stray: Vec<Entry>,
}

impl Scene {
    /// A file that is damaged or gone takes other bytes than its row says.
    fn take_sizes_from_the_disk(&mut self) {
        let sizes: HashMap<ObjectId, u64> = self.usage.objects.iter().map(|(id, e)| (*id, e.bytes)).collect();
        let rows = self.segments.iter_mut().chain(self.unused.iter_mut().map(|(row, _)| row));
        rows.for_each(|row| row.file_bytes = sizes.get(&row.object).copied().unwrap_or(0));
    }
}

/// What is to be done.
struct Plan {
    outcome: Outcome,
    states: Vec<StateKey>,
    going: Vec<SegmentRow>,
}

impl Store {
    /// Collects by `limits`, or with `dry_run` only says what would go. The caller holds the exclusive lock.
    ///
    /// # Errors
    /// When the index or the disk fails. What was removed by then stays removed, consistently; a later run
    /// goes on.
    pub fn collect(&mut self, limits: &Limits, dry_run: bool) -> Result<Outcome> {
        let now = self.now();
        let scene = self.scene(now)?;
        let mut plan = plan(&scene, limits, now);
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
    ) -> (Vec<SegmentRow>, Vec<Entry>) {
        let known: HashSet<ObjectId> = rows.iter().map(|(row, ..)| row.object).collect();
        let chains: HashSet<ChainKey> = rows.iter().map(|(row, ..)| row.chain).collect();
        let (mut found, mut stray) = (Vec::new(), Vec::new());
        for (id, entry) in usage.objects.iter().filter(|(id, _)| !known.contains(id)) {
            match self.read_row(id, entry).filter(|row| !chains.contains(&row.chain)) {
                Some(row) => found.push(row),
                None => stray.push(entry.clone()),
            }
        }
        (found, stray)
    }

    /// The row that an object's own description gives, if its bytes are what its name says.
    fn read_row(&self, id: &ObjectId, entry: &Entry) -> Option<SegmentRow> {
        let map = self.disk.map(&entry.path).ok()?;
        if ObjectId::from(blake3::hash(&map)) != *id {
            return None;
        }
        let object = format::decode(&map).ok()?;
        Some(SegmentRow {
            chain: object.meta.chain,
            parent: object.meta.parent,
            object: *id,
            layout: object.meta.layout,
            first: object.meta.first,
            count: object.tokens.len(),
            raw_bytes: object.state.len() as u64,
            file_bytes: entry.bytes,
        })
    }

    fn scene(&self, now: i64) -> Result<Scene> {
        let usage = self.usage()?;
        let (states, segments) = self.index.list()?;
        let rows = self.index.all_segments()?;
        let (found, stray) = self.unindexed(&usage, &rows);
        let used: HashSet<ChainKey> = segments.iter().map(|s| s.chain).collect();
        let unused = rows
            .into_iter()
            .filter(|(row, _, going)| *going || !used.contains(&row.chain))
            .map(|(row, adopted, going)| (row, adopted.filter(|_| !going)))
            .chain(found.iter().map(|row| (row.clone(), Some(now))))
            .collect();
        let mut scene = Scene { usage, states, segments, unused, found, stray };
        scene.take_sizes_from_the_disk();
        Ok(scene)
    }

    fn apply(&mut self, plan: &Plan, scene: &Scene, now: i64) -> Result<()> {
        let chains: Vec<ChainKey> = plan.going.iter().map(|row| row.chain).collect();
        let going: HashSet<ChainKey> = chains.iter().copied().collect();
        for row in scene.found.iter().filter(|row| !going.contains(&row.chain)) {
            self.index.put_segment(row, now, Some(now))?;
        }
        self.index.delete_states(&plan.states)?;
        self.index.mark_segments_going(&chains)?;
        for row in &plan.going {
            self.remove(&self.object_path(&row.object))?;
        }
        for entry in scene.stray.iter().chain(&scene.usage.staging) {
            self.remove(&entry.path)?;
        }
        self.index.delete_segments(&chains)?;
        self.index.compact()
    }

    fn remove(&self, path: &std::path::Path) -> Result<()> {
        match self.disk.remove(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::Disk { action: "remove", path: path.to_owned(), source: e })
            }
            _ => Ok(()),
        }
    }
}

fn plan(scene: &Scene, limits: &Limits, now: i64) -> Plan {
    let unused = plan_unused(scene, limits, now);
    let fixed = scene.usage.fixed_bytes();
    let evictions = evict::plan(&scene.states, &scene.segments, fixed + unused.waiting.bytes, limits, now);
    let gone: HashSet<usize> = evictions.iter().map(|e| e.state).collect();
    let kept: HashSet<usize> = (0..scene.states.len())
        .filter(|i| !gone.contains(i))
        .flat_map(|i| scene.states[i].segments.iter().copied())
        .collect();
    let (mut live, mut going) = (Files::default(), unused.going);
    for (n, row) in scene.segments.iter().enumerate() {
        if kept.contains(&n) {
            live.add(row.file_bytes);
        } else {
            going.push(row.clone());
        }
    }
    let index_bytes = super::usage::bytes(&scene.usage.index);
    let outcome = Outcome {
        evicted: evictions.into_iter().map(|e| evicted(&scene.states[e.state], &e)).collect(),
        orphans: unused.orphans,
        staging: Files::of(&scene.usage.staging),
        strays: Files::of(&scene.stray),
        adopted: unused.adopted,
        before: scene.usage.total_bytes(),
        after: fixed + live.bytes + unused.waiting.bytes,
        live,
        index_bytes,
        waiting: unused.waiting,
        other_bytes: fixed - index_bytes,
    };
    Plan { states: outcome.evicted.iter().map(|e| e.key).collect(), going, outcome }
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
fn plan_unused(scene: &Scene, limits: &Limits, now: i64) -> Unused {
    let live: u64 = scene.segments.iter().map(|row| row.file_bytes).sum();
    let taken = scene.usage.fixed_bytes() + live;
    let mut budget = limits.max_bytes.map(|max| max.saturating_sub(taken));
    let found: HashSet<ChainKey> = scene.found.iter().map(|row| row.chain).collect();
    let mut unused = Unused::default();
    for (row, adopted) in &scene.unused {
        let bytes = row.file_bytes;
        let young = adopted.is_some_and(|at| now.saturating_sub(at) < ADOPTED_GRACE_S);
        if young && budget.is_none_or(|left| bytes <= left) {
            budget = budget.map(|left| left - bytes);
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
