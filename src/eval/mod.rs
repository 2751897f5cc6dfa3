//! Suites of questions with checks: what is asked, what an answer must be, and when two answers agree. Pure: nothing here
//! reads a file or knows a model.
//!
//! - [`suite`]: the file, in TOML.
//! - [`check`]: what an answer must be.
//! - [`agree`]: whether two answers say the same.
//! - [`interval`]: how sure a pass rate is.
//! - [`report`]: what is shown of it.
//! - [`outcome`]: what came of a run, and its sums.

mod asked;
pub mod check;
mod generate;
pub mod interval;
mod number;
pub mod outcome;
pub mod plan;
pub mod report;
pub mod results;
pub mod runner;
pub mod similarity;
pub mod suite;
