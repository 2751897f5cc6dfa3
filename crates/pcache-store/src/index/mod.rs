//! The SQLite index: which states there are, of which segments they consist, and when they were used. Private to the
//! store, and disposable: all but counts of uses and measured speeds can be made anew from the files.

mod changes;
mod models;
mod open;
mod rows;
mod schema;
mod search;
mod segments;
mod states;

pub(crate) use changes::{Described, StateChange};
pub(crate) use rows::StateRow;
pub use rows::{ListedState, ManifestRow, SegmentRow, Usage};
pub use search::{Lookup, Relative};

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use super::fingerprint::FileIdentity;
use super::{Result, StoreError};
use open::{Access, OpenIndex};

/// Time that a statement waits for another process's transaction; they are all short.
const BUSY: Duration = Duration::from_secs(20);

/// An open index.
pub(crate) struct Index {
    path: PathBuf,
    opened: Mutex<OpenIndex>,
    /// Device and inode of the database.
    file: Option<(u64, u64)>,
}

impl Index {
    /// Opens the database at `path`, makes it if needed, and brings its schema up to date. On a full disk, or one that
    /// cannot be written, an index that is there is opened all the same, for reading.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let opened = OpenIndex::open(path)?;
        Ok(Self { path: path.to_owned(), opened: Mutex::new(opened), file: file_of(path) })
    }

    /// Opens a private copy, as where nothing can be written.
    #[cfg(test)]
    pub(crate) fn open_a_copy(path: &Path) -> Result<Self> {
        let opened = OpenIndex::copy_of(path)?;
        Ok(Self { path: path.to_owned(), opened: Mutex::new(opened), file: file_of(path) })
    }

    fn opened(&self) -> MutexGuard<'_, OpenIndex> {
        self.opened.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Changes can be committed.
    pub(crate) fn is_writable(&self) -> bool {
        matches!(self.opened().access, Access::Write)
    }

    /// Makes deleting possible on a full disk: without a log beside the database, which has no room to grow. The caller
    /// holds the exclusive lock. A crash meanwhile can damage the index, which then has to be rebuilt.
    pub(crate) fn delete_without_room(&self) -> Result<()> {
        self.opened().without_log(&self.path)
    }

    /// It knows of no state and no segment, not even of one with a tombstone: it is new, or what it knew is lost.
    pub(crate) fn is_blank(&self) -> Result<bool> {
        let sql = "SELECT NOT EXISTS (SELECT 1 FROM states) AND NOT EXISTS (SELECT 1 FROM segments)";
        self.read(|db| db.query_row(sql, [], |row| row.get(0)))
    }

    /// Compares the file that is open with the one that has its name: what is written to one that was moved away is lost.
    /// A private copy is made anew where the original has changed.
    pub(crate) fn check_is_in_place(&self) -> Result<()> {
        let mut opened = self.opened();
        if opened.refresh(&self.path)? {
            return Ok(());
        }
        match file_of(&self.path) == self.file {
            true => Ok(()),
            false => Err(StoreError::Replaced { path: self.path.clone() }),
        }
    }

    /// Gives unused pages back to the file system and folds the write-ahead log into the database.
    pub(crate) fn compact(&self) -> Result<()> {
        self.read(|db| db.execute_batch("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);"))
    }

    /// Lets SQLite check the whole database, and that no row needs another one that is not there: no list would show it.
    pub(crate) fn check(&self) -> Result<()> {
        let mut found: String = self.read(|db| db.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)))?;
        if found == "ok" {
            let orphan = self.read(|db| {
                db.query_row("PRAGMA foreign_key_check", [], |r| Ok((r.get(0)?, r.get(2)?))).optional()
            })?;
            let Some((table, needed)): Option<(String, String)> = orphan else { return Ok(()) };
            found = format!("a row of {table} needs one of {needed} that is not there");
        }
        let (path, code) = (self.path.clone(), rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT));
        Err(StoreError::DamagedIndex { path, source: rusqlite::Error::SqliteFailure(code, Some(found)) })
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        work(&self.opened().db).map_err(|source| StoreError::of_index(&self.path, source))
    }

    /// Runs `work` in one transaction that takes the write lock at its start, and makes it durable.
    fn transaction<T>(
        &self,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let mut opened = self.opened();
        if opened.is_copy() {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY);
            return Err(StoreError::of_index(&self.path, rusqlite::Error::SqliteFailure(code, None)));
        }
        opened.fold_log_on_close();
        let done = opened.db.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|tx| {
            let value = work(&tx)?;
            tx.commit()?;
            Ok(value)
        });
        done.map_err(|source| StoreError::of_index(&self.path, source))
    }

    /// Runs `work` as a change that a loss of power may undo: nothing is synced.
    fn unsynced(&self, work: impl Fn(&Connection) -> rusqlite::Result<()>) -> Result<()> {
        let opened = self.opened();
        let done = opened.relaxed(work);
        done.map_err(|source| StoreError::of_index(&self.path, source))
    }
}

/// Device and inode of a file.
fn file_of(path: &Path) -> Option<(u64, u64)> {
    FileIdentity::read(path).ok().map(|f| (f.device, f.inode))
}
