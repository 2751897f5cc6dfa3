//! A prompt that is to be in a session: what it is, and what of it is saved and intact.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;

use crate::engine::session::Session;
use crate::format::{Codec, Layout, Record, Room};
use crate::key::{Chain, ModelHash, Params, Segment};
use crate::store::objects::{Miss, Unverified, Verified};
use crate::store::{Result, Store};

/// Tokens under a model and parameters.
pub struct Job {
    pub model: ModelHash,
    pub params: Params,
    pub layout: Layout,
    pub tokens: Vec<i32>,
    pub chain: Chain,
    /// How what is evaluated is stored; what is saved already stays as it is.
    pub codec: Codec,
}

/// The verdict of the cache on one prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// `hit`, `partial` or `miss`.
    pub status: Status,
    /// Tokens whose state was restored into the model.
    pub restored_tokens: usize,
    /// Tokens evaluated before an answer could begin: what was missed, and the question.
    pub evaluated_tokens: usize,
    /// Why it is not a hit.
    pub reason: Option<String>,
}

/// How much of a prompt came from the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Hit,
    Partial,
    Miss,
}

impl Verdict {
    /// Of so many tokens that a session holds already.
    pub fn in_memory(tokens: usize) -> Self {
        Self { status: Status::Hit, restored_tokens: tokens, evaluated_tokens: 0, reason: None }
    }
}

impl Status {
    /// All, some or nothing of `total` tokens.
    pub fn of(restored: usize, total: usize) -> Self {
        match restored {
            0 => Self::Miss,
            n if n == total => Self::Hit,
            _ => Self::Partial,
        }
    }
}

impl Job {
    pub fn new(model: ModelHash, params: Params, layout: Layout, tokens: Vec<i32>) -> Self {
        let chain = Chain::of(params.root(&model), &tokens);
        Self { model, params, layout, tokens, chain, codec: Codec::default() }
    }

    /// The job that a saved state is.
    pub fn of_state(state: &Record) -> Self {
        Self::new(state.model, state.params.clone(), state.layout, state.tokens.clone())
    }

    /// What is saved as objects.
    pub fn pieces(&self) -> Vec<Segment> {
        self.layout.pieces(&self.chain)
    }

    /// The pieces to look for: all segments; or the longest prefix that has a snapshot, beside which shorter ones
    /// are of no use.
    fn candidates(&self, store: &Store) -> Result<Vec<Segment>> {
        if self.layout == Layout::Snapshot {
            for piece in (1..=self.chain.segments().len()).rev().filter_map(|n| self.chain.prefix(n)) {
                if store.index().segment(&piece.chain)?.is_some() {
                    return Ok(vec![piece]);
                }
            }
        }
        Ok(self.pieces())
    }

    /// Looks up and maps what is saved of the prompt, as far as it goes. Call it under the shared lock.
    pub fn find(&self, store: &Store) -> Result<Found> {
        let mut found = Found::default();
        for piece in self.candidates(store)? {
            let mapped = match store.index().segment(&piece.chain)? {
                None => Err(Miss::NotSaved),
                Some(row) => store.map(&row),
            };
            match mapped {
                Ok(object) => found.parts.push((piece, object)),
                Err(miss) => {
                    found.miss = Some(miss);
                    break;
                }
            }
        }
        Ok(found)
    }
}

/// Objects that nobody may read yet.
#[derive(Default)]
pub struct Found {
    parts: Vec<(Segment, Unverified)>,
    miss: Option<Miss>,
}

/// What of a prompt is saved and intact, in order and without a gap.
pub struct Recall {
    pub parts: Vec<(Segment, Verified)>,
    /// Why it ends before the prompt does.
    pub miss: Option<Miss>,
    /// How long the verification took.
    pub took: Duration,
}

/// What a restore took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Decompressing, on all cores.
    pub decoding: Duration,
    /// Putting the states into llama.cpp.
    pub loading: Duration,
}

impl Found {
    /// Why it is no hit, as far as that is known before anything is verified.
    pub fn miss(&self) -> Option<&Miss> {
        self.miss.as_ref()
    }

    /// Brings every page into memory, on all cores, and looks at nothing: for measurements.
    pub fn touch(&self) {
        self.parts.par_iter().for_each(|(_, object)| object.touch());
    }

    /// Compares every byte with its hash, on all cores; ends at the first object that is not as it should be.
    pub fn verify(self, job: &Job) -> Recall {
        let start = Instant::now();
        let params = job.params.canonical();
        let checked: Vec<_> = self
            .parts
            .into_par_iter()
            .map(|(piece, object)| {
                let tokens = &job.tokens[piece.first..piece.end()];
                object.verify(tokens, &job.model, &params).map(|verified| (piece, verified))
            })
            .collect();
        let (mut parts, mut miss) = (Vec::with_capacity(checked.len()), self.miss);
        for result in checked {
            match result {
                Ok(part) => parts.push(part),
                Err(first) => {
                    miss = Some(first);
                    break;
                }
            }
        }
        Recall { parts, miss, took: start.elapsed() }
    }
}

impl Recall {
    /// Why it ends where it does, for people; nothing if it covers all of the job.
    pub fn reason(&self, job: &Job) -> Option<String> {
        let miss = self.miss.as_ref().filter(|_| self.tokens() < job.tokens.len())?;
        Some(match self.tokens() {
            0 => miss.to_string(),
            n => format!("from token {n} on: {miss}"),
        })
    }

    /// Ends where a state, decoded, is not the one that was stored: looks closer than an ask does.
    pub fn proved(mut self) -> Self {
        let wrong = self.parts.par_iter().map(|(_, object)| object.prove(&mut Room::default()).err());
        let wrong: Vec<Option<Miss>> = wrong.collect();
        if let Some(first) = wrong.iter().position(Option::is_some) {
            self.parts.truncate(first);
            self.miss = wrong.into_iter().nth(first).flatten();
        }
        self
    }

    /// Tokens that are covered.
    pub fn tokens(&self) -> usize {
        self.parts.last().map_or(0, |(piece, _)| piece.end())
    }

    /// Puts the saved part into an empty session. A refusal empties the session again and is a reason to
    /// evaluate everything, not an error.
    pub fn restore(&self, session: &mut Session<'_>) -> std::result::Result<Restored, String> {
        let restored = self.restore_parts(session);
        if restored.is_err() {
            session.reset();
        }
        restored
    }

    /// As many parts at once as there are threads are decoded, where they are, into the same room each time: memory for
    /// one part a thread, not for the state.
    fn restore_parts(&self, session: &mut Session<'_>) -> std::result::Result<Restored, String> {
        let start = Instant::now();
        let mut took = Restored::default();
        let mut rooms: Vec<Room> = Vec::new();
        rooms.resize_with(rayon::current_num_threads().min(self.parts.len()), Room::default);
        for parts in self.parts.chunks(rooms.len().max(1)) {
            let began = Instant::now();
            let decoded: Vec<_> =
                parts.par_iter().zip(rooms.par_iter_mut()).map(|((_, o), room)| o.state(room)).collect();
            took.decoding += began.elapsed();
            for ((piece, _), state) in parts.iter().zip(decoded) {
                let first = piece.first;
                let state = state.map_err(|e| format!("the state at position {first}: {e}"))?;
                session.restore(piece, state).map_err(|e| e.to_string())?;
            }
        }
        took.loading = start.elapsed().saturating_sub(took.decoding);
        Ok(took)
    }
}
