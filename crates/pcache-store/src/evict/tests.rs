use super::*;
use pcache_format::label::Name;
use pcache_format::{Layout, Lineage, ModelHash, ObjectId, StateKind};

const DAY: i64 = 86_400;
const NOW: i64 = 1_000 * DAY;

fn segment(n: u8, file_bytes: u64) -> SegmentRow {
    SegmentRow {
        chain: ChainKey::from([n; 32]),
        lineage: Lineage::Unknown,
        parent: ChainKey::from([0; 32]),
        parent_lineage: Lineage::Unknown,
        raw_blake3: None,
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
        names: Vec::<Name>::new(),
        kind: StateKind::Prompt,
        lineage: Lineage::Unknown,
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
        description_bytes: 0,
        description_files: 0,
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
    states[2].description_bytes = 7;
    let limits = Limits { max_bytes: Some(181), ..Limits::default() };
    let gone: Vec<_> = plan(&states, &segments, 5, &limits, NOW).iter().map(|e| (e.state, e.frees)).collect();
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
    let gone: Vec<_> = plan(&states, &segments, 0, &limits, NOW).iter().map(|e| (e.state, e.frees)).collect();
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
