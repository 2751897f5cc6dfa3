//! What a collection or reindexing finds: rows, files, and files without rows.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use pcache_format::label::Provenance;
use pcache_format::object::{self, FileKind};
use pcache_format::record::Record;
use pcache_format::{ChainKey, FormatError, Label, Lineage, Manifest, ObjectId, StateKey};
use rayon::prelude::*;

use crate::disk::Entry;
use crate::index::{Described, ListedState, ManifestRow, SegmentRow, StateChange};
use crate::labels::LabelProblem;
use crate::lock::{BUILD_LOCK, is_held};
use crate::memory::Memory;
use crate::objects::Miss;
use crate::states::Doomed;
use crate::usage::FolderUsage;
use crate::writer::links;
use crate::{Result, Store, scratch};

/// Chain key and lineage of a segment.
type SegmentId = (ChainKey, Lineage);

/// What there is, read once.
pub(crate) struct Inventory {
    pub(crate) usage: FolderUsage,
    pub(super) states: Vec<ListedState>,
    pub(super) segments: Vec<SegmentRow>,
    /// Segments without a state.
    pub(super) unused: Vec<Unused>,
    /// What could not be read may hold states that use them.
    pub(super) hides_states: bool,
    /// What is intact on disk and has no row yet.
    pub(crate) found: Found,
    /// States whose deletion was begun.
    pub(super) tombstoned: Vec<Doomed>,
}

/// A segment that no state uses.
pub(super) struct Unused {
    pub(super) row: SegmentRow,
    /// Time at which it was adopted.
    pub(super) adopted: Option<i64>,
    /// Its deletion was begun.
    pub(super) tombstone: bool,
}

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
}

/// A state that has files and no row, or a manifest more than its row says.
#[derive(Clone)]
pub(crate) struct FoundState {
    pub(crate) manifests: Vec<(Manifest, ManifestRow)>,
    /// Object that is its record, and its size.
    record: Option<(ObjectId, u64)>,
    pub(crate) label: Label,
    /// Size of the label's file; 0 where there is none.
    pub(crate) label_bytes: u64,
    /// The index has the state.
    pub(crate) known: bool,
    /// Links to the segments of a record, which names none.
    record_links: Vec<SegmentId>,
    /// What the record says as a manifest.
    record_manifest: Option<Manifest>,
}

impl FoundState {
    pub(crate) fn key(&self) -> StateKey {
        self.label.key
    }

    /// Segments of each of its manifests, or of its record.
    pub(crate) fn links(&self) -> Vec<Vec<SegmentId>> {
        match self.manifests.is_empty() {
            true => vec![self.record_links.clone()],
            false => self.manifests.iter().map(|(manifest, _)| links(manifest)).collect(),
        }
    }

    /// What gives it its row.
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

