//! A conversation: what was said behind the state, and the session that holds it.
//!
//! Before a message is evaluated, what was said so far is copied out of the session. With that the same message can be
//! answered again, and a larger context takes over, without evaluating anything twice or rewinding the state.

use std::ops::Range;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::cache::open_state::{Answered, OpenState, READS_THE_QUESTION, Sampled};
use crate::cache::source::Origin;
use crate::cache::timings::Timings;
use crate::cache::verdict::Verdict;
use crate::cache::{Failure, Hint};
use crate::text::human;
use pcache_engine::generate::{Sampling, StopReason};
use pcache_engine::model::Model;
use pcache_engine::prompt::{self, Asked, NextMessage, Prompt};
use pcache_engine::session::Session;
use pcache_engine::template::Role;
use pcache_format::{Layout, RenderedWith, StateKind};
use pcache_store::State;

/// Answers shorter than this make no sense.
const SHORTEST_ANSWER: usize = 16;

/// Beginning of the origin of a saved conversation.
const CONVERSATION: &str = "conversation from ";

/// A message and its answer.
struct Exchange {
    message: String,
    /// Of the message, with what the template puts around it.
    asked: Vec<i32>,
    answered: Vec<i32>,
}

/// Contents of the session at some moment.
#[derive(Default)]
struct Checkpoint {
    /// Tokens behind the state.
    tokens: usize,
    state: Vec<u8>,
}

/// Returns what stands around the messages behind a first answer, rendered with `with`. The template must be the one that the
/// state was built with: the suffix shows that.
///
/// # Errors
/// When it was built with another one, or the template shows no second message.
pub fn next_message(model: &Model, state: &State, with: RenderedWith) -> Result<NextMessage> {
    if state.manifest.raw {
        // A raw prompt has no turns but those of its question format.
        let whole = model.text_of(&state.manifest.tokens) + &state.manifest.pending_text;
        let format = state.manifest.prompt_span.as_ref().and_then(|span| whole.get(span.end..));
        let between = format!("\n{}", format.unwrap_or_default());
        return Ok(NextMessage::raw(between, state.manifest.suffix.clone()));
    }
    let next = NextMessage::new(model, &with_an_exchange(with), &state.manifest.suffix)?;
    if next.after() != state.manifest.suffix {
        bail!(Hint::SameTemplate.with(format!(
            "state {} was built with another template or other template arguments",
            state.key().short()
        )));
    }
    Ok(next)
}

/// The same with a user's message and its answer behind it.
fn with_an_exchange(mut with: RenderedWith) -> RenderedWith {
    // A question shares the message of a prompt of the user's.
    if with.roles.last().is_none_or(|role| role != Role::User.name()) {
        with.roles.push(Role::User.name().to_owned());
    }
    with.roles.push(Role::Assistant.name().to_owned());
    with
}

/// Messages and answers behind a state.
pub struct Said {
    /// Texts around the messages behind an answer.
    next: NextMessage,
    exchanges: Vec<Exchange>,
    before_last: Checkpoint,
    prepared: bool,
}

impl Said {
    /// Nothing is said yet.
    pub fn new(next: NextMessage) -> Self {
        Self { next, exchanges: Vec::new(), before_last: Checkpoint::default(), prepared: false }
    }
}

/// A conversation that is going on.
pub struct Conversation<'o, 'a> {
    /// The state that it is behind.
    pub opened: &'o mut OpenState<'a>,
    said: &'o mut Said,
}

impl<'o, 'a> Conversation<'o, 'a> {
    /// Goes on with what was said behind a state.
    pub fn new(opened: &'o mut OpenState<'a>, said: &'o mut Said) -> Self {
        Self { opened, said }
    }

    /// Everything that was said behind the state.
    pub fn tokens(&self) -> Vec<i32> {
        self.said.exchanges.iter().flat_map(|e| e.asked.iter().chain(&e.answered)).copied().collect()
    }

    /// Messages with their answers.
    pub fn said_so_far(&self) -> usize {
        self.said.exchanges.len()
    }

