//! What people and programs read: tables, timings, JSON, progress. Prints nothing by itself.

pub mod bench;
pub mod chart;
pub mod eval;
pub mod human;
pub mod log;
pub mod progress;
pub mod table;
