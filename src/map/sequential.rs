//! One record after the other, each from the restored state.

use std::time::Instant;

use anyhow::Result;

use super::context_size;
use super::work::{Arrival, Asking, Cost, MapRun, interruption, problem_of};
use crate::cache::open_state::{OpenState, Sampled};
use pcache_engine::Slots;

/// Answers all records.
pub fn run(opened: &mut OpenState<'_>, work: &mut MapRun<'_, '_>) -> Result<()> {
    while let Arrival::Record(record, question) = work.next(&Asking::new(opened), true)? {
        let mut cost = Cost::default();
        let outcome = match question {
            Err(why) => why.into(),
            Ok(question) => {
                context_size::ensure(opened, &question, work.options.sampling.max_tokens, Slots::None)?;
                let timings = opened.call.observer.timings();
                let how = Sampled { sampling: &work.options.sampling, since: Instant::now(), timings };
                match opened.answer(&question, how, |_| Ok(())) {
                    Ok(answered) => {
                        work.tally.timings.absorb(&answered.timings);
                        cost = Cost {
                            restored: answered.verdict.restored_tokens,
                            question: question.tokens.len(),
                            answer: answered.answer.tokens.len(),
                        };
                        // Half an answer is none; the same command asks again.
                        answered.complete().map_err(|_| interruption(work))?;
                        work.outcome(&answered.answer)
                    }
                    Err(error) => problem_of(error)?,
                }
            }
        };
        work.finish(&record, &outcome, &cost)?;
    }
    Ok(())
}