    /// Tokens of state and conversation, and how many the model reads at most.
    pub fn fill(&self) -> (usize, usize) {
        let most = self.most();
        // The last token of an answer that filled it was chosen and not evaluated.
        ((self.opened.prefix.tokens.len() + self.tokens().len()).min(most), most)
    }

    fn most(&self) -> usize {
        self.opened.session.model().usable_context(&self.opened.prefix.params)
    }

    /// Says a message and gives the answer; `emit` gets its text as it comes.
    pub fn say(
        &mut self,
        message: &str,
        sampling: &Sampling,
        emit: impl FnMut(&str) -> Result<()>,
    ) -> Result<Answered> {
        let model = self.opened.session.model();
        let Asked { tokens: asked, differs_before } = match self.said.exchanges.is_empty() {
            true => self.opened.asker.ask(model, message),
            false => self.said.next.tokens(model, message),
        };
        if differs_before {
            self.opened.call.warn(READS_THE_QUESTION);
        }
        let since = Instant::now();
        let mut timings = self.opened.call.observer.timings();
        let verdict = self.prepare(&mut timings)?;
        self.make_room(asked.len(), sampling.max_tokens)?;
        self.checkpoint()?;
        self.said.exchanges.push(Exchange { message: message.to_owned(), asked, answered: Vec::new() });
        self.answer(sampling, verdict, since, timings, emit)
    }

    /// Returns the conversation as a prompt of its own, to be saved as a state, and its origin.
    pub fn prompt(&self) -> (Prompt, Origin) {
        let OpenState { state, session, .. } = &*self.opened;
        let tokens = [state.manifest.tokens.clone(), self.tokens()].concat();
        let prompt = prompt::conversation(session.model(), tokens, &self.said.next);
        let label = state.label.name().unwrap_or(&state.label.origin);
        let origin = Origin {
            label: format!("{CONVERSATION}{label}"),
            framing: state.label.prompt_format.clone(),
            kind: StateKind::Conversation,
            text: None,
            digest: None,
        };
        (prompt, origin)
    }

    /// Renders what would follow the conversation, if it was saved.
    ///
    /// # Errors
    /// Why the template cannot, as one that shows the last messages only.
    pub fn can_be_resumed(&self) -> Result<()> {
        if self.said.next.is_raw() {
            return Ok(());
        }
        let (next, suffix) = (&self.said.next, &self.opened.state.manifest.suffix);
        let with = with_an_exchange(next.rendered_with().clone());
        NextMessage::new(self.opened.session.model(), &with, suffix)?;
        Ok(())
    }

    /// Answers the last message again.
    pub fn retry(&mut self, sampling: &Sampling, emit: impl FnMut(&str) -> Result<()>) -> Result<Answered> {
        if self.said.exchanges.is_empty() {
            bail!(Failure::Usage("nothing was said yet".into()));
        }
        let since = Instant::now();
        let mut timings = self.opened.call.observer.timings();
        // What was said stays said if this fails.
        let verdict = self.go_back(&mut timings)?;
        if let Some(last) = self.said.exchanges.last_mut() {
            last.answered.clear();
        }
        self.answer(sampling, verdict, since, timings, emit)
    }

    /// The last message.
    pub fn last_message(&self) -> Option<&str> {
        self.said.exchanges.last().map(|e| e.message.as_str())
    }

    /// Forgets the oldest `count` messages with their answers; what is left is evaluated anew with the next one.
    pub fn drop_oldest(&mut self, count: usize) {
        self.said.exchanges.drain(..count.min(self.said.exchanges.len()));
        if let Some(first) = self.said.exchanges.first_mut() {
            // It now follows the state, and not an answer.
            first.asked = self.opened.asker.ask(self.opened.session.model(), &first.message).tokens;
        }
        self.said.prepared = false;
        self.said.before_last = Checkpoint::default();
    }

