//! Saved states on disk: objects, manifests, labels, and the SQLite index over them. Knows neither models nor terminals.
//!
//! ```text
//! <root>/                                          mode 0700
//!   CACHEDIR.TAG                                   backups skip it
//!   index.sqlite (-wal, -shm)                      disposable: made anew from the other files ([`Store::reindex`])
//!   lock                                           shared by readers and builders, exclusive for collection and repair
//!   objects/v1/ab/ab12….safetensors                write-once; the name is the BLAKE3 of the file's bytes
//!   manifests/v2/ab/<key>.<lineage>.safetensors    write-once
//!   labels/v2/<key>.json                           replaced as a whole
//!   tmp/                                           staging, random names
//! ```
//!
//! **Publishing**: write to `tmp/` and sync, rename into place, sync the folder (and each folder that was made, and its
//! parent), *then* commit the row. A crash before the rename leaves a staging file, a crash before the commit a file
//! without a row; neither is visible, and [`gc`] collects the one and adopts the other. A [`Writer`] is the only way in.
//!
//! **Changing**: what may change about a state is its label, which is replaced as a whole ([`labels`]).
//!
//! **Deleting**: tombstones first, then the files, then the rows. A crash in between leaves rows that are never read and
//! that the next gc finishes.
//!
//! **Reading**: take the shared lock, look up the rows, open the objects, let go of the lock. An open file can be read after
//! its name is gone, so a reader never holds up a collection for longer than that, and never the other way round. Every
//! byte is hashed in memory of the reader before it is used ([`objects`]).
//!
//! **Locks**: what needs a lock takes its guard as a parameter ([`SharedGuard`], [`ExclusiveGuard`]). A process that evaluates a
//! prompt holds a [`BuildLock`] for it, so that two builds of the same prompt evaluate it once; it is taken before the
//! shared lock, so no one waits for an evaluation while holding up a collection.
//!
//! **What is newer** than this version, or another program's, is counted and left alone.

pub mod disk;
mod error;
pub mod evict;
mod files;
pub mod fingerprint;
pub mod gc;
mod index;
pub mod labels;
mod layout;
mod lock;
mod memory;
mod newer;
pub mod objects;
mod prefix;
mod queries;
pub mod reindex;
mod removal;
pub mod scratch;
pub mod states;
pub mod sys;
pub mod usage;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pcache_format::{ChainKey, ComputeIdentity, Lineage};

pub use error::{Result, StoreError};
pub use index::{ListedState, Lookup, ManifestRow, Relative, SegmentRow, Usage};
pub use labels::{Built, Claim, Expiry, Saved};
pub use layout::check_owner;
pub use lock::{BuildLock, ExclusiveGuard, SharedGuard};
pub use objects::{Miss, ReadBuffers, VerifiedObject};
pub use prefix::{FoundPrefix, Prefix, VerifiedPrefix};
pub use reindex::{Reindexed, Survey};
pub use removal::{Left, Removed};
pub use states::State;
pub use writer::{Description, Pipeline, Replaced, Writer, Written};

use disk::{Disk, RealDisk};
use files::Publisher;
use index::Index;
use layout::{INDEX_NAME, LOCK_NAME, STAGING, TAG, TAG_NAME};
use lock::{BUILD_LOCK, StagingLock};

/// Seconds since 1970. A parameter, so that tests can tell the time.
pub trait Clock: Send + Sync {
    /// Current time.
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

/// Bytes of verified objects that a reader keeps in memory, unless it is told otherwise: 1 GiB.
const KEEP_BYTES: u64 = 1 << 30;

/// Options for opening a store.
#[derive(Clone)]
pub struct Options {
    /// File system.
    pub disk: Arc<dyn Disk>,
    /// Clock.
    pub clock: Arc<dyn Clock>,
    /// Identity of what computes states in this process.
    pub compute: ComputeIdentity,
    /// Bytes of verified objects that a reader keeps in memory; what is beyond is read and verified again when it is used.
    pub keep_bytes: u64,
}

impl Options {
    /// Real disk and clock.
    pub fn new(compute: ComputeIdentity) -> Self {
        Self { disk: Arc::new(RealDisk), clock: Arc::new(SystemClock), compute, keep_bytes: KEEP_BYTES }
    }
}

/// An open store. Shared by threads as it is.
pub struct Store {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    index: Index,
    publisher: Publisher,
    compute: ComputeIdentity,
    own: Lineage,
    keep_bytes: u64,
}

impl Store {
    /// Opens the store at `root`, and makes it when there is none. Nothing is hashed: where the index was lost,
    /// [`Self::is_index_lost`] says so, and the caller reindexes.
    ///
    /// # Errors
    /// When the folder cannot be made or written, holds something else, or has a newer schema.
    pub fn open(root: &Path, options: &Options) -> Result<Self> {
        let disk = options.disk.as_ref();
        layout::check_places(disk, root)?;
        layout::make_folder(disk, root)?;
        let tag = root.join(TAG_NAME);
        if matches!(disk.kind(&tag), Ok(None)) {
            layout::refuse_foreign(disk, root)?;
            layout::refuse_shared(root)?;
            disk.make_private(root).map_err(StoreError::disk("make private", root))?;
            layout::make_folders(disk, root)?;
            let staging = root.join(STAGING);
            let staged =
                disk.stage(&staging, &[TAG.as_bytes()]).map_err(StoreError::disk("write to", &staging))?;
            disk.rename(&staged, &tag).map_err(StoreError::disk("write", &tag))?;
            disk.sync_dir(root).map_err(StoreError::disk("sync", root))?;
        }
        match layout::make_folders(disk, root) {
            // A store of version 0.1 that can be read and not written lacks some of them.
            Err(error)
                if error.is_unwritable() && matches!(disk.kind(&root.join(INDEX_NAME)), Ok(Some(_))) => {}
            made => made?,
        }
        Self::with_index(root, options)
    }

