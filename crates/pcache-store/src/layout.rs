//! Layout of a store's folder, its owner, and checks that each file in it is of the kind that belongs there.

use std::path::{Path, PathBuf};

use pcache_format::{Label, Lineage, Manifest, ObjectId, StateKey};

use super::disk::{Disk, Kind};
use super::{Result, StoreError};

pub(super) const TAG_NAME: &str = "CACHEDIR.TAG";
pub(super) const INDEX_NAME: &str = "index.sqlite";
pub(super) const LOCK_NAME: &str = "lock";
pub(super) const STAGING: &str = "tmp";
pub(super) const OBJECTS: &str = "objects/v1";
pub(super) const MANIFESTS: &str = "manifests/v2";
pub(super) const LABELS: &str = "labels/v2";
/// Folders of a store's own, each with the folders above it.
const FOLDERS: [&str; 7] = [STAGING, "objects", OBJECTS, "manifests", MANIFESTS, "labels", LABELS];

/// First line of every cache folder's tag, as the Cache Directory Tagging Specification
/// (<https://bford.info/cachedir/>) has it.
pub(super) const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This folder holds model states saved by pcache. All of it can be made again.\n";

/// Path of an object below a store's folder. A pure function of its name.
pub(super) fn object(root: &Path, id: &ObjectId) -> PathBuf {
    let name = id.to_hex();
    root.join(OBJECTS).join(&name[..2]).join(format!("{name}.safetensors"))
}

/// Path of a manifest.
pub(super) fn manifest(root: &Path, key: &StateKey, lineage: Lineage) -> PathBuf {
    root.join(MANIFESTS).join(&key.to_hex()[..2]).join(Manifest::file_name(key, lineage))
}

/// Path of a label.
pub(super) fn label(root: &Path, key: &StateKey) -> PathBuf {
    root.join(LABELS).join(Label::file_name(key))
}

/// Refuses a folder of another user.
///
/// # Errors
/// When its owner is another user than the one of this process. A folder that is not there has no owner.
#[cfg(unix)]
pub fn check_owner(root: &Path) -> Result<()> {
    let Ok(meta) = std::fs::metadata(root) else { return Ok(()) };
    let (owner, own) = (std::os::unix::fs::MetadataExt::uid(&meta), rustix::process::geteuid().as_raw());
    if owner == own {
        return Ok(());
    }
    Err(StoreError::ForeignOwner { path: root.to_owned(), owner, own })
}

/// Refuses to make a store of a folder that others use: it would take it away from them, or trust what they put there.
pub(super) fn refuse_shared(root: &Path) -> Result<()> {
    #[cfg(unix)]
    if let Ok(meta) = std::fs::metadata(root) {
        let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o7777;
        // The sticky bit of a folder for everybody, and the bit that hands a folder of a group on. Without them others can write, too,
        // where the umask says so; such a folder is made private.
        if mode & 0o3000 != 0 && mode & 0o022 != 0 {
            return Err(StoreError::Shared { path: root.to_owned(), mode });
        }
    }
    Ok(())
}

/// Refuses links where the store's own folders and files should be. The root itself may be a link.
pub(super) fn check_places(disk: &dyn Disk, root: &Path) -> Result<()> {
    let companions = ["index.sqlite-wal", "index.sqlite-shm", "index.sqlite-journal"];
    let files = [INDEX_NAME, LOCK_NAME, TAG_NAME].into_iter().chain(companions);
    let folders = FOLDERS.iter().map(|name| (*name, Kind::Folder));
    for (name, wanted) in folders.chain(files.map(|name| (name, Kind::File))) {
        let path = root.join(name);
        // What cannot be looked at is reported by the operation that needs it.
        let found = match disk.kind(&path) {
            Ok(Some(found)) if found != wanted => found,
            _ => continue,
        };
        let word = |kind| match kind {
            Kind::File => "a file",
            Kind::Folder => "a folder",
            Kind::Link => "a link",
            Kind::Other => "neither a file nor a folder",
        };
        return Err(StoreError::Misplaced { path, found: word(found), expected: word(wanted) });
    }
    Ok(())
}

/// Makes a folder and those above it that are missing. Each that was made is made durable in the one above it.
pub(super) fn make_folder(disk: &dyn Disk, path: &Path) -> Result<()> {
    if matches!(disk.kind(path), Ok(Some(Kind::Folder | Kind::Link))) {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_folder(disk, parent)?;
    }
    disk.create_dir(path).map_err(StoreError::disk("create", path))?;
    let parent = parent.unwrap_or(Path::new("."));
    disk.sync_dir(parent).map_err(StoreError::disk("sync", parent))
}

/// Makes the folders of a store that are missing.
pub(super) fn make_folders(disk: &dyn Disk, root: &Path) -> Result<()> {
    FOLDERS.iter().try_for_each(|name| make_folder(disk, &root.join(name)))
}

/// Refuses a folder that holds something else. A new store takes an empty folder, or one with nothing but notes in it.
pub(super) fn refuse_foreign(disk: &dyn Disk, root: &Path) -> Result<()> {
    let ours = [TAG_NAME, INDEX_NAME, LOCK_NAME, STAGING, "objects", "manifests", "labels"];
    let entries = disk.list(root).map_err(StoreError::disk("list", root))?;
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
