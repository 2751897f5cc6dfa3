//! The search for files without rows: which could get one, and which are of no use.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use pcache_format::FileKind;
use pcache_format::label::Provenance;
use pcache_format::object;
use pcache_format::record::Record;
use pcache_format::{FormatError, Label, Lineage, Manifest, ObjectId, StateKey};
use rayon::prelude::*;

use super::found::{Found, FoundState, SegmentId};
use crate::disk::{Entry, Kind};
use crate::index::{ListedState, ManifestRow, SegmentRow};
use crate::labels::LabelProblem;
use crate::memory::Memory;
use crate::objects::Miss;
use crate::removal::Doomed;
use crate::usage::FolderUsage;
use crate::{Result, Store};

/// Rows that files are compared with.
pub(super) struct Rows<'a> {
    pub(super) segments: &'a [(SegmentRow, Option<i64>, bool)],
    pub(super) states: &'a [ListedState],
    pub(super) tombstoned: &'a [Doomed],
    pub(super) records: &'a HashMap<StateKey, ObjectId>,
    pub(super) manifests: HashSet<(StateKey, Lineage)>,
    pub(super) removed: HashSet<StateKey>,
}

/// Kind of an object without a row.
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

/// Files without rows that describe one state.
#[derive(Default)]
struct Describing {
    manifests: Vec<(Manifest, ManifestRow, Entry)>,
    record: Option<(Record, ObjectId, Entry)>,
}

impl Describing {
    fn entries(self) -> impl Iterator<Item = Entry> {
        let record = self.record.into_iter().map(|(.., entry)| entry);
        self.manifests.into_iter().map(|(.., entry)| entry).chain(record)
    }

    /// Links of the record, which says no lineage.
    fn record_links(&self) -> Vec<SegmentId> {
        let pieces = self.record.iter().flat_map(|(record, ..)| record.pieces());
        pieces.map(|piece| (piece.chain, Lineage::Unknown)).collect()
    }

    fn names_one_of(&self, segments: &HashSet<SegmentId>) -> bool {
        let of_manifests = self.manifests.iter().flat_map(|(manifest, ..)| manifest.links());
        of_manifests.chain(self.record_links()).any(|id| segments.contains(&id))
    }
}

/// A search through a folder's files. `progress` hears how many of the objects without rows were read, and how many
/// there are.
pub(super) struct Search<'a> {
    store: &'a Store,
    usage: &'a FolderUsage,
    rows: &'a Rows<'a>,
    progress: &'a (dyn Fn(usize, usize) + Sync),
    keys: HashSet<StateKey>,
    gone: HashSet<StateKey>,
    describing: HashMap<StateKey, Describing>,
    found: Found,
}

impl<'a> Search<'a> {
    pub(super) fn new(
        store: &'a Store,
        usage: &'a FolderUsage,
        rows: &'a Rows<'a>,
        progress: &'a (dyn Fn(usize, usize) + Sync),
    ) -> Self {
        let keys = rows.states.iter().map(|s| s.key).collect();
        let gone = rows.tombstoned.iter().map(|doomed| doomed.key).collect();
        let (describing, found) = (HashMap::new(), Found::default());
        Self { store, usage, rows, progress, keys, gone, describing, found }
    }

    /// Looks at every file that has no row.
    pub(super) fn run(mut self) -> Result<Found> {
        self.objects();
        self.manifests();
        self.states()?;
        if !self.found.segments.is_empty() {
            self.incomplete_states()?;
        }
        self.labels();
        Ok(self.found)
    }

    /// Returns true if everything was seen: an unread file may be what another one is needed for.
    fn all_seen(&self) -> bool {
        self.usage.unreadable.is_empty() && self.found.unreadable.is_empty()
    }

