use std::path::Path;

use super::*;
use crate::Slots;
use crate::generate;
use crate::model::{Model, ModelOptions};
use crate::session::Capacity;
use pcache_format::{KvType, Params};

const TINY: [&str; 5] = ["llama", "gemma3", "mamba2", "qwen35", "lfm2"];
/// More than a batch.
const PREFIX: usize = 300;

fn model(name: &str) -> Model {
    let file = format!("{}/../../tests/fixtures/models/tiny-{name}.gguf", env!("CARGO_MANIFEST_DIR"));
    Model::load(Path::new(&file), ModelOptions::default()).unwrap()
}

fn tokens(model: &Model, first: i32, count: usize) -> Vec<i32> {
    (0..count as i32).map(|n| (first + n * 7) % model.vocabulary()).collect()
}

fn session(model: &Model, slots: Slots) -> Session {
    session_behind(model, slots, PREFIX, Params::new(KvType::F16, false))
}

fn session_behind(model: &Model, slots: Slots, prefix: usize, params: Params) -> Session {
    let room = Capacity { shared: prefix, each: 700 - prefix, slots };
    let mut session = Session::with_slots(model, &params, room, 2).unwrap();
    session.evaluate(&tokens(model, 3, prefix), false).unwrap();
    session
}

fn questions(model: &Model) -> [Vec<i32>; 4] {
    [(11, 3), (50, 270), (7, 1), (23, 40)].map(|(first, count)| tokens(model, first, count))
}

/// The answers of a scheduler, in the order of the questions.
fn together(model: &Model, slots: Slots, sampling: &Sampling) -> Vec<Answer> {
    let mut session = session(model, slots);
    let limit = PREFIX + 400;
    let mut scheduler = Scheduler::new(&mut session, slots.count(), limit, sampling, None);
    let mut waiting = questions(model).into_iter().enumerate();
    let mut answers: Vec<Option<Answer>> = vec![None; 4];
    loop {
        while let Some(slot) = scheduler.free() {
            let Some((number, question)) = waiting.next() else { break };
            scheduler.begin(slot, number, question).unwrap();
        }
        if scheduler.is_idle() {
            return answers.into_iter().map(Option::unwrap).collect();
        }
        for over in scheduler.step().unwrap() {
            answers[over.ticket] = Some(over.answer.unwrap());
        }
    }
}

#[test]
fn answers_together_are_those_of_one_after_the_other() {
    for name in TINY {
        let model = model(name);
        let sampling = Sampling { temperature: 1.0, top_k: 0, ..Sampling::greedy(12) };
        let alone: Vec<Answer> = questions(&model)
            .into_iter()
            .map(|question| {
                let mut session = session(&model, Slots::None);
                session.evaluate(&question, true).unwrap();
                generate::answer(&mut session, &sampling, None, PREFIX + 400, |_| true).unwrap()
            })
            .collect();
        for slots in [Slots::Streams(3), Slots::Tagged(3)] {
            let answers = together(&model, slots, &sampling);
            for (answer, expected) in answers.iter().zip(&alone) {
                assert_eq!(answer.tokens, expected.tokens, "{name}, {slots:?}");
                assert_eq!(answer.stop, expected.stop, "{name}, {slots:?}");
            }
        }
    }
}

/// The bits themselves, which an answer shows only where two tokens are nearly as likely.
#[test]
fn a_question_beside_others_has_the_logits_that_it_has_alone() {
    for name in TINY {
        let model = model(name);
        let [first, long, ..] = questions(&model);
        let mut alone = session(&model, Slots::None);
        alone.evaluate(&long, true).unwrap();
        let expected: Vec<u32> = alone.logits().unwrap().iter().map(|n| n.to_bits()).collect();

        let mut beside = session(&model, Slots::Streams(2));
        let sampling = Sampling::greedy(50);
        let mut scheduler = Scheduler::new(&mut beside, 2, PREFIX + 400, &sampling, None);
        scheduler.begin(0, (), first).unwrap();
        scheduler.step().unwrap();
        scheduler.begin(1, (), long.clone()).unwrap();
        // The question's batches, and between them none of the answer's.
        let batches = long.len().div_ceil(SEGMENT_TOKENS);
        for n in 0..batches {
            assert_eq!(
                scheduler.parts(),
                [(1, SEGMENT_TOKENS.min(long.len() - n * SEGMENT_TOKENS))],
                "{name}"
            );
            scheduler.step().unwrap();
        }
        let found: Vec<u32> = beside.logits_at(-1).iter().map(|n| n.to_bits()).collect();
        assert!(found == expected, "{name}");
    }
}

#[test]
fn trying_the_kernels_leaves_no_trace() {
    for name in TINY {
        let model = model(name);
        assert!(!is_exact(&mut session(&model, Slots::Tagged(3)), 3).unwrap(), "{name}");
        let mut streams = session(&model, Slots::Streams(3));
        let first = is_exact(&mut streams, 3).unwrap();
        assert_eq!(is_exact(&mut streams, 3).unwrap(), first, "{name}");
        // Behind a short prefix the trial saw no difference, and answers parted when they had grown.
        let fused = Params { flash_attention: true, ..Params::new(KvType::F16, false) };
        assert!(!is_exact(&mut session_behind(&model, Slots::Streams(3), 60, fused), 3).unwrap(), "{name}");
    }
}
