//! Several answers at once, each in a slot that goes on from one prefix.
//!
//! The prefix is restored once. One batch for several sequences reads the model's weights once for all of them, which is what a
//! processor spends its time on. Where each slot has cells of its own a question is evaluated alone, as a session of
//! its own would, and only the tokens of answers share batches; where all share one pool, questions fill what answers leave of a
//! batch. The scheduler knows nothing of what is asked for: a question comes with a ticket that comes back with its answer.

use std::time::{Duration, Instant};

use crate::Result;
use crate::constraint::MatcherFactory;
use crate::generate::{Answer, Generation, Sampling, Step, StopReason};
use crate::session::Session;
use pcache_format::SEGMENT_TOKENS;

/// Time and tokens that a step took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Evaluating questions.
    pub evaluating: Duration,
    /// Their tokens.
    pub questions: usize,
    /// Going on with answers.
    pub sampling: Duration,
    /// Their tokens.
    pub answers: usize,
}

impl Spent {
    /// Adds what others took.
    pub fn absorb(&mut self, other: Self) {
        self.evaluating += other.evaluating;
        self.questions += other.questions;
        self.sampling += other.sampling;
        self.answers += other.answers;
    }

    /// Shares out a batch's time by its tokens: questions and answers may be evaluated in one.
    fn add(&mut self, took: Duration, questions: usize, answers: usize) {
        let share = took.mul_f64(questions as f64 / (questions + answers).max(1) as f64);
        self.evaluating += share;
        self.sampling += took.saturating_sub(share);
        self.questions += questions;
        self.answers += answers;
    }
}

/// A question whose answer is over.
pub struct Over<T> {
    /// Ticket that came with the question.
    pub ticket: T,
    /// Tokens of the question.
    pub question: usize,
    /// The answer; an error where nothing fits its constraint.
    pub answer: Result<Answer>,
}

/// A question that is being answered.
struct Busy<'w, T> {
    ticket: T,
    question: usize,
    growing: Generation<'w>,
    /// Positions of its sequence, the prefix counted.
    position: usize,
    /// Tokens to be evaluated before the next one can be chosen: what is left of the question, or the last token.
    pending: Vec<i32>,
}

/// Slots of a session, and what is being answered in them.
pub struct Scheduler<'w, T> {
    session: &'w mut Session,
    matchers: Option<&'w MatcherFactory>,
    sampling: &'w Sampling,
    /// Positions that a slot may fill.
    limit: usize,
    busy: Vec<Option<Busy<'w, T>>>,
    spent: Spent,
}

impl<'w, T> Scheduler<'w, T> {
    /// Free slots of a session, which was evaluated or restored up to the end of the prefix; `slots` as many as it was made
    /// for. A sequence ends at `limit` positions.
    pub fn new(
        session: &'w mut Session,
        slots: usize,
        limit: usize,
        sampling: &'w Sampling,
        matchers: Option<&'w MatcherFactory>,
    ) -> Self {
        let busy = std::iter::repeat_with(|| None).take(slots).collect();
        Self { session, matchers, sampling, limit, busy, spent: Spent::default() }
    }

    /// Nothing is being answered.
    pub fn is_idle(&self) -> bool {
        self.busy.iter().all(Option::is_none)
    }

    /// The first slot that is free.
    pub fn free(&self) -> Option<usize> {
        self.busy.iter().position(Option::is_none)
    }

    /// Time and tokens of the steps by now.
    pub fn spent(&self) -> Spent {
        self.spent
    }

    /// Puts a question into a free slot.
    ///
    /// # Errors
    /// When llama.cpp refuses.
    pub fn begin(&mut self, slot: usize, ticket: T, question: Vec<i32>) -> Result<()> {
        self.session.fork(slot)?;
        let matcher = self.matchers.map(MatcherFactory::matcher).transpose()?;
        let growing = Generation::new(self.session.model(), self.sampling, matcher);
        let position = self.session.position();
        let busy = Busy { ticket, question: question.len(), growing, position, pending: question };
        self.busy[slot] = Some(busy);
        Ok(())
    }

    /// Goes on in one batch, and gives the answers that are over.
    ///
    /// # Errors
    /// When llama.cpp fails.
    pub fn step(&mut self) -> Result<Vec<Over<T>>> {
        let start = Instant::now();
        let parts = self.parts();
        let (mut questions, mut answers) = (0, 0);
        for (slot, n) in &parts {
            let answering = self.busy[*slot].as_ref().is_some_and(|busy| !busy.growing.is_new());
            *(if answering { &mut answers } else { &mut questions }) += n;
        }
        let logits = self.decode(&parts)?;
        let mut over = Vec::new();
        for ((slot, n), index) in parts.into_iter().zip(logits) {
            let Some(mut busy) = self.busy[slot].take() else { continue };
            busy.pending.drain(..n);
            busy.position += n;
            if busy.pending.is_empty() {
                over.extend(self.grow(slot, busy, index));
            } else {
                self.busy[slot] = Some(busy);
            }
        }
        self.spent.add(start.elapsed(), questions, answers);
        Ok(over)
    }

