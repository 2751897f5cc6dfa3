//! The cache's verdict on a prompt, and restoring what is saved of it.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;

use pcache_engine::session::Session;
use pcache_format::Lineage;
use pcache_store::{ReadBuffers, Store, VerifiedPrefix};

/// The verdict of the cache on one prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// `hit`, `partial` or `miss`.
    pub status: Status,
    /// Number of tokens whose state was restored into the model.
    pub restored_tokens: usize,
    /// Number of tokens evaluated before an answer could begin: what was missed, and the question.
    pub evaluated_tokens: usize,
    /// Why it is not a hit.
    pub reason: Option<String>,
    /// Lineage of what was restored or found, where something else than this machine and program computed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute: Option<Lineage>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub computed_by: Option<String>,
}

/// Hit, partial or miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All of it.
    Hit,
    /// Some of it.
    Partial,
    /// Nothing.
    Miss,
}

impl Verdict {
    /// Nothing is restored so far.
    pub fn miss() -> Self {
        Self {
            status: Status::Miss,
            restored_tokens: 0,
            evaluated_tokens: 0,
            reason: None,
            compute: None,
            computed_by: None,
        }
    }

    /// Notes what computed the part that was restored or found, where that is not this machine and program.
    pub fn note_compute(&mut self, store: &Store, verified: &VerifiedPrefix) {
        self.compute = foreign(store, verified);
        self.computed_by = self.compute.map(|lineage| computed_by(store, lineage));
    }

    /// Of so many tokens that a session holds already.
    pub fn in_memory(tokens: usize) -> Self {
        Self { status: Status::Hit, restored_tokens: tokens, ..Self::miss() }
    }
}

impl Status {
    /// All, some or nothing of `total` tokens.
    pub fn new(restored: usize, total: usize) -> Self {
        match restored {
            0 => Self::Miss,
            n if n == total => Self::Hit,
            _ => Self::Partial,
        }
    }
}

/// The lineage of what is saved of a prompt, where it is not the own one.
pub fn foreign(store: &Store, verified: &VerifiedPrefix) -> Option<Lineage> {
    verified.lineage().filter(|lineage| *lineage != store.own_lineage())
}

/// Names the identity that computed a state, in a few words.
pub fn computed_by(store: &Store, lineage: Lineage) -> String {
    if lineage == Lineage::Unknown {
        return "pcache 0.1, which did not say on what".into();
    }
    let identity = store.identity_of(lineage).unwrap_or_default();
    let part = |name: &str| identity.get(name).unwrap_or_default().to_owned();
    let build = part("build");
    let build = build.split(';').next().unwrap_or_default();
    let what = match (part("backend").as_str(), part("isa").as_str()) {
        ("", _) => return format!("{}…", lineage.short()),
        ("cpu", isa) => format!("a processor with {}", isa.replace(',', " ")),
        (backend, _) => format!("{backend} on {}", part("device")),
    };
    let went_on = lineage != Lineage::from(identity.id());
    let beginning = if went_on { ", behind what another began" } else { "" };
    format!("{}…: {what}, {build}{beginning}", lineage.short())
}

/// Time that a restore took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Reading again what was not kept in memory, and decompressing, on all cores.
    pub decoding: Duration,
    /// Putting the states into llama.cpp.
    pub loading: Duration,
}

/// Puts the saved part into an empty session. A refusal empties the session again and is a reason to
/// evaluate everything, not an error.
pub fn restore(verified: &VerifiedPrefix, session: &mut Session) -> Result<Restored, String> {
    let restored = restore_parts(verified, session);
    if restored.is_err() {
        session.reset();
    }
    restored
}

/// As many parts at once as there are threads are decoded, where they are, into the same buffers each time: memory for
/// one part a thread, not for the state.
fn restore_parts(verified: &VerifiedPrefix, session: &mut Session) -> Result<Restored, String> {
    let start = Instant::now();
    let mut took = Restored::default();
    let mut buffers: Vec<ReadBuffers> = Vec::new();
    buffers.resize_with(rayon::current_num_threads().min(verified.parts.len()), ReadBuffers::default);
    for parts in verified.parts.chunks(buffers.len().max(1)) {
        let began = Instant::now();
        let decoded: Vec<_> =
            parts.par_iter().zip(buffers.par_iter_mut()).map(|((_, o), buffers)| o.state(buffers)).collect();
        took.decoding += began.elapsed();
        for ((piece, _), state) in parts.iter().zip(decoded) {
            let first = piece.first;
            let state = state.map_err(|e| format!("the state at position {first}: {e}"))?;
            session.take(&piece.positions(), state).map_err(|e| e.to_string())?;
        }
    }
    session.put().map_err(|e| e.to_string())?;
    took.loading = start.elapsed().saturating_sub(took.decoding);
    Ok(took)
}
