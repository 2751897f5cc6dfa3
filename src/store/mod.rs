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
mod error;
pub mod evict;
pub mod gc;
pub mod index;
pub mod lock;
pub mod objects;
mod places;
pub mod repair;
pub mod schema;
pub mod scratch;
pub mod states;
pub mod usage;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::{Result, StoreError};
pub use places::check_owner;

use disk::Disk;
use index::Index;
use lock::{Lock, TURN, Turn};
use places::{check_places, make_private, refuse_foreign};

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
        let list = |path: &Path| self.disk.list(path).unwrap_or_default();
        let folders = list(&self.root.join(OBJECTS)).into_iter().filter(|entry| entry.is_dir);
        folders.into_iter().any(|folder| list(&folder.path).iter().any(|entry| !entry.is_dir))
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

#[cfg(test)]
mod tests;
