//! The store's lock file.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

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

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    private(&mut options);
    options.open(path).map_err(|e| failed(path, e))
}

fn failed(path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Disk { action: "lock", path: path.to_owned(), source }
}
