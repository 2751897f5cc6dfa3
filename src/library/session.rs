//! Sessions: states that are open for questions, and conversations.

use super::{Cache, Model, State, Watch};
use crate::cache::Failure;
use crate::cache::build::{Builder, Keep};
use crate::cache::conversation::{Conversation as Talk, Said};
use crate::cache::open_state::{Answered, DetachedState, OpenState, Question, Sampled};
use crate::cache::timings::Timings;
use crate::cache::verdict::Verdict;
use crate::error::{Error, Result};
use pcache_engine::generate::{Sampling, StopReason};
use pcache_format::StateKey;
use pcache_store::Claim;

/// An answer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// Why it ended.
    pub stop: StopReason,
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<i32>,
    /// Share of what was before it that came from the cache.
    pub verdict: Verdict,
    /// Times of the stages.
    pub timings: Timings,
}

impl From<Answered> for Answer {
    fn from(answered: Answered) -> Self {
        let pcache_engine::generate::Answer { text, stop, tokens, .. } = answered.answer;
        Self { text, stop, tokens, verdict: answered.verdict, timings: answered.timings }
    }
}

/// A state that is open for questions. Each of them starts from the same state. It can be sent to another thread; several
/// threads have one each.
pub struct Session {
    pub(super) cache: Cache,
    pub(super) model: Model,
    /// Nothing only while a call is at work with it.
    pub(super) kept: Option<DetachedState>,
}

impl Session {
    /// The key of its state.
    pub fn key(&self) -> Option<StateKey> {
        self.kept.as_ref().map(|kept| kept.state().key())
    }

    /// Does something with the open state, and puts it down again.
    fn with<T>(
        &mut self,
        watch: Watch<'_>,
        work: impl FnOnce(&mut OpenState<'_>) -> anyhow::Result<T>,
    ) -> Result<T> {
        let Some(kept) = self.kept.take() else {
            return Err(anyhow::anyhow!("an operation on this session panicked").into());
        };
        let mut opened = kept.with(self.cache.call(watch), self.cache.store());
        let done = work(&mut opened);
        self.kept = Some(opened.kept());
        Ok(done?)
    }

    /// Answers a question; `emit` gets the text as it becomes certain. What is damaged of the state is evaluated and saved
    /// again first.
    ///
    /// # Errors
    /// When the question does not fit, or llama.cpp fails.
    pub fn ask(
        &mut self,
        question: &str,
        sampling: &Sampling,
        watch: Watch<'_>,
        mut emit: impl FnMut(&str),
    ) -> Result<Answer> {
        self.with(watch, |opened| {
            let question = fitting(opened, question)?;
            let how = Sampled { sampling, since: std::time::Instant::now(), timings: opened.call.timings() };
            let answered = opened.answer(&question, how, |text| {
                emit(text);
                Ok(())
            })?;
            opened.note_use();
            Ok(answered.into())
        })
    }

    /// Begins a conversation behind the state.
    ///
    /// # Errors
    /// When the state was built with another template than the model's own, or that shows no second message.
    pub fn converse(self) -> Result<Conversation> {
        let Some(kept) = &self.kept else {
            return Err(anyhow::anyhow!("an operation on this session panicked").into());
        };
        let with = kept.state().manifest.rendered_with.clone();
        let next = crate::cache::conversation::next_message(kept.model(), kept.state(), with)?;
        Ok(Conversation { session: self, said: Said::new(next) })
    }
}

fn fitting(opened: &OpenState<'_>, question: &str) -> anyhow::Result<Question> {
    let question = Question::fitting(opened.behind(), question.to_owned())?;
    let room = opened.limit.saturating_sub(opened.prefix.tokens.len());
    if question.tokens.len() >= room {
        anyhow::bail!(Failure::Usage(format!(
            "the question has {} tokens, and the session has room for {room} with an answer",
            question.tokens.len()
        )));
    }
    Ok(question)
}

/// A conversation behind a state.
pub struct Conversation {
    session: Session,
    said: Said,
}

impl Conversation {
    /// Says a message and gives the answer; `emit` gets its text as it becomes certain.
    ///
    /// # Errors
    /// When the model's context is full, or llama.cpp fails.
    pub fn say(
        &mut self,
        message: &str,
        sampling: &Sampling,
        watch: Watch<'_>,
        mut emit: impl FnMut(&str),
    ) -> Result<Answer> {
        let Self { session, said } = self;
        session.with(watch, |opened| {
            let answered = Talk::new(opened, said).say(message, sampling, |text| {
                emit(text);
                Ok(())
            })?;
            Ok(answered.into())
        })
    }

    /// Answers the last message again.
    ///
    /// # Errors
    /// As [`Self::say`], and when nothing was said.
    pub fn retry(
        &mut self,
        sampling: &Sampling,
        watch: Watch<'_>,
        mut emit: impl FnMut(&str),
    ) -> Result<Answer> {
        let Self { session, said } = self;
        session.with(watch, |opened| {
            let answered = Talk::new(opened, said).retry(sampling, |text| {
                emit(text);
                Ok(())
            })?;
            Ok(answered.into())
        })
    }

    /// Forgets the oldest messages with their answers.
    ///
    /// # Errors
    /// Where an operation panicked.
    pub fn forget(&mut self, messages: usize) -> Result<()> {
        let Self { session, said } = self;
        session.with(Watch::default(), |opened| {
            Talk::new(opened, said).drop_oldest(messages);
            Ok(())
        })
    }

    /// Saves what was said as a state of its own, evaluated again from its last whole segment on: then it has the bytes of a
    /// build of the same tokens.
    ///
    /// # Errors
    /// As a build; [`ErrorKind::Refused`](crate::ErrorKind::Refused) where nothing was said.
    pub fn save(&mut self, claim: Claim, watch: Watch<'_>) -> Result<State> {
        let Self { session, said } = self;
        super::check_name(&claim)?;
        let target = std::sync::Arc::clone(&session.model.target);
        session.with(watch, |opened| {
            let talk = Talk::new(opened, said);
            if talk.said_so_far() == 0 {
                anyhow::bail!(Failure::Usage("nothing was said, so there is nothing to save".into()));
            }
            let (prompt, origin) = talk.prompt();
            let keep = Keep { claim, ..Keep::default() };
            let model = opened.session.model().clone();
            let mut builder = Builder::new(opened.call, &keep, opened.store, &target);
            State::from_report(builder.save(&model, &prompt, &origin, None)?)
        })
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        anyhow::Error::from(failure).into()
    }
}
