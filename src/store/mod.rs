//! The store: objects on disk, and the SQLite index over them. Knows nothing of the engine.
//!
//! ```text
//! <root>/                                mode 0700
//!   CACHEDIR.TAG                         backups skip it
//!   index.sqlite (-wal, -shm)            disposable: it can be rebuilt from the objects
//!   lock                                 shared by readers and builders, exclusive for gc
//!   objects/v1/ab/ab12….safetensors      write-once; the name is the BLAKE3 of the file's bytes
//!   tmp/                                 staging
//! ```
//!
//! **Publishing**: write to `tmp/` and sync, rename into place, sync the folder, *then* commit the row. A
//! crash before the rename leaves a staging file, a crash before the commit an object without a row;
//! neither is visible, and [`gc`] collects the one and adopts the other.
//!
//! **States** have a record on disk beside their segments ([`states`]), so that a lost index costs none of them.
//!
//! **Deleting**: mark the rows as going and commit, unlink, delete the rows. A crash in between leaves
//! rows that are never read and that the next gc finishes.
//!
//! **Reading**: take the shared lock, look up the rows, map the objects, let go of the lock. A map keeps its
//! pages after an unlink, so a reader never holds up a collection for longer than that, and never the
//! other way round. The hash of every byte is compared before anybody sees one ([`objects`]).
//!
//! **Turns**: whoever evaluates a prompt holds a lock of its own for it, so that two builds of the same prompt
//! evaluate it once. It is taken before the shared lock, so nobody waits for an evaluation while holding up a collection.
//!
//! **Locks** are advisory file locks: they end with the process, however it ends.

pub mod disk;
pub mod evict;
pub mod gc;
pub mod index;
pub mod lock;
pub mod objects;
pub mod repair;
pub mod schema;
pub mod states;
pub mod usage;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::Disk;
use index::Index;
use lock::{Lock, TURN, Turn};

use crate::key::ChainKey;

/// The first line of every cache folder's tag, as the Cache Directory Tagging Specification
/// (<https://bford.info/cachedir/>) has it.
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This folder holds model states saved by pcache. All of it can be made again.\n";
const TAG_NAME: &str = "CACHEDIR.TAG";
const INDEX_NAME: &str = "index.sqlite";
const LOCK_NAME: &str = "lock";
const STAGING: &str = "tmp";
const OBJECTS: &str = "objects/v1";

/// What went wrong in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A disk operation failed.
    #[error("cannot {action} {}", path.display())]
    Disk {
        /// What was tried, as "create" or "write".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file system has no locks, without which two processes could ruin a store.
    #[error(
        "{} cannot be locked, its file system has no locks; put the store on another disk with --cache-dir",
        path.display()
    )]
    NoLocks {
        /// The lock file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Somebody has the index to themselves for too long.
    #[error(
        "the index {} is locked by another process, or its file system has no locks; \
         try again, or put the store on another disk with --cache-dir",
        path.display()
    )]
    Busy {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The index was replaced, or deleted, since it was opened.
    #[error("the index {} was replaced while this ran; run it again", path.display())]
    Replaced {
        /// The database file.
        path: PathBuf,
    },
    /// SQLite failed.
    #[error("the index {} failed", path.display())]
    Index {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// What the index holds makes no sense.
    #[error(
        "the index {} is damaged; pcache verify --repair makes a new one from the saved objects",
        path.display()
    )]
    DamagedIndex {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The index was written by a later version.
    #[error(
        "the index {} has schema {found}, this pcache knows up to {known}; use the newer pcache, or another --cache-dir",
        path.display()
    )]
    NewerSchema {
        /// The database file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The latest one known here.
        known: usize,
    },
    /// Something in the store is a link, or not what it should be.
    #[error("{} is {found}, expected {expected}: pcache follows no links inside its store; remove it", path.display())]
    Misplaced {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The folder is another user's, who could put anything into it.
    #[error(
        "{} belongs to user {owner}, not to you (user {own}), who could put forged states into it; pass --trust-owner if you trust them",
        path.display()
    )]
    ForeignOwner {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user who asks.
        own: u32,
    },
    /// The folder holds somebody else's files.
    #[error(
        "{} is not a pcache store: it holds {found:?} and no {TAG_NAME}; name an empty folder with --cache-dir",
        path.display()
    )]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// One of the foreign files.
        found: String,
    },
}

