//! Failures of the store.

use crate::disk::{Disk, RealDisk};
use std::io;
use std::path::{Path, PathBuf};

use pcache_format::FormatError;

use super::layout::TAG_NAME;

/// Failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A disk operation failed.
    #[error("cannot {action} {}", path.display())]
    Disk {
        /// Operation, as "create" or "write".
        action: &'static str,
        /// Path that it was tried on.
        path: PathBuf,
        /// Answer of the operating system.
        source: io::Error,
    },
    /// The file system has no locks, without which two processes could ruin a store.
    #[error(
        "{} cannot be locked, its file system has no locks",
        path.display()
    )]
    NoLocks {
        /// Lock file.
        path: PathBuf,
        /// Answer of the operating system.
        source: io::Error,
    },
    /// Another process has the index to itself for too long.
    #[error(
        "the index {} is locked by another process, or its file system has no locks",
        path.display()
    )]
    Busy {
        /// Database file.
        path: PathBuf,
        /// Answer of SQLite.
        source: rusqlite::Error,
    },
    /// The index was replaced, or deleted, since it was opened.
    #[error("the index {} was replaced while this ran; run it again", path.display())]
    Replaced {
        /// Database file.
        path: PathBuf,
    },
    /// SQLite failed.
    #[error("the index {} failed", path.display())]
    Index {
        /// Database file.
        path: PathBuf,
        /// Answer of SQLite.
        source: rusqlite::Error,
    },
    /// Content of the index makes no sense.
    #[error(
        "the index {} is damaged",
        path.display()
    )]
    DamagedIndex {
        /// Database file.
        path: PathBuf,
        /// Answer of SQLite.
        source: rusqlite::Error,
    },
    /// The index was written by a later version.
    #[error(
        "the index {} has schema {found}, this pcache knows up to {known}",
        path.display()
    )]
    NewerSchema {
        /// Database file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// Latest one known here.
        known: usize,
    },
    /// A file that describes a state was written by a later version, and cannot be changed by this one.
    #[error("the {file} {} cannot be changed or removed: {version}; use the newer pcache", path.display())]
    Newer {
        /// `label` or `manifest`.
        file: &'static str,
        /// The file.
        path: PathBuf,
        /// Its version.
        version: FormatError,
    },
    /// Something in the store is a link, or not what it should be.
    #[error("{} is {found}, expected {expected}: pcache follows no links inside its store; remove it", path.display())]
    Misplaced {
        /// Path.
        path: PathBuf,
        /// Kind of what is there.
        found: &'static str,
        /// Kind of what should be.
        expected: &'static str,
    },
    /// The folder is another user's, who could put anything into it.
    #[error(
        "{} belongs to user {owner}, not to you (user {own}), who could put forged states into it",
        path.display()
    )]
    ForeignOwner {
        /// Folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// User of this process.
        own: u32,
    },
    /// The folder holds other files.
    #[error(
        "{} is not a pcache store: it holds {found:?} and no {TAG_NAME}",
        path.display()
    )]
    NotAStore {
        /// Folder.
        path: PathBuf,
        /// One of the foreign files.
        found: String,
    },
    /// A folder for a new store that others can write to.
    #[error(
        "{} can be written by others (mode {mode:o}): a store is private to its user; name a folder of your own, as {}/pcache",
        path.display(),
        path.display()
    )]
    Shared {
        /// Folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Saving ended early: the first failure says why.
    #[error("saving has failed")]
    Ended,
}

impl StoreError {
    /// Nothing new can be written: the disk is full or read-only, or belongs to another user.
    pub fn is_unwritable(&self) -> bool {
        use rusqlite::ErrorCode::{CannotOpen, DiskFull, PermissionDenied, ReadOnly, SystemIoFailure};
        match self {
            Self::Disk { source, .. } => is_unwritable(source),
            Self::Index { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(CannotOpen | DiskFull | PermissionDenied | ReadOnly | SystemIoFailure)
            ),
            _ => false,
        }
    }

    /// The disk is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Disk { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Index { path, source } => match source.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DiskFull) => true,
                // An index that was lost cannot be made anew there, and SQLite opens it as it is.
                Some(rusqlite::ErrorCode::ReadOnly | rusqlite::ErrorCode::CannotOpen) => has_no_room(path),
                _ => false,
            },
            _ => false,
        }
    }

    /// The store may be read and not written.
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Disk { action, source, .. } => match source.kind() {
                io::ErrorKind::ReadOnlyFilesystem => true,
                io::ErrorKind::PermissionDenied => WRITING.contains(action),
                _ => false,
            },
            Self::Index { source, .. } => source.sqlite_error_code() == Some(rusqlite::ErrorCode::ReadOnly),
            _ => false,
        }
    }

    /// The error that an answer of SQLite means.
    pub(super) fn of_index(path: &Path, source: rusqlite::Error) -> Self {
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

    /// Makes the error of an operation on `path`.
    pub(super) fn disk(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Disk { action, path, source }
    }
}

/// Bytes that a new index takes.
const SMALLEST_INDEX: u64 = 256 << 10;

/// The disk of a file has no room for an index.
fn has_no_room(path: &Path) -> bool {
    let free = path.parent().and_then(|folder| RealDisk.free_bytes(folder));
    free.is_some_and(|bytes| bytes < SMALLEST_INDEX)
}

/// Actions that only one who may write takes.
const WRITING: [&str; 8] =
    ["lock", "create", "write", "write to", "sync", "make private", "rename", "remove"];

fn is_unwritable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
    )
}

/// A result of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;
