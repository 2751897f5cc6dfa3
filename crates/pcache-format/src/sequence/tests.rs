use proptest::prelude::*;

use super::*;

/// Part of a state, for writing it as llama.cpp does.
#[derive(Debug, Clone)]
enum Cache {
    Attention { cells: usize, extended: bool, layers: usize, row: usize, v_rows: Option<usize> },
    Recurrent { layers: usize, rows: Vec<usize>, history: usize },
}

/// A state, and what its bytes are.
#[derive(Debug, Clone, Default)]
struct State {
    bytes: Vec<u8>,
    /// Bytes of numbers that can only be what they are.
    numbers: Vec<usize>,
    /// Bytes of numbers with more than one possible value: places in two dimensions, tokens, rotations.
    loose: Vec<usize>,
    /// Places where the state of another model would end: one with fewer caches, or without V.
    ends: Vec<usize>,
}

impl State {
    fn number<const N: usize>(&mut self, bytes: [u8; N]) {
        self.numbers.extend(self.bytes.len()..self.bytes.len() + N);
        self.bytes.extend(bytes);
    }

    fn u32(&mut self, n: u32) {
        self.number(n.to_le_bytes());
    }

    fn loose(&mut self, n: u32) {
        self.loose.extend(self.bytes.len()..self.bytes.len() + 4);
        self.bytes.extend(n.to_le_bytes());
    }

    fn data(&mut self, n: usize) {
        self.bytes.extend((0..n).map(|i| (i * 37 + 11) as u8));
    }

    fn of(expected: &Expected, caches: &[Cache]) -> Self {
        let mut state = Self::default();
        state.u32(0xaf14_3cd8);
        state.u32(expected.place.sequence as u32);
        for cache in caches {
            state.ends.push(state.bytes.len());
            match cache {
                Cache::Attention { cells, extended, layers, row, v_rows } => {
                    state.attention(expected, *cells, *extended, (*layers, *row, *v_rows));
                }
                Cache::Recurrent { layers, rows, history } => {
                    state.recurrent(expected, *layers, rows, *history);
                }
            }
        }
        state
    }

    fn attention(
        &mut self,
        expected: &Expected,
        cells: usize,
        extended: bool,
        (layers, row, v_rows): (usize, usize, Option<usize>),
    ) {
        let (kind, block) = match expected.kv_type {
            KvType::F16 => (1, 2),
            KvType::Q8_0 => (8, 34),
            KvType::Q4_0 => (2, 18),
        };
        let end = expected.first + expected.count;
        self.u32(expected.place.streams);
        (0..expected.place.stream).for_each(|_| self.u32(0));
        self.u32(cells as u32);
        for position in end - cells..end {
            self.u32(position as u32);
            self.u32(1);
            if extended {
                (0..2).for_each(|_| self.loose(position as u32));
                self.loose(5);
            }
            self.u32(expected.place.sequence as u32);
        }
        self.u32(expected.transposed.into());
        self.u32(layers as u32);
        self.loose(0);
        self.loose(0);
        for _ in 0..layers {
            self.u32(kind);
            self.number(((row * block) as u64).to_le_bytes());
            self.data(row * block * cells);
        }
        self.ends.push(self.bytes.len());
        for v_rows in std::iter::repeat_n(v_rows, layers).flatten() {
            self.u32(kind);
            if expected.transposed {
                self.u32(block as u32);
                self.u32(v_rows as u32);
            } else {
                self.number(((v_rows * block) as u64).to_le_bytes());
            }
            self.data(v_rows * block * cells);
        }
        (expected.place.stream + 1..expected.place.streams).for_each(|_| self.u32(0));
    }

    fn recurrent(&mut self, expected: &Expected, layers: usize, rows: &[usize], history: usize) {
        self.u32(1);
        self.u32((expected.first + expected.count - 1) as u32);
        self.u32(0);
        self.u32(0);
        self.u32(layers as u32);
        for row in rows {
            self.ends.push(self.bytes.len());
            self.u32(0);
            self.number((*row as u64 * 4).to_le_bytes());
            self.data(row * 4);
            if row == &rows[0] && history > 0 {
                self.number((history as u64 * 4).to_le_bytes());
                self.data(history * 4);
            }
        }
    }
}

fn expected(layout: Layout, kv_type: KvType, transposed: bool) -> Expected {
    let first = if layout == Layout::Segment { 512 } else { 0 };
    Expected { layout, place: Place::unified(1), first, count: 7, kv_type, transposed, layers: 3 }
}

fn cache(cells: usize, layers: usize) -> Cache {
    Cache::Attention { cells, extended: false, layers, row: 2, v_rows: Some(3) }
}

