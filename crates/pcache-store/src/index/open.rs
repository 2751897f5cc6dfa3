//! Opening the database: to write; alone, on a full disk; or a private copy of one that cannot be written.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tempfile::TempDir;

use super::{BUSY, schema};
use crate::disk::private;
use crate::{Result, StoreError};

/// Files beside the database in which changes can be that are not in it yet.
const LOGS: [&str; 2] = ["-wal", "-journal"];
/// Number of times that a copy is tried while another process writes.
const COPY_TRIES: u32 = 50;
/// Time between two of them.
const COPY_PAUSE: Duration = Duration::from_millis(20);
/// More than the time for which a kernel gives files the same time: at most 10 ms, at 100 ticks a second.
const CLOCK_TICK: Duration = Duration::from_millis(50);

/// Way in which the database was opened.
pub(super) enum Access {
    /// Changes can be committed.
    Write,
    /// Alone, because the disk is full: nothing new can be written beside it.
    Alone,
    /// As it is now, or a copy of that: it cannot be written.
    Copy {
        /// Folder of the copy, which goes with it; none where the database itself is read.
        #[allow(dead_code, reason = "removed when dropped")]
        folder: Option<TempDir>,
        /// Stamp of the original at the time of the copy; nothing where a change after it could have the same one.
        stamp: Option<Stamp>,
    },
}

/// Sizes and times of the database and its logs.
#[derive(Clone, PartialEq)]
pub(super) struct Stamp(Vec<Option<(u64, Option<SystemTime>)>>);

impl Stamp {
    fn read(path: &Path) -> Self {
        let files = std::iter::once(path.to_owned()).chain(LOGS.map(|end| beside(path, end)));
        let stamp = |path: PathBuf| std::fs::metadata(path).ok().map(|m| (m.len(), m.modified().ok()));
        Self(files.map(stamp).collect())
    }

    /// No file was written so shortly before `now` that a later write could leave the same time behind.
    fn is_settled(&self, now: SystemTime) -> bool {
        let mut times = self.0.iter().flatten().filter_map(|(_, time)| *time);
        times.all(|time| now.duration_since(time).is_ok_and(|age| age > CLOCK_TICK))
    }

    /// There are changes that are not in the database itself.
    fn has_log(&self) -> bool {
        self.0.iter().skip(1).flatten().any(|(bytes, _)| *bytes > 0)
    }
}

/// A connection, and how it came about.
pub(super) struct OpenIndex {
    pub(super) db: Connection,
    pub(super) access: Access,
}

impl OpenIndex {
    pub(super) fn open(path: &Path) -> Result<Self> {
        match Self::for_writing(path) {
            Err(error) if error.is_unwritable() && path.is_file() => {
                Self::alone(path).or_else(|_| Self::copy_of(path)).map_err(|other| match other {
                    newer @ StoreError::NewerSchema { .. } => newer,
                    _ => error,
                })
            }
            other => other,
        }
    }

    fn for_writing(path: &Path) -> Result<Self> {
        create_private(path)?;
        let db = migrated(path)?;
        Ok(Self { db, access: Access::Write })
    }

    /// Opens a database on a full disk: alone, so that no shared memory is needed.
    fn alone(path: &Path) -> Result<Self> {
        std::fs::OpenOptions::new().write(true).open(path).map_err(StoreError::disk("open", path))?;
        let open = || {
            let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            db.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA foreign_keys = ON;")?;
            db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
            Ok(db)
        };
        let db = open().map_err(|source| StoreError::of_index(path, source))?;
        if version(&db, path)? != schema::VERSION as i64 {
            // An older schema cannot be brought up to date here.
            return Err(StoreError::of_index(path, rusqlite::Error::InvalidQuery));
        }
        Ok(Self { db, access: Access::Alone })
    }

    /// Copies a database that cannot be written, with its logs, and opens the copy: the original is not touched, and an
    /// older schema is brought up to date in the copy. Where no copy can be made, the original itself is read, if it has no
    /// log and the schema of this version.
    pub(super) fn copy_of(path: &Path) -> Result<Self> {
        let folder = match tempfile::tempdir() {
            Ok(folder) => folder,
            Err(error) => {
                let refused = StoreError::disk("make a copy of", path)(error);
                return Self::as_it_is(path).ok_or(refused);
            }
        };
        let copy = folder.path().join("index.sqlite");
        let stamp = copy_files(path, &copy).map_err(StoreError::disk("read", path))?;
        // Errors are about the original, and the copy is of no use after a loss of power.
        let renamed = |error| match error {
            StoreError::NewerSchema { found, known, .. } => {
                StoreError::NewerSchema { path: path.to_owned(), found, known }
            }
            other => other,
        };
        let db = migrated(&copy).map_err(renamed)?;
        let _ = db.execute_batch("PRAGMA synchronous = OFF;");
        Ok(Self { db, access: Access::Copy { folder: Some(folder), stamp } })
    }

