//! The SQLite index: which states there are, of which segments they consist, and when they were used.

mod changes;
mod models;
mod rows;
mod search;
mod segments;
mod states;

pub use rows::{ListedState, SegmentRow, Use};
pub use search::{Lookup, Relative};

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::disk::private;
use super::{Result, StoreError, schema};

/// How long a statement waits for another process's transaction; they are all short.
const BUSY: Duration = Duration::from_secs(20);

/// An open index.
pub struct Index {
    path: PathBuf,
    db: Connection,
}

impl Index {
    /// Opens the database at `path`, makes it if needed, and brings its schema up to date.
    ///
    /// # Errors
    /// When SQLite refuses, or a later version of pcache wrote it.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |source| StoreError::of_index(path, source);
        create_private(path)?;
        let mut db = Connection::open(path).map_err(failed)?;
        db.busy_timeout(BUSY).map_err(failed)?;
        let found: i64 = db.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(failed)?;
        if found > schema::VERSION as i64 {
            return Err(StoreError::NewerSchema { path: path.to_owned(), found, known: schema::VERSION });
        }
        if found == 0 {
            // Must come before the first table; asked of an existing database it is a write.
            db.execute_batch("PRAGMA auto_vacuum = INCREMENTAL").map_err(failed)?;
        }
        db.execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             PRAGMA foreign_keys = ON;",
        )
        .map_err(failed)?;
        if found < schema::VERSION as i64 {
            let migrated = schema::migrations().to_latest(&mut db);
            // Another process may have migrated between the look and the attempt; then all is well.
            let now: i64 = db.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(failed)?;
            if now != schema::VERSION as i64 {
                migrated.map_err(|e| match e {
                    rusqlite_migration::Error::RusqliteError { err, .. } => failed(err),
                    other => failed(rusqlite::Error::ToSqlConversionFailure(Box::new(other))),
                })?;
            }
        }
        Ok(Self { path: path.to_owned(), db })
    }

    /// Gives unused pages back to the file system and folds the write-ahead log into the database.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn compact(&self) -> Result<()> {
        self.said(self.db.execute_batch("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);"))
    }

    /// Lets SQLite check the whole database.
    ///
    /// # Errors
    /// A damaged index if it finds anything.
    pub fn check(&self) -> Result<()> {
        let found: String = self.said(self.db.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)))?;
        if found == "ok" {
            return Ok(());
        }
        let (path, code) = (self.path.clone(), rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT));
        Err(StoreError::DamagedIndex { path, source: rusqlite::Error::SqliteFailure(code, Some(found)) })
    }

    fn said<T>(&self, result: rusqlite::Result<T>) -> Result<T> {
        result.map_err(|source| StoreError::of_index(&self.path, source))
    }

    /// Runs `work` in one transaction that takes the write lock at its start.
    fn transaction<T>(
        &mut self,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let path = &self.path;
        let done = self.db.transaction_with_behavior(TransactionBehavior::Immediate).and_then(|tx| {
            let value = work(&tx)?;
            tx.commit()?;
            Ok(value)
        });
        done.map_err(|source| StoreError::of_index(path, source))
    }
}

/// SQLite makes its files by the umask; one that exists keeps its mode, and the log takes it over.
fn create_private(path: &Path) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    private(&mut options);
    options.open(path).map(drop).map_err(|source| StoreError::Disk {
        action: "open",
        path: path.to_owned(),
        source,
    })
}
