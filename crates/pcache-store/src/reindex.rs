//! Reindexing: giving back to the index what it lost, from manifests, labels, objects and the records of version 0.1.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::disk::{Disk, Entry};
use super::files::random_name;
use super::gc::found::{Found, FoundState};
use super::layout::{self, INDEX_NAME, LOCK_NAME, STAGING};
use super::lock::ExclusiveGuard;
use super::states::PAUSE;
use super::{Result, Store, StoreError};

/// Number of times that a survey looks again at what it could not read, each as long as a walk through the store.
const SECOND_LOOKS: u32 = 3;

/// Result of a reindexing: files that were put into the index.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reindexed {
    /// States.
    pub states: usize,
    /// Segments.
    pub segments: usize,
}

/// Files in the folder that the index does not know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Number of states that a build was about to commit when it died.
    pub uncommitted: usize,
    /// Number of states that the index once had.
    pub lost: usize,
    /// Files of later versions, and of other programs: they are left alone.
    pub unknown: Vec<Entry>,
    /// Folders that cannot be listed, and why.
    pub unseen: Vec<(PathBuf, String)>,
    /// Files without a row that cannot be read.
    pub unreadable: Vec<Entry>,
}

impl Store {
    /// Gives every intact file that has no row its row. `progress` hears how many of the files were looked at, and how many
    /// there are.
    ///
    /// # Errors
    /// When the index or the disk fails.
    pub fn reindex(&self, _: &ExclusiveGuard, progress: &(dyn Fn(usize, usize) + Sync)) -> Result<Reindexed> {
        let now = self.now();
        let found = self.inventory(now, progress)?.found;
        self.index.note_superseded(&found.superseded)?;
        self.adopt_found(&found, |_| true, |_| true, now)?;
        Ok(Reindexed { states: found.states.len(), segments: found.segments.len() })
    }

    /// Gives rows to what was found and is wanted.
    pub(crate) fn adopt_found(
        &self,
        found: &Found,
        wants_segment: impl Fn(&super::index::SegmentRow) -> bool,
        wants_state: impl Fn(&pcache_format::StateKey) -> bool,
        now: i64,
    ) -> Result<()> {
        let segments: Vec<_> = found.segments.iter().filter(|row| wants_segment(row)).cloned().collect();
        let mut states: Vec<FoundState> =
            found.states.iter().filter(|state| wants_state(&state.key())).cloned().collect();
        for state in &mut states {
            self.give_label(state)?;
        }
        let links: Vec<_> = states.iter().map(|state| state.links()).collect();
        let changes: Vec<_> =
            states.iter().zip(&links).flat_map(|(state, links)| state.changes(links, now)).collect();
        self.index.adopt(&segments, &changes, now)
    }

    /// Writes the label of a state that has a manifest and none. On a disk that cannot be written it stays without.
    fn give_label(&self, state: &mut FoundState) -> Result<()> {
        if state.label_bytes > 0 || state.manifests.is_empty() {
            return Ok(());
        }
        if self.refuse_newer_label(&state.label.key).is_err() {
            // A later version knows what it says; it is left alone.
            return Ok(());
        }
        match self.publisher.label(&state.label) {
            Ok(bytes) => state.label_bytes = bytes,
            Err(error) if error.is_unwritable() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Looks at what the folder holds beside what the index knows. While a build is under way there is no telling which
    /// states were lost, because their files come before the rows, and the answer is none.
    ///
    /// # Errors
    /// When the lock, the index or the disk fails.
    pub fn survey(&self) -> Result<Survey> {
        // A store that cannot be written may not let itself be locked either.
        let guard = match self.try_lock_exclusive() {
            Err(error) if !error.is_unwritable() => return Err(error),
            guard => guard.ok().flatten(),
        };
        let intents = self.index.intents()?;
        let mut inventory = self.inventory(self.now(), &|_, _| ())?;
        // Beside a collection, a file can go between its listing and its reading: that cannot be read which cannot be read
        // each time.
        for _ in 0..SECOND_LOOKS {
            let (unreadable, unseen) = (&inventory.found.unreadable, &inventory.usage.unreadable);
            if guard.is_some() || unreadable.is_empty() && unseen.is_empty() {
                break;
            }
            let before: HashSet<PathBuf> = unreadable
                .iter()
                .map(|e| &e.path)
                .chain(unseen.iter().map(|(path, _)| path))
                .cloned()
                .collect();
            std::thread::sleep(PAUSE);
            inventory = self.inventory(self.now(), &|_, _| ())?;
            inventory.found.unreadable.retain(|entry| before.contains(&entry.path));
            inventory.usage.unreadable.retain(|(path, _)| before.contains(path));
        }
        let found = inventory.found.states.iter().filter(|state| guard.is_some() && !state.known);
        let (uncommitted, lost): (Vec<_>, Vec<_>) = found.partition(|state| intents.contains(&state.key()));
        Ok(Survey {
            uncommitted: uncommitted.len(),
            lost: lost.len(),
            unknown: self.unknown(&inventory),
            unseen: inventory.usage.unreadable,
            unreadable: inventory.found.unreadable,
        })
    }

    /// Moves a damaged index out of the way, into staging, so that a new one can be made. Returns where it is.
    ///
    /// # Errors
    /// When the lock or the disk fails.
    pub fn set_index_aside(disk: &dyn Disk, root: &Path, waiting: impl FnOnce()) -> Result<PathBuf> {
        let _guard = ExclusiveGuard::wait(disk, &root.join(LOCK_NAME), waiting)?;
        let staging = root.join(STAGING);
        layout::make_folder(disk, &staging)?;
        let name = random_name("damaged-");
        let target = |end: &str| staging.join(format!("{name}-{INDEX_NAME}{end}"));
        for end in ["", "-wal", "-shm", "-journal"] {
            let from = root.join(format!("{INDEX_NAME}{end}"));
            match disk.rename(&from, &target(end)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::Disk { action: "move", path: from, source: e });
                }
                _ => {}
            }
        }
        disk.sync_dir(root).map_err(StoreError::disk("sync", root))?;
        Ok(target(""))
    }
}
