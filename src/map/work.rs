//! Works through records.

use std::sync::Arc;

use anyhow::{Result, bail};

use super::Options;
use super::layout::Outcome;
use super::names;
use super::output::Output;
use super::reader::Reader;
use super::records::{self, Record};
use super::tally::Tally;
use crate::cache::open_state::{Behind, OpenState, Question};
use crate::cache::progress::{Progress, Unit};
use crate::cache::{Call, Failure, Hint};
use crate::text::human;
use pcache_engine::EngineError;
use pcache_engine::generate::{Answer, StopReason};
use pcache_engine::model::Model;
use pcache_engine::prompt::Asker;
use pcache_store::{Prefix, State};

/// A record, and what it asks or why it does not.
pub type Asked = (Record, Result<Question, Unasked>);

/// Why a record asks nothing.
pub enum Unasked {
    /// There is nothing in it.
    Blank,
    Problem(String),
}

impl From<Unasked> for Outcome {
    fn from(why: Unasked) -> Self {
        match why {
            Unasked::Blank => Self::Blank,
            Unasked::Problem(problem) => Self::Problem(problem),
        }
    }
}

/// Tokens that a record took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    pub restored: usize,
    pub question: usize,
    pub answer: usize,
}

/// Next event.
pub enum Arrival {
    Record(Record, Result<Question, Unasked>),
    /// There is none yet; the input has not ended.
    NotYet,
    End,
}

/// Texts and limits that questions are tokenised with.
#[derive(Clone)]
pub struct Asking {
    pub model: Model,
    pub state: Arc<State>,
    pub prefix: Arc<Prefix>,
    asker: Arc<Asker>,
}

impl Asking {
    pub fn new(opened: &OpenState<'_>) -> Self {
        Self {
            model: opened.session.model().clone(),
            state: Arc::clone(&opened.state),
            prefix: Arc::clone(&opened.prefix),
            asker: Arc::clone(&opened.asker),
        }
    }

    fn behind(&self) -> Behind<'_> {
        let Self { model, state, prefix, asker } = self;
        Behind { model, state, prefix, asker }
    }
}

/// State of a run.
pub struct MapRun<'a, 'o> {
    pub call: Call<'a>,
    pub options: &'a Options,
    pub records: Reader,
    pub output: Output<'o>,
    /// Answers are JSON.
    pub json: bool,
    pub progress: Box<dyn Progress>,
    pub tally: Tally,
}

impl MapRun<'_, '_> {
    /// Passes over what an earlier run has answered.
    pub fn skip_done(&mut self, total: Option<usize>) -> Result<()> {
        self.tally.before = self.output.done();
        self.tally.failed_before = self.output.failed();
        if self.tally.before > 0 {
            let before = human::count(self.tally.before, "record");
            self.call.say(format!("{before} done already; continuing"));
        }
        for _ in 0..self.tally.before {
            match self.records.wait()? {
                Some(record) => self.output.check_done(&record)?,
                None => {
                    bail!(Hint::BeginAnew.with("the input has fewer records than there are answers".into()))
                }
            }
        }
        self.progress.start("answering", total.unwrap_or(0) as u64, Unit::Records);
        self.progress.set(self.tally.before as u64);
        Ok(())
    }

    /// The next record with what is to be asked, or why that cannot be. With `wait` until there is one.
    pub fn next(&mut self, asking: &Asking, wait: bool) -> Result<Arrival> {
        let record = loop {
            if self.call.is_cancelled() {
                return Err(interruption(self));
            }
            match self.records.next(wait)? {
                Some(record) => break record,
                None if self.records.ended => return Ok(Arrival::End),
                None if wait => {}
                None => return Ok(Arrival::NotYet),
            }
        };
        let question = self.question(&record, asking);
        Ok(Arrival::Record(record, question))
    }

    /// Returns a record's question, or its result where there is none.
    pub fn question(&self, record: &Record, asking: &Asking) -> Result<Question, Unasked> {
        if record.blank {
            return Err(Unasked::Blank);
        }
        let stop = names::stop_of(&self.options.into);
        let taken = [self.options.into.as_str(), &stop].into_iter().find(|name| record.has(name));
        let text = match (&record.problem, taken.filter(|_| !self.options.replace)) {
            (Some(problem), _) => Err(problem.clone()),
            (None, Some(name)) => Err(records::taken(name)),
            (None, None) => self.options.template.fill(&record.fields),
        };
        let question = text.and_then(|text| {
            self.output.check(record)?;
            Question::fitting(asking.behind(), text).map_err(|e| e.to_string())
        });
        question.map_err(Unasked::Problem)
    }

    /// Returns an answer's result. An answer under a JSON schema is a value; one that was cut off is none.
    pub fn outcome(&self, answer: &Answer) -> Outcome {
        let text = answer.text.trim();
        let stop = serde_json::to_value(answer.stop).unwrap_or_default();
        if !self.json {
            return Outcome::Answer { value: text.into(), stop };
        }
        // Half of a number is a number, too.
        match serde_json::from_str(text).ok().filter(|_| answer.stop == StopReason::Eos) {
            Some(value) => Outcome::Answer { value, stop },
            None => {
                let tokens = human::count(answer.tokens.len(), "token");
                Outcome::Problem(format!(
                    "its JSON was cut off after {tokens} ({}): {text}",
                    stop.as_str().unwrap_or_default()
                ))
            }
        }
    }

    /// Writes what became of a record.
    pub fn finish(&mut self, record: &Record, outcome: &Outcome, cost: &Cost) -> Result<()> {
        match outcome {
            Outcome::Answer { stop, .. } => {
                self.tally.answered += 1;
                let cut =
                    [StopReason::MaxTokens, StopReason::ContextFull].map(|s| serde_json::to_value(s).ok());
                self.tally.cut += usize::from(cut.contains(&Some(stop.clone())));
            }
            Outcome::Problem(problem) => {
                self.tally.problems += 1;
                let (call, label) = (self.call, record.label());
                self.progress.aside(&mut || call.warn(format!("{label}: {problem}")));
            }
            Outcome::Blank => self.tally.blank += 1,
        }
        let mut written = Ok(());
        let output = &mut self.output;
        self.progress.aside(&mut || written = output.write(record, outcome));
        written?;
        self.progress.set(self.tally.done() as u64);
        let outcome = match outcome {
            Outcome::Answer { value, stop } => serde_json::json!({ "answer": value, "stop_reason": stop }),
            Outcome::Problem(problem) => serde_json::json!({ "error": problem }),
            Outcome::Blank => serde_json::json!({ "answer": null }),
        };
        self.call.observer.detail(
            "record",
            &serde_json::json!({
                "record": record.number,
                "outcome": outcome,
                "restored_tokens": cost.restored,
                "question_tokens": cost.question,
                "answer_tokens": cost.answer,
            }),
        );
        Ok(())
    }
}

/// Says that the run was cancelled, and what is kept.
pub fn interruption(work: &MapRun<'_, '_>) -> anyhow::Error {
    let done = human::count(work.tally.done(), "record");
    let then = if work.output.is_file() { "; the same command continues" } else { "" };
    Failure::Interrupted(format!("interrupted after {done}{then}")).into()
}

/// A constraint that an answer does not satisfy is that record's problem; anything else is everybody's.
pub fn problem_of(error: anyhow::Error) -> Result<Outcome> {
    match error.downcast_ref::<EngineError>() {
        Some(EngineError::Constraint(problem)) => Ok(Outcome::Problem(problem.clone())),
        _ => Err(error),
    }
}
