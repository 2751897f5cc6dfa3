//! Several records at once: each in a slot that goes on from the state, all in the same batches.

use std::collections::BTreeMap;

use anyhow::Result;

use super::context_size;
use super::layout::Outcome;
use super::records::Record;
use super::work::{Arrival, Asked, Asking, Cost, MapRun, interruption, problem_of};
use crate::cache::open_state::{OpenState, Question};
use pcache_engine::Slots;
use pcache_engine::scheduler::{Over, Scheduler, Spent};

/// Answers all records, as many at once as there are slots.
pub fn run(opened: &mut OpenState<'_>, work: &mut MapRun<'_, '_>, slots: Slots) -> Result<()> {
    let asking = Asking::new(opened);
    let mut waiting = asked(work.next(&asking, true)?);
    let mut spent = Spent::default();
    while waiting.is_some() {
        if let Some((_, Ok(question))) = &waiting {
            context_size::ensure(opened, question, work.options.sampling.max_tokens, slots)?;
        }
        let mut timings = opened.call.observer.timings();
        opened.prepare(&mut timings)?;
        work.tally.timings.absorb(&timings);
        waiting = answer_what_fits(opened, work, slots.count(), waiting, &mut spent)?;
    }
    let mut timings = opened.call.observer.timings();
    timings.add("eval_prompt", spent.evaluating, Some(spent.questions));
    timings.add("main_sample", spent.sampling, Some(spent.answers));
    work.tally.timings.absorb(&timings);
    Ok(())
}

/// Answers records for as long as the context has room for them; gives the one for which it has none.
fn answer_what_fits(
    opened: &mut OpenState<'_>,
    work: &mut MapRun<'_, '_>,
    count: usize,
    first: Option<Asked>,
    spent: &mut Spent,
) -> Result<Option<Asked>> {
    let asking = Asking::new(opened);
    let sampling = work.options.sampling.clone();
    let state = opened.session.position();
    // What each slot may fill, so that all of them have room.
    let behind = opened.session.behind(count);
    let left = asking.model.usable_context(&asking.prefix.params).saturating_sub(state);
    let fits =
        |question: &Question| question.tokens.len().saturating_add(sampling.max_tokens).min(left) <= behind;
    let limit = state + behind.min(left);
    let mut scheduler =
        Scheduler::new(&mut opened.session, count, limit, &sampling, opened.matchers.as_ref());
    let mut waiting = first;
    let mut ordered = Ordered { restored: state, ..Ordered::default() };
    loop {
        while let Some(slot) = scheduler.free() {
            if waiting.is_none() {
                // Where nothing is at work there is nothing better to do than wait.
                waiting = asked(work.next(&asking, scheduler.is_idle())?);
            }
            if matches!(&waiting, Some((_, Ok(question))) if !fits(question)) {
                break;
            }
            let Some((record, question)) = waiting.take() else { break };
            ordered.expect(record.number);
            match question {
                Err(why) => ordered.done(work, record, why.into(), Cost::default())?,
                Ok(question) => scheduler.begin(slot, record, question.tokens)?,
            }
        }
        if scheduler.is_idle() {
            spent.absorb(scheduler.spent());
            return Ok(waiting);
        }
        if work.call.is_cancelled() {
            return Err(interruption(work));
        }
        for over in scheduler.step()? {
            ordered.answered(work, over)?;
        }
    }
}

/// The record that has come, if one has.
fn asked(arrival: Arrival) -> Option<Asked> {
    match arrival {
        Arrival::Record(record, question) => Some((record, question)),
        Arrival::NotYet | Arrival::End => None,
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

    fn answered(&mut self, work: &mut MapRun<'_, '_>, over: Over<Record>) -> Result<()> {
        let mut cost = Cost { restored: self.restored, question: over.question, answer: 0 };
        let outcome = match over.answer {
            Ok(answer) => {
                cost.answer = answer.tokens.len();
                work.outcome(&answer)
            }
            Err(error) => problem_of(error.into())?,
        };
        self.done(work, over.ticket, outcome, cost)
    }

    /// Writes what is complete by now.
    fn done(
        &mut self,
        work: &mut MapRun<'_, '_>,
        record: Record,
        outcome: Outcome,
        cost: Cost,
    ) -> Result<()> {
        self.done.insert(record.number, (record, outcome, cost));
        while let Some((record, outcome, cost)) = self.next.and_then(|next| self.done.remove(&next)) {
            work.finish(&record, &outcome, &cost)?;
            self.next = Some(record.number + 1);
        }
        Ok(())
    }
}
