//! Checking what is saved, and mending what is damaged.

mod check;
mod mend;

use std::path::PathBuf;

use serde::Serialize;

pub use check::check;
pub use mend::{Loader, mend};
use pcache_format::StateKey;
use pcache_store::Miss;

/// Actions beside looking.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    /// Damaged states are evaluated again.
    pub repair: bool,
    /// Intact states are compared with a cold evaluation.
    pub logits: bool,
}

/// Condition of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it was saved.
    Ok,
    /// Something of it is damaged.
    Corrupt,
    /// Something of it is not there.
    Missing,
    /// It was damaged, and is whole again.
    Healed,
}

impl Status {
    /// Name in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Corrupt => "corrupt",
            Self::Missing => "missing",
            Self::Healed => "healed",
        }
    }
}

/// Result for a state.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// Key of the state.
    pub key: StateKey,
    /// Its oldest name.
    pub name: Option<String>,
    /// Verdict.
    pub status: Status,
    /// Files of it.
    pub objects: usize,
    /// Their size.
    pub bytes: u64,
    /// Largest difference to the logits of a cold evaluation, where they were compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_logit_difference: Option<f32>,
    /// Comparison of the restored state's logits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared: Option<Compared>,
    /// Files that describe it, of a later version, and left alone.
    #[serde(skip)]
    pub newer: Vec<PathBuf>,
    /// Damage, or the damage that was repaired.
    pub reason: Option<String>,
    #[serde(skip)]
    trouble: Option<Trouble>,
}

impl Checked {
    /// Notes why what is wrong with it stays.
    fn cannot_be_mended(&mut self, why: &str) {
        if let Some(trouble) = &self.trouble {
            self.reason = Some(format!("{}; it cannot be repaired: {why}", trouble.reason()));
        }
    }
}

/// Reference of a comparison of logits.
#[derive(Debug, Clone, Serialize)]
pub struct Compared {
    /// Identity that computed the restored state.
    pub restored: String,
    /// It is what computes here: then the difference must be none.
    pub own: bool,
}

/// Damage of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Trouble {
    /// A manifest, the label or the record.
    Description(Miss),
    /// A segment.
    Segment(Miss),
}

impl Trouble {
    fn status(&self) -> Status {
        match self {
            Self::Description(miss) | Self::Segment(miss) if miss.is_missing() => Status::Missing,
            _ => Status::Corrupt,
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Description(miss) | Self::Segment(miss) => miss.to_string(),
        }
    }
}