    /// Reads a database whose every change is in it, and looks for no log. A process that changes it meanwhile can make a read
    /// fail, so a copy is better.
    fn as_it_is(path: &Path) -> Option<Self> {
        let stamp = Stamp::read(path);
        if stamp.has_log() {
            return None;
        }
        // What means something in such an address is written by its number.
        let mut address = String::from("file:");
        for byte in path.to_str()?.bytes() {
            match byte {
                b'%' | b'?' | b'#' => address.push_str(&format!("%{byte:02x}")),
                _ => address.push(byte as char),
            }
        }
        if !path.to_str()?.is_ascii() {
            return None;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let db = Connection::open_with_flags(address + "?immutable=1", flags).ok()?;
        let current = version(&db, path).is_ok_and(|found| found == schema::VERSION as i64);
        current.then_some(Self { db, access: Access::Copy { folder: None, stamp: Some(stamp) } })
    }

    /// Makes a copy anew where the original has changed since. Returns false if this is no copy.
    pub(super) fn refresh(&mut self, path: &Path) -> Result<bool> {
        let Access::Copy { stamp, .. } = &self.access else { return Ok(false) };
        if stamp.as_ref().is_none_or(|stamp| *stamp != Stamp::read(path)) {
            *self = Self::copy_of(path)?;
        }
        Ok(true)
    }

    /// A copy of a database that cannot be written, in which no change would be kept.
    pub(super) fn is_copy(&self) -> bool {
        matches!(self.access, Access::Copy { .. })
    }

    /// Opens the database again without a log beside it. A crash meanwhile can damage it.
    pub(super) fn without_log(&mut self, path: &Path) -> Result<()> {
        let failed = |source| StoreError::of_index(path, source);
        if self.is_copy() {
            return Err(failed(rusqlite::Error::InvalidQuery));
        }
        let placeholder = Connection::open_in_memory().map_err(failed)?;
        drop(std::mem::replace(&mut self.db, placeholder));
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
        db.execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE;
             PRAGMA journal_mode = MEMORY;
             PRAGMA foreign_keys = ON;",
        )
        .map_err(failed)?;
        (self.db, self.access) = (db, Access::Alone);
        Ok(())
    }

    /// Lets the last one who closes the database fold its log into it, which syncs both: only after a change that was
    /// made durable, too.
    pub(super) fn fold_log_on_close(&self) {
        let _ = self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
    }

    /// Runs `work` as a transaction with nothing synced. A database without a write-ahead log is not safe that way, and left
    /// as it is where it would have to be synced.
    pub(super) fn relaxed(&self, work: impl Fn(&Connection) -> rusqlite::Result<()>) -> rusqlite::Result<()> {
        // A log that begins is synced unless it is told not to; one that begins again where an old one was has to be.
        if self.has_no_log() && self.unsynced("OFF", &work, || self.has_no_log())? {
            return Ok(());
        }
        self.unsynced("NORMAL", &work, || true).map(drop)
    }

    /// Runs `work` if `still` holds once no other process can write. Returns whether it does.
    fn unsynced(
        &self,
        level: &str,
        work: impl Fn(&Connection) -> rusqlite::Result<()>,
        still: impl Fn() -> bool,
    ) -> rusqlite::Result<bool> {
        self.db.execute_batch(&format!("PRAGMA synchronous = {level};"))?;
        let run = || {
            let tx = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
            if !still() {
                return Ok(false);
            }
            work(&tx)?;
            tx.commit().map(|()| true)
        };
        let done = run();
        self.db.execute_batch("PRAGMA synchronous = FULL;")?;
        done
    }

    /// Nothing is in a log beside the database.
    fn has_no_log(&self) -> bool {
        let log = self.db.path().map(|path| beside(Path::new(path), "-wal"));
        matches!(self.access, Access::Write)
            && log.is_some_and(|log| std::fs::metadata(log).is_ok_and(|m| m.len() == 0))
    }
}

