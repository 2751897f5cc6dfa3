//! pcache manages saved states of local language models on disk.
//!
//! A prompt that a model has processed leaves behind its key/value state. Saving that state and restoring it is hundreds of
//! times faster than processing the prompt again. What is restored is proved first: every byte is compared with its hash,
//! and damage is a miss that is repaired.
//!
//! ```no_run
//! use pcache::{Cache, Claim, Prompt, Sampling, Watch};
//!
//! fn main() -> pcache::Result<()> {
//!     let cache = Cache::open("states")?;
//!     let model = cache.load("model.gguf", Watch::default())?;
//!     let prompt = Prompt::system("You are the waiter of a small restaurant. Today there is pumpkin soup.");
//!     // Seconds to minutes the first time, milliseconds from then on: also in another process.
//!     let state = cache.build(&model, &prompt, Claim::default(), Watch::default())?;
//!     let mut session = cache.session(&model, &state.key, 512, Watch::default())?;
//!     session.ask("Is there soup?", &Sampling::greedy(100), Watch::default(), |text| print!("{text}"))?;
//!     Ok(())
//! }
//! ```
//!
//! - [`Cache`]: a folder of states; [`Model`]: a loaded model; both are shared by threads as they are.
//! - [`Prompt`]: what a state is made of; [`State`]: what became of it, with the [`Verdict`] on how much was saved.
//! - [`Session`]: a state that is open for questions; each [`Answer`] starts from the same state. A [`Conversation`] goes on.
//! - [`Observer`] hears what happens, a [`CancelToken`] stops it: both are in a [`Watch`].
//! - [`Error`] with its [`ErrorKind`].
//!
//! `examples/` has three short programs. How it is built:
//!
//! ```text
//! cli → cache → { pcache-store, pcache-engine } → pcache-format
//! ```
//!
//! [`cache`] carries bytes between [`pcache_store`] and [`pcache_engine`], which do not know each other. [`pcache_format`]
//! names a state by what it was computed from, and is the files. [`map`], [`eval`] and [`bench`] are features over it. The design is
//! explained in `docs/design.md` and in the modules' own pages.

pub mod bench;
pub mod cache;
#[cfg(feature = "cli")]
pub mod cli;
mod error;
pub mod eval;
mod library;
pub mod map;
pub mod text;

pub use cache::explain::Explanation;
pub use cache::explain::{Nearest, SameText};
pub use cache::extend::Update;
pub use cache::recode::Recoded;
pub use cache::timings::Timings;
pub use cache::verdict::{Status, Verdict};
pub use cache::verify::{Checked, Status as Health, Wish};
pub use cache::{CancelToken, Hint, Observer};
pub use error::{Error, ErrorKind, Result};
pub use library::{
    Answer, Cache, CacheOptions, Conversation, GcPlan, Model, ModelOptions, Prompt, Session, State, Watch,
};

pub use pcache_engine::generate::{Sampling, StopReason};
pub use pcache_engine::template::Role;
pub use pcache_format::{Codec, KvType, StateKey};
pub use pcache_store::evict::Limits;
pub use pcache_store::gc::{Evicted, Outcome};
pub use pcache_store::{Claim, Expiry, ListedState, Reindexed};
