//! Context of an operation beside its arguments: an observer, a cancel token, and how it evaluates.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use serde::Serialize;

use super::explain::Explanation;
use super::progress::{Progress, Silent};
use super::timings::Timings;
use pcache_format::{Label, Params, StateKey};
use pcache_store::evict::Limits;
use pcache_store::gc::Outcome;
use pcache_store::labels::Saved;
use pcache_store::{BuildLock, ExclusiveGuard, Prefix, SharedGuard, Store};

/// Hears of what an operation does. Every method does nothing by default.
pub trait Observer {
    /// Something worth saying.
    fn say(&self, _text: &str) {}

    /// Something that is not as it should be, and does not end the operation.
    fn warn(&self, _text: &str) {}

    /// Receives the progress of the work.
    fn progress(&self) -> Box<dyn Progress> {
        Box::new(Silent)
    }

    /// A table of stages, which may be heard one by one.
    fn timings(&self) -> Timings {
        Timings::default()
    }

    /// An event of that name.
    ///
    /// # Errors
    /// Why it cannot be taken; that ends the operation.
    fn event(&self, _name: &str, _value: &serde_json::Value) -> Result<()> {
        Ok(())
    }

    /// An event that only a full log is interested in.
    fn detail(&self, _name: &str, _value: &serde_json::Value) {}

    /// A model is used whose file was not used before. On some files whose header looks right llama.cpp ends the process: who can
    /// try one in another process does so here.
    ///
    /// # Errors
    /// Why the model cannot be used.
    fn new_model(&self, _path: &Path) -> Result<()> {
        Ok(())
    }

    /// A folder that goes when the operation ends, and should go as well when the program is stopped.
    fn scratch(&self, _folder: &Path) {}

    /// Evaluating begins: what is cancelled from now on keeps its work.
    fn evaluating(&self) {}

    /// So many tokens of a state are intact, and the others are about to be evaluated.
    fn missed(&self, _prefix: &Prefix, _key: &StateKey, _saved: usize) {}

    /// It wants to be told what of a prompt is saved before the rest is evaluated.
    fn wants_explanation(&self) -> bool {
        false
    }

    /// Receives what of a prompt is saved.
    fn explained(&self, _prefix: &Prefix, _explanation: &Explanation) {}

    /// The template writes the date, so the prompt has another key tomorrow.
    fn dated(&self, _today: &str) {}

    /// A state was found that has these parameters, where others were asked for that are as good.
    fn other_attention(&self, _found: &Params, _own: &Params) {}

    /// A label was written; `before` is what it was, where there was one.
    fn labelled(&self, _saved: &Saved, _name: Option<&str>, _before: Option<&Label>) {}

    /// States were collected to make room.
    ///
    /// # Errors
    /// Why that cannot be told; it ends the operation.
    fn collected(&self, _outcome: &Outcome) -> Result<()> {
        Ok(())
    }

    /// Reports that more is kept than is allowed, because it may not go.
    fn over_budget(&self, _outcome: &Outcome, _limits: &Limits) {}
}

/// Stops operations, between two batches. A clone stops the same ones.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// Stops what is given this token. Says whether it was stopped before.
    pub fn cancel(&self) -> bool {
        self.0.swap(true, Ordering::SeqCst)
    }

    /// It was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Forgets that it was cancelled. Says whether it was.
    pub fn renew(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

/// See the module.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// Receives messages and progress.
    pub observer: &'a dyn Observer,
    /// Stops the operation.
    pub cancel: &'a CancelToken,
    /// Threads that evaluate.
    pub threads: u32,
    /// Only what this machine and program computed alone may be used.
    pub same_compute: bool,
}

impl Call<'_> {
    /// Cancelling was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// See [`Observer::progress`].
    pub fn progress(&self) -> Box<dyn Progress> {
        self.observer.progress()
    }

    /// See [`Observer::timings`].
    pub fn timings(&self) -> Timings {
        self.observer.timings()
    }

    /// See [`Observer::event`].
    ///
    /// # Errors
    /// As there, or when the value is no JSON.
    pub fn event(&self, name: &str, value: &impl Serialize) -> Result<()> {
        self.observer.event(name, &serde_json::to_value(value)?)
    }

    /// See [`Observer::say`].
    pub fn say(&self, text: impl std::fmt::Display) {
        self.observer.say(&text.to_string());
    }

    /// See [`Observer::warn`].
    pub fn warn(&self, text: impl std::fmt::Display) {
        self.observer.warn(&text.to_string());
    }

    /// The store's shared lock; says so when a collection has to be waited for.
    ///
    /// # Errors
    /// When the lock fails.
    pub fn lock_shared(&self, store: &Store) -> Result<SharedGuard> {
        Ok(store.lock_shared(|| self.say("waiting for a gc to finish …"))?)
    }

    /// The store's exclusive lock; says so when it has to be waited for.
    ///
    /// # Errors
    /// When the lock fails.
    pub fn lock_exclusive(&self, store: &Store) -> Result<ExclusiveGuard> {
        Ok(store.lock_exclusive(|| self.say("waiting for a build or gc to finish …"))?)
    }

    /// The right to evaluate a prompt; says so when another process is evaluating the same.
    ///
    /// # Errors
    /// When the lock fails.
    pub fn lock_build(&self, store: &Store, prefix: &Prefix) -> Result<BuildLock> {
        Ok(store.lock_build(&prefix.chain.last(), || {
            self.say("waiting for another build of the same prompt …");
        })?)
    }
}
