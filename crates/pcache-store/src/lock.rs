//! The store's locks: advisory locks of files, which end with the process, however it ends.
//!
//! A guard is proof that a lock is held, and what needs the lock takes a guard as a parameter.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::{Result, StoreError};

/// A locked file; nothing where a store that cannot be written has no lock file, in which no one can collect either.
#[derive(Debug)]
struct Lock(#[allow(dead_code, reason = "held for its drop")] Option<File>);

/// Proof that nothing is collected: objects stay where they are until it is dropped.
#[derive(Debug)]
pub struct SharedGuard(#[allow(dead_code, reason = "held for its drop")] Lock);

/// Proof that no one else stages, publishes or is about to read an object.
#[derive(Debug)]
pub struct ExclusiveGuard(#[allow(dead_code, reason = "held for its drop")] Lock);

impl SharedGuard {
    pub(super) fn wait(disk: &dyn Disk, path: &Path, waiting: impl FnOnce()) -> Result<Self> {
        let file = match disk.open_lock(path) {
            // A read-only copy of a store that was never locked.
            Err(e) if is_read_only(&e) && matches!(disk.kind(path), Ok(None)) => return Ok(Self(Lock(None))),
            opened => opened.map_err(|e| failed(path, e))?,
        };
        match file.try_lock_shared() {
            Ok(()) => return Ok(Self(Lock(Some(file)))),
            Err(TryLockError::WouldBlock) => waiting(),
            Err(TryLockError::Error(e)) => return Err(failed(path, e)),
        }
        file.lock_shared().map_err(|e| failed(path, e))?;
        Ok(Self(Lock(Some(file))))
    }
}

impl ExclusiveGuard {
    /// The lock, unless another process or thread holds it.
    pub(super) fn try_now(disk: &dyn Disk, path: &Path) -> Result<Option<Self>> {
        let file = disk.open_lock(path).map_err(|e| failed(path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(Lock(Some(file))))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(failed(path, e)),
        }
    }

    pub(super) fn wait(disk: &dyn Disk, path: &Path, waiting: impl FnOnce()) -> Result<Self> {
        exclusive(disk, path, waiting).map(|file| Self(Lock(Some(file))))
    }
}

fn exclusive(disk: &dyn Disk, path: &Path, waiting: impl FnOnce()) -> Result<File> {
    let file = disk.open_lock(path).map_err(|e| failed(path, e))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => waiting(),
        Err(TryLockError::Error(e)) => return Err(failed(path, e)),
    }
    file.lock().map_err(|e| failed(path, e))?;
    Ok(file)
}

/// Single-flight lock on a file in staging, which is removed when it is dropped.
pub struct StagingLock {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: File,
}

/// Single-flight lock: one builder for a chain key, others wait for its result.
#[derive(Debug)]
pub struct BuildLock(#[allow(dead_code, reason = "held for its drop")] pub(super) StagingLock);

impl StagingLock {
    /// `waiting` is called once if the lock is held elsewhere.
    pub(super) fn wait(disk: &Arc<dyn Disk>, path: &Path, mut waiting: impl FnMut()) -> Result<Self> {
        let mut told = false;
        loop {
            let file = exclusive(disk.as_ref(), path, || {
                if !std::mem::replace(&mut told, true) {
                    waiting();
                }
            })?;
            let lock = Self { disk: Arc::clone(disk), path: path.to_owned(), file };
            // The holder before removes the file: a lock on a removed file keeps no one out.
            if has_name(&lock.file, &lock.path) {
                return Ok(lock);
            }
        }
    }
}

impl std::fmt::Debug for StagingLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("StagingLock").field(&self.path).finish()
    }
}

impl Drop for StagingLock {
    fn drop(&mut self) {
        // Removed only by its holder: one that waited has another file, or has none yet. What stays is an empty staging
        // file, which gc removes.
        if has_name(&self.file, &self.path) {
            let _ = self.disk.remove(&self.path);
        }
    }
}

/// Waits until no one holds a single-flight lock and keeps others from taking it; nothing if no one asks for it now. For
/// processes that cannot write, and so cannot take it.
pub(super) fn wait_beside(path: &Path) -> Option<File> {
    // Opening a named pipe would wait for its other end.
    std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let file = File::open(path).ok()?;
    file.lock_shared().ok()?;
    has_name(&file, path).then_some(file)
}

/// The open file is still the one of this name.
fn has_name(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let same = |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        let named = std::fs::metadata(path);
        file.metadata().is_ok_and(|held| named.is_ok_and(|named| same(held, named)))
    }
    #[cfg(not(unix))]
    true
}

/// Prefix of the file name of each build lock.
pub(super) const BUILD_LOCK: &str = "build-";
/// File name of the lock under which labels change.
pub(super) const LABEL_LOCK: &str = "labels.lock";

/// The lock on a file is held.
pub(super) fn is_held(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

fn failed(path: &Path, source: io::Error) -> StoreError {
    let no_locks = [rustix::io::Errno::NOLCK, rustix::io::Errno::OPNOTSUPP, rustix::io::Errno::NOSYS];
    let path = path.to_owned();
    match source.raw_os_error().is_some_and(|code| no_locks.iter().any(|e| e.raw_os_error() == code)) {
        true => StoreError::NoLocks { path, source },
        false => StoreError::Disk { action: "lock", path, source },
    }
}
