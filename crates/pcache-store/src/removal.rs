//! Removing states, segments and files: tombstones first, then the files, and only then the rows.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use pcache_format::{Lineage, ObjectId, StateKey};

use super::index::{SegmentRow, StateRow};
use super::lock::ExclusiveGuard;
use super::{Result, Store, StoreError, layout};

/// A state that was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Its key.
    pub key: StateKey,
    /// Its names.
    pub names: Vec<String>,
    /// Bytes of the files that go or went with it.
    pub frees: u64,
    /// Files that could not be removed: the next gc tries again.
    pub left: Vec<Left>,
}

/// A file that could not be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The file.
    pub path: PathBuf,
    /// Answer of the system.
    pub why: String,
    /// Its size, where the system tells.
    pub bytes: u64,
}

/// A state whose files are to go.
#[derive(Debug, Clone)]
pub(crate) struct Doomed {
    pub(crate) key: StateKey,
    pub(crate) manifests: Vec<Lineage>,
    pub(crate) record: Option<ObjectId>,
}

/// Files that were removed, and those that could not be.
#[derive(Debug, Default)]
pub(crate) struct Removal {
    pub(crate) left: Vec<Left>,
    folders: BTreeSet<PathBuf>,
}

impl Store {
    /// Removes states with all objects that no other state uses; with `dry_run` only says what would go.
    ///
    /// # Errors
    /// When a later version described one of them: then all stay. When the index fails, or a folder cannot be synced. What was removed by then stays removed; gc finishes the rest.
    pub fn remove_states(
        &self,
        guard: &ExclusiveGuard,
        keys: &[StateKey],
        dry_run: bool,
    ) -> Result<Vec<Removed>> {
        let mut removed: Vec<Removed> = Vec::new();
        keys.iter().try_for_each(|key| self.refuse_newer(key))?;
        for key in keys {
            let Some(StateRow { label, usage, .. }) = self.index.state(key)? else { continue };
            let before: Vec<StateKey> = removed.iter().map(|r| r.key).collect();
            let own = self.index.own_segments(key, &before)?;
            let frees = own.iter().map(|row| row.file_bytes).sum::<u64>() + usage.bytes();
            let manifests = usage.manifests.iter().map(|m| m.lineage).collect();
            let doomed = Doomed { key: *key, manifests, record: usage.record.map(|(object, _)| object) };
            let left = if dry_run { Vec::new() } else { self.discard(guard, &[doomed], &own)? };
            let frees = frees.saturating_sub(left.iter().map(|left| left.bytes).sum());
            let names = label.names.into_iter().map(|n| n.name).collect();
            removed.push(Removed { key: *key, names, frees, left });
        }
        Ok(removed)
    }

    /// Deletes states, with the files that describe them, and segments: tombstones first, then the files, and only then the
    /// rows. Labels and manifests go first, so that no crash leaves one whose segments are gone. What cannot be removed keeps
    /// its tombstone, and is the answer.
    pub(crate) fn discard(
        &self,
        _: &ExclusiveGuard,
        states: &[Doomed],
        segments: &[SegmentRow],
    ) -> Result<Vec<Left>> {
        let keys: Vec<StateKey> = states.iter().map(|state| state.key).collect();
        let ids: Vec<_> = segments.iter().map(SegmentRow::id).collect();
        if keys.is_empty() && ids.is_empty() {
            return Ok(Vec::new());
        }
        match self.index.tombstone(&keys, &ids) {
            // Deleting is the way out of a full disk, and must not need room itself.
            Err(error) if error.is_unwritable() => {
                self.index.delete_without_room().map_err(|_| error)?;
                self.index.tombstone(&keys, &ids)?;
            }
            other => other?,
        }
        let mut removal = Removal::default();
        let mut gone_keys = Vec::new();
        for state in states {
            let mut paths = vec![layout::label(&self.root, &state.key)];
            paths.extend(state.manifests.iter().map(|l| layout::manifest(&self.root, &state.key, *l)));
            let superseded = self.index.superseded(&state.key)?;
            let records = state.record.iter().chain(&superseded);
            paths.extend(records.map(|object| layout::object(&self.root, object)));
            if self.remove_files(&paths, &mut removal) {
                gone_keys.push(state.key);
            }
        }
        self.sync_folders(&mut removal)?;
        let mut gone = Vec::new();
        for row in segments {
            if self.remove_files(&[layout::object(&self.root, &row.object)], &mut removal) {
                gone.push(row.id());
            }
        }
        self.sync_folders(&mut removal)?;
        self.index.delete_tombstoned(&gone_keys, &gone)?;
        Ok(removal.left)
    }

    /// Removes objects that segments' rows no longer name: another process may have written one of them again meanwhile.
    ///
    /// # Errors
    /// When the index or the disk fails.
    pub fn remove_replaced(&self, _: &ExclusiveGuard, replaced: &[super::writer::Replaced]) -> Result<()> {
        let mut removal = Removal::default();
        for old in replaced {
            if !self.index.names_object(old.segment, &old.object)? {
                self.remove_files(&[layout::object(&self.root, &old.object)], &mut removal);
            }
        }
        self.sync_folders(&mut removal)
    }

    /// Removes files. Returns whether all of them are gone.
    pub(crate) fn remove_files(&self, paths: &[PathBuf], removal: &mut Removal) -> bool {
        let mut all = true;
        for path in paths {
            match self.remove(path) {
                Ok(()) => removal.folders.extend(path.parent().map(Path::to_owned)),
                Err(error) => {
                    let bytes = self.disk.open(path).and_then(|file| file.size()).unwrap_or(0);
                    removal.left.push(Left { path: path.clone(), why: error.to_string(), bytes });
                    all = false;
                }
            }
        }
        all
    }

    /// Syncs the folders that files were removed from, so that no loss of power brings back what the index no longer
    /// knows, and reindexing would take for a state that was lost.
    pub(crate) fn sync_folders(&self, removal: &mut Removal) -> Result<()> {
        for folder in std::mem::take(&mut removal.folders) {
            if matches!(self.disk.kind(&folder), Ok(Some(_))) {
                self.disk.sync_dir(&folder).map_err(StoreError::disk("sync", &folder))?;
            }
        }
        Ok(())
    }

    /// Removes a file of the store; one that is gone, or behind a link and so not the store's, is fine.
    pub(crate) fn remove(&self, path: &Path) -> std::io::Result<()> {
        if self.is_behind_a_link(path) {
            return Ok(());
        }
        match self.disk.remove(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}