    /// Objects that have no row are read, on all cores.
    fn objects(&mut self) {
        let rows = self.rows;
        let records = rows.records.values().copied();
        let doomed = rows.tombstoned.iter().filter_map(|doomed| doomed.record);
        let known: HashSet<ObjectId> =
            rows.segments.iter().map(|(row, ..)| row.object).chain(records).chain(doomed).collect();
        let unknown: Vec<&(ObjectId, Entry)> =
            self.usage.objects.iter().filter(|(id, _)| !known.contains(id)).collect();
        let (done, told) = (AtomicUsize::new(0), Mutex::new(()));
        let (store, progress) = (self.store, self.progress);
        let read: Vec<Unindexed> = unknown
            .par_iter()
            .map_init(Memory::default, |buffer, (id, entry)| {
                let read = store.read_unindexed(id, entry, buffer);
                let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                let _told = told.lock();
                progress(done, unknown.len());
                read
            })
            .collect();
        let mut ids: HashSet<SegmentId> = rows.segments.iter().map(|(row, ..)| row.id()).collect();
        for ((id, entry), read) in unknown.into_iter().zip(read) {
            match read {
                Unindexed::Gone => {}
                Unindexed::Unreadable => self.found.unreadable.push(entry.clone()),
                Unindexed::Newer => self.found.newer.push(entry.clone()),
                // Of two that restore the same, in two codecs, one is enough.
                Unindexed::Segment(row) if ids.insert(row.id()) => self.found.segments.push(row),
                Unindexed::Record(record)
                    if !self.keys.contains(&record.key) && !rows.removed.contains(&record.key) =>
                {
                    self.record((*record, *id, entry.clone()));
                }
                _ => self.found.stray.push(entry.clone()),
            }
        }
    }

    /// Of two records of one state the later one counts. A change that was cut short can leave one of the same revision
    /// as the next change has; that was written later.
    fn record(&mut self, new: (Record, ObjectId, Entry)) {
        let age = |(record, _, entry): &(Record, ObjectId, Entry)| (record.revision, entry.modified);
        let place = &mut self.describing.entry(new.0.key).or_default().record;
        let older = match place.take() {
            Some(other) if age(&other) > age(&new) => {
                *place = Some(other);
                Some(new)
            }
            other => {
                *place = Some(new);
                other
            }
        };
        self.found.superseded.extend(older.iter().map(|(record, id, _)| (record.key, *id)));
        self.found.stray.extend(older.map(|(.., entry)| entry));
    }

    fn manifests(&mut self) {
        for (key, lineage, entry) in &self.usage.manifests {
            if self.rows.manifests.contains(&(*key, *lineage)) || self.gone.contains(key) {
                continue;
            }
            let removed = self.rows.removed.contains(key) && !self.keys.contains(key);
            match self.store.read_unindexed_manifest(*key, *lineage, entry) {
                Ok(_) if removed => self.found.stray.push(entry.clone()),
                Ok((manifest, row)) => {
                    self.describing.entry(*key).or_default().manifests.push((manifest, row, entry.clone()))
                }
                Err(Some(FormatError::Newer(_))) => {
                    self.found.newer_states.insert(*key);
                    self.found.newer.push(entry.clone());
                }
                Err(Some(_)) => self.found.stray.push(entry.clone()),
                Err(None) => self.found.unreadable.push(entry.clone()),
            }
        }
    }

    /// States that have a manifest or a record, and a label or a segment to restore. A removal takes the label first, and
    /// whose objects are damaged is evaluated again.
    fn states(&mut self) -> Result<()> {
        let saved = self.rows.segments.iter().filter(|(.., tombstone)| !tombstone).map(|(row, ..)| row);
        let there: HashSet<SegmentId> = saved.chain(&self.found.segments).map(SegmentRow::id).collect();
        let all_seen = self.all_seen();
        let mut described: Vec<_> = std::mem::take(&mut self.describing).into_iter().collect();
        described.sort_by_key(|(key, _)| *key);
        for (key, files) in described {
            let labelled = matches!(self.store.read_label(&key), Ok(Some(_)));
            if !files.names_one_of(&there) && !labelled && all_seen {
                // What a removal left, or a build whose segments were collected.
                self.found.stray.extend(files.entries());
                continue;
            }
            self.state(key, files)?;
        }
        Ok(())
    }

    fn state(&mut self, key: StateKey, files: Describing) -> Result<()> {
        let known = self.keys.contains(&key);
        let (label, label_bytes) = match known {
            true => match self.store.index.state(&key)? {
                Some(row) => (row.label, row.usage.label_bytes),
                None => return Ok(()),
            },
            false => match self.store.found_label(key, &files) {
                Some(label) => label,
                None => {
                    // Its names are not known yet: another time.
                    self.found.unreadable.extend(files.entries());
                    return Ok(());
                }
            },
        };
        if let (Some((_, id, entry)), false) = (&files.record, files.manifests.is_empty()) {
            // A manifest says all that it said.
            self.found.superseded.push((key, *id));
            self.found.stray.push(entry.clone());
        }
        self.found.states.push(FoundState {
            record_links: files.record_links(),
            record_manifest: files.record.as_ref().map(|(r, ..)| r.manifest()),
            record: files.record.map(|(_, id, entry)| (id, entry.bytes)),
            manifests: files.manifests.into_iter().map(|(manifest, row, _)| (manifest, row)).collect(),
            label,
            label_bytes,
            known,
        });
        Ok(())
    }