    fn listed(&self, now: i64) -> Option<ListedState> {
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

impl Inventory {
    /// A file that is damaged or gone takes other bytes than its row says.
    fn take_sizes_from_the_disk(&mut self, records: &HashMap<StateKey, ObjectId>) {
        let sizes: HashMap<ObjectId, u64> = self.usage.objects.iter().map(|(id, e)| (*id, e.bytes)).collect();
        let size = |object: &ObjectId| sizes.get(object).copied().unwrap_or(0);
        let rows = self.segments.iter_mut().chain(self.unused.iter_mut().map(|unused| &mut unused.row));
        rows.for_each(|row| row.file_bytes = size(&row.object));
        let mut described: HashMap<StateKey, (u64, usize)> = HashMap::new();
        let manifests = self.usage.manifests.iter().map(|(key, _, e)| (*key, e.bytes));
        let labels = self.usage.labels.iter().map(|(key, e)| (*key, e.bytes));
        let records = records.iter().map(|(key, object)| (*key, size(object)));
        for (key, bytes) in manifests.chain(labels).chain(records) {
            let sum = described.entry(key).or_default();
            *sum = (sum.0 + bytes, sum.1 + 1);
        }
        for state in &mut self.states {
            let (bytes, files) = described.get(&state.key).copied().unwrap_or_default();
            (state.description_bytes, state.description_files) = (bytes, files);
        }
    }

    /// Lists the states that were found on disk as if they had their rows.
    fn add_found_states(&mut self, rows: &[(SegmentRow, Option<i64>, bool)], now: i64) {
        let all = rows.iter().filter(|(.., tombstone)| !tombstone).map(|(row, ..)| row);
        let all: HashMap<SegmentId, &SegmentRow> =
            all.chain(&self.found.segments).map(|row| (row.id(), row)).collect();
        let mut numbers: HashMap<SegmentId, usize> =
            self.segments.iter().enumerate().map(|(n, row)| (row.id(), n)).collect();
        for found in &self.found.states {
            let listed = self.states.iter().position(|state| state.key == found.key());
            let Some(mut state) = (match listed {
                Some(i) => Some(self.states.remove(i)),
                None => found.listed(now),
            }) else {
                continue;
            };
            for id in found.links().into_iter().flatten() {
                let Some(row) = all.get(&id) else { continue };
                let number = *numbers.entry(id).or_insert_with(|| {
                    self.segments.push((*row).clone());
                    self.segments.len() - 1
                });
                if !state.segments.contains(&number) {
                    state.segments.push(number);
                }
            }
            self.states.insert(listed.unwrap_or(0), state);
        }
    }
}

/// What an object without a row is.
enum Unindexed {
    Segment(SegmentRow),
    Record(Box<Record>),
    /// Damaged, or no file.
    Useless,
    /// Right, and of a kind that is not known here.
    Newer,
    /// The disk or the system does not let it be read.
    Unreadable,
    /// Removed between the listing and the look.
    Gone,
}

/// Rows that files are compared with.
struct Rows<'a> {
    segments: &'a [(SegmentRow, Option<i64>, bool)],
    states: &'a [ListedState],
    tombstoned: &'a [Doomed],
    records: &'a HashMap<StateKey, ObjectId>,
    manifests: HashSet<(StateKey, Lineage)>,
    removed: HashSet<StateKey>,
}

impl Store {
    /// Looks at everything; `progress` hears how many of the files without rows were read, and how many there are.
    pub(crate) fn inventory(&self, now: i64, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Inventory> {
        let (disk, root) = (self.disk.as_ref(), self.root.as_path());
        // The folder and the index are read beside each other: with many states each takes its time.
        let (usage, listed) = std::thread::scope(|scope| {
            let usage = scope.spawn(|| FolderUsage::of(disk, root));
            let listed = self.index.list();
            (usage.join(), listed)
        });
        let mut usage = usage.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let (mut states, segments) = listed?;
        // A clock that was set back must not keep them for ever.
        states.iter_mut().for_each(|state| state.last_used = state.last_used.min(now));
        let segment_rows = self.index.all_segments()?;
        let tombstoned = self.index.tombstoned()?;
        let records = self.index.records()?;
        let rows = Rows {
            segments: &segment_rows,
            states: &states,
            tombstoned: &tombstoned,
            records: &records,
            manifests: self.index.manifest_ids()?,
            removed: self.index.removed()?,
        };
        let found = self.unindexed_files(&usage, &rows, progress)?;
        self.set_apart(&mut usage, &found);
        let described = root.join("manifests");
        let unseen = usage.unreadable.iter().map(|(path, _)| path);
        let mut unseen = unseen.chain(found.unreadable.iter().map(|e| &e.path)).peekable();
        let hides_states =
            unseen.peek().is_some() && (states.is_empty() || unseen.any(|path| path.starts_with(&described)));
        let mut inventory =
            Inventory { usage, states, segments, unused: Vec::new(), hides_states, found, tombstoned };
        inventory.add_found_states(&segment_rows, now);
        let used: HashSet<SegmentId> = inventory.segments.iter().map(SegmentRow::id).collect();
        let found = inventory.found.segments.iter().map(|row| (row.clone(), Some(now), false));
        inventory.unused = segment_rows
            .into_iter()
            .chain(found)
            .filter(|(row, _, tombstone)| *tombstone || !used.contains(&row.id()))
            .map(|(row, adopted, tombstone)| Unused {
                row,
                adopted: adopted.map(|at| at.min(now)),
                tombstone,
            })
            .collect();
        inventory.take_sizes_from_the_disk(&records);
        Ok(inventory)
    }

    /// Counts what stays whatever happens among the other files: what is held, cannot be read, or is newer.
    fn set_apart(&self, usage: &mut FolderUsage, found: &Found) {
        // Another process waits for this collection to end, to evaluate what no one else should meanwhile; or measures.
        let held = |e: &Entry| {
            let lock = e.name.starts_with(BUILD_LOCK) || e.name.ends_with(".lock");
            lock && is_held(&e.path) || scratch::is_in_use(&self.root, &e.path)
        };
        let (held, staging) = std::mem::take(&mut usage.staging).into_iter().partition(held);
        usage.staging = staging;
        usage.other.extend::<Vec<Entry>>(held);
        let apart: Vec<&Entry> = found.unreadable.iter().chain(&found.newer).collect();
        let paths: HashSet<&Path> = apart.iter().map(|e| e.path.as_path()).collect();
        usage.objects.retain(|(_, entry)| !paths.contains(entry.path.as_path()));
        usage.manifests.retain(|(.., entry)| !paths.contains(entry.path.as_path()));
        usage.labels.retain(|(_, entry)| !paths.contains(entry.path.as_path()));
        usage.other.extend(apart.into_iter().cloned());
    }

    /// Looks at files that have no row: which could get one, and which are of no use.
    fn unindexed_files(
        &self,
        usage: &FolderUsage,
        rows: &Rows<'_>,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<Found> {
        let mut found = Found::default();
        let mut records = self.unindexed_objects(usage, rows, progress, &mut found);
        let keys: HashMap<StateKey, usize> =
            rows.states.iter().enumerate().map(|(i, s)| (s.key, i)).collect();
        let gone: HashSet<StateKey> = rows.tombstoned.iter().map(|doomed| doomed.key).collect();
        let there: HashSet<SegmentId> = rows
            .segments
            .iter()
            .filter(|(.., tombstone)| !tombstone)
            .map(|(row, ..)| row)
            .chain(&found.segments)
            .map(SegmentRow::id)
            .collect();
        let mut manifests: HashMap<StateKey, Vec<(Manifest, ManifestRow, Entry)>> = HashMap::new();
        for (key, lineage, entry) in &usage.manifests {
            if rows.manifests.contains(&(*key, *lineage)) || gone.contains(key) {
                continue;
            }
            if rows.removed.contains(key) && !keys.contains_key(key) {
                found.stray.push(entry.clone());
                continue;
            }
            match self.read_unindexed_manifest(*key, *lineage, entry) {
                Ok((manifest, row)) => {
                    manifests.entry(*key).or_default().push((manifest, row, entry.clone()))
                }
                Err(Some(FormatError::Newer(_))) => found.newer.push(entry.clone()),
                Err(Some(_)) => found.stray.push(entry.clone()),
                Err(None) => found.unreadable.push(entry.clone()),
            }
        }
        let labels: HashMap<StateKey, &Entry> = usage.labels.iter().map(|(key, e)| (*key, e)).collect();
        // What is not seen may be what something is for.
        let all_seen = usage.unreadable.is_empty() && found.unreadable.is_empty();
        let mut described: Vec<StateKey> = manifests.keys().chain(records.keys()).copied().collect();
        described.sort();
        described.dedup();
        for key in described {
            let manifests = manifests.remove(&key).unwrap_or_default();
            let record = records.remove(&key);
            let links_of = |chain: &ChainKey| (*chain, Lineage::Unknown);
            let record_links: Vec<SegmentId> =
                record.iter().flat_map(|(r, ..)| r.pieces()).map(|p| links_of(&p.chain)).collect();
            let restores = |ids: &[SegmentId]| ids.iter().any(|id| there.contains(id));
            let useful = manifests.iter().any(|(m, ..)| restores(&links(m))) || restores(&record_links);
            if !useful && all_seen {
                // What a removal left, or a build whose segments were collected.
                found.stray.extend(manifests.into_iter().map(|(.., entry)| entry));
                found.stray.extend(record.into_iter().map(|(.., entry)| entry));
                continue;
            }
            let known = keys.contains_key(&key);
            let (label, label_bytes) = match known {
                true => match self.index.state(&key)? {
                    Some(row) => (row.label, row.usage.label_bytes),
                    None => continue,
                },
                false => match self.found_label(key, &manifests, record.as_ref().map(|(r, ..)| r)) {
                    Some(label) => label,
                    None => {
                        // Its names are not known yet: another time.
                        found.unreadable.extend(manifests.into_iter().map(|(.., entry)| entry));
                        found.unreadable.extend(record.into_iter().map(|(.., entry)| entry));
                        continue;
                    }
                },
            };
            if let (Some((_, id, entry)), false) = (&record, manifests.is_empty()) {
                // A manifest says all that it said.
                found.superseded.push((key, *id));
                found.stray.push(entry.clone());
            }
            let record_manifest = record.as_ref().map(|(r, ..)| r.manifest());
            found.states.push(FoundState {
                record: record.map(|(_, id, entry)| (id, entry.bytes)),
                manifests: manifests.into_iter().map(|(manifest, row, _)| (manifest, row)).collect(),
                label,
                label_bytes,
                known,
                record_links,
                record_manifest,
            });
        }
        let states: HashSet<StateKey> = found.states.iter().map(FoundState::key).collect();
        if !found.segments.is_empty() {
            self.add_incomplete(rows, &states, &mut found)?;
        }
        for (key, entry) in labels {
            if keys.contains_key(&key) || gone.contains(&key) || states.contains(&key) {
                continue;
            }
            match self.read_label(&key) {
                Err(LabelProblem::Format(FormatError::Newer(_))) => found.newer.push(entry.clone()),
                Err(LabelProblem::Unreadable(_)) => found.unreadable.push(entry.clone()),
                _ if !all_seen => found.unreadable.push(entry.clone()),
                _ => found.stray.push(entry.clone()),
            }
        }
        Ok(found)
    }

    /// States whose rows know only some of their segments: what was found may be the others.
    fn add_incomplete(&self, rows: &Rows<'_>, states: &HashSet<StateKey>, found: &mut Found) -> Result<()> {
        let pieces = |state: &ListedState| state.tokens.div_ceil(pcache_format::SEGMENT_TOKENS);
        let incomplete =
            rows.states.iter().filter(|s| s.segments.len() < pieces(s) && !states.contains(&s.key));
        for listed in incomplete {
            let Some(row) = self.index.state(&listed.key)? else { continue };
            let read = row.usage.manifests.iter().map(|m| (self.read_manifest(&listed.key, m), *m));
            let manifests: Vec<_> = read.filter_map(|(manifest, m)| Some((manifest.ok()?, m))).collect();
            let (record, record_manifest) = match self.state(&listed.key)? {
                Some(state) if manifests.is_empty() && state.is_whole() => {
                    (row.usage.record, Some(state.manifest))
                }
                _ => (None, None),
            };
            let pieces = record_manifest.iter().flat_map(Manifest::pieces);
            found.states.push(FoundState {
                record_links: pieces.map(|piece| (piece.chain, Lineage::Unknown)).collect(),
                manifests,
                record,
                record_manifest,
                label: row.label,
                label_bytes: row.usage.label_bytes,
                known: true,
            });
        }
        Ok(())
    }

    /// Label of a state that has no row: its file's, or what its record or its manifest gives;
    /// `None` if the file cannot be read.
    fn found_label(
        &self,
        key: StateKey,
        manifests: &[(Manifest, ManifestRow, Entry)],
        record: Option<&Record>,
    ) -> Option<(Label, u64)> {
        match self.read_label(&key) {
            Ok(Some(label)) => return Some(label),
            Err(LabelProblem::Unreadable(_)) => return None,
            _ => {}
        }
        if let Some(record) = record {
            return Some((record.label(), 0));
        }
        let tokens = manifests.first().map_or(0, |(manifest, ..)| manifest.tokens.len());
        let label = Label {
            key,
            revision: 0,
            names: Vec::new(),
            pinned: false,
            expires: None,
            origin: "unknown".into(),
            prompt_format: String::new(),
            model_path: String::new(),
            text: None,
            prompt: None,
            created: self.now(),
            build_s: 0.0,
            evaluated: tokens,
            provenance: Provenance::Built,
        };
        Some((label, 0))
    }

    fn read_unindexed_manifest(
        &self,
        key: StateKey,
        lineage: Lineage,
        entry: &Entry,
    ) -> Result<(Manifest, ManifestRow), Option<FormatError>> {
        let mut bytes = Vec::new();
        let read = self.disk.open(&entry.path).and_then(|file| file.read(u64::MAX, &mut bytes));
        read.map_err(|_| None)?;
        let manifest = Manifest::decode(&bytes)?;
        if (manifest.key, manifest.lineage) != (key, lineage) {
            return Err(Some(FormatError::Manifest("it is another state's".into())));
        }
        let blake3 = ObjectId::from(blake3::hash(&bytes));
        Ok((manifest, ManifestRow { lineage, blake3, bytes: bytes.len() as u64 }))
    }

    /// Looks at objects that have no row, on all cores. Returns the records that count.
    fn unindexed_objects(
        &self,
        usage: &FolderUsage,
        rows: &Rows<'_>,
        progress: &(dyn Fn(usize, usize) + Sync),
        found: &mut Found,
    ) -> HashMap<StateKey, (Record, ObjectId, Entry)> {
        let records = rows.records.values().copied();
        let doomed = rows.tombstoned.iter().filter_map(|doomed| doomed.record);
        let known: HashSet<ObjectId> =
            rows.segments.iter().map(|(row, ..)| row.object).chain(records).chain(doomed).collect();
        let unknown: Vec<&(ObjectId, Entry)> =
            usage.objects.iter().filter(|(id, _)| !known.contains(id)).collect();
        let (done, told) = (AtomicUsize::new(0), Mutex::new(()));
        let read: Vec<Unindexed> = unknown
            .par_iter()
            .map_init(Memory::default, |buffer, (id, entry)| {
                let read = self.read_unindexed(id, entry, buffer);
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                let _told = told.lock();
                progress(done, unknown.len());
                read
            })
            .collect();
        let ids: HashSet<SegmentId> = rows.segments.iter().map(|(row, ..)| row.id()).collect();
        let keys: HashSet<StateKey> = rows.states.iter().map(|s| s.key).collect();
        let mut new_ids: HashSet<SegmentId> = HashSet::new();
        let mut records: HashMap<StateKey, (Record, ObjectId, Entry)> = HashMap::new();
        for ((id, entry), read) in unknown.into_iter().zip(read) {
            match read {
                Unindexed::Gone => {}
                Unindexed::Unreadable => found.unreadable.push(entry.clone()),
                Unindexed::Newer => found.newer.push(entry.clone()),
                // Of two that restore the same, in two codecs, one is enough.
                Unindexed::Segment(row) if !ids.contains(&row.id()) && new_ids.insert(row.id()) => {
                    found.segments.push(row);
                }
                Unindexed::Record(record)
                    if !keys.contains(&record.key) && !rows.removed.contains(&record.key) =>
                {
                    let older = later_record(&mut records, (*record, *id, entry.clone()));
                    found.superseded.extend(older.iter().map(|(record, id, _)| (record.key, *id)));
                    found.stray.extend(older.map(|(.., entry)| entry));
                }
                _ => found.stray.push(entry.clone()),
            }
        }
        records
    }

    /// What an object says of itself, if its bytes are what its name says.
    fn read_unindexed(&self, id: &ObjectId, entry: &Entry, buffer: &mut Memory) -> Unindexed {
        let bytes = match self.read_named(id, entry.bytes, buffer) {
            Ok(bytes) => bytes,
            Err(Miss::Unreadable { .. }) => {
                return match self.disk.kind(&entry.path) {
                    Ok(None) => Unindexed::Gone,
                    Ok(Some(crate::disk::Kind::File)) | Err(_) => Unindexed::Unreadable,
                    // A link, a pipe: nothing of the store's.
                    Ok(Some(_)) => Unindexed::Useless,
                };
            }
            Err(_) => return Unindexed::Useless,
        };
        match FileKind::of(bytes) {
            FileKind::Unknown => Unindexed::Newer,
            FileKind::Record => {
                Record::decode(bytes).map_or(Unindexed::Useless, |record| Unindexed::Record(Box::new(record)))
            }
            FileKind::Object => object::decode(bytes).map_or(Unindexed::Useless, |object| {
                Unindexed::Segment(SegmentRow {
                    chain: object.meta.chain,
                    lineage: object.meta.lineage,
                    parent: object.meta.parent,
                    parent_lineage: object.meta.parent_lineage,
                    object: *id,
                    raw_blake3: Some(ObjectId::from(object.raw_blake3)),
                    layout: object.meta.layout,
                    first: object.meta.first,
                    count: object.tokens.len(),
                    raw_bytes: object.stored.raw_bytes(object.state.len()) as u64,
                    file_bytes: entry.bytes,
                })
            }),
        }
    }

    /// Files that this version does not know, and leaves alone: of later versions, and other programs'.
    pub(crate) fn unknown(&self, inventory: &Inventory) -> Vec<Entry> {
        let own = [crate::layout::TAG_NAME, crate::layout::LOCK_NAME];
        let is_own = |e: &Entry| {
            let at_root = e.path.parent() == Some(&self.root);
            let note = e.name.starts_with('.') || e.name.ends_with(".md");
            at_root && (own.contains(&e.name.as_str()) || note)
                || e.path.starts_with(self.root.join(crate::layout::STAGING))
        };
        let unreadable: HashSet<&Path> =
            inventory.found.unreadable.iter().map(|e| e.path.as_path()).collect();
        let other = inventory.usage.other.iter();
        other.filter(|e| !is_own(e) && !unreadable.contains(e.path.as_path())).cloned().collect()
    }

    /// The label of a state was written by a later version.
    pub fn has_newer_label(&self, key: &StateKey) -> bool {
        matches!(self.read_label(key), Err(LabelProblem::Format(FormatError::Newer(_))))
    }
}

/// Of two records of one state the later one counts. A change that was cut short can leave one of the same revision as the
/// next change has; that was written later. Returns the other one.
fn later_record(
    records: &mut HashMap<StateKey, (Record, ObjectId, Entry)>,
    new: (Record, ObjectId, Entry),
) -> Option<(Record, ObjectId, Entry)> {
    let age = |(record, _, entry): &(Record, ObjectId, Entry)| (record.revision, entry.modified);
    match records.remove(&new.0.key) {
        Some(other) if age(&other) > age(&new) => {
            records.insert(other.0.key, other);
            Some(new)
        }
        other => {
            records.insert(new.0.key, new);
            other
        }
    }
}
