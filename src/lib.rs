//! pcache manages saved states of local language models on disk.
//!
//! A prompt that a model has processed leaves behind its key/value state. Saving that state and mapping it back
//! is hundreds of times faster than processing the prompt again. Data flows one way:
//!
//! ```text
//! cli → commands → { store, engine, format, key, report } → sys
//! ```
//!
//! [`commands`] carries bytes between [`store`] and [`engine`], which do not know each other. [`key`] names a
//! state by what it was computed from, [`format`] is the object file, [`report`] what people and programs read,
//! [`sys`] the only unsafe code. The design is explained in `docs/design.md` and in the modules' own pages.

pub mod cli;
pub mod commands;
pub mod engine;
pub mod eval;
pub mod format;
pub mod key;
pub mod report;
pub mod store;
pub mod sys;
