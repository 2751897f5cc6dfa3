use proptest::prelude::*;

use super::*;

/// What a state is made of, for writing it as llama.cpp does.
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
    /// Where the state of another model would end: one with fewer caches, or without V.
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
        state.u32(expected.sequence as u32);
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
        self.u32(1);
        self.u32(cells as u32);
        for position in end - cells..end {
            self.u32(position as u32);
            self.u32(1);
            if extended {
                (0..2).for_each(|_| self.loose(position as u32));
                self.loose(5);
            }
            self.u32(expected.sequence as u32);
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
        let Some(v_rows) = v_rows else { return };
        for _ in 0..layers {
            self.u32(kind);
            if expected.transposed {
                self.u32(block as u32);
                self.u32(v_rows as u32);
            } else {
                self.number(((v_rows * block) as u64).to_le_bytes());
            }
            self.data(v_rows * block * cells);
        }
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
    Expected { layout, sequence: 1, first, count: 7, kv_type, transposed, layers: 3 }
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
            Expected { sequence: 0, ..right.clone() },
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
        let expected = Expected { layout, sequence: 0, first: 0, count, kv_type: KvType::F16, transposed, layers };
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