/// One state for each way in which an architecture keeps its memory.
fn every_kind() -> Vec<(&'static str, Expected, Vec<Cache>)> {
    let segment = |transposed| expected(Layout::Segment, KvType::F16, transposed);
    let snapshot = || expected(Layout::Snapshot, KvType::F16, true);
    let latent = Cache::Attention { cells: 7, extended: false, layers: 3, row: 4, v_rows: None };
    let extended = Cache::Attention { cells: 7, extended: true, layers: 3, row: 2, v_rows: Some(2) };
    let indexer = Cache::Attention { cells: 7, extended: true, layers: 2, row: 5, v_rows: None };
    let recurrent = Cache::Recurrent { layers: 3, rows: vec![5, 5, 9, 9], history: 0 };
    let convolved = Cache::Recurrent { layers: 3, rows: vec![5, 9], history: 3 };
    vec![
        ("attention", segment(false), vec![cache(7, 3)]),
        ("attention, V transposed", segment(true), vec![cache(7, 3)]),
        ("quantised", expected(Layout::Segment, KvType::Q8_0, false), vec![cache(7, 3)]),
        ("coarsely quantised", expected(Layout::Segment, KvType::Q4_0, false), vec![cache(7, 3)]),
        ("full and sliding window", segment(true), vec![cache(7, 1), cache(4, 2)]),
        ("sliding window alone", segment(false), vec![cache(7, 0), cache(4, 3)]),
        ("latent", segment(false), vec![latent.clone()]),
        ("latent with an indexer", segment(true), vec![latent.clone(), latent]),
        ("in two dimensions", segment(false), vec![extended.clone()]),
        ("recurrent", snapshot(), vec![recurrent.clone()]),
        ("hybrid", snapshot(), vec![cache(7, 1), recurrent.clone()]),
        ("recurrent with a convolution", snapshot(), vec![convolved]),
        ("hybrid in two dimensions with an indexer", snapshot(), vec![extended, recurrent, indexer]),
    ]
}

#[test]
fn every_kind_is_let_through_and_no_part_of_it() {
    for (what, expected, caches) in every_kind() {
        let state = State::of(&expected, &caches);
        assert_eq!(check(&state.bytes, &expected), Ok(()), "{what}");
        for end in 0..state.bytes.len() {
            let refused = check(&state.bytes[..end], &expected).is_err();
            assert!(refused || state.ends[1..].contains(&end), "{what}: the first {end} bytes");
        }
        for more in [0u8, 1, 255] {
            let longer = [&state.bytes[..], &[more]].concat();
            assert!(check(&longer, &expected).is_err(), "{what}: a byte more");
        }
    }
}

#[test]
fn every_number_is_checked() {
    for (what, expected, caches) in every_kind() {
        let state = State::of(&expected, &caches);
        for &at in &state.numbers {
            for bit in 0..8 {
                let mut changed = state.bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(check(&changed, &expected).is_err(), "{what}: bit {bit} of byte {at}");
            }
        }
    }
}

#[test]
fn the_data_between_the_numbers_is_the_models_own() {
    for (what, expected, caches) in every_kind() {
        let state = State::of(&expected, &caches);
        let data =
            (0..state.bytes.len()).filter(|at| !state.numbers.contains(at) && !state.loose.contains(at));
        for at in data {
            let mut changed = state.bytes.clone();
            changed[at] ^= 0xff;
            assert_eq!(check(&changed, &expected), Ok(()), "{what}: byte {at}");
        }
    }
}

#[test]
fn a_state_of_another_place_type_or_model_is_refused() {
    for (what, right, caches) in every_kind() {
        let bytes = State::of(&right, &caches).bytes;
        let others = [
            Expected { first: right.first + 1, ..right.clone() },
            Expected { count: right.count + 1, ..right.clone() },
            Expected { place: Place::unified(0), ..right.clone() },
            Expected { layers: 0, ..right.clone() },
        ];
        for other in others {
            let differs = check(&bytes, &other).is_err();
            assert!(differs, "{what}: {other:?}");
        }
        let attention = caches.iter().any(|c| matches!(c, Cache::Attention { layers: 1.., .. }));
        let other = if right.kv_type == KvType::F16 { KvType::Q8_0 } else { KvType::F16 };
        let other = Expected { kv_type: other, ..right.clone() };
        assert_eq!(check(&bytes, &other).is_err(), attention, "{what}: {other:?}");
        let other = Expected { transposed: !right.transposed, ..right.clone() };
        assert_eq!(check(&bytes, &other).is_err(), attention, "{what}: {other:?}");
        if caches.iter().any(|c| matches!(c, Cache::Recurrent { .. })) {
            let other = Expected { layout: Layout::Segment, ..right };
            assert!(check(&bytes, &other).is_err(), "{what}: as a segment");
        }
    }
}

