//! A state that is asked the questions of a suite.

use std::time::Instant;

use anyhow::{Result, bail};

use super::outcome::{Kind, Outcome};
use super::plan::PlannedQuestion;
use super::suite::Suite;
use crate::cache::open_state::{Answered, OpenState, Question, Sampled};
use crate::cache::progress::Unit;
use crate::cache::{Call, Failure};
use pcache_engine::EngineError;
use pcache_engine::constraint::MatcherFactory;
use pcache_engine::generate::{Sampling, trial_seed};
use pcache_engine::model::Model;

/// A state that is being asked, and what its answers are called.
pub struct Asked<'o, 'a> {
    pub call: Call<'a>,
    pub opened: &'o mut OpenState<'a>,
    pub prompt: &'o str,
    pub model: String,
    pub suite: &'o Suite,
    pub outcomes: &'o mut Vec<Outcome>,
}

/// All wordings of a question.
pub fn wordings(question: &PlannedQuestion) -> impl Iterator<Item = &str> {
    std::iter::once(&question.case.ask).chain(&question.case.also).map(String::as_str)
}

impl Asked<'_, '_> {
    /// Asks the suite's questions in every wording, temperature and trial.
    pub fn all(&mut self, questions: &[PlannedQuestion]) -> Result<()> {
        let each: usize = self.samplings(None).len();
        let total: usize = questions.iter().map(|q| wordings(q).count() * each).sum();
        let progress = self.call.progress();
        progress.start(&format!("asking {} ({})", self.prompt, self.model), total as u64, Unit::Answers);
        let mut done = 0;
        let mut ask_all = || -> Result<()> {
            for question in questions {
                let model: &Model = self.opened.session.model();
                self.opened.matchers =
                    question.constraint.as_ref().map(|s| MatcherFactory::new(model, s)).transpose()?;
                for wording in wordings(question) {
                    for sampling in self.samplings(question.case.max_tokens) {
                        self.ask(Kind::Suite, question, wording, &sampling)?;
                        done += 1;
                        progress.set(done);
                    }
                }
            }
            Ok(())
        };
        let asked = ask_all();
        self.opened.matchers = None;
        progress.finish();
        asked
    }

    /// Each temperature with its seeds; without one, the seed changes nothing.
    fn samplings(&self, max_tokens: Option<usize>) -> Vec<Sampling> {
        let suite = self.suite;
        let of = |temperature: f32| {
            let trials = if temperature > 0.0 { suite.trials } else { 1 };
            let length = max_tokens.unwrap_or(suite.max_tokens);
            (0..trials).map(move |trial| Sampling {
                stop: suite.stop.clone(),
                ..Sampling::at(temperature, trial_seed(suite.seed, trial), length)
            })
        };
        suite.temperature.all().into_iter().flat_map(of).collect()
    }

    /// Asks once, checks the answer and keeps what came of it.
    pub fn ask(
        &mut self,
        kind: Kind,
        question: &PlannedQuestion,
        wording: &str,
        sampling: &Sampling,
    ) -> Result<String> {
        let answered = self.answer(wording, sampling)?;
        let checks = &question.case.checks;
        let mut outcome = Outcome {
            kind,
            prompt: self.prompt.to_owned(),
            model: self.model.clone(),
            key: self.opened.state.key().to_hex(),
            question: question.case.ask.clone(),
            wording: wording.to_owned(),
            temperature: sampling.temperature,
            seed: sampling.seed,
            answer: String::new(),
            stop_reason: String::new(),
            error: None,
            checks: checks.len(),
            failures: Vec::new(),
            time_to_first_token_s: 0.0,
            answer_tokens: 0,
            timings: self.call.timings(),
        };
        match answered {
            Err(problem) => outcome.error = Some(problem),
            Ok(done) => {
                outcome.failures = checks.iter().filter_map(|c| c.failure(&done.answer.text)).collect();
                let stop = serde_json::to_value(done.answer.stop)?;
                outcome.stop_reason = stop.as_str().unwrap_or_default().to_owned();
                outcome.time_to_first_token_s = done.time_to_first_token.as_secs_f64();
                outcome.answer_tokens = done.answer.tokens.len();
                outcome.answer = done.answer.text;
                outcome.timings = done.timings;
            }
        }
        self.call.event("outcome", &outcome)?;
        let answer = outcome.answer.clone();
        self.outcomes.push(outcome);
        Ok(answer)
    }

    /// Answers a text, or says why that cannot be.
    pub fn answer(&mut self, text: &str, sampling: &Sampling) -> Result<Result<Answered, String>> {
        if self.call.is_cancelled() {
            bail!(Failure::Interrupted("interrupted; what was answered by then is shown".into()));
        }
        let question = match Question::fitting(self.opened.behind(), text.to_owned()) {
            Ok(question) => question,
            Err(problem) => return Ok(Err(problem.to_string())),
        };
        let how = Sampled { sampling, since: Instant::now(), timings: self.call.timings() };
        match self.opened.answer(&question, how, |_| Ok(())) {
            Ok(answered) => {
                answered.complete()?;
                Ok(Ok(answered))
            }
            Err(error) => match error.downcast_ref::<EngineError>() {
                Some(EngineError::Constraint(problem)) => Ok(Err(problem.clone())),
                _ => Err(error),
            },
        }
    }
}
