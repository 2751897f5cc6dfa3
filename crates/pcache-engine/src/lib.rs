//! The engine: a llama.cpp model and the sequences evaluated on it. Knows nothing of the store.
//!
//! - [`compute`]: the identity of what computes states.
//! - [`gguf`]: what a model file says about itself, read without llama.cpp.
//! - [`model`]: loading, the vocabulary, what kind of state the model has.
//! - [`text`]: turning template text and user text into tokens, so that user text cannot forge control tokens.
//! - [`template`]: rendering the model's chat template around a prompt.
//! - [`prompt`]: from a prompt file to the tokens of its state, and to the text an ask puts around a question.
//! - [`prompt_edit`]: a state's prompt with another text in its place.
//! - [`session`]: one right-sized context: evaluate, snapshot, restore, logits.
//! - [`scheduler`]: several answers from one prefix, evaluated together.
//! - [`generate`]: sampling an answer from a session.
//! - [`constraint`]: answers that follow a grammar or a JSON schema.
//!
//! **One way of evaluating.** Prompts are evaluated in batches of [`pcache_format::SEGMENT_TOKENS`] that start at
//! multiples of it, and a question in batches of the same size from the state's end on. Whether a batch was
//! evaluated now or restored, everything after it is computed from the same bytes by the same calls: that is
//! why a hit and a miss give the same logits, bit for bit.
//!
//! **A state is never rewound.** To ask again, the session is reset and the state restored again. Sliding-window
//! and recurrent caches forget what a rewind would need.

pub mod compute;
pub mod constraint;
mod context;
pub mod generate;
pub mod gguf;
pub mod model;
pub mod prompt;
pub mod prompt_edit;
pub mod scheduler;
mod sequences;
pub mod session;
mod stack;
pub mod sys;
pub mod template;
pub mod text;
pub mod utf8;

use std::path::PathBuf;

pub use sequences::Slots;

use pcache_format::sequence::SequenceError;

/// Failure of the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// llama.cpp could not start.
    #[error("llama.cpp cannot start: {0}")]
    Backend(String),
    /// A variable of the environment would change the layout of states, and so give one key two contents.
    #[error("the environment variable {0} changes the layout of states; unset it")]
    LayoutVariable(&'static str),
    /// The model cannot be loaded.
    #[error("llama.cpp cannot load {}: {reason}", path.display())]
    Load {
        /// The model file.
        path: PathBuf,
        /// The first error that llama.cpp logged.
        reason: String,
    },
    /// The model does not continue text.
    #[error("{} ({architecture}) is not a model that continues text: {reason}", path.display())]
    NotGenerative {
        /// The model file.
        path: PathBuf,
        /// Its architecture.
        architecture: String,
        /// Missing part.
        reason: &'static str,
    },
    /// A context cannot be made.
    #[error("llama.cpp cannot make a context of {cells} cells: {reason}")]
    Context {
        /// The cells asked for.
        cells: usize,
        /// The first error that llama.cpp logged.
        reason: String,
    },
    /// A batch cannot be evaluated.
    #[error("llama.cpp cannot evaluate {count} tokens at position {first}: {reason}")]
    Evaluate {
        /// First position.
        first: usize,
        /// Number of tokens.
        count: usize,
        /// The reason.
        reason: String,
    },
    /// The cells of a sequence cannot be emptied or shared.
    #[error("llama.cpp cannot change the cells of sequence {sequence}: {reason}")]
    Cells {
        /// Sequence.
        sequence: i32,
        /// Reason.
        reason: String,
    },
    /// A state cannot be saved.
    #[error("llama.cpp announced a state of {expected} bytes and wrote {written}")]
    Save {
        /// Bytes announced.
        expected: usize,
        /// Bytes written.
        written: usize,
    },
    /// A model keeps a state of a kind that cannot be checked before it is restored, so it is not saved either.
    #[error("the model's state is of a kind that pcache does not know and would not restore: {0}")]
    UnknownState(SequenceError),
    /// A state whose bytes are as they were written is not one that this model could have.
    #[error("the state at position {first} is not one of this model: {reason}")]
    NoState {
        /// First position.
        first: usize,
        /// The first number that is wrong.
        reason: SequenceError,
    },
    /// A verified state was refused.
    #[error("llama.cpp refuses a state of {bytes} bytes at position {first}: {reason}")]
    Restore {
        /// First position.
        first: usize,
        /// Its size.
        bytes: usize,
        /// The first error that llama.cpp logged.
        reason: String,
    },
    /// Answers cannot satisfy the constraint.
    #[error("{0}")]
    Constraint(String),
    /// The chat template cannot be used.
    #[error(transparent)]
    Template(#[from] template::TemplateError),
}

/// A result of the engine.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// The last error in llama.cpp's log, or that there was none.
fn logged_reason() -> String {
    crate::sys::log::take_last_error().unwrap_or_else(|| "it does not say why; try -vv".into())
}
