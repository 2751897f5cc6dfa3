//! The SQLite index: which states there are, of which segments they consist, and when they were used.

mod changes;
mod models;
mod rows;
mod search;
mod segments;
mod states;

pub use changes::Published;
pub use rows::{ListedState, SegmentRow, Use};
pub use search::{Lookup, Relative};

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::disk::private;
use super::{Result, StoreError, schema};
use crate::key::fingerprint::FileIdentity;

/// How long a statement waits for another process's transaction; they are all short.
const BUSY: Duration = Duration::from_secs(20);

/// An open index.
pub struct Index {
    path: PathBuf,
    db: Connection,
    /// Opened without the usual files beside it, because the disk is full or cannot be written.
    emergency: bool,
    /// Device and inode of the database.
    file: Option<(u64, u64)>,
}

impl Index {
    /// Opens the database at `path`, makes it if needed, and brings its schema up to date. On a full disk, or one that
    /// cannot be written, an index that is there is opened all the same, for reading.
    ///
    /// # Errors
    /// When SQLite refuses, or a later version of pcache wrote it.
    pub fn open(path: &Path) -> Result<Self> {
        match Self::open_for_writing(path) {
            Err(error) if error.is_unwritable() && path.is_file() => {
                Self::open_in_emergency(path).map_err(|_| error)
            }
            other => other,
        }
    }

    fn open_for_writing(path: &Path) -> Result<Self> {
        let failed = |source| StoreError::of_index(path, source);
        create_private(path)?;
        let mut db = connect(path)?;
        let found = version(&db, path)?;
        if found == 0 {
            // The first must come before the first table; asked of an existing database both are writes.
            db.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;")
                .map_err(failed)?;
            if !is_readable(&db) {
                drop(db);
                db = connect(path)?;
            }
        }
        db.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;").map_err(failed)?;
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
        Ok(Self::opened(path, db, false))
    }

    fn opened(path: &Path, db: Connection, emergency: bool) -> Self {
        let file = FileIdentity::of(path).ok().map(|f| (f.device, f.inode));
        Self { path: path.to_owned(), db, emergency, file }
    }

    /// Opens an index that is there where nothing new can be written: alone, so that no shared memory is needed; or,
    /// where even that is refused and no log is left over, as a file that nobody changes.
    fn open_in_emergency(path: &Path) -> Result<Self> {
        let log = path.with_extension("sqlite-wal");
        let alone = || {
            let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            db.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA foreign_keys = ON;")?;
            db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            Ok(db)
        };
        let unchanging = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            let name = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
            Connection::open_with_flags(format!("file:{name}?immutable=1"), flags)
        };
        let db = alone().or_else(|error: rusqlite::Error| {
            let left_over = std::fs::metadata(&log).is_ok_and(|m| m.len() > 0);
            if left_over { Err(error) } else { unchanging() }
        });
        let db = db.map_err(|source| StoreError::of_index(path, source))?;
        if version(&db, path)? != schema::VERSION as i64 {
            // An older schema cannot be brought up to date here.
            return Err(StoreError::of_index(path, rusqlite::Error::InvalidQuery));
        }
        Ok(Self::opened(path, db, true))
    }

    /// Whether it was opened on a disk that is full or cannot be written.
    pub fn is_emergency(&self) -> bool {
        self.emergency
    }

    /// Makes deleting possible on a full disk: without a log beside the database, which has no room to grow. The caller
    /// holds the exclusive lock. A crash meanwhile can damage the index, which then has to be rebuilt from the objects.
    ///
    /// # Errors
    /// When SQLite refuses this, too.
    pub(super) fn delete_without_room(&mut self) -> Result<()> {
        let failed = |source| StoreError::of_index(&self.path, source);
        let placeholder = Connection::open_in_memory().map_err(failed)?;
        drop(std::mem::replace(&mut self.db, placeholder));
        let db =
            Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
        db.execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE;
             PRAGMA journal_mode = MEMORY;
             PRAGMA foreign_keys = ON;",
        )
        .map_err(failed)?;
        (self.db, self.emergency) = (db, true);
        Ok(())
    }

    /// Whether it knows of no state and no segment, not even of one that is going: it is new, or what it knew is lost.
    ///
    /// # Errors
    /// When SQLite fails.
    pub fn is_blank(&self) -> Result<bool> {
        let sql = "SELECT NOT EXISTS (SELECT 1 FROM states) AND NOT EXISTS (SELECT 1 FROM segments)";
        self.said(self.db.query_row(sql, [], |row| row.get(0)))
    }

    /// Whether the file that is open still has its name: what is written to one that was moved away is lost.
    ///
    /// # Errors
    /// [`StoreError::Replaced`] if it has not.
    pub fn check_is_in_place(&self) -> Result<()> {
        let found = FileIdentity::of(&self.path).ok().map(|f| (f.device, f.inode));
        match found == self.file {
            true => Ok(()),
            false => Err(StoreError::Replaced { path: self.path.clone() }),
        }
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

/// Opens the database. One with a write-ahead log, on a file system that has no shared memory for it (a network's), is
/// turned into one with a rollback journal: readers and a writer then wait for each other, but nothing else changes.
fn connect(path: &Path) -> Result<Connection> {
    let failed = |source| StoreError::of_index(path, source);
    let open = || {
        let db = Connection::open(path)?;
        db.busy_timeout(BUSY)?;
        Ok(db)
    };
    let db = open().map_err(failed)?;
    let error = match version(&db, path) {
        Err(error) if error.is_unwritable() => error,
        _ => return Ok(db),
    };
    drop(db);
    let alone = "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = DELETE;";
    match open().and_then(|db| db.execute_batch(alone)) {
        Ok(()) => {
            // What was to be shared, and is of no use without a log.
            let _ = std::fs::remove_file(path.with_extension("sqlite-shm"));
            open().map_err(failed)
        }
        Err(_) => Err(error),
    }
}

fn is_readable(db: &Connection) -> bool {
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).is_ok()
}

/// The schema's version; refuses one of a later pcache.
fn version(db: &Connection, path: &Path) -> Result<i64> {
    let found = db.query_row("PRAGMA user_version", [], |r| r.get(0));
    let found: i64 = found.map_err(|source| StoreError::of_index(path, source))?;
    if found > schema::VERSION as i64 {
        return Err(StoreError::NewerSchema { path: path.to_owned(), found, known: schema::VERSION });
    }
    Ok(found)
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
