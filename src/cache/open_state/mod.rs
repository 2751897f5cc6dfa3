//! A saved state, open for questions: found, read and verified while the model loads, with a context that is just large
//! enough. Each question starts from the same restored state, which is never rewound.

mod answer;
mod prepare;
mod question;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

pub use answer::{Answered, READS_THE_QUESTION, Sampled};
use anyhow::{Result, bail};

use super::timings::Timings;
use super::{Call, Failure, load};
use pcache_engine::Slots;
use pcache_engine::constraint::{Constraint, MatcherFactory};
use pcache_engine::model::Model;
use pcache_engine::prompt::Asker;
use pcache_engine::session::{self, Session};
use pcache_store::{FoundPrefix, Prefix, State, Store, VerifiedPrefix};
pub use question::{Behind, Question};

/// Use of the cache.
#[derive(Debug, Clone, Copy, Default)]
pub struct CachePolicy {
    /// The prompt is evaluated anew; no saved state is read or written.
    pub no_cache: bool,
    /// A miss is a failure.
    pub require_hit: bool,
}

/// A state and the files that it needs, before anything is loaded.
pub struct ResolvedState {
    /// Store that the state is in.
    pub store: Store,
    /// The state.
    pub state: Arc<State>,
    /// Its tokens, with their chain.
    pub prefix: Arc<Prefix>,
    /// Its model's file.
    pub model: PathBuf,
    /// Its LoRA adapter's file.
    pub adapter: Option<PathBuf>,
    /// Layers of the model on a GPU.
    pub gpu_layers: u32,
}

impl ResolvedState {
    /// Opens the state. `size` says what the context has to hold, once the vocabulary is known. Returns it with what `size`
    /// made beside, and what the stages took.
    pub fn open<'a, S>(
        &'a self,
        call: Call<'a>,
        how: CachePolicy,
        constraint: Option<&Constraint>,
        size: impl FnOnce(Behind<'_>) -> Result<(ContextSize, S)>,
    ) -> Result<(OpenState<'a>, S, Timings)> {
        let Self { store, state, prefix, model, adapter, gpu_layers } = self;
        let found = if how.no_cache {
            FoundPrefix::default()
        } else {
            let guard = call.lock_shared(store)?;
            // It may have been removed while this waited.
            super::state(store, &state.key())?;
            store.find(&guard, prefix, call.same_compute)?
        };
        if let Some(miss) = found.miss().filter(|_| how.require_hit) {
            bail!(Failure::Miss(format!("state {} is not a hit: {miss}", state.key().short())));
        }
        thread::scope(|scope| {
            let verifying = scope.spawn(|| found.verify(prefix));
            let mut timings = call.observer.timings();
            let start = Instant::now();
            let model = load(call.observer, model, *gpu_layers, adapter.as_deref())?;
            timings.add("model_load", start.elapsed(), None);
            let start = Instant::now();
            let matchers = constraint.map(|constraint| MatcherFactory::new(&model, constraint)).transpose();
            let matchers = matchers.map_err(|e| Failure::Usage(e.to_string()))?;
            if matchers.is_some() {
                timings.add("shape", start.elapsed(), None);
            }
            let asker = super::asker(&model, state);
            let (room, sized) = size(Behind { model: &model, state, prefix, asker: &asker })?;

            let start = Instant::now();
            let session = room.session(&model, prefix, call.threads)?;
            timings.add("context", start.elapsed(), None);
            let recall = verifying.join().map_err(|_| anyhow::anyhow!("the verification panicked"))?;
            if !how.no_cache {
                timings.add("verify_state", recall.took, Some(recall.tokens()));
            }
            let opened = OpenState {
                call,
                how,
                store,
                state: Arc::clone(state),
                prefix: Arc::clone(prefix),
                recall,
                session,
                asker: Arc::new(asker),
                limit: room.limit,
                matchers,
            };
            opened.check_hit()?;
            call.observer.evaluating();
            Ok((opened, sized, timings))
        })
    }
}

/// Size that a context needs.
#[derive(Debug, Clone, Copy)]
pub struct ContextSize {
    /// Positions of a sequence at most.
    pub limit: usize,
    /// Sequences that are evaluated together.
    pub slots: Slots,
}

impl ContextSize {
    /// For one sequence of so many positions.
    pub fn one(limit: usize) -> Self {
        Self { limit, slots: Slots::None }
    }

    /// As the engine counts it, behind a state.
    pub fn within(&self, prefix: &Prefix) -> session::Capacity {
        let shared = prefix.tokens.len();
        session::Capacity { shared, each: self.limit.saturating_sub(shared), slots: self.slots }
    }

    /// An empty session with this room behind a state.
    pub fn session(&self, model: &Model, prefix: &Prefix, threads: u32) -> Result<Session> {
        Ok(Session::with_slots(model, &prefix.params, self.within(prefix), threads)?)
    }
}

