//! Several records at once: each in a slot that goes on from the state, all in the same batches.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{
    Arrival, Asked, Asking, Cost, Opened, Outcome, Question, Record, Work, interruption, problem_of, room,
};
use pcache_engine::generate::{Answer, Growing, Next, Sampling, StopReason};
use pcache_engine::shape::Guides;
use pcache_engine::slots::Slots;
use pcache_format::SEGMENT_TOKENS;

/// What the stages took.
#[derive(Default)]
struct Spent {
    evaluating: Duration,
    questions: usize,
    sampling: Duration,
    answers: usize,
}

impl Spent {
    /// Shares out a batch's time by its tokens: questions and answers are evaluated in one.
    fn add(&mut self, took: Duration, questions: usize, answers: usize) {
        let share = took.mul_f64(questions as f64 / (questions + answers).max(1) as f64);
        self.evaluating += share;
        self.sampling += took.saturating_sub(share);
        self.questions += questions;
        self.answers += answers;
    }
}

/// Answers all records, `count` at once.
pub fn run(opened: &mut Opened<'_>, work: &mut Work<'_>, count: usize) -> Result<()> {
    let asking = Asking::of(opened);
    let mut waiting = asked(work.next(&asking, true)?);
    let mut spent = Spent::default();
    while waiting.is_some() {
        if let Some((_, Ok(question))) = &waiting {
            room::ensure(opened, question, work.sampling.max_tokens, count as u32)?;
        }
        let mut timings = opened.call.observer.timings();
        opened.prepare(&mut timings)?;
        work.tally.timings.absorb(&timings);
        waiting = answer_what_fits(opened, work, count, waiting, &mut spent)?;
    }
    let mut timings = opened.call.observer.timings();
    timings.add("eval_prompt", spent.evaluating, Some(spent.questions));
    timings.add("main_sample", spent.sampling, Some(spent.answers));
    work.tally.timings.absorb(&timings);
    Ok(())
}

/// Answers records for as long as the context has room for them; gives the one for which it has none.
fn answer_what_fits(
    opened: &mut Opened<'_>,
    work: &mut Work<'_>,
    count: usize,
    first: Option<Asked>,
    spent: &mut Spent,
) -> Result<Option<Asked>> {
    let asking = Asking::of(opened);
    let sampling = work.sampling.clone();
    let state = opened.session.position();
    // What each slot may fill, so that all of them have room.
    let behind = (opened.session.cells() - state) / count;
    let left = asking.model.usable_context(&asking.prefix.params).saturating_sub(state);
    let fits =
        |question: &Question| question.tokens.len().saturating_add(sampling.max_tokens).min(left) <= behind;
    let mut batch = Batch {
        slots: Slots::new(&mut opened.session, count),
        guides: opened.guides.as_ref(),
        sampling: &sampling,
        limit: state + behind.min(left),
        busy: std::iter::repeat_with(|| None).take(count).collect(),
    };
    let mut waiting = first;
    let mut ordered = Ordered { restored: state, ..Ordered::default() };
    loop {
        while let Some(slot) = batch.busy.iter().position(Option::is_none) {
            if waiting.is_none() {
                // Where nothing is at work there is nothing better to do than wait.
                waiting = asked(work.next(&asking, batch.is_idle())?);
            }
            if matches!(&waiting, Some((_, Ok(question))) if !fits(question)) {
                break;
            }
            let Some((record, question)) = waiting.take() else { break };
            ordered.expect(record.number);
            match question {
                Err(why) => ordered.done(work, record, why.into(), Cost::default())?,
                Ok(question) => batch.begin(slot, record, question)?,
            }
        }
        if batch.is_idle() {
            return Ok(waiting);
        }
        if work.app.interrupted() {
            return Err(interruption(work));
        }
        for over in batch.step(spent)? {
            ordered.answered(work, over)?;
        }
    }
}

/// Slots and what is being answered in them.
struct Batch<'w, 's> {
    slots: Slots<'s>,
    guides: Option<&'w Guides>,
    sampling: &'w Sampling,
    /// Positions that a slot may fill.
    limit: usize,
    busy: Vec<Option<Busy<'w>>>,
}

/// The record that has come, if one has.
fn asked(arrival: Arrival) -> Option<Asked> {
    match arrival {
        Arrival::Record(record, question) => Some((record, question)),
        Arrival::NotYet | Arrival::End => None,
    }
}

/// A record that is being answered.
struct Busy<'w> {
    record: Record,
    question: usize,
    growing: Growing<'w>,
    /// What is to be evaluated before the next token can be chosen: what is left of the question, or the last token.
    pending: Vec<i32>,
}

/// A record whose answer is over.
struct Over {
    record: Record,
    /// Tokens of its question.
    question: usize,
    answer: Result<Answer>,
}

