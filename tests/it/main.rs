//! Tests of the program and the library, on the tiny models and on SmolLM2. One binary: each would link llama.cpp.

mod common;
mod gguf;
mod guide;
mod program;

#[cfg(unix)]
mod bench;
mod cli;
mod compute;
mod constraints;
#[cfg(unix)]
mod conversation;
mod corruption;
#[cfg(unix)]
mod crash;
#[cfg(target_os = "linux")]
mod disks;
mod eval;
mod first_words;
mod foreign_bytes;
mod hostile;
mod injection;
mod keys;
mod library;
mod manage;
#[cfg(unix)]
mod map;
mod old_store;
mod parameters;
mod privacy;
mod real_model;
mod reports;
mod same_answers;
mod same_logits;
mod templates;