    /// Opens the store at `root` if there is one; makes nothing.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_existing(root: &Path, options: &Options) -> Result<Option<Self>> {
        let disk = options.disk.as_ref();
        let is_there = |path: &Path| matches!(disk.kind(path), Ok(Some(_)));
        if !is_there(&root.join(TAG_NAME)) && !is_there(&root.join(INDEX_NAME)) {
            // A folder that may not be looked into is not one that is not there.
            if let Err(source) = root.join(TAG_NAME).try_exists() {
                return Err(StoreError::disk("look into", root)(source));
            }
            return match root.exists() {
                true => layout::refuse_foreign(disk, root).map(|()| None),
                false => Ok(None),
            };
        }
        layout::check_places(disk, root)?;
        Self::with_index(root, options).map(Some)
    }

    fn with_index(root: &Path, options: &Options) -> Result<Self> {
        Ok(Self {
            root: root.to_owned(),
            disk: Arc::clone(&options.disk),
            clock: Arc::clone(&options.clock),
            index: Index::open(&root.join(INDEX_NAME))?,
            publisher: Publisher::new(root, &options.disk),
            own: Lineage::from(options.compute.id()),
            compute: options.compute.clone(),
            keep_bytes: options.keep_bytes,
        })
    }

    /// Options that another store is opened with beside this one.
    fn options(&self) -> Options {
        Options {
            disk: Arc::clone(&self.disk),
            clock: Arc::clone(&self.clock),
            compute: self.compute.clone(),
            keep_bytes: self.keep_bytes,
        }
    }

    /// Folder of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Current time in seconds since 1970.
    pub fn now(&self) -> i64 {
        // A clock that is far off must not be written where it could not be read again.
        self.clock.now().clamp(-pcache_format::label::NEVER, pcache_format::label::NEVER)
    }

    /// Lineage of what is computed in this process alone.
    pub fn own_lineage(&self) -> Lineage {
        self.own
    }

    /// Identity of what computes states in this process.
    pub fn own_identity(&self) -> &ComputeIdentity {
        &self.compute
    }

    /// The index can be changed; else the disk is full, or the store may only be read.
    pub fn is_writable(&self) -> bool {
        self.index.is_writable()
    }

    /// The index knows of nothing, but there are objects: it was deleted, or never came along.
    ///
    /// # Errors
    /// When the index fails.
    pub fn is_index_lost(&self) -> Result<bool> {
        Ok(self.index.is_blank()? && self.has_objects())
    }

    /// There is any object on disk.
    pub fn has_objects(&self) -> bool {
        let list = |path: &Path| self.disk.list(path).unwrap_or_default();
        let folders = list(&self.root.join(layout::OBJECTS)).into_iter().filter(|entry| entry.is_dir);
        folders.into_iter().any(|folder| list(&folder.path).iter().any(|entry| !entry.is_dir))
    }

    /// Waits for the shared lock; `waiting` is called once if a collection is under way.
    ///
    /// # Errors
    /// When the lock file cannot be opened or locked.
    pub fn lock_shared(&self, waiting: impl FnOnce()) -> Result<SharedGuard> {
        let guard = SharedGuard::wait(self.disk.as_ref(), &self.root.join(LOCK_NAME), waiting)?;
        self.index.check_is_in_place()?;
        Ok(guard)
    }

    /// Waits for the exclusive lock; `waiting` is called once if another process holds it.
    ///
    /// # Errors
    /// When the lock file cannot be opened or locked.
    pub fn lock_exclusive(&self, waiting: impl FnOnce()) -> Result<ExclusiveGuard> {
        let guard = ExclusiveGuard::wait(self.disk.as_ref(), &self.root.join(LOCK_NAME), waiting)?;
        self.index.check_is_in_place()?;
        Ok(guard)
    }

    /// The exclusive lock, unless another process holds the lock.
    ///
    /// # Errors
    /// When the lock file cannot be opened or locked.
    pub fn try_lock_exclusive(&self) -> Result<Option<ExclusiveGuard>> {
        ExclusiveGuard::try_now(self.disk.as_ref(), &self.root.join(LOCK_NAME))
    }

    /// Waits for the right to evaluate what ends with `chain`: of several processes that want the same, one evaluates and
    /// the others find it saved. Take it before the shared lock, never while holding that.
    ///
    /// # Errors
    /// When its lock file, in staging, cannot be opened or locked.
    pub fn lock_build(&self, chain: &ChainKey, waiting: impl FnMut()) -> Result<BuildLock> {
        layout::make_folder(self.disk.as_ref(), &self.root.join(layout::STAGING))?;
        let path = self.staging_path(&format!("{BUILD_LOCK}{}", chain.short()));
        StagingLock::wait(&self.disk, &path, waiting).map(BuildLock)
    }

    /// Bytes that can still be written to the store's disk, where the system tells.
    pub fn free_bytes(&self) -> Option<u64> {
        self.disk.free_bytes(&self.root)
    }
}

#[cfg(test)]
mod tests;
