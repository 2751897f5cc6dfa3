//! Several records at once: each in a slot that goes on from the state, all in the same batches.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{
    Arrival, Asked, Asking, Cost, Opened, Outcome, Question, Record, Work, interruption, problem_of, room,
};
use crate::engine::generate::{Answer, Growing, Next, Sampling, StopReason};
use crate::engine::shape::Guides;
use crate::engine::slots::Slots;

/// The logits of the last token that was evaluated.
const LAST: i32 = -1;

/// What the stages took.
#[derive(Default)]
struct Spent {
    evaluating: Duration,
    questions: usize,
    sampling: Duration,
    answers: usize,
}

/// Answers all records, `count` at once.
pub fn run(opened: &mut Opened<'_, '_>, work: &mut Work<'_>, count: usize) -> Result<()> {
    let asking = Asking::of(opened);
    let mut waiting = asked(work.next(asking, true)?);
    let mut spent = Spent::default();
    while waiting.is_some() {
        if let Some((_, Ok(question))) = &waiting {
            room::ensure(opened, question, work.sampling.max_tokens, count as u32)?;
        }
        let mut timings = opened.app.timings();
        opened.prepare(&mut timings)?;
        work.tally.timings.absorb(&timings);
        waiting = answer_what_fits(opened, work, count, waiting, &mut spent)?;
    }
    let mut timings = opened.app.timings();
    timings.add("eval_prompt", spent.evaluating, Some(spent.questions));
    timings.add("main_sample", spent.sampling, Some(spent.answers));
    work.tally.timings.absorb(&timings);
    Ok(())
}

/// Answers records for as long as the context has room for them; gives the one for which it has none.
fn answer_what_fits(
    opened: &mut Opened<'_, '_>,
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
    let left = asking.model.usable_context(&asking.job.params).saturating_sub(state);
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
                waiting = asked(work.next(asking, batch.is_idle())?);
            }
            if matches!(&waiting, Some((_, Ok(question))) if !fits(question)) {
                break;
            }
            let Some((record, question)) = waiting.take() else { break };
            ordered.expect(record.number);
            match question {
                Err(problem) => ordered.done(work, record, Outcome::Problem(problem), Cost::default())?,
                Ok(question) => {
                    let over = batch.begin(slot, record, &question, spent)?;
                    over.map_or(Ok(()), |over| ordered.answered(work, over))?;
                }
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
struct Batch<'w, 's, 'm> {
    slots: Slots<'s, 'm>,
    guides: Option<&'w Guides<'m>>,
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
    /// The token to go on by.
    token: i32,
}

/// A record whose answer is over.
struct Over {
    record: Record,
    /// Tokens of its question.
    question: usize,
    answer: Result<Answer>,
}

impl<'w> Batch<'w, '_, '_> {
    /// Whether nothing is being answered.
    fn is_idle(&self) -> bool {
        self.busy.iter().all(Option::is_none)
    }

    /// Evaluates a question in a free slot and chooses the answer's first token.
    fn begin(
        &mut self,
        slot: usize,
        record: Record,
        question: &Question,
        spent: &mut Spent,
    ) -> Result<Option<Over>> {
        let start = Instant::now();
        self.slots.begin(slot, &question.tokens)?;
        let guide = self.guides.map(Guides::guide).transpose()?;
        let growing = Growing::new(self.slots.session().model(), self.sampling, guide);
        let over = self.grow(slot, Busy { record, question: question.tokens.len(), growing, token: 0 }, LAST);
        spent.evaluating += start.elapsed();
        spent.questions += question.tokens.len();
        Ok(over)
    }

    /// Goes on by one token in each slot that has one.
    fn step(&mut self, spent: &mut Spent) -> Result<Vec<Over>> {
        let start = Instant::now();
        let busy = self.busy.iter().enumerate();
        let tokens: Vec<(usize, i32)> = busy.filter_map(|(n, b)| Some((n, b.as_ref()?.token))).collect();
        self.slots.go_on(&tokens)?;
        let mut over = Vec::new();
        for ((slot, _), index) in tokens.iter().zip(0..) {
            let busy = self.busy[*slot].take();
            over.extend(busy.and_then(|busy| self.grow(*slot, busy, index)));
        }
        spent.sampling += start.elapsed();
        spent.answers += tokens.len();
        Ok(over)
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
                busy.token = token;
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
