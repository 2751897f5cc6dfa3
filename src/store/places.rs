//! Whose folder it is, and whether what lies in it is what should lie there.

use std::path::Path;

use super::disk::Disk;
use super::{INDEX_NAME, LOCK_NAME, OBJECTS, Result, STAGING, StoreError, TAG_NAME};

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
pub(super) fn check_places(root: &Path) -> Result<()> {
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
pub(super) fn make_private(root: &Path) -> Result<()> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(root, mode).map_err(|source| StoreError::Disk {
        action: "make private",
        path: root.to_owned(),
        source,
    })
}

#[cfg(not(unix))]
pub(super) fn make_private(_root: &Path) -> Result<()> {
    Ok(())
}

/// A new store takes an empty folder, or one with nothing but notes in it.
pub(super) fn refuse_foreign(root: &Path, disk: &dyn Disk) -> Result<()> {
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
