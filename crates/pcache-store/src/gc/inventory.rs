//! Inventory of a collection or reindexing: rows, files, and files without rows.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use pcache_format::{ObjectId, StateKey};

use super::found::{Found, SegmentId};
use super::unindexed::{Rows, Search};
use crate::disk::Entry;
use crate::index::{ListedState, SegmentRow};
use crate::lock::{BUILD_LOCK, is_held};
use crate::removal::Doomed;
use crate::usage::FolderUsage;
use crate::{Result, Store, scratch};

/// Contents of a store, read once.
pub(crate) struct Inventory {
    pub(crate) usage: FolderUsage,
    pub(super) states: Vec<ListedState>,
    pub(super) segments: Vec<SegmentRow>,
    /// Segments without a state.
    pub(super) unused: Vec<Unused>,
    /// Files or folders that could not be read may hold states that use them.
    pub(super) hides_states: bool,
    /// Intact files on disk that have no row yet.
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

impl Store {
    /// Looks at everything; `progress` hears how many of the files without rows were read, and how many there are.
    pub(crate) fn inventory(&self, now: i64, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Inventory> {
        let (disk, root) = (self.disk.as_ref(), self.root.as_path());
        // The folder and the index are read beside each other: with many states each takes its time.
        let (usage, listed) = std::thread::scope(|scope| {
            let usage = scope.spawn(|| FolderUsage::read(disk, root));
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
        let found = Search::new(self, &usage, &rows, progress).run()?;
        self.set_apart(&mut usage, &found);
        let described = root.join("manifests");
        let unseen = usage.unreadable.iter().map(|(path, _)| path);
        let mut unseen = unseen.chain(found.unreadable.iter().map(|e| &e.path)).peekable();
        let hides_states =
            unseen.peek().is_some() && (states.is_empty() || unseen.any(|path| path.starts_with(&described)));
        let hides_states = hides_states || !found.newer_states.is_empty();
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
}
