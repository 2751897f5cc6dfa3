//! Collection: plan over the index and the folder, then apply. A dry run is the same plan, not applied.
//!
//! Everything happens under the exclusive lock, so no other process is staging, publishing or about to read.
//!
//! - States go by [`evict::plan`]; with them the segments that no other state uses.
//! - Segments without a state (of a build that was interrupted) go.
//! - Staging files go.
//! - An object without a row is never deleted at once: if it is intact it is *adopted*, that is, gets a row, so
//!   that a lost index costs no state: a record becomes a state again, used now; a segment that no state uses
//!   waits for one for [`ADOPTED_GRACE_S`]. If it is damaged, or its place is taken by another object by now, it
//!   is of no use and goes.

pub(crate) mod found;
pub(crate) mod inventory;
mod plan;
mod unindexed;

use std::collections::HashSet;
use std::path::PathBuf;

use pcache_format::{ChainKey, Lineage, StateKey};

use super::disk::Entry;
use super::evict::{Limits, Needed, Reason};
use super::lock::ExclusiveGuard;
use super::removal::{Doomed, Left, Removal};
use super::{Result, Store, usage};
use inventory::Inventory;
use plan::{Plan, plan};

/// Time for which an adopted segment waits for a state: seven days.
pub const ADOPTED_GRACE_S: i64 = 7 * 86_400;

/// A state that goes or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evicted {
    /// Its key.
    pub key: StateKey,
    /// Its names, the oldest first.
    pub names: Vec<String>,
    /// Why.
    pub reason: Reason,
    /// Bytes of objects that go with it.
    pub frees: u64,
}

/// A number of files and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Files {
    /// Their number.
    pub count: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Files {
    fn new(entries: &[Entry]) -> Self {
        Self { count: entries.len(), bytes: usage::bytes(entries) }
    }

    fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// Result of a collection, done or planned.
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
    /// Files of a later version, which stay; part of the other bytes.
    pub newer: Files,
    /// Folders that could not be listed, and why: what is in them is not counted.
    pub unseen: Vec<(PathBuf, String)>,
    /// Files that could not be removed.
    pub left: Vec<Left>,
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
        let all = evicted + self.orphans.bytes + self.staging.bytes + self.strays.bytes;
        all.saturating_sub(self.left.iter().map(|left| left.bytes).sum())
    }
}

impl Store {
    /// Collects by `limits`, or with `dry_run` only says what would go.
    ///
    /// # Errors
    /// When the index or the disk fails. What was removed by then stays removed, consistently; a later run
    /// goes on.
    pub fn collect(&self, guard: &ExclusiveGuard, limits: &Limits, dry_run: bool) -> Result<Outcome> {
        self.collect_but(guard, &Needed::default(), limits, dry_run)
    }

    /// As [`Self::collect`], for a build: what is `needed` stays, segments even if no state uses them yet.
    ///
    /// # Errors
    /// As [`Self::collect`].
    pub fn collect_but(
        &self,
        guard: &ExclusiveGuard,
        needed: &Needed,
        limits: &Limits,
        dry_run: bool,
    ) -> Result<Outcome> {
        let now = self.now();
        if !dry_run {
            self.settle(now)?;
        }
        let inventory = self.inventory(now, &|_, _| ())?;
        let mut plan = self.plan(&inventory, needed.clone(), limits, now)?;
        if !dry_run {
            plan.outcome.left = self.apply(guard, &plan, &inventory, now)?;
            let left = self.folder_usage()?;
            plan.outcome.after = left.total_bytes();
            plan.outcome.index_bytes = usage::bytes(&left.index);
        }
        Ok(plan.outcome)
    }

    /// Plans the removal. A state that a later version described stays: only that version knows who wants it.
    fn plan(&self, inventory: &Inventory, mut needed: Needed, limits: &Limits, now: i64) -> Result<Plan> {
        needed.states.extend(&inventory.found.newer_states);
        loop {
            let plan = plan(inventory, &needed, limits, now);
            let before = needed.states.len();
            for key in &plan.states {
                if !self.newer_files(key)?.is_empty() {
                    needed.states.insert(*key);
                }
            }
            if needed.states.len() == before {
                return Ok(plan);
            }
        }
    }

    /// Finishes what processes began that died, and sets times right. On a full disk this can wait.
    fn settle(&self, now: i64) -> Result<()> {
        let settled = self.lock_labels().map(drop).and_then(|()| self.index.clamp_times(now));
        match settled {
            Err(error) if !error.is_unwritable() => Err(error),
            _ => Ok(()),
        }
    }

    fn apply(
        &self,
        guard: &ExclusiveGuard,
        plan: &Plan,
        inventory: &Inventory,
        now: i64,
    ) -> Result<Vec<Left>> {
        // First what needs no index: on a full disk this makes the room that the rest takes.
        let mut removal = Removal::default();
        let useless = inventory.found.stray.iter().chain(&inventory.usage.staging);
        let useless: Vec<PathBuf> = useless.map(|entry| entry.path.clone()).collect();
        self.remove_files(&useless, &mut removal);
        self.sync_folders(&mut removal)?;
        let mut left = std::mem::take(&mut removal.left);
        let states = self.doomed(&plan.states, inventory)?;
        left.extend(self.discard(guard, &states, &plan.doomed)?);
        self.adopt(guard, plan, inventory, now)?;
        // Nothing is left of what was removed: it was among the strays. On a full disk this can wait.
        let forgotten = self.index.intents().and_then(|intents| self.index.forget_intents(&intents));
        match forgotten.and_then(|()| self.index.forget_removed()).and_then(|()| self.index.compact()) {
            Err(error) if !error.is_unwritable() => Err(error),
            _ => Ok(left),
        }
    }

    /// Files of the states that go, and of those whose deletion was begun before.
    fn doomed(&self, keys: &[StateKey], inventory: &Inventory) -> Result<Vec<Doomed>> {
        let mut doomed = inventory.tombstoned.clone();
        for key in keys {
            let Some(usage) = self.index.usage(key)? else { continue };
            let manifests = usage.manifests.iter().map(|m| m.lineage).collect();
            doomed.push(Doomed { key: *key, manifests, record: usage.record.map(|(object, _)| object) });
        }
        Ok(doomed)
    }

    /// Gives rows to what has none and stays; removes the files of found states that go.
    fn adopt(&self, guard: &ExclusiveGuard, plan: &Plan, inventory: &Inventory, now: i64) -> Result<()> {
        let doomed: HashSet<(ChainKey, Lineage)> = plan.doomed.iter().map(|row| row.id()).collect();
        let gone: HashSet<StateKey> = plan.states.iter().copied().collect();
        let found = &inventory.found;
        self.adopt_found(found, |row| !doomed.contains(&row.id()), |key| !gone.contains(key), now)?;
        // What was found and goes had no rows: it gets them for a moment, so that it goes like everything else.
        let going: Vec<_> = found.segments.iter().filter(|row| doomed.contains(&row.id())).cloned().collect();
        let states = found.states.iter().filter(|state| !state.known && gone.contains(&state.key()));
        let states: Vec<Doomed> = states.map(found::FoundState::doomed).collect();
        self.discard(guard, &states, &going).map(drop)
    }
}
