//! One answer: the state restored, the question evaluated, the answer sampled.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{OpenState, Question};
use crate::cache::Failure;
use crate::cache::progress::Unit;
use crate::cache::timings::Timings;
use crate::cache::verdict::Verdict;
use pcache_engine::generate::{self, Answer, Sampling, StopReason};
use pcache_format::SEGMENT_TOKENS;

/// The template looks into the question.
pub const READS_THE_QUESTION: &str = "the chat template looks into this question, and may write something else before it than what the state holds";

/// An answer and what it took.
pub struct Answered {
    /// The answer.
    pub answer: Answer,
    /// Share that came from the cache.
    pub verdict: Verdict,
    /// From the moment that the caller gave on.
    pub time_to_first_token: Duration,
    /// Times of the stages.
    pub timings: Timings,
}

impl Answered {
    /// Refuses an answer that was cancelled.
    pub fn complete(&self) -> Result<()> {
        if self.answer.stop == StopReason::Interrupted {
            bail!(Failure::Interrupted("interrupted; the answer is not complete".into()));
        }
        Ok(())
    }
}

/// Sampling of answers, and the beginning of their time.
pub struct Sampled<'s> {
    /// Choice of tokens.
    pub sampling: &'s Sampling,
    /// Beginning of its clock.
    pub since: Instant,
    /// Stages before the question.
    pub timings: Timings,
}

impl OpenState<'_> {
    /// Answers one question from the restored state; `emit` gets the text as it comes. Ends early when it is cancelled or
    /// the text cannot be shown.
    pub fn answer(
        &mut self,
        question: &Question,
        how: Sampled<'_>,
        emit: impl FnMut(&str) -> Result<()>,
    ) -> Result<Answered> {
        if question.differs_before {
            self.call.warn(READS_THE_QUESTION.to_owned());
        }
        let mut how = how;
        let verdict = self.prepare(&mut how.timings)?;
        self.answer_after(&question.tokens, verdict, how, emit)
    }

    /// Evaluates tokens in the session's batches, with the logits of the last; stops when it is cancelled, and then has none.
    fn evaluate(&mut self, tokens: &[i32]) -> Result<()> {
        let progress = self.call.observer.progress();
        let shown = tokens.len() > SEGMENT_TOKENS;
        if shown {
            progress.start("reading", tokens.len() as u64, Unit::Tokens);
        }
        let batches = tokens.chunks(SEGMENT_TOKENS).len();
        for (n, batch) in tokens.chunks(SEGMENT_TOKENS).enumerate() {
            if self.call.cancel.is_cancelled() {
                break;
            }
            self.session.evaluate(batch, n + 1 == batches)?;
            self.session.wait();
            progress.set((n * SEGMENT_TOKENS + batch.len()) as u64);
        }
        if shown {
            progress.finish();
        }
        Ok(())
    }

    /// Evaluates tokens from where the session is, and answers. `verdict` is the cache's on what came before.
    pub fn answer_after(
        &mut self,
        tokens: &[i32],
        mut verdict: Verdict,
        how: Sampled<'_>,
        mut emit: impl FnMut(&str) -> Result<()>,
    ) -> Result<Answered> {
        let Sampled { sampling, since, mut timings } = how;
        let start = Instant::now();
        self.evaluate(tokens)?;
        timings.add("eval_prompt", start.elapsed(), Some(tokens.len()));
        let matcher = self.matchers.as_ref().map(|matchers| matchers.matcher()).transpose()?;

        let before = since.elapsed();
        let (call, mut failed) = (self.call, None);
        let answer = generate::answer(&mut self.session, sampling, matcher, self.limit, |text| {
            if !text.is_empty() {
                failed = emit(text).err().or(failed.take());
            }
            failed.is_none() && !call.cancel.is_cancelled()
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        timings.add("main_sample", answer.elapsed, Some(answer.tokens.len()));
        verdict.evaluated_tokens += tokens.len();
        Ok(Answered { time_to_first_token: before + answer.first_token, answer, verdict, timings })
    }
}
