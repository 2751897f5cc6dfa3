//! Looking: every object of every state, each once.

use std::collections::HashMap;

use anyhow::Result;
use rayon::prelude::*;

use super::super::app::App;
use super::super::states;
use super::{Checked, Status, Trouble};
use crate::format::{Record, Room};
use crate::key::{ChainKey, Segment, StateKey};
use crate::report::progress::Unit;
use crate::store::Store;
use crate::store::objects::{Miss, Unverified};

/// Hashes objects, each once.
pub(super) struct Checker<'s> {
    pub(super) store: &'s mut Store,
    pub(super) repair: bool,
    /// What was found of segments so far.
    pub(super) known: HashMap<ChainKey, Option<Miss>>,
}

impl Checker<'_> {
    pub(super) fn check_all(&mut self, app: &App, keys: &[StateKey]) -> Result<Vec<Checked>> {
        let progress = app.progress();
        let worth_a_bar = keys.len() > 1;
        if worth_a_bar {
            progress.start("verifying", keys.len() as u64, Unit::States);
        }
        let mut checked = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            checked.extend(self.check(key)?);
            if worth_a_bar {
                progress.set(i as u64 + 1);
            }
        }
        progress.finish();
        Ok(checked)
    }

    /// Nothing if the state is gone by now.
    fn check(&mut self, key: &StateKey) -> Result<Option<Checked>> {
        let Some(mut state) = self.store.index().state(key)? else { return Ok(None) };
        let mut healed = None;
        if !state.is_whole() && self.repair && self.store.restore_row(key)? {
            healed = Some(Trouble::Row.reason());
            state = states::state(self.store, key)?;
        }
        let trouble = if state.is_whole() { self.trouble(&state)? } else { Some(Trouble::Row) };
        let rows = self.store.index().segments_of(key)?;
        let record = self.store.index().use_of(key)?;
        Ok(Some(Checked {
            key: *key,
            name: state.name,
            status: match (&trouble, &healed) {
                (Some(trouble), _) => trouble.status(),
                (None, Some(_)) => Status::Healed,
                (None, None) => Status::Ok,
            },
            objects: rows.len() + usize::from(record.is_some_and(|u| u.record.is_some())),
            bytes: rows.iter().map(|r| r.file_bytes).sum::<u64>() + record.map_or(0, |u| u.record_bytes),
            max_logit_difference: None,
            reason: trouble.as_ref().map(Trouble::reason).or(healed),
            trouble,
        }))
    }

    /// The first thing that is wrong with a state's segments, else with its record.
    fn trouble(&mut self, state: &Record) -> Result<Option<Trouble>> {
        let pieces = state.pieces();
        let unknown: Vec<Segment> =
            pieces.iter().filter(|p| !self.known.contains_key(&p.chain)).copied().collect();
        let mut mapped: Vec<(Segment, Result<Unverified, Miss>)> = Vec::new();
        for piece in unknown {
            let row = self.store.index().segment(&piece.chain)?;
            mapped.push((piece, row.ok_or(Miss::NotSaved).and_then(|row| self.store.map(&row))));
        }
        let params = state.params.canonical();
        let found: Vec<(ChainKey, Option<Miss>)> = mapped
            .into_par_iter()
            .map(|(piece, object)| {
                let tokens = &state.tokens[piece.first..piece.end()];
                let verified = object.and_then(|object| object.verify(tokens, &state.model, &params));
                let proved = verified.and_then(|object| object.prove(&mut Room::default()));
                (piece.chain, proved.err())
            })
            .collect();
        self.known.extend(found);
        let first = pieces.iter().find_map(|p| self.known.get(&p.chain).cloned().flatten());
        if let Some(miss) = first {
            return Ok(Some(Trouble::Segment(miss)));
        }
        Ok(self.store.check_record(&state.key)?.map(Trouble::Record))
    }
}
