//! Bringing a session to the state's end, whatever is left of it.

use std::time::Instant;

use anyhow::{Result, bail};

use super::Opened;
use crate::commands::failure::Failure;
use crate::commands::job::{Status, Verdict};
use crate::commands::{explain, prefill, states};
use crate::report::human;
use crate::report::timings::Timings;
use crate::store::StoreError;

impl Opened<'_, '_> {
    /// Brings the session to the state's end: restored as far as it is saved, the rest evaluated and saved.
    pub fn prepare(&mut self, timings: &mut Timings) -> Result<Verdict> {
        self.session.reset();
        let total = self.job.tokens.len();
        let mut verdict =
            Verdict { status: Status::Miss, restored_tokens: 0, evaluated_tokens: 0, reason: None };
        if self.how.no_cache {
            let start = Instant::now();
            prefill::evaluate_only(self.app, &mut self.session, self.job, &self.state.key.short())?;
            timings.add("eval_time", start.elapsed(), Some(total));
            verdict.evaluated_tokens = total;
            verdict.reason = Some("--no-cache".into());
            return Ok(verdict);
        }

        let start = Instant::now();
        verdict.reason = self.recall.reason(self.job);
        match self.recall.restore(&mut self.session) {
            Ok(_) => verdict.restored_tokens = self.recall.tokens(),
            Err(why) if self.how.require_hit => bail!(Failure::Miss(why)),
            Err(why) => verdict.reason = Some(why),
        }
        timings.add("load_state", start.elapsed(), Some(verdict.restored_tokens));
        verdict.status = Status::of(verdict.restored_tokens, total);
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
        self.app.warn(format!("nothing can be saved: {error:#}"));
        self.session.reset();
        let start = Instant::now();
        prefill::evaluate_only(self.app, &mut self.session, self.job, &self.state.key.short())?;
        timings.add("eval_time", start.elapsed(), Some(self.job.tokens.len()));
        (verdict.status, verdict.restored_tokens) = (Status::Miss, 0);
        verdict.evaluated_tokens = self.job.tokens.len();
        Ok(())
    }

    /// Evaluates and saves what was not restored, and tells the user.
    fn heal(&mut self, verdict: &mut Verdict, timings: &mut Timings) -> Result<()> {
        let why = verdict.reason.clone().unwrap_or_default();
        let missing = self.job.tokens.len() - verdict.restored_tokens;
        let key = self.state.key.short();
        let missing = human::count(missing, "token");
        self.app.warn(format!("state {key}: {why}; {missing} are evaluated and saved again"));
        if self.app.explains() {
            self.app.say(explain::parts(self.job, &self.state.key, self.recall.tokens()));
        }

        let turn = self.app.take_turn(self.store, self.job)?;
        let lock = self.app.lock_shared(self.store)?;
        // What was removed meanwhile should not be saved again.
        states::state(self.store, &self.state.key)?;
        // Somebody else may have saved it by now, and what was restored goes on from there.
        let found = self.job.find(self.store)?.verify(self.job);
        if found.tokens() > verdict.restored_tokens {
            self.recall = found;
            self.session.reset();
            verdict.restored_tokens = match self.recall.restore(&mut self.session) {
                Ok(_) => self.recall.tokens(),
                Err(why) => {
                    verdict.reason = Some(why);
                    0
                }
            };
            verdict.status = Status::of(verdict.restored_tokens, self.job.tokens.len());
        }
        if verdict.restored_tokens < self.job.tokens.len() {
            let filled = prefill::fill(self.app, self.store, &mut self.session, self.job, &key)?;
            timings.add("eval_time", filled.evaluating, Some(filled.tokens));
            timings.add("save_state", filled.saving, None);
            verdict.evaluated_tokens += filled.tokens;
        }
        // The next question restores what is saved now.
        let found = self.job.find(self.store)?;
        drop((lock, turn));
        self.recall = found.verify(self.job);
        Ok(())
    }
}

fn is_unwritable(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(StoreError::is_unwritable)
}
