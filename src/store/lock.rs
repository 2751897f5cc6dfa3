//! The store's lock file.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use super::{Result, StoreError, disk::private};

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "held for its drop")] File);

impl Lock {
    pub(super) fn shared(path: &Path, waiting: impl FnOnce()) -> Result<Self> {
        let file = open(path)?;
        match file.try_lock_shared() {
            Ok(()) => return Ok(Self(file)),
            Err(TryLockError::WouldBlock) => waiting(),
            Err(TryLockError::Error(e)) => return Err(failed(path, e)),
        }
        file.lock_shared().map_err(|e| failed(path, e))?;
        Ok(Self(file))
    }

    /// Whether the locked file still has this name.
    #[cfg(unix)]
    fn is_on(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        let same = |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        self.0.metadata().is_ok_and(|held| std::fs::metadata(path).is_ok_and(|named| same(held, named)))
    }

    pub(super) fn try_exclusive(path: &Path) -> Result<Option<Self>> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(failed(path, e)),
        }
    }

    pub(super) fn exclusive(path: &Path, waiting: impl FnOnce()) -> Result<Self> {
        let file = open(path)?;
        match file.try_lock() {
            Ok(()) => return Ok(Self(file)),
            Err(TryLockError::WouldBlock) => waiting(),
            Err(TryLockError::Error(e)) => return Err(failed(path, e)),
        }
        file.lock().map_err(|e| failed(path, e))?;
        Ok(Self(file))
    }
}

/// The right to evaluate one prompt; others who want to evaluate the same one wait for it. Dropping it lets go.
#[derive(Debug)]
pub struct Turn {
    path: PathBuf,
    #[allow(dead_code, reason = "held for its drop")]
    lock: Lock,
}

impl Turn {
    /// `waiting` is called once if somebody else is evaluating.
    pub(super) fn take(path: &Path, mut waiting: impl FnMut()) -> Result<Self> {
        let mut told = false;
        loop {
            let lock = Lock::exclusive(path, || {
                if !std::mem::replace(&mut told, true) {
                    waiting();
                }
            })?;
            // Whoever had the turn removes the file: a lock on a removed file keeps nobody out.
            if lock.is_on(path) {
                return Ok(Self { path: path.to_owned(), lock });
            }
        }
    }
}

/// What the name of each turn's file begins with.
pub(super) const TURN: &str = "turn-";

/// Whether somebody holds the lock on a file, or waits behind it.
pub(super) fn is_held(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

impl Drop for Turn {
    fn drop(&mut self) {
        // What stays is an empty staging file, which gc removes.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    private(&mut options);
    // A link would make a file elsewhere.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        rustix::fs::OFlags::NOFOLLOW.bits().cast_signed(),
    );
    // Where nothing can be written, a lock file that is there can be locked all the same.
    options.open(path).or_else(|e| match path.is_symlink() {
        true => Err(failed(path, e)),
        false => File::open(path).map_err(|_| failed(path, e)),
    })
}

fn failed(path: &Path, source: std::io::Error) -> StoreError {
    let no_locks = [rustix::io::Errno::NOLCK, rustix::io::Errno::OPNOTSUPP, rustix::io::Errno::NOSYS];
    let path = path.to_owned();
    match source.raw_os_error().is_some_and(|code| no_locks.iter().any(|e| e.raw_os_error() == code)) {
        true => StoreError::NoLocks { path, source },
        false => StoreError::Disk { action: "lock", path, source },
    }
}