impl StoreError {
    /// Whether nothing new can be written: the disk is full or read-only, or belongs to somebody else.
    pub(crate) fn is_unwritable(&self) -> bool {
        use rusqlite::ErrorCode::{CannotOpen, DiskFull, PermissionDenied, ReadOnly, SystemIoFailure};
        match self {
            Self::Disk { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
                    | io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
            ),
            Self::Index { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(CannotOpen | DiskFull | PermissionDenied | ReadOnly | SystemIoFailure)
            ),
            _ => false,
        }
    }

    /// The error that SQLite's answer means.
    fn of_index(path: &Path, source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DatabaseBusy, DatabaseCorrupt, DatabaseLocked, NotADatabase};
        let path = path.to_owned();
        let code = source.sqlite_error_code();
        let unreadable = matches!(
            source,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
        );
        if unreadable || matches!(code, Some(DatabaseCorrupt | NotADatabase)) {
            Self::DamagedIndex { path, source }
        } else if matches!(code, Some(DatabaseBusy | DatabaseLocked)) {
            Self::Busy { path, source }
        } else {
            Self::Index { path, source }
        }
    }
}

/// A result of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Seconds since 1970. A parameter, so that tests can tell the time.
pub trait Clock: Send + Sync {
    /// The current time.
    fn now(&self) -> i64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| d.as_secs().try_into().unwrap_or(i64::MAX))
    }
}

/// An open store.
pub struct Store {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    index: Index,
    found: Option<(usize, usize)>,
}

impl Store {
    /// Opens the store at `root`, and makes it when there is none.
    ///
    /// # Errors
    /// When the folder cannot be made or written, holds something else, or has a newer schema.
    pub fn open(root: &Path, disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Result<Self> {
        check_places(root)?;
        let make = |path: &Path| {
            disk.create_dir(path).map_err(|source| StoreError::Disk {
                action: "create",
                path: path.to_owned(),
                source,
            })
        };
        make(root)?;
        let tag = root.join(TAG_NAME);
        if !tag.exists() {
            refuse_foreign(root, disk.as_ref())?;
            make_private(root)?;
            make(&root.join(STAGING))?;
            make(&root.join(OBJECTS))?;
            match disk.write(&tag, &[TAG.as_bytes()]) {
                // Another process made the store at the same time.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(StoreError::Disk { action: "write", path: tag, source });
                }
                Ok(()) => {}
            }
        }
        make(&root.join(STAGING))?;
        make(&root.join(OBJECTS))?;
        let index = Index::open(&root.join(INDEX_NAME))?;
        let mut store = Self { root: root.to_owned(), disk, clock, index, found: None };
        if store.index.is_blank()? && store.has_objects() {
            // Somebody deleted the index. What builds from here on should know what is there.
            let _lock = store.lock_exclusive(|| ())?;
            if store.index.is_blank()? {
                store.found = Some(store.adopt_lost()?);
            }
        }
        Ok(store)
    }

    /// States and segments that opening the store found on disk and put into a new index, where the old one was lost.
    pub fn found_on_opening(&self) -> Option<(usize, usize)> {
        self.found
    }

    /// Opens the store at `root` if there is one; makes nothing.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_existing(root: &Path, disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Result<Option<Self>> {
        if !root.join(TAG_NAME).exists() && !root.join(INDEX_NAME).exists() {
            return if root.exists() { refuse_foreign(root, disk.as_ref()).map(|()| None) } else { Ok(None) };
        }
        check_places(root)?;
        let index = Index::open(&root.join(INDEX_NAME))?;
        Ok(Some(Self { root: root.to_owned(), disk, clock, index, found: None }))
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The index, for changes.
    pub fn index_mut(&mut self) -> &mut Index {
        &mut self.index
    }

    /// The current time in seconds since 1970.
    pub fn now(&self) -> i64 {
        self.clock.now()
    }

    /// Waits for the shared lock: objects stay where they are until it is dropped. `waiting` is called once if
    /// a collection is under way.
    ///
    /// # Errors
    /// When the lock file cannot be opened or locked.
    pub fn lock_shared(&self, waiting: impl FnOnce()) -> Result<Lock> {
        let lock = Lock::shared(&self.root.join(LOCK_NAME), waiting)?;
        self.index.check_is_in_place()?;
        Ok(lock)
    }

