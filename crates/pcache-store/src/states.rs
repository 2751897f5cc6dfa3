//! Reading states, checking the files that describe them, and removing them.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use pcache_format::manifest::ManifestSegment;
use pcache_format::record::Record;
use pcache_format::{Chain, FormatError, Label, Lineage, Manifest, ObjectId, StateKey, object};

use super::disk::Entry;
use super::index::{ManifestRow, SegmentRow, StateRow, Usage};
use super::labels::LabelProblem;
use super::lock::SharedGuard;
use super::memory::Memory;
use super::objects::Miss;
use super::{Result, Store, layout};

/// Number of looks at a state that may be changing in a store that cannot be written.
const LOOKS: u32 = 10;
/// Time between two of them.
pub(crate) const PAUSE: Duration = Duration::from_millis(30);

/// A saved state.
#[derive(Debug, Clone)]
pub struct State {
    /// Immutable description. Without tokens where neither the manifest nor the objects could be read.
    pub manifest: Manifest,
    /// Names, pins and other facts that may change.
    pub label: Label,
    /// Usage.
    pub usage: Usage,
    /// Damage of the manifest, if there is any.
    pub damage: Option<Miss>,
}

impl State {
    /// Tokens, pending text and suffix give the key.
    pub fn is_whole(&self) -> bool {
        !self.manifest.tokens.is_empty() && self.manifest.is_whole()
    }

    /// Key of the state.
    pub fn key(&self) -> StateKey {
        self.manifest.key
    }
}

impl Store {
    /// Reads a state. A manifest that is lost or damaged is made anew from the objects, as far as they can be read.
    ///
    /// # Errors
    /// When the index fails. Damage is part of the answer.
    pub fn state(&self, key: &StateKey) -> Result<Option<State>> {
        let Some(StateRow { skeleton, label, usage }) = self.index.state(key)? else { return Ok(None) };
        let own = self.own_lineage();
        let mut rows: Vec<&ManifestRow> = usage.manifests.iter().collect();
        rows.sort_by_key(|row| row.lineage != own);
        let (mut damage, mut newer) = (None, false);
        for row in rows {
            match self.read_manifest(key, row) {
                Ok(manifest) => return Ok(Some(State { manifest, label, usage, damage })),
                // A later version wrote it: no damage, though its tokens have to be found elsewhere.
                Err(_) if self.newer_manifest(key, row.lineage).is_some() => newer = true,
                Err(miss) => damage = damage.or(Some(miss)),
            }
        }
        if let Some((object, bytes)) = &usage.record {
            match self.read_record(object, *bytes) {
                Ok(record) if record.key == *key => {
                    let manifest = record.manifest();
                    return Ok(Some(State { manifest, label, usage, damage }));
                }
                Ok(_) => damage = damage.or_else(|| Some(description("record", "it is another state's"))),
                Err(miss) => damage = damage.or(Some(miss)),
            }
        }
        let damage = damage.or_else(|| (!newer).then(|| missing("manifest", "there is none")));
        let manifest = self.rebuilt_manifest(&skeleton)?.unwrap_or(skeleton);
        Ok(Some(State { manifest, label, usage, damage }))
    }

    /// Returns the usage of a state, and the sizes of the files that describe it.
    ///
    /// # Errors
    /// When the index fails.
    pub fn usage_of(&self, key: &StateKey) -> Result<Option<Usage>> {
        self.index.usage(key)
    }

    /// Lineages of the manifests of a state that lie in its folder.
    pub(crate) fn lineages_on_disk(&self, key: &StateKey) -> Vec<(Lineage, Entry)> {
        let path = layout::manifest(&self.root, key, self.own_lineage());
        let entries = path.parent().and_then(|folder| self.disk.list(folder).ok()).unwrap_or_default();
        let of_key = |entry: Entry| {
            let (of, lineage) = Manifest::parse_file_name(&entry.name)?;
            (of == *key).then_some((lineage, entry))
        };
        entries.into_iter().filter_map(of_key).collect()
    }

    /// Manifests of a state that can be read, whether the index knows them or not.
    pub(crate) fn manifests_on_disk(&self, key: &StateKey) -> Vec<(Manifest, ManifestRow)> {
        let files = self.lineages_on_disk(key).into_iter();
        files
            .filter_map(|(lineage, entry)| self.read_unindexed_manifest(*key, lineage, &entry).ok())
            .collect()
    }

    pub(crate) fn read_manifest(&self, key: &StateKey, row: &ManifestRow) -> Result<Manifest, Miss> {
        let path = layout::manifest(&self.root, key, row.lineage);
        let mut bytes = Vec::new();
        let read = match self.is_behind_a_link(&path) {
            true => Err(std::io::Error::other("its folder is a link")),
            false => self.disk.open(&path).and_then(|file| file.read(row.bytes + 1, &mut bytes)),
        };
        read.map_err(|e| missing("manifest", &e.to_string()))?;
        if ObjectId::from(blake3::hash(&bytes)) != row.blake3 {
            return Err(description("manifest", "its bytes are not those that were written"));
        }
        let manifest = Manifest::decode(&bytes).map_err(|e| description("manifest", &e.to_string()))?;
        match manifest.key == *key {
            true => Ok(manifest),
            false => Err(description("manifest", "it is another state's")),
        }
    }

