//! Measuring what saving and restoring costs.
//!
//! Taking measurements:
//!
//! - [`measure`]: one run, from the model to the results.
//! - `plan`: which lengths, and how many of them the time allows.
//! - `evaluate`: the prompt's evaluation; on the last round, what is saved at each length.
//! - `save`, `recall`: the stages of saving and of restoring, each timed on its own.
//! - `first_token`: the whole of an ask.
//! - `subject`: what is measured.
//! - `limits`: what the machine could do at best, with the same bytes on the same disk.
//! - `machine`: which machine it is.
//!
//! Showing them:
//!
//! - [`results`]: what is measured, as it is kept in [`files`].
//! - [`tables`]: the tables that every kind of report has.
//! - [`text`], [`markdown`], [`html`]: reports for the terminal and as files.
//! - [`compare`]: how measurements differ, and where that is more than noise.
//! - [`pictures`]: what is drawn, with [`chart`].

pub mod chart;
pub mod compare;
mod evaluate;
pub mod files;
mod first_token;
pub mod html;
mod limits;
mod machine;
pub mod markdown;
pub mod measure;
pub mod pictures;
mod plan;
mod recall;
pub mod results;
mod save;
mod subject;
pub mod tables;
pub mod text;