    fn answer(
        &mut self,
        sampling: &Sampling,
        verdict: Verdict,
        since: Instant,
        timings: Timings,
        emit: impl FnMut(&str) -> Result<()>,
    ) -> Result<Answered> {
        let behind = self.opened.session.position() - self.opened.prefix.tokens.len();
        let open = self.tokens().split_off(behind);
        let how = Sampled { sampling, since, timings };
        let answered = self.opened.answer_after(&open, verdict, how, emit);
        let Some(last) = self.said.exchanges.last_mut() else { return answered };
        match &answered {
            // A stop text is no part of the answer, and should not be remembered as one.
            Ok(done) if done.answer.stop == StopReason::StopString => {
                let text = pcache_engine::text::Text::default().user(&done.answer.text);
                last.answered = self.opened.session.model().tokenize(&text);
                self.said.prepared = false;
            }
            Ok(done) => last.answered.clone_from(&done.answer.tokens),
            Err(_) => {
                self.said.exchanges.pop();
                self.said.prepared = false;
            }
        }
        answered
    }

    /// Brings the session to the end of what was said, or before what of it is not evaluated yet.
    fn prepare(&mut self, timings: &mut Timings) -> Result<Verdict> {
        let total = self.opened.prefix.tokens.len();
        if self.said.prepared {
            let restored_tokens = self.opened.session.position();
            return Ok(Verdict::in_memory(restored_tokens));
        }
        let verdict = self.opened.prepare(timings)?;
        debug_assert_eq!(self.opened.session.position(), total);
        self.said.prepared = true;
        Ok(verdict)
    }

    /// Brings the session back to before the last message.
    fn go_back(&mut self, timings: &mut Timings) -> Result<Verdict> {
        let start = Instant::now();
        self.said.prepared = false;
        let mut verdict = self.opened.prepare(timings)?;
        let positions = self.positions(self.said.before_last.tokens);
        if self.said.before_last.tokens > 0 && !self.said.before_last.state.is_empty() {
            if self.opened.prefix.layout == Layout::Snapshot {
                self.opened.session.reset();
            }
            self.opened.session.restore(&positions, &self.said.before_last.state)?;
            verdict.restored_tokens = self.opened.session.position();
            timings.add("load_state", start.elapsed(), Some(self.said.before_last.tokens));
        }
        self.said.prepared = true;
        Ok(verdict)
    }

    /// The positions of so many tokens behind the state; all of them, where a state cannot be cut.
    fn positions(&self, tokens: usize) -> Range<usize> {
        let state = self.opened.prefix.tokens.len();
        match self.opened.prefix.layout {
            Layout::Segment => state..state + tokens,
            Layout::Snapshot => 0..state + tokens,
        }
    }

    /// Copies what was said out of the session.
    fn checkpoint(&mut self) -> Result<()> {
        let tokens = self.opened.session.position() - self.opened.prefix.tokens.len();
        let mut state = std::mem::take(&mut self.said.before_last.state);
        state.clear();
        if tokens > 0 {
            self.opened.session.snapshot(&self.positions(tokens), &mut state)?;
        }
        self.said.before_last = Checkpoint { tokens, state };
        Ok(())
    }

    /// Makes room for a message of so many tokens and its answer: in a larger context, if the model has one.
    fn make_room(&mut self, message: usize, max_tokens: usize) -> Result<()> {
        let (used, most) = self.fill();
        let least = used + message + SHORTEST_ANSWER.min(max_tokens);
        if least > most {
            // A state needs room for a question, so one that fills all of the context cannot be kept.
            let hint = if used + SHORTEST_ANSWER < most { Hint::SaveOrForget } else { Hint::Forget };
            bail!(hint.with(format!(
                "the context is full: {} of {}, and the message needs {}",
                human::thousands(used),
                human::count(most, "token"),
                human::thousands(message)
            )));
        }
        let wanted = (used + message).saturating_add(max_tokens).min(most);
        self.opened.limit = wanted;
        if wanted <= self.opened.session.cells() {
            return Ok(());
        }
        self.checkpoint()?;
        let (model, params) = (self.opened.session.model(), &self.opened.prefix.params);
        let cells = wanted.max(2 * self.opened.session.cells()).min(most);
        self.opened.session = Session::new(model, params, cells, self.opened.call.threads)?;
        self.go_back(&mut self.opened.call.observer.timings())?;
        Ok(())
    }
}
