//! Files without rows, as what they are.

use std::collections::HashSet;

use pcache_format::{ChainKey, Label, Lineage, Manifest, ObjectId, StateKey};

use crate::disk::Entry;
use crate::index::{Described, ListedState, ManifestRow, SegmentRow, StateChange};
use crate::removal::Doomed;

/// Chain key and lineage of a segment.
pub(super) type SegmentId = (ChainKey, Lineage);

/// Files that have no row.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) segments: Vec<SegmentRow>,
    pub(crate) states: Vec<FoundState>,
    /// Damaged, superseded, or of no use.
    pub(super) stray: Vec<Entry>,
    /// Those of the former that are records of the states found.
    pub(crate) superseded: Vec<(StateKey, ObjectId)>,
    /// The disk or the system did not let them be read. They may be intact, so they stay.
    pub(crate) unreadable: Vec<Entry>,
    /// Of a later version, or another program's: they stay.
    pub(super) newer: Vec<Entry>,
    /// States of which a manifest is among them.
    pub(super) newer_states: HashSet<StateKey>,
}

/// A state that has files and no row, or a manifest more than its row says.
#[derive(Clone)]
pub(crate) struct FoundState {
    pub(crate) manifests: Vec<(Manifest, ManifestRow)>,
    /// Object that is its record, and its size.
    pub(super) record: Option<(ObjectId, u64)>,
    pub(crate) label: Label,
    /// Size of the label's file; 0 where there is none.
    pub(crate) label_bytes: u64,
    /// The index has the state.
    pub(crate) known: bool,
    /// Links to the segments of a record, which names none.
    pub(super) record_links: Vec<SegmentId>,
    /// Manifest in the record.
    pub(super) record_manifest: Option<Manifest>,
}

impl FoundState {
    pub(crate) fn key(&self) -> StateKey {
        self.label.key
    }

    /// Segments of each of its manifests, or of its record.
    pub(crate) fn links(&self) -> Vec<Vec<SegmentId>> {
        match self.manifests.is_empty() {
            true => vec![self.record_links.clone()],
            false => self.manifests.iter().map(|(manifest, _)| manifest.links()).collect(),
        }
    }

    /// Returns the change of the index that gives it its row.
    pub(crate) fn changes<'a>(&'a self, links: &'a [Vec<SegmentId>], now: i64) -> Vec<StateChange<'a>> {
        let change = |manifest: &'a Manifest, row, segments: &'a [SegmentId], record| StateChange {
            label: &self.label,
            label_bytes: self.label_bytes,
            described: Some(Described { manifest, row, segments }),
            used: (!self.known).then_some(now),
            record,
        };
        match (&self.record, self.manifests.is_empty()) {
            (record @ Some(_), true) => {
                let manifest = self.record_manifest.as_ref();
                manifest.map(|m| change(m, None, &links[0], *record)).into_iter().collect()
            }
            _ => {
                let all = self.manifests.iter().zip(links);
                all.map(|((manifest, row), links)| change(manifest, Some(*row), links, None)).collect()
            }
        }
    }

    /// Its files, to be deleted.
    pub(super) fn doomed(&self) -> Doomed {
        let manifests = self.manifests.iter().map(|(_, row)| row.lineage).collect();
        Doomed { key: self.key(), manifests, record: self.record.map(|(object, _)| object) }
    }

    /// Tokens of the state.
    fn any_manifest(&self) -> Option<&Manifest> {
        self.manifests.first().map(|(manifest, _)| manifest).or(self.record_manifest.as_ref())
    }

    pub(super) fn listed(&self, now: i64) -> Option<ListedState> {
        let (manifest, label) = (self.any_manifest()?, &self.label);
        let manifests: u64 = self.manifests.iter().map(|(_, row)| row.bytes).sum();
        let record = self.record.map_or(0, |(_, bytes)| bytes);
        Some(ListedState {
            key: label.key,
            names: label.names.clone(),
            pinned: label.is_pinned(),
            expires: label.latest_expiry(),
            model: manifest.model,
            model_path: label.model_path.clone(),
            kind: manifest.kind,
            lineage: manifest.lineage,
            tokens: manifest.tokens.len(),
            created: label.created,
            last_used: now,
            hits: 0,
            origin: label.origin.clone(),
            cost_s: label.full_cost_s(manifest.tokens.len()),
            description_bytes: manifests + record + self.label_bytes,
            description_files: self.manifests.len()
                + usize::from(record > 0)
                + usize::from(self.label_bytes > 0),
            segments: Vec::new(),
        })
    }
}
