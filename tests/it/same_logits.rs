//! A hit and a miss give the same answer, bit for bit: the logits after a restore are those of the evaluation
//! that was never interrupted.

use std::path::Path;

use crate::common::{TINY, from_template, prose, question_tokens, smollm2, tiny};
use pcache_engine::Slots;
use pcache_engine::model::Model;
use pcache_engine::session::{Capacity, Session};
use pcache_format::Layout;
use pcache_format::{Chain, ChainKey, KvType, Params, Segment};

/// The pieces in which a state is saved, each with its bytes.
type Pieces = Vec<(Segment, Vec<u8>)>;

struct Case<'m> {
    model: &'m Model,
    params: Params,
    tokens: Vec<i32>,
    question: Vec<i32>,
    slots: Slots,
}

impl<'m> Case<'m> {
    fn new(model: &'m Model, kv_type: KvType, words: usize) -> Self {
        let prompt = from_template(model, &prose(words, 1)).unwrap();
        let question = question_tokens(model, prompt.ending(), "Is it warm?");
        Self {
            model,
            params: Params::new(kv_type, false),
            tokens: prompt.tokens,
            question,
            slots: Slots::None,
        }
    }

    fn session(&self, cells: usize, threads: u32) -> Session {
        let room = Capacity { shared: cells, each: 0, slots: self.slots };
        Session::with_slots(self.model, &self.params, room, threads).unwrap()
    }

    fn cells(&self) -> usize {
        self.tokens.len() + self.question.len() + 8
    }

    fn segments(&self) -> Vec<Segment> {
        Chain::new(ChainKey::from([0; 32]), &self.tokens).segments().to_vec()
    }

    /// Evaluates everything without a stop.
    fn uninterrupted(&self) -> Vec<f32> {
        let mut session = self.session(self.cells(), 2);
        session.evaluate(&self.tokens, false).unwrap();
        self.ask(&mut session)
    }

    /// Evaluates the state piece by piece and saves each.
    fn saved(&self, cells: usize, threads: u32) -> Pieces {
        let mut session = self.session(cells, threads);
        let mut pieces = Vec::new();
        for segment in self.segments() {
            session.evaluate(&self.tokens[segment.first..segment.end()], false).unwrap();
            let piece = match self.model.layout() {
                Layout::Segment => segment,
                Layout::Snapshot => Segment { first: 0, count: segment.end(), ..segment },
            };
            let mut state = Vec::new();
            session.snapshot(&piece.positions(), &mut state).unwrap();
            pieces.push((piece, state));
        }
        pieces
    }

    /// Restores `pieces`, evaluates what is left of the state, and the question.
    fn restored(&self, pieces: &[(Segment, Vec<u8>)]) -> Vec<f32> {
        let mut session = self.session(self.cells(), 2);
        for (piece, state) in pieces {
            session.restore(&piece.positions(), state).unwrap();
        }
        session.evaluate(&self.tokens[session.position()..], false).unwrap();
        self.ask(&mut session)
    }

    fn ask(&self, session: &mut Session) -> Vec<f32> {
        assert_eq!(session.position(), self.tokens.len());
        session.evaluate(&self.question, true).unwrap();
        session.logits().unwrap().to_vec()
    }

    /// Returns the state that a session saves after `pieces` were restored into it.
    fn saved_again(&self, pieces: &[(Segment, Vec<u8>)]) -> Pieces {
        let mut session = self.session(self.cells(), 2);
        let mut again = Vec::new();
        for (piece, state) in pieces {
            session.restore(&piece.positions(), state).unwrap();
            let mut saved = Vec::new();
            session.snapshot(&piece.positions(), &mut saved).unwrap();
            again.push((*piece, saved));
        }
        again
    }

    /// All that a full hit restores.
    fn hit(&self, pieces: &Pieces) -> Vec<f32> {
        match self.model.layout() {
            Layout::Segment => self.restored(pieces),
            Layout::Snapshot => self.restored(&pieces[pieces.len() - 1..]),
        }
    }
}

fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert!(expected.iter().any(|x| *x != expected[0]), "{what}: the logits say nothing");
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    let same = found.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
    assert!(same, "{what}: the largest difference is {worst:e}");
}

fn check(path: &Path, kv_type: KvType, words: usize) {
    let model = crate::common::load(path);
    let case = Case::new(&model, kv_type, words);
    let what = format!("{} {}", path.file_name().unwrap().display(), kv_type.name());
    let expected = case.uninterrupted();
    let pieces = case.saved(case.cells(), 2);
    assert!(pieces.len() >= 3, "{what}: {} pieces are too few to say anything", pieces.len());
    assert_same(&case.hit(&pieces), &expected, &format!("{what}, restored"));

    let full = if model.layout() == Layout::Segment { &pieces[..] } else { &pieces[pieces.len() - 1..] };
    assert_eq!(case.saved_again(full), full, "{what}: a restored state saves to other bytes");

    // Every prefix that a build could continue from.
    for n in 1..pieces.len() {
        let known = match model.layout() {
            Layout::Segment => &pieces[..n],
            Layout::Snapshot => &pieces[n - 1..n],
        };
        assert_same(&case.restored(known), &expected, &format!("{what}, {n} pieces restored"));
    }

    // A state does not remember how large the context was or how many threads there were.
    let other = case.saved(case.cells() + 1500, 1);
    assert_eq!(pieces, other, "{what}: context size or threads changed the saved bytes");

    // Nor whether the sequence had cells of its own, and it goes into such a sequence, too.
    let streams = Case { slots: Slots::Streams(2), ..case };
    assert_eq!(pieces, streams.saved(streams.cells(), 2), "{what}: cells of its own changed the saved bytes");
    assert_same(&streams.hit(&pieces), &expected, &format!("{what}, restored into cells of its own"));
    assert_eq!(streams.saved_again(full), full, "{what}: restored into cells of its own and saved again");
}

#[test]
fn tiny_models_restore_exactly_with_every_cache_type() {
    for name in TINY {
        for kv_type in [KvType::F16, KvType::Q8_0, KvType::Q4_0] {
            check(&tiny(name), kv_type, 120);
        }
    }
}

#[test]
fn a_real_model_restores_exactly_with_every_cache_type() {
    for kv_type in [KvType::F16, KvType::Q8_0, KvType::Q4_0] {
        check(&smollm2(), kv_type, 560);
    }
}

/// If the saved bytes did not depend on the prompt, the tests above would not notice.
#[test]
fn another_prompt_has_another_state() {
    for name in TINY {
        let model = crate::common::load(&tiny(name));
        let case = Case::new(&model, KvType::F16, 120);
        let mut other = Case::new(&model, KvType::F16, 120);
        // Near the end of the first piece: a short convolution remembers only the last three tokens.
        other.tokens[254] += 1;
        assert_ne!(case.saved(case.cells(), 2)[0].1, other.saved(other.cells(), 2)[0].1, "{name}");
    }
}

/// The tiny models' logits hardly depend on their prompts; a real model's do.
#[test]
fn a_real_model_answers_from_its_state() {
    let model = crate::common::load(&smollm2());
    let case = Case::new(&model, KvType::F16, 60);
    let mut other = Case::new(&model, KvType::F16, 60);
    other.tokens.truncate(30);
    assert_ne!(case.uninterrupted(), other.uninterrupted());
}
