//! What becomes of what was found: pure.

use std::collections::HashSet;

use super::super::evict::{self, Eviction, Limits, Needed};
use super::super::index::{ListedState, SegmentRow};
use super::super::usage;
use super::scene::Scene;
use super::{ADOPTED_GRACE_S, Evicted, Files, Outcome};
use crate::key::{ChainKey, ObjectId, StateKey};

/// What is to be done.
pub(super) struct Plan {
    pub(super) outcome: Outcome,
    pub(super) states: Vec<(StateKey, Option<ObjectId>)>,
    pub(super) going: Vec<SegmentRow>,
}

pub(super) fn plan(scene: &Scene, needed: &Needed, limits: &Limits, now: i64) -> Plan {
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
    let index_bytes = usage::bytes(&scene.usage.index);
    let states = evictions.iter().map(|e| &scene.states[e.state]).map(|s| (s.key, s.record)).collect();
    let gone_keys: HashSet<StateKey> = gone.iter().map(|&i| scene.states[i].key).collect();
    let outcome = Outcome {
        adopted_states: scene.found.records.iter().filter(|(r, ..)| !gone_keys.contains(&r.key)).count(),
        evicted: evictions.into_iter().map(|e| evicted(&scene.states[e.state], &e)).collect(),
        orphans: unused.orphans,
        staging: Files::of(&scene.usage.staging),
        strays: Files::of(&scene.found.stray),
        unreadable: Files::of(&scene.found.unreadable),
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
