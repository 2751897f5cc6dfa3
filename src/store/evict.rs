//! Which states go: a pure plan over what the index knows.

use std::collections::HashSet;

use super::index::{ListedState, SegmentRow};
use crate::key::{ChainKey, StateKey};

/// What may stay. Each limit only ever removes; without any, every state stays.
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
    /// Bytes of objects that nobody else needs once it is gone.
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

/// What a build is about to use or has just made.
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
    /// How many of the states that stay use each segment.
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
        let records: u64 = states.iter().map(|s| s.record_bytes).sum();
        let bytes = fixed_bytes + records + segments.iter().map(|s| s.file_bytes).sum::<u64>();
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
        state.segments.iter().map(|&n| self.segments[n].file_bytes).sum::<u64>() + state.record_bytes
    }

    /// Bytes of segments that are needed by this state alone.
    fn own(&self, i: usize) -> u64 {
        let own = self.states[i].segments.iter().filter(|&&n| self.users[n] == 1);
        own.map(|&n| self.segments[n].file_bytes).sum()
    }

    fn evict(&mut self, state: usize, reason: Reason) {
        let frees = self.own(state) + self.states[state].record_bytes;
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
mod tests {
    use super::*;
    use crate::format::Layout;
    use crate::key::{ModelHash, ObjectId};

    const DAY: i64 = 86_400;
    const NOW: i64 = 1_000 * DAY;

    fn segment(n: u8, file_bytes: u64) -> SegmentRow {
        SegmentRow {
            chain: ChainKey::from([n; 32]),
            parent: ChainKey::from([0; 32]),
            object: ObjectId::from([n; 32]),
            layout: Layout::Segment,
            first: 0,
            count: 1,
            raw_bytes: file_bytes,
            file_bytes,
        }
    }

    fn state(n: u8, unused_days: i64, segments: &[usize]) -> ListedState {
        ListedState {
            key: StateKey::from([n; 32]),
            name: None,
            model: ModelHash::from([0; 32]),
            model_path: String::new(),
            tokens: 1,
            created: 0,
            last_used: NOW - unused_days * DAY,
            hits: 0,
            pinned: false,
            expires: None,
            origin: String::new(),
            cost_s: 1.0,
            record: None,
            record_bytes: 0,
            segments: segments.to_vec(),
        }
    }

    fn plan(
        states: &[ListedState],
        segments: &[SegmentRow],
        fixed_bytes: u64,
        limits: &Limits,
        now: i64,
    ) -> Vec<Eviction> {
        super::plan(states, segments, &Needed::default(), fixed_bytes, limits, now)
    }

    /// Three states, newest first; the first two share segment 0.
    fn example() -> (Vec<ListedState>, Vec<SegmentRow>) {
        let segments = vec![segment(0, 100), segment(1, 10), segment(2, 20), segment(3, 40)];
        (vec![state(1, 1, &[0, 1]), state(2, 5, &[0, 2]), state(3, 40, &[3])], segments)
    }

    fn gone(limits: Limits) -> Vec<(usize, u64)> {
        let (states, segments) = example();
        plan(&states, &segments, 5, &limits, NOW).iter().map(|e| (e.state, e.frees)).collect()
    }

    #[test]
    fn without_limits_all_stay() {
        assert_eq!(gone(Limits::default()), []);
    }

    #[test]
    fn age_is_counted_from_the_last_use() {
        let age = |days| gone(Limits { max_age_s: Some(days * DAY), ..Limits::default() });
        assert_eq!(age(30), [(2, 40)]);
        assert_eq!(age(4), [(2, 40), (1, 20)]);
        assert_eq!(age(40), []);
    }

    #[test]
    fn the_number_keeps_the_most_recently_used() {
        let keep = |n| gone(Limits { max_states: Some(n), ..Limits::default() });
        assert_eq!(keep(3), []);
        assert_eq!(keep(1), [(2, 40), (1, 20)]);
        assert_eq!(keep(0), [(2, 40), (1, 20), (0, 110)]);
    }

    #[test]
    fn size_frees_the_least_recently_used_until_it_fits_and_counts_shared_segments_once() {
        let size = |max| gone(Limits { max_bytes: Some(max), ..Limits::default() });
        assert_eq!(size(175), []);
        assert_eq!(size(174), [(2, 40)]);
        assert_eq!(size(115), [(2, 40), (1, 20)]);
        assert_eq!(size(114), [(2, 40), (1, 20), (0, 110)]);
    }

    #[test]
    fn a_state_that_frees_nothing_goes_for_its_size_only_when_nothing_else_is_left() {
        let segments = vec![segment(0, 100), segment(1, 50)];
        // The oldest holds a prefix of the youngest.
        let states = vec![state(1, 1, &[0, 1]), state(2, 9, &[0])];
        let size = |max| {
            let limits = Limits { max_bytes: Some(max), ..Limits::default() };
            plan(&states, &segments, 0, &limits, NOW).iter().map(|e| (e.state, e.frees)).collect::<Vec<_>>()
        };
        assert_eq!(size(149), [(0, 50)]);
        assert_eq!(size(99), [(0, 50), (1, 100)]);
        let twins = vec![state(1, 1, &[0]), state(2, 9, &[0])];
        let limits = Limits { max_bytes: Some(99), ..Limits::default() };
        let gone: Vec<_> =
            plan(&twins, &segments[..1], 0, &limits, NOW).iter().map(|e| (e.state, e.frees)).collect();
        assert_eq!(gone, [(1, 0), (0, 100)]);
    }

    #[test]
    fn pinned_states_stay_and_expired_ones_go() {
        let (mut states, segments) = example();
        states[2].pinned = true;
        states[0].expires = Some(NOW);
        let limits = Limits { max_states: Some(0), ..Limits::default() };
        let gone: Vec<_> =
            plan(&states, &segments, 0, &limits, NOW).into_iter().map(|e| (e.state, e.reason)).collect();
        assert_eq!(gone, [(0, Reason::Expired), (1, Reason::Count { limit: 0 })]);
    }

    #[test]
    fn of_states_used_in_the_same_minute_the_one_cheaper_per_byte_goes_first() {
        let segments = vec![segment(0, 100), segment(1, 100), segment(2, 10)];
        let mut states = vec![state(1, 1, &[0]), state(2, 1, &[1]), state(3, 1, &[2])];
        for (state, (unused_s, cost_s)) in states.iter_mut().zip([(600, 5.0), (601, 50.0), (602, 4.0)]) {
            (state.last_used, state.cost_s) = (NOW - unused_s, cost_s);
        }
        let order = |states: &[ListedState], max: u64| {
            let limits = Limits { max_bytes: Some(max), ..Limits::default() };
            plan(states, &segments, 0, &limits, NOW).iter().map(|e| e.state).collect::<Vec<_>>()
        };
        // NOW is a whole minute, so all three were used in the same one. 0.05, 0.5 and 0.4 seconds a byte.
        states.iter_mut().for_each(|s| s.last_used -= 30);
        assert_eq!(order(&states, 0), [0, 2, 1]);
        // An hour older counts more than any cost.
        states[1].last_used -= 3600;
        assert_eq!(order(&states, 0), [1, 0, 2]);
    }

    #[test]
    fn segments_about_to_be_used_free_nothing() {
        let (states, segments) = example();
        let needed = Needed { chains: HashSet::from([segments[3].chain]), ..Needed::default() };
        let limits = Limits { max_bytes: Some(174), ..Limits::default() };
        let gone: Vec<_> = super::plan(&states, &segments, &needed, 5, &limits, NOW)
            .iter()
            .map(|e| (e.state, e.frees))
            .collect();
        assert_eq!(gone, [(1, 20)]);
    }

    #[test]
    fn a_record_goes_with_its_state() {
        let (mut states, segments) = example();
        states[2].record_bytes = 7;
        let limits = Limits { max_bytes: Some(181), ..Limits::default() };
        let gone: Vec<_> =
            plan(&states, &segments, 5, &limits, NOW).iter().map(|e| (e.state, e.frees)).collect();
        assert_eq!(gone, [(2, 47)]);
    }

    /// Two states that share everything were once kept for ever, and younger ones went instead.
    #[test]
    fn twins_go_together_when_their_turn_comes() {
        let segments = vec![segment(0, 100), segment(1, 50), segment(2, 500)];
        let states = vec![state(1, 1, &[2]), state(2, 5, &[1]), state(3, 8, &[0]), state(4, 9, &[0])];
        let gone = |max: u64| {
            let limits = Limits { max_bytes: Some(max), ..Limits::default() };
            plan(&states, &segments, 0, &limits, NOW).iter().map(|e| (e.state, e.frees)).collect::<Vec<_>>()
        };
        assert_eq!(gone(649), [(3, 0), (2, 100)]);
        assert_eq!(gone(549), [(3, 0), (2, 100), (1, 50)]);
    }

    /// A state that was passed over because a younger one shared its all goes right after that one.
    #[test]
    fn what_became_own_goes_before_younger_states() {
        let segments = vec![segment(0, 100), segment(1, 10), segment(2, 500)];
        let states = vec![state(1, 1, &[2]), state(2, 5, &[0, 1]), state(3, 9, &[0])];
        let limits = Limits { max_bytes: Some(550), ..Limits::default() };
        let gone: Vec<_> =
            plan(&states, &segments, 0, &limits, NOW).iter().map(|e| (e.state, e.frees)).collect();
        assert_eq!(gone, [(1, 10), (2, 100)]);
    }

    #[test]
    fn what_was_just_built_stays() {
        let (states, segments) = example();
        let needed = Needed { states: HashSet::from([states[2].key]), ..Needed::default() };
        let limits = Limits { max_bytes: Some(0), ..Limits::default() };
        let gone: Vec<_> =
            super::plan(&states, &segments, &needed, 5, &limits, NOW).iter().map(|e| e.state).collect();
        assert_eq!(gone, [1, 0]);
    }
}
