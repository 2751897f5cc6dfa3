//! The one fence: memory maps and raw llama.cpp calls. The only module with `unsafe` code.
//!
//! Everything here is a thin, checked wrapper: sizes that come back from C are compared with what
//! was asked for, lengths that go in are those of the slice that is passed.
#![allow(unsafe_code)]

pub mod cache;
pub mod exit;
pub mod log;
pub mod map;
pub mod state;
