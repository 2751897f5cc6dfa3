//! Measurements: their schema, and what is shown of them.
//!
//! - [`results`]: what is measured, as it is kept in files.
//! - [`tables`]: the tables that every kind of report has.
//! - [`text`], [`markdown`], [`html`]: reports for the terminal and as files.
//! - [`compare`]: how measurements differ, and where that is more than noise.
//! - [`pictures`]: what is drawn, with [`chart`].

pub mod chart;
pub mod compare;
pub mod html;
pub mod markdown;
pub mod pictures;
pub mod results;
pub mod tables;
pub mod text;
