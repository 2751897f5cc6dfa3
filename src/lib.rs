//! pcache manages saved states of local language models on disk.
//!
//! A prompt that a model has processed leaves behind its key/value state. Saving that state and restoring it
//! is hundreds of times faster than processing the prompt again. Data flows one way:
//!
//! ```text
//! cli → commands → cache → { pcache-store, pcache-engine } → pcache-format
//! ```
//!
//! [`cache`] carries bytes between [`pcache_store`] and [`pcache_engine`], which do not know each other. [`pcache_format`]
//! names a state by what it was computed from, and is the files; [`report`] is what people and programs read. The design is
//! explained in `docs/design.md` and in the modules' own pages.

pub mod cache;
pub mod cli;
pub mod commands;
pub mod eval;
pub mod report;