#[test]
fn the_first_wrong_number_is_named() {
    let expected = expected(Layout::Segment, KvType::F16, true);
    let mut bytes = State::of(&expected, &[cache(7, 3)]).bytes;
    bytes[16..20].copy_from_slice(&7i32.to_le_bytes());
    let error = check(&bytes, &expected).unwrap_err();
    assert_eq!(error.to_string(), "at byte 16 of the state: the position of a cell is 7, expected 512");
}

/// Lengths that would overflow or make a reader allocate are only compared with what is left.
#[test]
fn absurd_lengths_are_refused_at_once() {
    let expected = expected(Layout::Segment, KvType::F16, false);
    let state = State::of(&expected, &[cache(7, 3)]);
    for window in state.numbers.windows(4) {
        for value in [u32::MAX, i32::MAX as u32, 1 << 31, 0x8000_0001] {
            let mut bytes = state.bytes.clone();
            for (at, byte) in window.iter().zip(value.to_le_bytes()) {
                bytes[*at] = byte;
            }
            if bytes != state.bytes {
                assert!(check(&bytes, &expected).is_err());
            }
        }
    }
}

/// As [`every_kind`], in the places that a sequence can have; without partial windows, which are never saved.
fn every_whole_kind() -> impl Iterator<Item = (&'static str, Expected, Vec<Cache>)> {
    let whole = |cache: &Cache| match cache {
        Cache::Attention { extended, layers, row, v_rows, .. } => {
            Cache::Attention { cells: 7, extended: *extended, layers: *layers, row: *row, v_rows: *v_rows }
        }
        other => other.clone(),
    };
    let places = [Place::unified(1), Place::in_stream(0, 3), Place::in_stream(1, 3), Place::in_stream(2, 3)];
    every_kind().into_iter().flat_map(move |(what, expected, caches)| {
        let caches: Vec<Cache> = caches.iter().map(whole).collect();
        places.map(|place| (what, Expected { place, ..expected.clone() }, caches.clone()))
    })
}

fn cut(state: &SequenceState<'_>, positions: Range<usize>, place: Place) -> Vec<u8> {
    let mut bytes = vec![1, 2, 3];
    state.cut(positions, place, &mut bytes).unwrap();
    bytes
}

/// States of all kinds are cut in every way in two and three, and joined again to what they were, wherever they lay.
#[test]
fn what_is_cut_is_joined_to_the_same_bytes() {
    let to = Place::unified(1);
    for (what, expected, caches) in every_whole_kind() {
        let whole = State::of(&expected, &caches).bytes;
        let state = SequenceState::parse(&whole, &expected).unwrap();
        let (first, end) = (expected.first, expected.first + expected.count);
        let snapshot = expected.layout == Layout::Snapshot;
        for (a, b) in (first + 1..end).flat_map(|a| (a..end).map(move |b| (a, b))) {
            let mut cuts = if snapshot { vec![first, end] } else { vec![first, a, b, end] };
            cuts.dedup();
            let ranges: Vec<_> = cuts.windows(2).map(|ends| ends[0]..ends[1]).collect();
            let pieces: Vec<Vec<u8>> = ranges.iter().map(|r| cut(&state, r.clone(), to)).collect();
            let expected_of =
                |r: &Range<usize>| Expected { place: to, first: r.start, count: r.len(), ..expected.clone() };
            let parsed =
                pieces.iter().zip(&ranges).map(|(bytes, r)| SequenceState::parse(bytes, &expected_of(r)));
            let parsed: Vec<_> = parsed.collect::<Result<_, _>>().unwrap_or_else(|e| panic!("{what}: {e}"));
            let mut joined = Vec::new();
            join(&parsed, Window::None, expected.place, &mut joined).unwrap();
            assert!(joined == whole, "{what}: {ranges:?} in {:?}", expected.place);
        }
    }
}

/// Of a sliding window the whole keeps what its own end reaches: cells of one part, of some, or of all.
#[test]
fn windows_of_parts_are_joined_to_the_window_of_the_whole() {
    for window in 1..=7 {
        let of = |first: usize, count: usize| {
            let expected = Expected { first, count, ..expected(Layout::Segment, KvType::F16, true) };
            (State::of(&expected, &[cache(count, 1), cache(count.min(window), 2)]).bytes, expected)
        };
        let (a, b, whole) = (of(0, 3), of(3, 4), of(0, 7));
        let parts = [&a, &b].map(|(bytes, expected)| SequenceState::parse(bytes, expected).unwrap());
        let mut joined = Vec::new();
        join(&parts, Window::From(7 - window), whole.1.place, &mut joined).unwrap();
        assert_eq!(check(&joined, &whole.1), Ok(()), "{window}");
        assert_eq!(joined.len(), whole.0.len(), "{window}");
        let lacking = join(&parts, Window::None, whole.1.place, &mut joined);
        assert_eq!(lacking.is_err(), window < 4, "{window}: a part has let go of some");
    }
}

