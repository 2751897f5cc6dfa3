//! Bringing a session to the state's end, whatever is left of it.

use std::time::Instant;

use anyhow::{Result, bail};

use super::OpenState;
use crate::cache::timings::Timings;
use crate::cache::verdict::{Status, Verdict, restore};
use crate::cache::{Failure, prefill, state};
use crate::text::human;
use pcache_format::Codec;
use pcache_store::{StoreError, VerifiedPrefix};

impl OpenState<'_> {
    /// Brings the session to the state's end: restored as far as it is saved, the rest evaluated and saved.
    pub fn prepare(&mut self, timings: &mut Timings) -> Result<Verdict> {
        self.session.reset();
        let total = self.prefix.tokens.len();
        let mut verdict = Verdict::miss();
        if self.how.no_cache {
            let start = Instant::now();
            prefill::evaluate_only(self.call, &mut self.session, &self.prefix, &self.state.key().short())?;
            timings.add("eval_time", start.elapsed(), Some(total));
            verdict.evaluated_tokens = total;
            verdict.reason = Some("the cache was not to be used".into());
            return Ok(verdict);
        }

        let start = Instant::now();
        verdict.reason = self.recall.reason(&self.prefix);
        match restore(&self.recall, &mut self.session) {
            Ok(_) => {
                verdict.restored_tokens = self.recall.tokens();
                verdict.note_compute(self.store, &self.recall);
            }
            Err(why) if self.how.require_hit => bail!(Failure::Miss(why)),
            Err(why) => verdict.reason = Some(why),
        }
        timings.add("load_state", start.elapsed(), Some(verdict.restored_tokens));
        verdict.status = Status::new(verdict.restored_tokens, total);
        if verdict.restored_tokens < total {
            match self.heal(&mut verdict, timings) {
                Err(error) if is_unwritable(&error) => self.do_without(&error, &mut verdict, timings)?,
                healed => healed?,
            }
        }
        Ok(verdict)
    }

    /// Evaluates what cannot be saved, because the disk is full or cannot be written: the question has its answer.
    fn do_without(
        &mut self,
        error: &anyhow::Error,
        verdict: &mut Verdict,
        timings: &mut Timings,
    ) -> Result<()> {
        self.call.warn(format!("nothing can be saved: {error:#}"));
        let total = self.prefix.tokens.len();
        let start = Instant::now();
        prefill::evaluate_only(self.call, &mut self.session, &self.prefix, &self.state.key().short())?;
        verdict.evaluated_tokens = total - verdict.restored_tokens;
        timings.add("eval_time", start.elapsed(), Some(verdict.evaluated_tokens));
        verdict.status = Status::new(verdict.restored_tokens, total);
        Ok(())
    }

    /// Evaluates and saves what was not restored, and tells the user.
    fn heal(&mut self, verdict: &mut Verdict, timings: &mut Timings) -> Result<()> {
        let why = verdict.reason.clone().unwrap_or_default();
        let missing = self.prefix.tokens.len() - verdict.restored_tokens;
        let key = self.state.key().short();
        let missing = human::count(missing, "token");
        self.call.warn(format!("state {key}: {why}; {missing} are evaluated and saved again"));
        self.call.observer.missed(&self.prefix, &self.state.key(), self.recall.tokens());

        let lock = self.call.lock_build(self.store, &self.prefix)?;
        let guard = self.call.lock_shared(self.store)?;
        // What was removed meanwhile should not be saved again.
        state(self.store, &self.state.key())?;
        // Another process may have saved it by now, and what was restored goes on from there.
        let same_compute = self.call.same_compute;
        let found = self.store.find(&guard, &self.prefix, same_compute)?.verify(&self.prefix);
        if found.tokens() > verdict.restored_tokens {
            self.recall = found;
            self.session.reset();
            verdict.restored_tokens = match restore(&self.recall, &mut self.session) {
                Ok(_) => self.recall.tokens(),
                Err(why) => {
                    verdict.reason = Some(why);
                    0
                }
            };
            verdict.note_compute(self.store, &self.recall);
            verdict.status = Status::new(verdict.restored_tokens, self.prefix.tokens.len());
        }
        if verdict.restored_tokens < self.prefix.tokens.len() {
            let none = VerifiedPrefix::none();
            let restored = if verdict.restored_tokens > 0 { &self.recall } else { &none };
            let writer = self.store.writer(&guard, &self.prefix, Codec::default(), restored);
            let filled =
                prefill::prefill(self.call, &writer, self.store, &mut self.session, &self.prefix, &key)?;
            writer.heal(&self.state)?;
            timings.add("eval_time", filled.evaluating, Some(filled.tokens));
            timings.add("save_state", filled.saving, None);
            verdict.evaluated_tokens += filled.tokens;
        }
        // The next question restores what is saved now.
        let found = self.store.find(&guard, &self.prefix, same_compute)?;
        drop((guard, lock));
        self.recall = found.verify(&self.prefix);
        Ok(())
    }
}

fn is_unwritable(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(StoreError::is_unwritable)
}
