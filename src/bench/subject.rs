//! Model and prompt that are measured, and how time is taken.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::cache::{Call, Failure};
use pcache_engine::model::Model;
use pcache_store::Prefix;

/// Parts that stay the same for a KV type.
pub struct Subject<'a> {
    pub call: Call<'a>,
    pub model: &'a Model,
    pub runs: usize,
    /// The longest prompt.
    pub longest: &'a Prefix,
    /// Question behind each prompt.
    pub question: &'a [i32],
    /// Layers are computed on a card.
    pub on_gpu: bool,
}

impl Subject<'_> {
    /// The beginning of the longest prompt.
    pub fn prefix(&self, tokens: usize) -> Prefix {
        let longest = self.longest;
        Prefix::new(longest.model, longest.params.clone(), longest.layout, longest.tokens[..tokens].to_vec())
    }

    /// Positions that a context for so many tokens needs, with the question and one token of the answer.
    pub fn cells(&self, tokens: usize) -> usize {
        tokens + self.question.len() + 1
    }
}

/// Ends the measuring when it was cancelled.
pub fn check_cancelled(call: Call<'_>) -> Result<()> {
    if call.is_cancelled() {
        bail!(Failure::Interrupted("interrupted; nothing is left of the measurement".into()));
    }
    Ok(())
}

/// Returns the result of `work` and the number of seconds it took.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let done = work();
    (done, start.elapsed().as_secs_f64())
}