/// A state with its model loaded and a context to restore it into.
pub struct OpenState<'a> {
    /// Observer and cancel token that it was opened with.
    pub call: Call<'a>,
    /// Use of the cache.
    pub how: CachePolicy,
    /// Store that it is in.
    pub store: &'a Store,
    /// The state.
    pub state: Arc<State>,
    /// Its tokens, with their chain.
    pub prefix: Arc<Prefix>,
    /// Saved and intact segments.
    pub recall: VerifiedPrefix,
    /// Context that it is restored into.
    pub session: Session,
    /// Tokenises its questions.
    pub asker: Arc<Asker>,
    /// Positions that a sequence may fill.
    pub limit: usize,
    /// Constraint on answers.
    pub matchers: Option<MatcherFactory>,
}

/// Parts of an open state that outlive the call that opened it.
pub struct DetachedState {
    state: Arc<State>,
    prefix: Arc<Prefix>,
    recall: VerifiedPrefix,
    session: Session,
    asker: Arc<Asker>,
    limit: usize,
    matchers: Option<MatcherFactory>,
}

impl DetachedState {
    /// The model.
    pub fn model(&self) -> &Model {
        self.session.model()
    }

    /// The state.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes it up again, for another call.
    pub fn with<'a>(self, call: Call<'a>, store: &'a Store) -> OpenState<'a> {
        let Self { state, prefix, recall, session, asker, limit, matchers } = self;
        OpenState {
            call,
            how: CachePolicy::default(),
            store,
            state,
            prefix,
            recall,
            session,
            asker,
            limit,
            matchers,
        }
    }
}

impl<'a> OpenState<'a> {
    /// Puts it down for a later call.
    pub fn kept(self) -> DetachedState {
        let Self { state, prefix, recall, session, asker, limit, matchers, .. } = self;
        DetachedState { state, prefix, recall, session, asker, limit, matchers }
    }

    /// Opens a state on a model that is loaded.
    pub fn with_model(
        call: Call<'a>,
        store: &'a Store,
        state: Arc<State>,
        prefix: Arc<Prefix>,
        model: &Model,
        room: ContextSize,
    ) -> Result<Self> {
        let recall = {
            let guard = call.lock_shared(store)?;
            store.find(&guard, &prefix, call.same_compute)?.verify(&prefix)
        };
        // For the log alone: these stages are the prompt's, and no answer's.
        let mut timings = call.observer.timings();
        timings.add("verify_state", recall.took, Some(recall.tokens()));
        let start = Instant::now();
        let session = room.session(model, &prefix, call.threads)?;
        timings.add("context", start.elapsed(), None);
        let how = CachePolicy::default();
        let asker = Arc::new(super::asker(model, &state));
        Ok(Self {
            call,
            how,
            store,
            state,
            prefix,
            recall,
            session,
            asker,
            limit: room.limit,
            matchers: None,
        })
    }
}

impl OpenState<'_> {
    /// The state, for tokenising questions.
    pub fn behind(&self) -> Behind<'_> {
        let Self { session, state, prefix, asker, .. } = self;
        Behind { model: session.model(), state, prefix, asker }
    }

    fn check_hit(&self) -> Result<()> {
        if self.how.require_hit && self.recall.tokens() < self.prefix.tokens.len() {
            let why = self.recall.reason(&self.prefix).unwrap_or_default();
            bail!(Failure::Miss(format!("state {} is not a hit: {why}", self.state.key().short())));
        }
        Ok(())
    }

    /// A failed note is no reason to fail an answer that was given.
    pub fn note_use(&mut self) {
        if self.how.no_cache {
            return;
        }
        match self.store.touch(&self.state.key()) {
            Ok(()) => {}
            // Where nothing can be written, this is no news.
            Err(_) if !self.store.is_writable() => {}
            Err(error) => {
                let error = anyhow::Error::from(error);
                self.call.warn(format!("the use is not noted: {error:#}"));
            }
        }
        self.mend_description();
    }

    /// Writes a manifest again that was found damaged or lost.
    fn mend_description(&mut self) {
        let (key, Some(why)) = (self.state.key(), &self.state.damage) else { return };
        let mended = self
            .call
            .lock_shared(self.store)
            .and_then(|guard| Ok(self.store.rewrite_description(&guard, &key)?));
        match mended {
            Ok(true) => self.call.warn(format!("state {}: {why}; written again", key.short())),
            Ok(false) => self.call.warn(format!("state {}: {why}", key.short())),
            Err(_) if !self.store.is_writable() => {}
            Err(error) => {
                self.call.warn(format!("state {}: {why}; it cannot be written again: {error:#}", key.short()))
            }
        }
    }
}