    /// Waits for the right to evaluate what ends with `chain`: of several processes that want the same, one evaluates and
    /// the others find it saved. Take it before the shared lock, never while holding that.
    ///
    /// # Errors
    /// When its lock file, in staging, cannot be opened or locked.
    pub fn take_turn(&self, chain: &ChainKey, waiting: impl FnMut()) -> Result<Turn> {
        Turn::take(&self.root.join(STAGING).join(format!("{TURN}{}", chain.short())), waiting)
    }

    /// The exclusive lock, unless somebody holds the lock.
    ///
    /// # Errors
    /// When the lock file cannot be opened or locked.
    pub fn try_lock_exclusive(&self) -> Result<Option<Lock>> {
        Lock::try_exclusive(&self.root.join(LOCK_NAME))
    }

    /// Whether there is any object on disk.
    pub fn has_objects(&self) -> bool {
        self.disk.list(&self.root.join(OBJECTS)).is_ok_and(|entries| !entries.is_empty())
    }

    /// Waits for the exclusive lock; `waiting` is called once if somebody else holds it.
    ///
    /// # Errors
    /// When the lock file cannot be opened or locked.
    pub fn lock_exclusive(&self, waiting: impl FnOnce()) -> Result<Lock> {
        let lock = Lock::exclusive(&self.root.join(LOCK_NAME), waiting)?;
        self.index.check_is_in_place()?;
        Ok(lock)
    }
}

/// Refuses a folder of another user.
///
/// # Errors
/// When its owner is somebody else than the user of this process. A folder that is not there is nobody's.
#[cfg(unix)]
pub fn check_owner(root: &Path) -> Result<()> {
    let Ok(meta) = std::fs::metadata(root) else { return Ok(()) };
    let (owner, own) = (std::os::unix::fs::MetadataExt::uid(&meta), rustix::process::geteuid().as_raw());
    if owner == own {
        return Ok(());
    }
    Err(StoreError::ForeignOwner { path: root.to_owned(), owner, own })
}

/// Refuses links where the store's own folders and files should be. The root itself may be a link.
fn check_places(root: &Path) -> Result<()> {
    let folders = [STAGING, "objects", OBJECTS].map(|name| (name, true));
    let companions = ["index.sqlite-wal", "index.sqlite-shm", "index.sqlite-journal"];
    let files = [INDEX_NAME, LOCK_NAME, TAG_NAME].into_iter().chain(companions).map(|name| (name, false));
    for (name, folder) in folders.into_iter().chain(files) {
        let path = root.join(name);
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        let kind = meta.file_type();
        if kind.is_dir() == folder && kind.is_file() != folder {
            continue;
        }
        let found = match (kind.is_symlink(), kind.is_dir()) {
            (true, _) => "a link",
            (false, true) => "a folder",
            (false, false) if folder => "a file",
            (false, false) => "neither a file nor a folder",
        };
        let expected = if folder { "a folder" } else { "a file" };
        return Err(StoreError::Misplaced { path, found, expected });
    }
    Ok(())
}

/// A folder that was there already may be open to others, whatever the umask.
#[cfg(unix)]
fn make_private(root: &Path) -> Result<()> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(root, mode).map_err(|source| StoreError::Disk {
        action: "make private",
        path: root.to_owned(),
        source,
    })
}

#[cfg(not(unix))]
fn make_private(_root: &Path) -> Result<()> {
    Ok(())
}

/// A new store takes an empty folder, or one with nothing but notes in it.
fn refuse_foreign(root: &Path, disk: &dyn Disk) -> Result<()> {
    let ours = [TAG_NAME, INDEX_NAME, LOCK_NAME, STAGING, "objects"];
    let entries = disk.list(root).map_err(|source| StoreError::Disk {
        action: "list",
        path: root.to_owned(),
        source,
    })?;
    let foreign = entries.iter().find(|e| {
        let note = e.name.starts_with('.') || e.name.ends_with(".md");
        let index_companion = e.name.starts_with(INDEX_NAME);
        !note && !index_companion && !ours.contains(&e.name.as_str())
    });
    match foreign {
        None => Ok(()),
        Some(e) => Err(StoreError::NotAStore { path: root.to_owned(), found: e.name.clone() }),
    }
}

#[cfg(test)]
mod tests;