impl<'w> Batch<'w, '_> {
    /// Whether nothing is being answered.
    fn is_idle(&self) -> bool {
        self.busy.iter().all(Option::is_none)
    }

    /// Puts a question into a free slot.
    fn begin(&mut self, slot: usize, record: Record, question: Question) -> Result<()> {
        self.slots.begin(slot)?;
        let guide = self.guides.map(Guides::guide).transpose()?;
        let growing = Growing::new(self.slots.session().model(), self.sampling, guide);
        let pending = question.tokens;
        self.busy[slot] = Some(Busy { record, question: pending.len(), growing, pending });
        Ok(())
    }

    /// Goes on in all slots, in one batch: by a token in each answer, and in the room that they leave by questions.
    fn step(&mut self, spent: &mut Spent) -> Result<Vec<Over>> {
        let start = Instant::now();
        let parts = self.parts();
        let pending = |slot: usize| self.busy[slot].as_ref().map_or(&[][..], |busy| &busy.pending);
        let tokens: Vec<(usize, &[i32])> =
            parts.iter().map(|(slot, n)| (*slot, &pending(*slot)[..*n])).collect();
        let (mut questions, mut answers) = (0, 0);
        for (slot, n) in &parts {
            let answering = self.busy[*slot].as_ref().is_some_and(|busy| !busy.growing.is_new());
            *(if answering { &mut answers } else { &mut questions }) += n;
        }
        let logits = self.slots.go_on(&tokens)?;
        let mut over = Vec::new();
        for ((slot, n), index) in parts.into_iter().zip(logits) {
            let Some(mut busy) = self.busy[slot].take() else { continue };
            busy.pending.drain(..n);
            if busy.pending.is_empty() {
                over.extend(self.grow(slot, busy, index));
            } else {
                self.busy[slot] = Some(busy);
            }
        }
        spent.add(start.elapsed(), questions, answers);
        Ok(over)
    }

    /// The slots that go on, and by how many tokens each. Answers come first: they need one.
    fn parts(&self) -> Vec<(usize, usize)> {
        let busy = self.busy.iter().enumerate();
        let mut waiting: Vec<(usize, usize)> =
            busy.filter_map(|(slot, busy)| Some((slot, busy.as_ref()?.pending.len()))).collect();
        waiting.sort_by_key(|(_, pending)| *pending);
        let mut room = SEGMENT_TOKENS;
        for (_, pending) in &mut waiting {
            *pending = room.min(*pending);
            room -= *pending;
        }
        waiting.retain(|(_, pending)| *pending > 0);
        waiting
    }

    /// Chooses the next token by the logits number `index`, and keeps the answer in its slot unless it is over.
    fn grow(&mut self, slot: usize, mut busy: Busy<'w>, index: i32) -> Option<Over> {
        let stop = match busy.growing.next(self.slots.session(), index) {
            Err(error) => {
                let (record, question) = (busy.record, busy.question);
                return Some(Over { record, question, answer: Err(error.into()) });
            }
            Ok((_, Next::Stop(reason))) => reason,
            Ok((_, Next::Evaluate(_))) if self.slots.position(slot) >= self.limit => StopReason::ContextFull,
            Ok((_, Next::Evaluate(token))) => {
                busy.pending.push(token);
                self.busy[slot] = Some(busy);
                return None;
            }
        };
        let (record, question) = (busy.record, busy.question);
        Some(Over { record, question, answer: Ok(busy.growing.finish(stop).0) })
    }
}

/// Puts what comes in any order into the order of the records.
#[derive(Default)]
struct Ordered {
    /// The number of the next record to be written.
    next: Option<usize>,
    /// Tokens that all of them go on from.
    restored: usize,
    done: BTreeMap<usize, (Record, Outcome, Cost)>,
}

impl Ordered {
    /// A record is on its way.
    fn expect(&mut self, number: usize) {
        self.next.get_or_insert(number);
    }

    fn answered(&mut self, work: &mut Work<'_>, over: Over) -> Result<()> {
        let mut cost = Cost { restored: self.restored, question: over.question, answer: 0 };
        let outcome = match over.answer {
            Ok(answer) => {
                cost.answer = answer.tokens.len();
                work.outcome(&answer)
            }
            Err(error) => problem_of(error)?,
        };
        self.done(work, over.record, outcome, cost)
    }

    /// Writes what is complete by now.
    fn done(&mut self, work: &mut Work<'_>, record: Record, outcome: Outcome, cost: Cost) -> Result<()> {
        self.done.insert(record.number, (record, outcome, cost));
        while let Some((record, outcome, cost)) = self.next.and_then(|next| self.done.remove(&next)) {
            work.finish(&record, &outcome, &cost)?;
            self.next = Some(record.number + 1);
        }
        Ok(())
    }
}