    /// Evaluates so many pending tokens of some slots in one batch. Gives for each where the logits after its last token are.
    fn decode(&mut self, parts: &[(usize, usize)]) -> Result<Vec<i32>> {
        let (mut batch, mut logits) = (Vec::new(), Vec::new());
        for (slot, n) in parts {
            let Some(busy) = &self.busy[*slot] else { continue };
            let sequence = self.session.of_slot(*slot);
            let place = |(i, id): (usize, &i32)| {
                // Logits cost the more the larger the vocabulary: only those that a token is chosen by.
                (*id, busy.position + i, sequence, i + 1 == busy.pending.len())
            };
            batch.extend(busy.pending[..*n].iter().enumerate().map(place));
            logits.push(i32::try_from(batch.len()).unwrap_or(0) - 1);
        }
        self.session.decode(self.session.position(), batch.into_iter())?;
        Ok(logits)
    }

    /// The slots that go on, and by how many tokens each.
    fn parts(&self) -> Vec<(usize, usize)> {
        let busy = self.busy.iter().enumerate();
        let mut waiting: Vec<(usize, usize)> =
            busy.filter_map(|(slot, busy)| Some((slot, busy.as_ref()?.pending.len()))).collect();
        let is_new = |slot: usize| self.busy[slot].as_ref().is_some_and(|busy| busy.growing.is_new());
        if self.session.has_streams()
            && let Some((slot, pending)) = waiting.iter().find(|(slot, _)| is_new(*slot))
        {
            return vec![(*slot, SEGMENT_TOKENS.min(*pending))];
        }
        // Answers come first: they need one token.
        waiting.sort_by_key(|(_, pending)| *pending);
        let mut room = SEGMENT_TOKENS;
        for (_, pending) in &mut waiting {
            *pending = room.min(*pending);
            room -= *pending;
        }
        waiting.retain(|(_, pending)| *pending > 0);
        // llama.cpp puts sequences into one batch as long as their numbers follow each other.
        waiting.sort_unstable();
        waiting
    }

    /// Chooses the next token by the logits number `index`, and keeps the answer in its slot unless it is over.
    fn grow(&mut self, slot: usize, mut busy: Busy<'w, T>, index: i32) -> Option<Over<T>> {
        let stop = match busy.growing.next(self.session, index) {
            Err(error) => {
                let Busy { ticket, question, .. } = busy;
                return Some(Over { ticket, question, answer: Err(error) });
            }
            Ok((_, Step::Stop(reason))) => reason,
            Ok((_, Step::Decode(_))) if busy.position >= self.limit => StopReason::ContextFull,
            Ok((_, Step::Decode(token))) => {
                busy.pending.push(token);
                self.busy[slot] = Some(busy);
                return None;
            }
        };
        let Busy { ticket, question, growing, .. } = busy;
        Some(Over { ticket, question, answer: growing.finish(stop).0 })
    }
}

/// Tries whether what each of `slots` decodes in a batch with others has the bits that it has alone: that depends on the kernels, which
/// ggml picks by the number of tokens in a batch. Tried with a token a slot behind the prefix, in batches of every size.
///
/// # Errors
/// When llama.cpp fails.
pub fn is_exact(session: &mut Session, slots: usize) -> Result<bool> {
    // Where attention is divided, it is from some number of cells on, which a trial behind a short prefix does not reach.
    if !session.has_streams() || session.splits_attention() {
        return Ok(false);
    }
    // Any tokens that differ do; those of the middle of a vocabulary are words.
    let token = |slot: usize| session_token(session.model().vocabulary(), slot);
    let tokens: Vec<i32> = (0..slots).map(token).collect();
    let mut alone = Vec::new();
    for (slot, token) in tokens.iter().enumerate() {
        alone.push(logits_of(session, &[(slot, *token)])?.remove(0));
    }
    for size in 2..=slots {
        let batch: Vec<(usize, i32)> = tokens[..size].iter().copied().enumerate().collect();
        let together = logits_of(session, &batch)?;
        let same =
            |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().map(|n| n.to_bits()).eq(b.iter().map(|n| n.to_bits()));
        if !together.iter().zip(&alone).all(same) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn session_token(vocabulary: i32, slot: usize) -> i32 {
    let slot = i32::try_from(slot).unwrap_or(0);
    vocabulary / 2 + slot % (vocabulary / 2).max(1)
}

/// The logits behind a token in each of some slots, which begin anew, evaluated in one batch.
fn logits_of(session: &mut Session, tokens: &[(usize, i32)]) -> Result<Vec<Vec<f32>>> {
    for (slot, _) in tokens {
        session.fork(*slot)?;
    }
    let position = session.position();
    let batch: Vec<_> =
        tokens.iter().map(|(slot, id)| (*id, position, session.of_slot(*slot), true)).collect();
    session.decode(position, batch.into_iter())?;
    let numbers = 0..i32::try_from(tokens.len()).unwrap_or(0);
    Ok(numbers.map(|n| session.logits_at(n).to_vec()).collect())
}

#[cfg(test)]
mod tests;
