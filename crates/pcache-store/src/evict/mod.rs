//! Which states go: a pure plan over what the index knows.

use std::collections::HashSet;

use pcache_format::{ChainKey, StateKey};

use super::index::{ListedState, SegmentRow};

/// Limits of a store. Each one only ever removes; without any, every state stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole folder.
    pub max_bytes: Option<u64>,
    /// Bytes of those that are to stay free.
    pub reserved_bytes: u64,
    /// Seconds since the last use.
    pub max_age_s: Option<i64>,
    /// Number of states.
    pub max_states: Option<usize>,
}

/// Why a state goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its time to live is over.
    Expired,
    /// Not used for longer than allowed.
    Age {
        /// Seconds since its last use.
        unused_s: i64,
    },
    /// More recently used states fill the allowed number.
    Count {
        /// The allowed number.
        limit: usize,
    },
    /// More recently used states fill the allowed size.
    Size {
        /// The allowed bytes.
        limit: u64,
    },
}

/// One state that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// Its place in the list that was planned over.
    pub state: usize,
    /// Why.
    pub reason: Reason,
    /// Bytes of objects that no other state uses.
    pub frees: u64,
}

/// Uses within so many seconds are equally old when room is short: what was cheaper to build goes first then.
const EQUALLY_OLD_S: i64 = 60;

/// Plans evictions: expired states and old ones first, then what is beyond the number, then the least
/// recently used until the folder fits; of states used in the same minute the one that was cheaper to build per byte.
/// Pinned states stay. A state that only holds what others need too frees nothing; it goes for its size only when
/// nothing else is left to go.
///
/// `states` are ordered by last use, newest first; their segments are numbers in `segments`. What is `needed` stays.
/// `fixed_bytes` is what the folder holds beside the states' objects.
pub fn plan(
    states: &[ListedState],
    segments: &[SegmentRow],
    needed: &Needed,
    fixed_bytes: u64,
    limits: &Limits,
    now: i64,
) -> Vec<Eviction> {
    let mut planner = Planner::new(states, segments, needed, fixed_bytes);
    for i in planner.candidates() {
        let unused_s = now.saturating_sub(states[i].last_used);
        if states[i].expires.is_some_and(|t| t <= now) {
            planner.evict(i, Reason::Expired);
        } else if limits.max_age_s.is_some_and(|max| unused_s > max) {
            planner.evict(i, Reason::Age { unused_s });
        }
    }
    if let Some(limit) = limits.max_states {
        for i in planner.candidates() {
            if planner.left > limit {
                planner.evict(i, Reason::Count { limit });
            }
        }
    }
    if let Some(limit) = limits.max_bytes {
        planner.fit(limit.saturating_sub(limits.reserved_bytes), Reason::Size { limit });
    }
    planner.evictions
}

/// States and segments that a build is about to use or has just made.
#[derive(Debug, Clone, Default)]
pub struct Needed {
    /// Segments, which stay even when their states go.
    pub chains: HashSet<ChainKey>,
    /// States, which stay as if they were pinned.
    pub states: HashSet<StateKey>,
}

struct Planner<'a> {
    states: &'a [ListedState],
    segments: &'a [SegmentRow],
    /// Number of the remaining states that use each segment.
    users: Vec<usize>,
    /// States that cannot go: pinned or needed.
    held: Vec<bool>,
    stays: Vec<bool>,
    bytes: u64,
    left: usize,
    evictions: Vec<Eviction>,
}

impl<'a> Planner<'a> {
    fn new(states: &'a [ListedState], segments: &'a [SegmentRow], needed: &Needed, fixed_bytes: u64) -> Self {
        let mut users: Vec<usize> =
            segments.iter().map(|s| usize::from(needed.chains.contains(&s.chain))).collect();
        let held = states.iter().map(|s| s.pinned || needed.states.contains(&s.key)).collect();
        states.iter().flat_map(|s| &s.segments).for_each(|&n| users[n] += 1);
        let descriptions: u64 = states.iter().map(|s| s.description_bytes).sum();
        let bytes = fixed_bytes + descriptions + segments.iter().map(|s| s.file_bytes).sum::<u64>();
        let (stays, left) = (vec![true; states.len()], states.len());
        Self { states, segments, users, held, stays, bytes, left, evictions: Vec::new() }
    }

