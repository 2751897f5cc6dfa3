//! Publishing: written to staging, synced, renamed into place, folder synced. Whatever stops that, nothing half-written is
//! ever seen, and what was published is there after a loss of power.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use pcache_format::{Encoded, Label, Manifest, ObjectId};

use super::disk::{Disk, Kind};
use super::index::ManifestRow;
use super::layout::{self, STAGING};
use super::{Result, StoreError};

/// Puts files into a store's folder; needs no index, so several threads can do it at once.
#[derive(Clone)]
pub(crate) struct Publisher {
    root: PathBuf,
    disk: Arc<dyn Disk>,
    /// Folders whose own names are known to be durable.
    durable: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Publisher {
    pub(crate) fn new(root: &Path, disk: &Arc<dyn Disk>) -> Self {
        Self { root: root.to_owned(), disk: Arc::clone(disk), durable: Arc::default() }
    }

    /// Publishes an object. A file that has the name already is replaced, which heals it if it was damaged.
    pub(crate) fn object(&self, encoded: &Encoded<'_>) -> Result<ObjectId> {
        let id = encoded.id();
        self.put(&layout::object(&self.root, &id), &encoded.parts())?;
        Ok(id)
    }

    /// Publishes a manifest, unless the very same file is there.
    pub(crate) fn manifest(&self, manifest: &Manifest) -> Result<ManifestRow> {
        let (encoded, path) =
            (manifest.encode(), layout::manifest(&self.root, &manifest.key, manifest.lineage));
        let row = ManifestRow { lineage: manifest.lineage, blake3: encoded.id(), bytes: encoded.len() };
        let mut there = Vec::new();
        let read = self.disk.open(&path).and_then(|file| file.read(row.bytes + 1, &mut there));
        if read.is_err() || ObjectId::from(blake3::hash(&there)) != row.blake3 {
            self.put(&path, &encoded.parts())?;
        } else if let Some(folder) = path.parent() {
            // The process that wrote it may have died before.
            self.folder(folder)?;
            self.disk.sync_dir(folder).map_err(StoreError::disk("sync", folder))?;
        }
        Ok(row)
    }

    /// Replaces a state's label. Returns its size in bytes.
    pub(crate) fn label(&self, label: &Label) -> Result<u64> {
        let bytes = label.encode();
        self.put(&layout::label(&self.root, &label.key), &[&bytes])?;
        Ok(bytes.len() as u64)
    }

    fn put(&self, path: &Path, parts: &[&[u8]]) -> Result<()> {
        let (folder, staging) = (path.parent().unwrap_or(&self.root), self.root.join(STAGING));
        self.folder(folder)?;
        let staged = self.disk.stage(&staging, parts).map_err(StoreError::disk("write to", &staging))?;
        if let Err(error) = self.put_into_place(&staged, path) {
            // A full disk should not stay full: what was staged is of no use any more.
            let _ = self.disk.remove(&staged);
            self.durable.lock().unwrap_or_else(|e| e.into_inner()).remove(folder);
            return Err(StoreError::Disk { action: "write", path: path.to_owned(), source: error });
        }
        self.disk.sync_dir(folder).map_err(StoreError::disk("sync", folder))
    }

    /// Makes the folder of a file, and its name durable: also where another process has made it just now, which may not
    /// have come to that.
    fn folder(&self, folder: &Path) -> Result<()> {
        if self.durable.lock().unwrap_or_else(|e| e.into_inner()).contains(folder) {
            return Ok(());
        }
        match self.disk.kind(folder).map_err(StoreError::disk("look at", folder))? {
            Some(Kind::Folder) => {}
            None => layout::make_folder(self.disk.as_ref(), folder)?,
            // It goes with the next gc.
            Some(_) => {
                self.move_away(folder).map_err(StoreError::disk("move away", folder))?;
                self.disk.create_dir(folder).map_err(StoreError::disk("create", folder))?;
            }
        }
        if let Some(parent) = folder.parent() {
            self.disk.sync_dir(parent).map_err(StoreError::disk("sync", parent))?;
        }
        self.durable.lock().unwrap_or_else(|e| e.into_inner()).insert(folder.to_owned());
        Ok(())
    }

    /// Renames a staged file to its name. A folder that has the name is moved out of the way, into staging.
    fn put_into_place(&self, staged: &Path, path: &Path) -> io::Result<()> {
        if self.disk.kind(path)? == Some(Kind::Folder) {
            self.move_away(path)?;
        }
        self.disk.rename(staged, path)
    }

    fn move_away(&self, path: &Path) -> io::Result<()> {
        self.disk.rename(path, &self.root.join(STAGING).join(random_name("in-the-way-")))
    }
}

/// A unique name in staging.
pub(crate) fn random_name(prefix: &str) -> String {
    // Process numbers are not unique: containers may share a folder.
    let random = RandomState::new();
    format!("{prefix}{:016x}{:016x}", random.hash_one(0), random.hash_one(std::process::id()))
}
