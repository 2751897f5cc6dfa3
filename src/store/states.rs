//! Committing and changing states: a record on disk first, then the row.
//!
//! A state's record is an object like any other: write-once. A change publishes a new one, commits the row that names
//! it, and removes the old one. A crash in between leaves a record without a row, which the next gc takes away. The
//! index knows of it from before it is written, so that it goes with its state, too: after a loss of the index it would
//! be taken for the state.

use std::collections::BTreeSet;
use std::path::Path;

use super::index::SegmentRow;
use super::{Result, Store, StoreError};
use crate::format::Record;
use crate::key::{ChainKey, ObjectId, StateKey};

/// A state that was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Its key.
    pub key: StateKey,
    /// Its name, if it had one.
    pub name: Option<String>,
    /// Bytes of the files that go with it.
    pub frees: u64,
}

impl Store {
    /// Commits a state that was built. One that exists keeps when it was built and what that cost, its name unless
    /// `record` has one, stays pinned, and gets the new expiry if there is one. Call it under the shared lock.
    ///
    /// # Errors
    /// When the disk or the index fails, for instance because the name is taken. The state is as it was, then.
    pub fn commit_state(&mut self, record: &Record) -> Result<()> {
        let now = self.now();
        loop {
            let merged = match self.index.state(&record.key)? {
                None => Record { revision: 1, created: now, ..record.clone() },
                Some(before) => {
                    let merged = merged(before.clone(), record);
                    let whole = self.index.segments_of(&record.key)?.len() == merged.pieces().len();
                    if whole && self.check_record(&record.key)?.is_none() && merged.says_the_same_as(&before)
                    {
                        return self.index.touch(&record.key, now);
                    }
                    merged
                }
            };
            if self.replace(&merged, Some(now))? {
                return Ok(());
            }
        }
    }

    /// Changes what a state's record says. Says whether there is such a state. Call it under the shared lock.
    ///
    /// # Errors
    /// As [`Self::commit_state`].
    pub fn change_state(&mut self, key: &StateKey, change: impl Fn(&mut Record)) -> Result<bool> {
        loop {
            let Some(before) = self.index.state(key)? else { return Ok(false) };
            let mut after = before.clone();
            change(&mut after);
            if after == before {
                return Ok(true);
            }
            after.revision = before.revision + 1;
            if self.replace(&after, None)? {
                return Ok(true);
            }
        }
    }

    /// Publishes a record, commits its row, and removes the record before it. Says false if somebody else changed
    /// the state in between.
    fn replace(&mut self, record: &Record, used: Option<i64>) -> Result<bool> {
        let old = self.index.use_of(&record.key)?.and_then(|u| u.record);
        let encoded = record.encode();
        // Noted first: if this is cut short, its state's removal finds what is on disk by then.
        self.index.note_spare_records(&[(record.key, encoded.id())])?;
        let new = self.publish(&encoded)?;
        let committed = self.index.commit_state(record, &new, encoded.len(), used);
        // Somebody who lost the race may have written the very bytes of the winner, which are one object.
        let named = self.index.use_of(&record.key)?.and_then(|u| u.record);
        let superfluous = match &committed {
            Ok(true) => old,
            _ => Some(new),
        };
        if let Some(object) = superfluous.filter(|object| Some(*object) != named) {
            // What cannot be removed now is removed by the next gc.
            let _ = self.remove(&self.object_path(&object));
        }
        committed
    }

