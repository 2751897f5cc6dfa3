//! What goes wrong in the store.

use std::io;
use std::path::{Path, PathBuf};

use super::TAG_NAME;

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
    /// Whether another state took the name meanwhile.
    pub fn is_taken_name(&self) -> bool {
        matches!(self, Self::Index { source, .. }
            if source.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation))
    }

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

    /// What to do about a disk that is full or cannot be written.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        use rusqlite::ErrorCode::{DiskFull, ReadOnly};
        let (kind, code) = match self {
            Self::Disk { source, .. } => (Some(source.kind()), None),
            Self::Index { source, .. } => (None, source.sqlite_error_code()),
            _ => (None, None),
        };
        let full = matches!(kind, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
            || code == Some(DiskFull);
        let read_only = kind == Some(io::ErrorKind::ReadOnlyFilesystem) || code == Some(ReadOnly);
        if full {
            Some(
                "the disk is full: pcache gc --max-size SIZE or pcache rm KEY makes room, as does whatever else can go from it; or choose another --cache-dir",
            )
        } else if read_only {
            Some(
                "the store cannot be written: ls, show, explain, verify and ask work; choose another --cache-dir to build",
            )
        } else {
            None
        }
    }

    /// The error that SQLite's answer means.
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
}

/// A result of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;