    fn read_record(&self, object: &ObjectId, bytes: u64) -> Result<Record, Miss> {
        let mut buffer = Memory::default();
        let read = self.read_named(object, bytes, &mut buffer).map_err(|miss| Miss::Description {
            file: "record",
            missing: miss.is_missing(),
            reason: miss.to_string(),
        })?;
        Record::decode(read).map_err(|e| description("record", &e.to_string()))
    }

    /// The manifest of a row whose file is lost: its tokens are in its objects, and prove themselves by the key.
    fn rebuilt_manifest(&self, skeleton: &Manifest) -> Result<Option<Manifest>> {
        let mut tokens: Vec<i32> = Vec::new();
        let mut buffer = Memory::default();
        for row in self.index.segments_of(&skeleton.key)? {
            if row.first != tokens.len() && row.first != 0 {
                continue;
            }
            let read = self.read_named(&row.object, row.file_bytes, &mut buffer);
            let Some(object) = read.ok().and_then(|bytes| object::decode(bytes).ok()) else { continue };
            tokens.truncate(row.first);
            tokens.extend(object.tokens);
        }
        let manifest = Manifest { tokens, ..skeleton.clone() };
        if manifest.tokens.is_empty() || !manifest.is_whole() {
            return Ok(None);
        }
        Ok(Some(self.with_segments(manifest.clone())?.unwrap_or(manifest)))
    }

    /// A manifest with its segments as the index has them; none where one of them is not saved.
    pub(crate) fn with_segments(&self, manifest: Manifest) -> Result<Option<Manifest>> {
        let linked: HashSet<_> = self.index.segments_of(&manifest.key)?.iter().map(SegmentRow::id).collect();
        let chain = Chain::new(manifest.params.root(&manifest.model), &manifest.tokens);
        let mut segments: Vec<ManifestSegment> = Vec::new();
        for piece in manifest.layout.pieces(&chain) {
            let before = segments.last().map(|segment| segment.lineage);
            let mut saved = self.index.segments_of_chain(&piece.chain)?;
            saved.retain(|row| {
                (row.first, row.count) == (piece.first, piece.count)
                    && before.is_none_or(|before| before == row.parent_lineage)
            });
            saved.sort_by_key(|row| (!linked.contains(&row.id()), row.lineage != self.own_lineage()));
            let Some(row) = saved.first() else { return Ok(None) };
            let raw_blake3 = row.raw_blake3.or_else(|| self.raw_blake3_of(&row.object));
            let Some(raw_blake3) = raw_blake3 else { return Ok(None) };
            segments.push(ManifestSegment {
                chain: row.chain,
                tokens: row.count,
                lineage: row.lineage,
                raw_blake3,
                raw_bytes: row.raw_bytes,
                object: row.object,
                object_bytes: row.file_bytes,
            });
        }
        let lineage = segments.last().map_or(manifest.lineage, |last| last.lineage);
        Ok(Some(Manifest { segments, lineage, ..manifest }))
    }

    /// Compares the files that describe a state with its row.
    ///
    /// # Errors
    /// When the index fails. What is wrong with them is the answer.
    pub fn check_description(&self, key: &StateKey) -> Result<Option<Miss>> {
        if self.description_problem(key)?.is_none() {
            return Ok(None);
        }
        // Another process may be at work on it, or have died over it.
        let lock = self.lock_labels();
        for _ in 0..LOOKS {
            // A process that cannot write waits for the one at work, and else looks again: the next may begin at any time.
            let beside = if lock.is_err() { self.wait_for_labels() } else { None };
            if lock.is_err() {
                // It reads a copy of the index, which may be older than the files by now.
                let _ = self.index.check_is_in_place();
            }
            let problem = self.description_problem(key)?;
            if lock.is_ok() || beside.is_some() || problem.is_none() {
                return Ok(problem);
            }
            std::thread::sleep(PAUSE);
        }
        self.description_problem(key)
    }