    /// Removes states with all that nobody else needs; with `dry_run` only says what would go. The caller holds
    /// the exclusive lock.
    ///
    /// # Errors
    /// When the index or the disk fails. What was removed by then stays removed; gc finishes the rest.
    pub fn remove_states(&mut self, keys: &[StateKey], dry_run: bool) -> Result<Vec<Removed>> {
        let mut removed = Vec::new();
        for key in keys {
            let (Some(state), Some(used)) = (self.index.state(key)?, self.index.use_of(key)?) else {
                continue;
            };
            let before: Vec<StateKey> = removed.iter().map(|r: &Removed| r.key).collect();
            let own = self.index.own_segments(key, &before)?;
            let frees = own.iter().map(|row| row.file_bytes).sum::<u64>() + used.record_bytes;
            if !dry_run {
                self.discard(&[(*key, used.record)], &own)?;
            }
            removed.push(Removed { key: *key, name: state.name, frees });
        }
        Ok(removed)
    }

    /// Deletes states, with their records, and segments: marked as going, unlinked, and only then forgotten. Records go
    /// first, so that no crash leaves one whose segments are gone.
    pub(super) fn discard(
        &mut self,
        states: &[(StateKey, Option<ObjectId>)],
        segments: &[SegmentRow],
    ) -> Result<()> {
        let keys: Vec<StateKey> = states.iter().map(|(key, _)| *key).collect();
        let chains: Vec<ChainKey> = segments.iter().map(|row| row.chain).collect();
        if keys.is_empty() && chains.is_empty() {
            return Ok(());
        }
        match self.index.mark_going(&keys, &chains) {
            // Deleting is the way out of a full disk, and must not need room itself.
            Err(error) if error.is_unwritable() => {
                self.index.delete_without_room().map_err(|_| error)?;
                self.index.mark_going(&keys, &chains)?;
            }
            other => other?,
        }
        let mut objects: Vec<ObjectId> = states.iter().filter_map(|(_, record)| *record).collect();
        for key in &keys {
            objects.extend(self.index.spare_records(key)?);
        }
        objects.extend(segments.iter().map(|row| row.object));
        self.remove_objects(&objects)?;
        self.index.delete_going(&keys, &chains)
    }

    /// Removes those of the objects that no row names: somebody may have written one of them again meanwhile. The caller
    /// holds the exclusive lock.
    ///
    /// # Errors
    /// When the index or the disk fails.
    pub fn remove_unnamed(&self, objects: &[ObjectId]) -> Result<()> {
        let mut unnamed = Vec::new();
        for object in objects {
            if !self.index.names_object(object)? {
                unnamed.push(*object);
            }
        }
        self.remove_objects(&unnamed)
    }

    /// Removes objects for good: the folders are synced, so that no loss of power brings back what the index no longer
    /// knows, and gc would take for a state that was lost.
    pub(super) fn remove_objects(&self, objects: &[ObjectId]) -> Result<()> {
        let mut folders = BTreeSet::new();
        for object in objects {
            let path = self.object_path(object);
            self.remove(&path)?;
            folders.extend(path.parent().map(Path::to_owned));
        }
        for folder in folders.iter().filter(|folder| folder.is_dir()) {
            let failed = |source| StoreError::Disk { action: "sync", path: folder.clone(), source };
            self.disk.sync_dir(folder).map_err(failed)?;
        }
        Ok(())
    }

    /// Removes a file of the store; one that is gone, or behind a link and so not the store's, is fine.
    pub(super) fn remove(&self, path: &Path) -> Result<()> {
        if path.parent().is_some_and(Path::is_symlink) {
            return Ok(());
        }
        match self.disk.remove(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::Disk { action: "remove", path: path.to_owned(), source: e })
            }
            _ => Ok(()),
        }
    }
}

fn merged(before: Record, built: &Record) -> Record {
    // A rebuild of what was damaged says nothing about the cost of the whole.
    let (build_s, evaluated) = if built.evaluated > before.evaluated {
        (built.build_s, built.evaluated)
    } else {
        (before.build_s, before.evaluated)
    };
    Record {
        name: built.name.clone().or(before.name),
        created: before.created,
        expires: built.expires.or(before.expires),
        pinned: built.pinned || before.pinned,
        revision: before.revision + 1,
        build_s,
        evaluated,
        ..built.clone()
    }
}