    /// States whose rows know only some of their segments: what was found may be the others.
    fn incomplete_states(&mut self) -> Result<()> {
        let found: HashSet<StateKey> = self.found.states.iter().map(FoundState::key).collect();
        let pieces = |state: &ListedState| state.tokens.div_ceil(pcache_format::SEGMENT_TOKENS);
        let rows = self.rows.states.iter();
        let incomplete = rows.filter(|s| s.segments.len() < pieces(s) && !found.contains(&s.key));
        for listed in incomplete {
            let Some(row) = self.store.index.state(&listed.key)? else { continue };
            let read = row.usage.manifests.iter().map(|m| (self.store.read_manifest(&listed.key, m), *m));
            let manifests: Vec<_> = read.filter_map(|(manifest, m)| Some((manifest.ok()?, m))).collect();
            let (record, record_manifest) = match self.store.state(&listed.key)? {
                Some(state) if manifests.is_empty() && state.is_whole() => {
                    (row.usage.record, Some(state.manifest))
                }
                _ => (None, None),
            };
            let pieces = record_manifest.iter().flat_map(Manifest::pieces);
            self.found.states.push(FoundState {
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

    /// Labels of no state.
    fn labels(&mut self) {
        let found: HashSet<StateKey> = self.found.states.iter().map(FoundState::key).collect();
        let all_seen = self.all_seen();
        for (key, entry) in &self.usage.labels {
            if self.keys.contains(key) || self.gone.contains(key) || found.contains(key) {
                continue;
            }
            match self.store.read_label(key) {
                // A later version knows whose label it is.
                _ if self.found.newer_states.contains(key) => self.found.newer.push(entry.clone()),
                Err(LabelProblem::Format(FormatError::Newer(_))) => self.found.newer.push(entry.clone()),
                Err(LabelProblem::Unreadable(_)) => self.found.unreadable.push(entry.clone()),
                _ if !all_seen => self.found.unreadable.push(entry.clone()),
                _ => self.found.stray.push(entry.clone()),
            }
        }
    }
}

impl Store {
    /// Reads a manifest that has no row. No error is given where the system does not let it be read.
    pub(crate) fn read_unindexed_manifest(
        &self,
        key: StateKey,
        lineage: Lineage,
        entry: &Entry,
    ) -> Result<(Manifest, ManifestRow), Option<FormatError>> {
        let mut bytes = Vec::new();
        let read = self.disk.open(&entry.path).and_then(|file| file.read(u64::MAX, &mut bytes));
        read.map_err(|e| match e.kind() {
            // A link, a pipe: nothing of the store's.
            std::io::ErrorKind::InvalidData => Some(FormatError::Manifest(e.to_string())),
            _ => None,
        })?;
        let manifest = Manifest::decode(&bytes)?;
        if (manifest.key, manifest.lineage) != (key, lineage) {
            return Err(Some(FormatError::Manifest("it is another state's".into())));
        }
        let blake3 = ObjectId::from(blake3::hash(&bytes));
        Ok((manifest, ManifestRow { lineage, blake3, bytes: bytes.len() as u64 }))
    }

    /// Reads an object's metadata, if its bytes are those that its name says.
    fn read_unindexed(&self, id: &ObjectId, entry: &Entry, buffer: &mut Memory) -> Unindexed {
        let bytes = match self.read_named(id, entry.bytes, buffer) {
            Ok(bytes) => bytes,
            Err(Miss::Unreadable { .. }) => {
                return match self.disk.kind(&entry.path) {
                    Ok(None) => Unindexed::Gone,
                    Ok(Some(Kind::File)) | Err(_) => Unindexed::Unreadable,
                    // A link, a pipe: nothing of the store's.
                    Ok(Some(_)) => Unindexed::Useless,
                };
            }
            Err(_) => return Unindexed::Useless,
        };
        match FileKind::new(bytes) {
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

    /// Label of a state that has no row: its file's, or what its record or its manifest gives;
    /// `None` if the file cannot be read.
    fn found_label(&self, key: StateKey, files: &Describing) -> Option<(Label, u64)> {
        match self.read_label(&key) {
            Ok(Some(label)) => return Some(label),
            Err(LabelProblem::Unreadable(_)) => return None,
            _ => {}
        }
        if let Some((record, ..)) = &files.record {
            return Some((record.label(), 0));
        }
        let tokens = files.manifests.first().map_or(0, |(manifest, ..)| manifest.tokens.len());
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
}
