//! Looking: every object of every state, each once.

use std::collections::HashMap;

use anyhow::Result;

use super::{Checked, Status, Trouble};
use crate::cache::progress::Unit;
use crate::cache::{self, Call};
use pcache_format::{ChainKey, Lineage, StateKey};
use pcache_store::{Miss, Prefix, SegmentRow, SharedGuard, State, Store};

/// Hashes every object of states, each once, under the shared lock. A row that only a crash kept from agreeing with its label is
/// written again where `repair` says so. What is gone by now is not among the results.
///
/// # Errors
/// When the index or the disk fails.
pub fn check(call: Call<'_>, store: &Store, keys: &[StateKey], repair: bool) -> Result<Vec<Checked>> {
    let guard = call.lock_shared(store)?;
    Checker { call, store, guard: &guard, repair, known: HashMap::new() }.check_all(keys)
}

/// Hashes objects, each once.
struct Checker<'s> {
    call: Call<'s>,
    store: &'s Store,
    guard: &'s SharedGuard,
    repair: bool,
    /// Results for the segments so far.
    known: HashMap<(ChainKey, Lineage), Option<Miss>>,
}

impl Checker<'_> {
    fn check_all(&mut self, keys: &[StateKey]) -> Result<Vec<Checked>> {
        let progress = self.call.progress();
        let worth_a_bar = keys.len() > 1;
        if worth_a_bar {
            progress.start("verifying", keys.len() as u64, Unit::States);
        }
        let mut checked = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            checked.extend(self.check(key)?);
            if worth_a_bar {
                progress.set(i as u64 + 1);
            }
        }
        progress.finish();
        Ok(checked)
    }

    /// Nothing if the state is gone by now.
    fn check(&mut self, key: &StateKey) -> Result<Option<Checked>> {
        let Some(mut state) = self.store.state(key)? else { return Ok(None) };
        let mut trouble = self.trouble(&state)?;
        let mut healed = None;
        // What a crash left between a label and its row: the file counts.
        if let (true, Some(Trouble::Description(Miss::Description { file: "label", missing: false, .. }))) =
            (self.repair, &trouble)
            && self.store.restore_row(self.guard, key)?
        {
            healed = trouble.as_ref().map(Trouble::reason);
            state = cache::state(self.store, key)?;
            trouble = self.trouble(&state)?;
        }
        let rows = self.store.segments_of(key)?;
        Ok(Some(Checked {
            key: *key,
            name: state.label.name().map(str::to_owned),
            status: match (&trouble, &healed) {
                (Some(trouble), _) => trouble.status(),
                (None, Some(_)) => Status::Healed,
                (None, None) => Status::Ok,
            },
            objects: rows.len() + state.usage.files(),
            bytes: rows.iter().map(|r| r.file_bytes).sum::<u64>() + state.usage.bytes(),
            max_logit_difference: None,
            reason: trouble.as_ref().map(Trouble::reason).or(healed),
            compared: None,
            newer: self.store.newer_files(key)?,
            trouble,
        }))
    }

    /// The first thing that is wrong with a state's segments, else with the files that describe it.
    fn trouble(&mut self, state: &State) -> Result<Option<Trouble>> {
        let described = self.store.check_description(&state.key())?.map(Trouble::Description);
        if !state.is_whole() {
            return Ok(Some(described.unwrap_or(Trouble::Description(Miss::NotSaved))));
        }
        let segments = self.segments(state)?;
        Ok(segments.map(Trouble::Segment).or(described))
    }

    /// The first segment that is not as it was saved: of the path that an ask would take, then of all others.
    fn segments(&mut self, state: &State) -> Result<Option<Miss>> {
        let prefix = Prefix::of_manifest(&state.manifest);
        let rows = self.store.segments_of(&state.key())?;
        let unknown: Vec<&SegmentRow> = rows.iter().filter(|r| !self.known.contains_key(&r.id())).collect();
        for (row, miss) in self.store.prove(self.guard, &prefix, &unknown) {
            self.known.insert(row.id(), miss);
        }
        let damaged = rows.iter().find_map(|row| self.known.get(&row.id()).cloned().flatten());
        if damaged.is_some() {
            return Ok(damaged);
        }
        let missing = self.store.missing(&prefix, self.call.same_compute && self.repair)?;
        let foreign = self.store.missing(&prefix, false)?.is_empty();
        Ok((!missing.is_empty()).then_some(if foreign { Miss::Foreign } else { Miss::NotSaved }))
    }
}
