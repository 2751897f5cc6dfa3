//! Decides about each thing that was found. Pure.

use std::collections::HashSet;

use pcache_format::{ChainKey, Lineage, StateKey};

use super::inventory::{self, Inventory};
use super::{ADOPTED_GRACE_S, Evicted, Files, Outcome};
use crate::evict::{self, Eviction, Limits, Needed};
use crate::index::{ListedState, SegmentRow};
use crate::usage;

/// Actions of a collection.
pub(super) struct Plan {
    pub(super) outcome: Outcome,
    /// States that go.
    pub(super) states: Vec<StateKey>,
    /// Segments that go.
    pub(super) doomed: Vec<SegmentRow>,
}

pub(super) fn plan(inventory: &Inventory, needed: &Needed, limits: &Limits, now: i64) -> Plan {
    let unused = plan_unused(inventory, needed, limits, now);
    let fixed = inventory.usage.fixed_bytes();
    let beside = fixed + unused.waiting.bytes;
    let evictions = evict::plan(&inventory.states, &inventory.segments, needed, beside, limits, now);
    let gone: HashSet<usize> = evictions.iter().map(|e| e.state).collect();
    let kept: HashSet<usize> = (0..inventory.states.len())
        .filter(|i| !gone.contains(i))
        .flat_map(|i| inventory.states[i].segments.iter().copied())
        .collect();
    let (mut live, mut doomed) = (Files::default(), unused.doomed);
    let stays = (0..inventory.states.len()).filter(|i| !gone.contains(i));
    for state in stays.map(|i| &inventory.states[i]) {
        live.count += state.description_files;
        live.bytes += state.description_bytes;
    }
    for (n, row) in inventory.segments.iter().enumerate() {
        if kept.contains(&n) || needed.chains.contains(&row.chain) {
            live.add(row.file_bytes);
        } else {
            doomed.push(row.clone());
        }
    }
    let index_bytes = usage::bytes(&inventory.usage.index);
    let states = evictions.iter().map(|e| inventory.states[e.state].key).collect();
    let gone_keys: HashSet<StateKey> = gone.iter().map(|&i| inventory.states[i].key).collect();
    let outcome = Outcome {
        adopted_states: inventory
            .found
            .states
            .iter()
            .filter(|s| !s.known && !gone_keys.contains(&s.key()))
            .count(),
        evicted: evictions.into_iter().map(|e| evicted(&inventory.states[e.state], &e)).collect(),
        orphans: unused.orphans,
        staging: Files::new(&inventory.usage.staging),
        strays: Files::new(&inventory.found.stray),
        unreadable: Files::new(&inventory.found.unreadable),
        newer: Files::new(&inventory.found.newer),
        unseen: inventory.usage.unreadable.clone(),
        left: Vec::new(),
        adopted: unused.adopted,
        before: inventory.usage.total_bytes(),
        after: fixed + live.bytes + unused.waiting.bytes,
        live,
        index_bytes,
        waiting: unused.waiting,
        other_bytes: fixed - index_bytes,
    };
    Plan { states, doomed, outcome }
}

fn evicted(state: &ListedState, eviction: &Eviction) -> Evicted {
    let (reason, frees) = (eviction.reason, eviction.frees);
    let names = state.names.iter().map(|name| name.name.clone()).collect();
    Evicted { key: state.key, names, reason, frees }
}

/// Actions on the segments without a state.
#[derive(Default)]
struct Unused {
    doomed: Vec<SegmentRow>,
    orphans: Files,
    waiting: Files,
    adopted: Files,
}

/// Adopted segments may wait for a state, but not at the cost of one; the others go.
fn plan_unused(inventory: &Inventory, needed: &Needed, limits: &Limits, now: i64) -> Unused {
    let records: u64 = inventory.states.iter().map(|s| s.description_bytes).sum();
    let live = records + inventory.segments.iter().map(|row| row.file_bytes).sum::<u64>();
    let taken = inventory.usage.fixed_bytes() + live;
    let mut budget =
        limits.max_bytes.map(|max| max.saturating_sub(limits.reserved_bytes).saturating_sub(taken));
    let found: HashSet<(ChainKey, Lineage)> = inventory.found.segments.iter().map(SegmentRow::id).collect();
    let mut unused = Unused::default();
    for inventory::Unused { row, adopted, tombstone } in &inventory.unused {
        let bytes = row.file_bytes;
        let young = !tombstone && adopted.is_some_and(|at| now.saturating_sub(at) < ADOPTED_GRACE_S);
        let wanted = needed.chains.contains(&row.chain) || inventory.hides_states && !tombstone;
        if wanted || young && budget.is_none_or(|left| bytes <= left) {
            budget = budget.map(|left| left.saturating_sub(bytes));
            unused.waiting.add(bytes);
            if found.contains(&row.id()) {
                unused.adopted.add(bytes);
            }
        } else {
            unused.orphans.add(bytes);
            unused.doomed.push(row.clone());
        }
    }
    unused
}
