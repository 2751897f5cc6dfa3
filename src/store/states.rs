//! Committing and changing states: a record on disk first, then the row.
//!
//! A state's record is an object like any other: write-once. A change publishes a new one, commits the row that names
//! it, and removes the old one. A crash in between leaves a record without a row, which the next gc takes away. The
//! index knows of it from before it is written, so that it goes with its state, too: after a loss of the index it would
//! be taken for the state.

use std::collections::BTreeSet;
use std::path::Path;

use super::index::{Published, SegmentRow};
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

    /// Gives the name of one state to another one, at once: there is no moment at which neither or both have it. Says
    /// whether that was possible: whether there are two such states, and the first one has that name. Call it under the
    /// shared lock.
    ///
    /// # Errors
    /// As [`Self::commit_state`].
    pub fn move_name(&mut self, name: &str, from: &StateKey, to: &StateKey) -> Result<bool> {
        loop {
            let (Some(mut giver), Some(mut taker)) = (self.index.state(from)?, self.index.state(to)?) else {
                return Ok(false);
            };
            if giver.name.as_deref() != Some(name) {
                return Ok(false);
            }
            taker.name = giver.name.take();
            giver.revision += 1;
            taker.revision += 1;
            if self.replace_all(&[giver, taker], None)? {
                return Ok(true);
            }
        }
    }

    /// Publishes a record, commits its row, and removes the record before it. Says false if somebody else changed
    /// the state in between.
    fn replace(&mut self, record: &Record, used: Option<i64>) -> Result<bool> {
        self.replace_all(std::slice::from_ref(record), used)
    }

    /// As [`Self::replace`], for several records: all of them or none.
    fn replace_all(&mut self, records: &[Record], used: Option<i64>) -> Result<bool> {
        let encoded: Vec<_> = records.iter().map(Record::encode).collect();
        let mut old = Vec::new();
        for record in records {
            old.push(self.index.use_of(&record.key)?.and_then(|u| u.record));
        }
        // Noted first: if this is cut short, the states' removal finds what is on disk by then.
        let spare: Vec<_> = records.iter().zip(&encoded).map(|(r, e)| (r.key, e.id())).collect();
        self.index.note_spare_records(&spare)?;
        let mut published = Vec::new();
        for (record, encoded) in records.iter().zip(&encoded) {
            published.push(Published { record, object: self.publish(encoded)?, bytes: encoded.len() });
        }
        let committed = self.index.commit_states(&published, used);
        for (state, old) in published.iter().zip(old) {
            // Somebody who lost the race may have written the very bytes of the winner, which are one object.
            let named = self.index.use_of(&state.record.key)?.and_then(|u| u.record);
            let superfluous = match &committed {
                Ok(true) => old,
                _ => Some(state.object),
            };
            if let Some(object) = superfluous.filter(|object| Some(*object) != named) {
                // What cannot be removed now is removed by the next gc.
                let _ = self.remove(&self.object_path(&object));
            }
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
