//! The one fence: raw llama.cpp calls. The only module with `unsafe` code.
//!
//! Everything here is a thin, checked wrapper: sizes that come back from C are compared with what
//! was asked for, lengths that go in are those of the slice that is passed.
#![allow(unsafe_code)]

pub mod compute;
pub mod log;
pub mod state;
