//! The application: what of a prompt is saved, restoring it, evaluating and saving the rest, and answering. Knows the store
//! and the engine, which do not know each other; and no flag, terminal or signal.
//!
//! - [`Call`]: what every operation is given: an [`Observer`], a [`CancelToken`], and how it evaluates.
//! - [`target`], [`source`]: a model with parameters, and a prompt on its way to tokens.
//! - [`build`]: finding, evaluating, saving.
//! - [`explain`]: what is saved of a prompt, and why not more.
//! - [`opened`]: a saved state, open for questions.
//! - [`conversation`]: what is said behind a state.
//! - [`prefill`]: evaluating what is not saved, and saving it on the way.
//! - [`verdict`]: how much came from the cache, and why not more.

mod budget;
pub mod build;
mod call;
pub mod constraint;
pub mod conversation;
mod estimate;
pub mod explain;
pub mod extend;
mod failure;
pub mod fingerprint;
mod load;
pub mod memory;
pub mod open_state;
pub mod prefill;
pub mod progress;
pub mod recode;
pub mod source;
pub mod target;
pub mod timings;
pub mod verdict;
pub mod verify;

use anyhow::{Result, bail};
pub use call::{Call, CancelToken, Observer};
pub use load::load;

pub use failure::{Failure, Hint};
use pcache_engine::model::Model;
use pcache_engine::prompt::{Asker, Ending};
use pcache_format::{Manifest, StateKey};
use pcache_store::{State, Store};

/// The state with this key, with its tokens.
///
/// # Errors
/// [`Failure::NotFound`] where there is none, [`Failure::Corrupt`] where its tokens are lost.
pub fn whole_state(store: &Store, key: &StateKey) -> Result<State> {
    let state = state(store, key)?;
    if !state.is_whole() {
        let why = state.damage.as_ref().map(ToString::to_string).unwrap_or_default();
        bail!(Failure::Corrupt(format!(
            "the tokens of state {} are lost: {why}; building the prompt again repairs it",
            key.short()
        )));
    }
    Ok(state)
}

/// End of a state, which its questions are tokenised with.
fn ending(manifest: &Manifest) -> Ending<'_> {
    let last_token = manifest.tokens.last().copied();
    let rendered_with = (!manifest.raw).then_some(&manifest.rendered_with);
    Ending { last_token, pending_text: &manifest.pending_text, suffix: &manifest.suffix, rendered_with }
}

/// Tokenises the questions of a state.
pub(crate) fn asker(model: &Model, state: &State) -> Asker {
    Asker::new(model, ending(&state.manifest))
}

/// Threads that evaluate unless something else is said: the physical cores that this process may use.
pub fn usual_threads() -> u32 {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = num_cpus::get_physical().min(available).max(1);
    u32::try_from(cores).unwrap_or(1)
}

/// The state with this key.
///
/// # Errors
/// [`Failure::NotFound`] where there is none.
pub fn state(store: &Store, key: &StateKey) -> Result<State> {
    match store.state(key)? {
        Some(state) => Ok(state),
        None => bail!(Failure::NotFound(format!("state {} was removed in between", key.short()))),
    }
}