/// A cut piece has the bytes that a context writes that holds nothing but these positions.
#[test]
fn a_cut_piece_is_what_a_shorter_state_would_be() {
    for transposed in [false, true] {
        let expected = expected(Layout::Segment, KvType::F16, transposed);
        let mut whole = State::of(&expected, &[cache(7, 3)]).bytes;
        // Data that says whose cell and row it is.
        let parts = SequenceState::parse(&whole, &expected).unwrap().caches;
        let [walk::Cache::Attention(attention)] = parts.as_slice() else { panic!("one cache") };
        for layer in &attention.layers {
            for (i, at) in layer.data.clone().enumerate() {
                let (row, cell) = (i / layer.cell / 7 % layer.rows.max(1), i / layer.cell % 7);
                whole[at] = (row * 16 + cell) as u8;
            }
        }
        let state = SequenceState::parse(&whole, &expected).unwrap();
        let piece = cut(&state, 514..516, Place::unified(0));
        let smaller = Expected { place: Place::unified(0), first: 514, count: 2, ..expected.clone() };
        let caches = SequenceState::parse(&piece, &smaller).unwrap().caches;
        let [walk::Cache::Attention(cut)] = caches.as_slice() else { panic!("one cache") };
        for (a, b) in attention.layers.iter().zip(&cut.layers) {
            assert_eq!((a.rows, a.cell), (b.rows, b.cell));
            let cells: Vec<u8> = piece[b.data.clone()].iter().map(|byte| byte % 16).collect();
            assert!(cells.iter().all(|cell| [2, 3].contains(cell)), "{cells:?}");
            assert_eq!(b.data.len(), 2 * b.cell * b.rows);
        }
    }
}

#[test]
fn what_cannot_be_cut_or_joined_is_refused() {
    let to = Place::unified(1);
    let right = expected(Layout::Segment, KvType::F16, true);
    let windowed = State::of(&right, &[cache(7, 1), cache(4, 2)]).bytes;
    let state = SequenceState::parse(&windowed, &right).unwrap();
    let mut into = Vec::new();
    assert!(state.cut(512..514, to, &mut into).is_err(), "the window has let go of it");
    assert!(state.cut(515..519, to, &mut into).is_ok());
    assert!(state.cut(513..519, to, &mut into).is_ok(), "up to the end the window is what it is");
    assert!(state.cut(515..520, to, &mut into).is_err() && state.cut(515..515, to, &mut into).is_err());

    let hybrid = expected(Layout::Snapshot, KvType::F16, true);
    let caches = [cache(7, 1), Cache::Recurrent { layers: 3, rows: vec![5, 5, 9, 9], history: 0 }];
    let bytes = State::of(&hybrid, &caches).bytes;
    let state = SequenceState::parse(&bytes, &hybrid).unwrap();
    assert!(state.cut(0..3, to, &mut into).is_err(), "a recurrent cache is of its end alone");
    assert!(join(&[state.clone(), state], Window::None, to, &mut into).is_err());

    let part = |first: usize, count: usize, layers: usize| {
        let expected = Expected { first, count, ..right.clone() };
        (State::of(&expected, &[cache(count, layers)]).bytes, expected)
    };
    let (a, b, gap, other) = (part(0, 3, 3), part(3, 2, 3), part(6, 2, 3), part(3, 2, 2));
    let parse =
        |(bytes, expected): &'static (Vec<u8>, Expected)| SequenceState::parse(bytes, expected).unwrap();
    let leak = |part| -> &'static (Vec<u8>, Expected) { Box::leak(Box::new(part)) };
    let [a, b, gap, other] = [a, b, gap, other].map(|part| parse(leak(part)));
    assert!(join(&[a.clone(), b.clone()], Window::None, to, &mut into).is_ok());
    for wrong in [vec![], vec![a.clone(), gap], vec![a.clone(), other], vec![b, a]] {
        assert!(join(&wrong, Window::None, to, &mut into).is_err());
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered(
        tail in prop::collection::vec(any::<u8>(), 0..300),
        count in 0usize..300,
        layers in 0usize..100,
        snapshot in any::<bool>(),
        transposed in any::<bool>(),
    ) {
        let layout = if snapshot { Layout::Snapshot } else { Layout::Segment };
        let expected = Expected { layout, place: Place::unified(0), first: 0, count, kv_type: KvType::F16, transposed, layers };
        let mut bytes = 0xaf14_3cd8u32.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(tail);
        let _ = check(&bytes, &expected);
        let _ = check(&bytes[8..], &expected);
    }

    #[test]
    fn any_change_of_several_bytes_is_answered(
        kind in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let kinds = every_kind();
        let (_, expected, caches) = &kinds[kind.index(kinds.len())];
        let mut bytes = State::of(expected, caches).bytes;
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let _ = check(&bytes, expected);
    }
}