impl Drop for OpenIndex {
    /// An empty log is removed: folding it then syncs nothing.
    fn drop(&mut self) {
        if self.has_no_log() {
            self.fold_log_on_close();
        }
    }
}

/// Opens a database and brings its schema up to date.
fn migrated(path: &Path) -> Result<Connection> {
    let failed = |source| StoreError::of_index(path, source);
    let mut db = connect(path)?;
    let found = version(&db, path)?;
    if found == 0 {
        // The first must come before the first table; asked of an existing database both are writes.
        db.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;").map_err(failed)?;
        if !is_readable(&db) {
            drop(db);
            db = connect(path)?;
        }
    }
    db.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;").map_err(failed)?;
    if found < schema::VERSION as i64 {
        let done = schema::migrations().to_latest(&mut db);
        // Another process may have migrated between the look and the attempt; then all is well.
        let now: i64 = db.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(failed)?;
        if now != schema::VERSION as i64 {
            done.map_err(|e| match e {
                rusqlite_migration::Error::RusqliteError { err, .. } => failed(err),
                other => failed(rusqlite::Error::ToSqlConversionFailure(Box::new(other))),
            })?;
        }
        if found > 0 {
            // Version 0.1 kept tokens in rows; what was deleted stays in free pages until they are written anew.
            match db.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);").map_err(failed) {
                Err(error) if !error.is_unwritable() && !matches!(error, StoreError::Busy { .. }) => {
                    return Err(error);
                }
                _ => {}
            }
        }
    } else {
        // A process that only notes a use should not sync the whole log in the end.
        let _ = db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
    }
    Ok(db)
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
            // Meant to be shared, and of no use without a log.
            let _ = std::fs::remove_file(path.with_extension("sqlite-shm"));
            open().map_err(failed)
        }
        Err(_) => Err(error),
    }
}

fn is_readable(db: &Connection) -> bool {
    db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).is_ok()
}

/// Schema version; refuses one of a later pcache.
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
    options.open(path).map(drop).map_err(StoreError::disk("open", path))
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Copies the database and its logs as they were at one moment: again and again, until no process wrote meanwhile.
fn copy_files(path: &Path, copy: &Path) -> std::io::Result<Option<Stamp>> {
    for _ in 0..COPY_TRIES {
        let (before, now) = (Stamp::read(path), SystemTime::now());
        copy_private(path, copy)?;
        for end in LOGS {
            let (log, target) = (beside(path, end), beside(copy, end));
            let _ = std::fs::remove_file(&target);
            if std::fs::metadata(&log).is_ok_and(|m| m.len() > 0) {
                copy_private(&log, &target)?;
            }
        }
        if Stamp::read(path) == before {
            return Ok(before.is_settled(now).then_some(before));
        }
        std::thread::sleep(COPY_PAUSE);
    }
    Err(std::io::Error::new(std::io::ErrorKind::ResourceBusy, "it changes all the time"))
}

/// Copies the bytes alone: the original may not be writable, and the copy has to be.
fn copy_private(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    private(&mut options);
    let (mut from, mut to) = (std::fs::File::open(from)?, options.open(to)?);
    std::io::copy(&mut from, &mut to).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without room for a copy, what is in the database alone is read where it lies; with a log beside it, that is refused.
    #[test]
    fn what_has_no_log_can_be_read_without_a_copy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("an index? 100%#1.sqlite");
        drop(OpenIndex::for_writing(&path).unwrap());
        let is_copied = |opened: &OpenIndex| matches!(opened.access, Access::Copy { folder: Some(_), .. });
        let mut reader = OpenIndex::as_it_is(&path).unwrap();
        assert!(reader.is_copy() && !is_copied(&reader));
        let count = |opened: &OpenIndex| -> i64 {
            opened.db.query_row("SELECT count(*) FROM intents", [], |row| row.get(0)).unwrap()
        };
        assert_eq!(count(&reader), 0);
        let writer = OpenIndex::for_writing(&path).unwrap();
        writer.db.execute("INSERT INTO intents VALUES (zeroblob(32))", []).unwrap();
        assert!(OpenIndex::as_it_is(&path).is_none());
        assert!(reader.refresh(&path).unwrap() && is_copied(&reader));
        assert_eq!(count(&reader), 1);
        let no_change = reader.db.execute("DELETE FROM intents", []);
        assert!(no_change.is_ok() && count(&writer) == 1, "it changes the copy alone");
    }
}
