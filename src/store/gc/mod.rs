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

mod plan;
pub(super) mod scene;

use std::collections::HashSet;

use super::disk::Entry;
use super::evict::{Limits, Needed, Reason};
use super::{Result, Store, usage};
use crate::key::{ChainKey, ObjectId, StateKey};
use plan::{Plan, plan};
use scene::Scene;

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
        Self { count: entries.len(), bytes: usage::bytes(entries) }
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
    /// Objects without a row that could not be read, and stay; part of the other bytes.
    pub unreadable: Files,
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
            let left = self.usage()?;
            plan.outcome.after = left.total_bytes();
            plan.outcome.index_bytes = usage::bytes(&left.index);
        }
        Ok(plan.outcome)
    }

    fn apply(&mut self, plan: &Plan, scene: &Scene, now: i64) -> Result<()> {
        // First what needs no index: on a full disk this makes the room that the rest takes.
        for entry in scene.found.stray.iter().chain(&scene.usage.staging) {
            self.remove(&entry.path)?;
        }
        let states: Vec<_> = plan.states.iter().chain(&scene.going_states).copied().collect();
        self.discard(&states, &plan.going)?;
        self.adopt(plan, scene, now)?;
        // Nothing is left of what was removed: it was among the strays. On a full disk this can wait.
        match self.index.forget_removed().and_then(|()| self.index.compact()) {
            Err(error) if !error.is_unwritable() => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives rows to what has none and stays; removes the records of found states that go.
    fn adopt(&mut self, plan: &Plan, scene: &Scene, now: i64) -> Result<()> {
        let going: HashSet<ChainKey> = plan.going.iter().map(|row| row.chain).collect();
        let gone: HashSet<StateKey> = plan.states.iter().map(|(key, _)| *key).collect();
        let (removed, segments): (Vec<_>, Vec<_>) =
            scene.found.segments.iter().cloned().partition(|row| going.contains(&row.chain));
        let (records_removed, records): (Vec<_>, Vec<_>) =
            scene.found.records.iter().cloned().partition(|(record, ..)| gone.contains(&record.key));
        self.index.adopt_all(&segments, &records, now)?;
        let records_removed = records_removed.iter().map(|(_, object, _)| *object);
        let removed: Vec<ObjectId> = removed.iter().map(|row| row.object).chain(records_removed).collect();
        self.remove_objects(&removed)
    }
}
