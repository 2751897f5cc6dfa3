//! Text: files of it, and numbers, times and tables as people read them.

pub mod escapes;
pub mod file;
pub mod human;
#[cfg(feature = "cli")]
pub mod similar;
pub mod table;
#[cfg(feature = "cli")]
pub mod wrap;
