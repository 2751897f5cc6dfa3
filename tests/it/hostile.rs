//! States made by an enemy, whose hashes are right: whatever gets past our own checks, llama.cpp takes or refuses, and
//! the process goes on and gives the right answer.

use crate::common::{TINY, from_template, prose, question_tokens, smollm2, tiny};
use pcache_engine::EngineError;
use pcache_engine::generate::{self, Sampling};
use pcache_engine::model::Model;
use pcache_engine::session::Session;
use pcache_format::Layout;
use pcache_format::sequence::{self, Expected, Place};
use pcache_format::{Chain, ChainKey, KvType, Params, Segment};

/// A model with a saved state of one piece.
struct Victim<'m> {
    model: &'m Model,
    params: Params,
    piece: Segment,
    state: Vec<u8>,
    question: Vec<i32>,
}

impl<'m> Victim<'m> {
    fn new(model: &'m Model, kv_type: KvType) -> Self {
        let prompt = from_template(model, &prose(12, 1)).unwrap();
        let question = question_tokens(model, prompt.ending(), "Is it warm?");
        let params = Params::new(kv_type, false);
        let piece = Chain::new(ChainKey::from([0; 32]), &prompt.tokens).segments()[0];
        let mut session = Session::new(model, &params, 512, 2).unwrap();
        session.evaluate(&prompt.tokens[..piece.end()], false).unwrap();
        let mut state = Vec::new();
        session.snapshot(&piece.positions(), &mut state).unwrap();
        Self { model, params, piece, state, question }
    }

    fn session(&self) -> Session {
        Session::new(self.model, &self.params, 512, 2).unwrap()
    }

    fn is_let_through(&self, state: &[u8]) -> bool {
        let sequence = i32::from(self.model.layout() == Layout::Segment);
        let layers = self.model.layers();
        let expected = Expected::new(
            self.model.layout(),
            Place::unified(sequence),
            &self.piece.positions(),
            &self.params,
            layers,
        );
        sequence::check(state, &expected).is_ok()
    }

    fn ask(&self, session: &mut Session) -> Vec<f32> {
        session.evaluate(&self.question, true).unwrap();
        session.logits().unwrap().to_vec()
    }

    /// The first and the last bytes of the state, and some between: all kinds of numbers are among them.
    fn places(&self) -> impl Iterator<Item = usize> {
        let end = self.state.len();
        (0..end.min(400)).chain((400..end).step_by(end / 200)).chain(end.saturating_sub(200)..end)
    }

    /// Lengths at which another, smaller state would end.
    fn other_ends(&self) -> Vec<usize> {
        (0..self.state.len()).filter(|&end| self.is_let_through(&self.state[..end])).collect()
    }
}

fn each_victim(check: impl Fn(&Victim<'_>, &str)) {
    for name in TINY {
        let model = crate::common::load(&tiny(name));
        for kv_type in [KvType::F16, KvType::Q8_0] {
            check(&Victim::new(&model, kv_type), &format!("{name} {}", kv_type.name()));
        }
    }
}

#[test]
fn no_changed_number_stops_the_process() {
    each_victim(|victim, what| {
        let mut session = victim.session();
        session.restore(&victim.piece.positions(), &victim.state).unwrap();
        let expected = victim.ask(&mut session);
        let (mut refused, mut restored) = (0, 0);
        for at in victim.places() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut state = victim.state.clone();
                state[at] = value;
                if state == victim.state {
                    continue;
                }
                session.reset();
                match session.restore(&victim.piece.positions(), &state) {
                    Ok(()) => restored += 1,
                    Err(EngineError::NoState { .. }) => refused += 1,
                    Err(EngineError::Restore { .. }) => assert!(victim.is_let_through(&state)),
                    Err(other) => panic!("{what}, byte {at}: {other}"),
                }
            }
        }
        assert!(refused > 100 && restored > 100, "{what}: {refused} refused, {restored} restored");
        // Nothing of all that is left behind.
        session.reset();
        session.restore(&victim.piece.positions(), &victim.state).unwrap();
        assert_eq!(victim.ask(&mut session), expected, "{what}");
    });
}

#[test]
fn a_state_of_fewer_layers_or_caches_is_refused_in_peace() {
    each_victim(|victim, what| {
        let mut session = victim.session();
        let ends = victim.other_ends();
        for &end in &ends {
            session.reset();
            let refusal = session.restore(&victim.piece.positions(), &victim.state[..end]);
            assert!(matches!(refusal, Err(EngineError::Restore { .. })), "{what}, {end}");
        }
        for (end, more) in [(victim.state.len(), 1), (victim.state.len(), 4096)] {
            let longer = [&victim.state[..end], &vec![0; more]].concat();
            assert!(session.restore(&victim.piece.positions(), &longer).is_err(), "{what}");
        }
    });
}

/// Numbers are checked, what they mean to the model is not: it may compute nonsense, and does so in peace.
#[test]
fn a_state_that_is_not_a_number_anywhere_gives_an_answer_all_the_same() {
    let real = crate::common::load(&smollm2());
    let answers = |victim: &Victim<'_>, what: &str| {
        let mut state = victim.state.clone();
        // Data is whatever can be changed; of a part of it, all.
        let from = state.len() / 2;
        let data = (from..from + 4000).find(|&at| {
            let mut changed = state.clone();
            changed[at..(at + 400).min(state.len())].fill(0xff);
            victim.is_let_through(&changed)
        });
        let at = data.unwrap_or_else(|| panic!("{what}: no data in the middle of the state"));
        state[at..at + 400].fill(0xff);
        let mut session = victim.session();
        session.restore(&victim.piece.positions(), &state).unwrap();
        victim.ask(&mut session);
        for temperature in [0.0, 0.8] {
            let sampling = Sampling {
                temperature,
                top_k: 40,
                top_p: 0.9,
                min_p: 0.05,
                repeat_penalty: 1.1,
                seed: 1,
                max_tokens: 4,
                stop: Vec::new(),
            };
            generate::answer(&mut session, &sampling, None, 512, |_| true).unwrap();
        }
    };
    each_victim(answers);
    answers(&Victim::new(&real, KvType::F16), "smollm2");
}