    /// The states that could go, the least recently used first.
    fn candidates(&self) -> Vec<usize> {
        (0..self.states.len()).rev().filter(|&i| self.stays[i] && !self.held[i]).collect()
    }

    /// The same for making room: by age in coarse steps, then by what a byte costs to compute again.
    fn candidates_for_room(&self) -> Vec<usize> {
        let mut order = self.candidates();
        let cost = |i: usize| self.states[i].cost_s / self.needs(i).max(1) as f64;
        order.sort_by(|&a, &b| {
            let age = |i: usize| self.states[i].last_used.div_euclid(EQUALLY_OLD_S);
            age(a).cmp(&age(b)).then(cost(a).total_cmp(&cost(b)))
        });
        order
    }

    /// Bytes of all that a state needs.
    fn needs(&self, i: usize) -> u64 {
        let state = &self.states[i];
        state.segments.iter().map(|&n| self.segments[n].file_bytes).sum::<u64>() + state.description_bytes
    }

    /// Bytes of segments that are needed by this state alone.
    fn own(&self, i: usize) -> u64 {
        let own = self.states[i].segments.iter().filter(|&&n| self.users[n] == 1);
        own.map(|&n| self.segments[n].file_bytes).sum()
    }

    fn evict(&mut self, state: usize, reason: Reason) {
        let frees = self.own(state) + self.states[state].description_bytes;
        self.states[state].segments.iter().for_each(|&n| self.users[n] -= 1);
        self.stays[state] = false;
        self.bytes -= frees;
        self.left -= 1;
        self.evictions.push(Eviction { state, reason, frees });
    }

    /// Evicts until the folder fits. States that only hold what others hold, too, are passed over, and go together when
    /// the last of those who share something comes up.
    fn fit(&mut self, limit: u64, reason: Reason) {
        let order = self.candidates_for_room();
        let mut rank = vec![0; self.states.len()];
        order.iter().enumerate().for_each(|(r, &i)| rank[i] = r);
        // For each segment, the states that were passed over and use it.
        let mut passed: Vec<Vec<usize>> = vec![Vec::new(); self.segments.len()];
        for &i in &order {
            if self.bytes <= limit {
                return;
            }
            if self.own(i) > 0 {
                self.evict(i, reason);
                self.evict_what_became_own(i, &mut passed, limit, reason);
                continue;
            }
            let states = self.states;
            let together = |n: &&usize| {
                let waiting = passed[**n].iter().filter(|&&p| self.stays[p]).count();
                self.users[**n] == waiting + 1
            };
            let mut group: Vec<usize> =
                states[i].segments.iter().filter(together).flat_map(|&n| passed[n].iter().copied()).collect();
            if group.is_empty() {
                states[i].segments.iter().for_each(|&n| passed[n].push(i));
                continue;
            }
            group.sort_unstable_by_key(|&p| rank[p]);
            group.dedup();
            for p in group.into_iter().chain([i]).filter(|&p| self.stays[p]).collect::<Vec<_>>() {
                self.evict(p, reason);
            }
        }
        // What is left shares everything with states that cannot go: only the records are to be had.
        for i in order {
            if self.bytes > limit && self.stays[i] {
                self.evict(i, reason);
            }
        }
    }

    /// After `gone` went, states that were passed over may hold something alone.
    fn evict_what_became_own(&mut self, gone: usize, passed: &mut [Vec<usize>], limit: u64, reason: Reason) {
        let states = self.states;
        for &n in &states[gone].segments {
            for p in std::mem::take(&mut passed[n]) {
                if self.bytes > limit && self.stays[p] && self.own(p) > 0 {
                    self.evict(p, reason);
                } else if self.stays[p] {
                    passed[n].push(p);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
