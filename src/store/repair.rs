//! Repair: giving back to the index what it lost, from the records and objects on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, RealDisk};
use super::lock::Lock;
use super::objects::Miss;
use super::{INDEX_NAME, LOCK_NAME, Result, STAGING, Store, StoreError};
use crate::format::Record;
use crate::key::{ObjectId, StateKey};

impl Store {
    /// Gives every intact object that has no row its row, a record its state. Says how many states and how many
    /// segments. The caller holds the exclusive lock.
    ///
    /// # Errors
    /// When the index or the disk fails.
    pub fn adopt_lost(&mut self) -> Result<(usize, usize)> {
        let now = self.now();
        let found = self.scene(now)?.found;
        self.index.note_spare_records(&found.superseded)?;
        self.index.adopt_all(&found.segments, &found.records, now)?;
        Ok((found.records.len(), found.segments.len()))
    }

    /// How many states have a record on disk and no row. While somebody builds there is no telling, because their
    /// records come before the rows, and the answer is 0: whoever builds puts back what an index lost.
    ///
    /// # Errors
    /// When the lock, the index or the disk fails.
    pub fn lost_states(&self) -> Result<usize> {
        match self.try_lock_exclusive()? {
            Some(_lock) => Ok(self.scene(self.now())?.found.records.len()),
            None => Ok(0),
        }
    }

    /// Reads a state's record and compares it with its hash and its key.
    ///
    /// # Errors
    /// When the index fails. What is wrong with the record is the answer.
    pub fn check_record(&self, key: &StateKey) -> Result<Option<Miss>> {
        let object = || Ok::<_, StoreError>(self.index.use_of(key)?.and_then(|u| u.record));
        let Some(mut named) = object()? else { return Ok(Some(Miss::NotSaved)) };
        loop {
            let wrong = match self.read_record(&named) {
                Ok(record) if record.key == *key => return Ok(None),
                Ok(_) => Miss::Mismatch { object: named, reason: "it is another state's".into() },
                Err(miss) => miss,
            };
            // Somebody may have changed the state in between, and taken the record away with that.
            match object()? {
                Some(other) if other != named => named = other,
                _ => return Ok(Some(wrong)),
            }
        }
    }

    fn read_record(&self, object: &ObjectId) -> Result<Record, Miss> {
        let map = self.map_object(object)?;
        let found = ObjectId::from(blake3::hash(&map));
        if found != *object {
            return Err(Miss::Damaged { object: *object, found, bytes: map.len() });
        }
        Record::decode(&map).map_err(|e| Miss::Mismatch { object: *object, reason: e.to_string() })
    }

    /// Writes a state's record anew from its row, which must be whole. Call it under the shared lock.
    ///
    /// # Errors
    /// When the disk or the index fails.
    pub fn rewrite_record(&mut self, key: &StateKey) -> Result<bool> {
        self.change_state(key, |record| record.revision += 1)
    }

    /// Writes a state's record anew if it is lost or damaged. Says what was wrong with it. Call it under the shared lock.
    ///
    /// # Errors
    /// When the disk or the index fails.
    pub fn mend_record(&mut self, key: &StateKey) -> Result<Option<Miss>> {
        let wrong = self.check_record(key)?;
        if wrong.is_some() {
            self.rewrite_record(key)?;
        }
        Ok(wrong)
    }

    /// Puts a state's row back as its record says, if that is intact. Says whether it is. Call it under the shared
    /// lock.
    ///
    /// # Errors
    /// When the index fails.
    pub fn restore_row(&mut self, key: &StateKey) -> Result<bool> {
        let Some(used) = self.index.use_of(key)? else { return Ok(false) };
        let Some(object) = used.record else { return Ok(false) };
        match self.read_record(&object) {
            Ok(record) if record.key == *key => {
                self.index.adopt_state(&record, &object, used.record_bytes, used.last_used)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Moves a damaged index out of the way, into staging, so that a new one can be made. Says where it is.
    ///
    /// # Errors
    /// When the lock or the disk fails.
    pub fn set_index_aside(root: &Path, waiting: impl FnOnce()) -> Result<PathBuf> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let _lock = Lock::exclusive(&root.join(LOCK_NAME), waiting)?;
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Disk { action, path, source }
        };
        let staging = root.join(STAGING);
        disk.create_dir(&staging).map_err(failed("create", &staging))?;
        let target = |end: &str| staging.join(format!("{}-damaged-{INDEX_NAME}{end}", std::process::id()));
        for end in ["", "-wal", "-shm", "-journal"] {
            let from = root.join(format!("{INDEX_NAME}{end}"));
            match disk.rename(&from, &target(end)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed("move", &from)(e)),
                _ => {}
            }
        }
        disk.sync_dir(root).map_err(failed("sync", root))?;
        Ok(target(""))
    }
}