    fn description_problem(&self, key: &StateKey) -> Result<Option<Miss>> {
        let Some(state) = self.index.state(key)? else { return Ok(Some(Miss::NotSaved)) };
        for row in &state.usage.manifests {
            match self.read_manifest(key, row) {
                Ok(manifest) if !says_the_same(&state.skeleton, &manifest) => {
                    return Ok(Some(description(
                        "row in the index",
                        "it says something else than the manifest",
                    )));
                }
                Ok(manifest) => {
                    if let Some(first) = self.contradicted(&manifest)? {
                        let reason = format!("it names other states than those saved, from token {first} on");
                        return Ok(Some(description("manifest", &reason)));
                    }
                }
                // A later version knows what it says.
                Err(_) if self.newer_manifest(key, row.lineage).is_some() => {}
                Err(miss) => return Ok(Some(miss)),
            }
        }
        if let Some((object, bytes)) = &state.usage.record
            && let Err(miss) = self.read_record(object, *bytes)
        {
            return Ok(Some(miss));
        }
        if state.usage.manifests.is_empty() && state.usage.record.is_none() {
            return Ok(Some(missing("manifest", "there is none")));
        }
        if state.usage.label_bytes == 0 {
            // Version 0.1 had none.
            let none = state.usage.record.is_none() && self.refuse_newer_label(key).is_ok();
            return Ok(none.then(|| missing("label", "there is none")));
        }
        Ok(match self.read_label(key) {
            Ok(None) => Some(missing("label", "there is none")),
            Ok(Some((label, _))) if self.as_in_the_index(label.clone(), &state.label)? == state.label => None,
            Ok(Some(_)) => Some(description("label", "it says something else than the index")),
            // A later version knows what it says.
            Err(LabelProblem::Format(FormatError::Newer(_))) => None,
            Err(LabelProblem::Unreadable(error)) => Some(missing("label", &error.to_string())),
            Err(error) => Some(description("label", &error.to_string())),
        })
    }

    /// Position of the first segment of which an object is saved that is not the one that a manifest names, or that the
    /// index does not know to be the state's.
    fn contradicted(&self, manifest: &Manifest) -> Result<Option<usize>> {
        let rows = self.index.segments_of(&manifest.key)?;
        let linked: HashSet<_> = rows.iter().map(SegmentRow::id).collect();
        for segment in manifest.segments.iter().filter(|s| !linked.contains(&(s.chain, s.lineage))) {
            let saved = self.index.segments_of_chain(&segment.chain)?;
            if let Some(row) = saved.iter().find(|row| row.lineage == segment.lineage) {
                return Ok(Some(row.first));
            }
        }
        let contradicts = |row: &&SegmentRow| {
            let named = |s: &&ManifestSegment| (s.chain, s.lineage) == row.id();
            let is_another = |s: &ManifestSegment| {
                row.raw_bytes != s.raw_bytes || row.raw_blake3.is_some_and(|hash| hash != s.raw_blake3)
            };
            manifest.segments.iter().find(named).is_some_and(is_another)
        };
        Ok(rows.iter().find(contradicts).map(|row| row.first))
    }

    /// A label without the names that other states were given later, which a move that was cut short leaves in the file;
    /// and with the place at which the model was seen last, which the index knows for all states of a model.
    fn as_in_the_index(&self, mut label: Label, row: &Label) -> Result<Label> {
        let mut names = Vec::new();
        for name in std::mem::take(&mut label.names) {
            let owner = self.index.owner(&name.name)?;
            let moved = |(owner, given): (StateKey, i64)| owner != label.key && given >= name.given;
            if !owner.is_some_and(moved) {
                names.push(name);
            }
        }
        names.sort_by(|a, b| (a.given, &a.name).cmp(&(b.given, &b.name)));
        Ok(Label { names, model_path: row.model_path.clone(), ..label })
    }

    /// Writes the files that describe a state anew, from its row and its objects. Returns whether that could be done.
    ///
    /// # Errors
    /// When the disk or the index fails.
    pub fn rewrite_description(&self, guard: &SharedGuard, key: &StateKey) -> Result<bool> {
        let Some(state) = self.state(key)? else { return Ok(false) };
        if !state.is_whole() {
            return Ok(false);
        }
        match self.with_segments(state.manifest)? {
            Some(manifest) => self.commit_healed(guard, &manifest).map(|()| true),
            None => Ok(false),
        }
    }

    /// Gives a state's row what its files say, where they are intact. Returns whether they are.
    ///
    /// # Errors
    /// When the index fails.
    pub fn restore_row(&self, guard: &SharedGuard, key: &StateKey) -> Result<bool> {
        let Some(row) = self.index.state(key)? else { return Ok(false) };
        let _lock = self.lock_labels()?;
        match self.read_label(key) {
            Ok(Some((label, bytes))) => {
                let record = row.usage.record;
                let change = super::index::StateChange {
                    label: &label,
                    label_bytes: bytes,
                    described: None,
                    used: None,
                    record,
                };
                self.index.commit_states(&[change])?;
                let _ = guard;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The folder of a file is a link.
    pub(crate) fn is_behind_a_link(&self, path: &Path) -> bool {
        let kind = path.parent().map(|folder| self.disk.kind(folder));
        matches!(kind, Some(Ok(Some(super::disk::Kind::Link))))
    }
}

/// A row and a manifest agree on what the key is made of.
fn says_the_same(row: &Manifest, manifest: &Manifest) -> bool {
    row.model == manifest.model
        && row.params == manifest.params
        && row.layout == manifest.layout
        && row.pending_text == manifest.pending_text
        && row.suffix == manifest.suffix
}

fn description(file: &'static str, reason: &str) -> Miss {
    Miss::Description { file, reason: reason.to_owned(), missing: false }
}

fn missing(file: &'static str, reason: &str) -> Miss {
    Miss::Description { file, reason: reason.to_owned(), missing: true }
}
