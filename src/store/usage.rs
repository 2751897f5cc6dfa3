//! What lies in the cache folder, byte for byte.

use std::path::Path;

use rayon::prelude::*;

use super::disk::{Disk, Entry};
use super::{INDEX_NAME, OBJECTS, Result, STAGING, Store, StoreError};
use crate::key::ObjectId;

/// SQLite's shared memory beside the index.
const INDEX_MEMORY: &str = "index.sqlite-shm";

/// Every file under the cache folder, by what it is.
#[derive(Debug, Default)]
pub struct Usage {
    /// Object files, with the hash that their names say.
    pub objects: Vec<(ObjectId, Entry)>,
    /// Files in staging: of a writer at work, or left behind by one that died.
    pub staging: Vec<Entry>,
    /// The index with its log.
    pub index: Vec<Entry>,
    /// Everything else: the tag, the lock, notes, and what does not belong here.
    pub other: Vec<Entry>,
}

impl Usage {
    /// Bytes of all files.
    pub fn total_bytes(&self) -> u64 {
        self.objects.iter().map(|(_, e)| e.bytes).sum::<u64>() + self.fixed_bytes() + bytes(&self.staging)
    }

    /// Bytes of the files that no collection removes: the index and everything else.
    pub fn fixed_bytes(&self) -> u64 {
        bytes(&self.index) + bytes(&self.other)
    }
}

/// Sum of the sizes.
pub fn bytes(entries: &[Entry]) -> u64 {
    entries.iter().map(|e| e.bytes).sum()
}

impl Store {
    /// Bytes that can still be written to the store's disk, where the system tells.
    pub fn free_bytes(&self) -> Option<u64> {
        #[cfg(unix)]
        return rustix::fs::statvfs(&self.root).ok().map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        #[cfg(not(unix))]
        None
    }

    /// Walks the folder. Links are counted, not followed.
    ///
    /// # Errors
    /// When a folder cannot be listed.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.disk.as_ref(), &self.root)
    }
}

/// A walk through a store's folder.
struct Walk<'a> {
    disk: &'a dyn Disk,
    root: &'a Path,
    usage: Usage,
}

impl Usage {
    /// What lies under `root`; needs no index, so it can be looked for beside one that is being read.
    pub(super) fn of(disk: &dyn Disk, root: &Path) -> Result<Self> {
        let mut walk = Walk { disk, root, usage: Self::default() };
        walk.folder(root)?;
        Ok(walk.usage)
    }
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path) -> Result<()> {
        let staging = folder.starts_with(self.root.join(STAGING));
        for entry in list(self.disk, folder)? {
            if entry.is_dir && entry.path == self.root.join(OBJECTS) {
                self.objects(&entry.path)?;
            } else if entry.is_dir {
                self.folder(&entry.path)?;
                if staging {
                    // Something that was in the way; it goes when it is empty.
                    self.usage.staging.push(entry);
                }
            } else if staging {
                self.usage.staging.push(entry);
            } else if folder == self.root && entry.name == INDEX_MEMORY {
                // Not storage: SQLite keeps it while somebody has the index open.
            } else if folder == self.root && entry.name.starts_with(INDEX_NAME) {
                self.usage.index.push(entry);
            } else {
                self.usage.other.push(entry);
            }
        }
        Ok(())
    }

    /// The folders of objects, on all cores: there may be hundreds of thousands of files.
    fn objects(&mut self, folder: &Path) -> Result<()> {
        let (folders, files): (Vec<_>, Vec<_>) = list(self.disk, folder)?.into_iter().partition(|e| e.is_dir);
        self.usage.other.extend(files);
        let disk = self.disk;
        let listed: Result<Vec<(Entry, Vec<Entry>)>> = folders
            .into_par_iter()
            .map(|folder| list(disk, &folder.path).map(|entries| (folder, entries)))
            .collect();
        for (folder, entries) in listed? {
            for entry in entries {
                if entry.is_dir {
                    self.folder(&entry.path)?;
                } else if let Some(id) = object_of(&folder.name, &entry.name) {
                    self.usage.objects.push((id, entry));
                } else {
                    self.usage.other.push(entry);
                }
            }
        }
        Ok(())
    }
}

fn list(disk: &dyn Disk, folder: &Path) -> Result<Vec<Entry>> {
    disk.list(folder).map_err(|source| StoreError::Disk { action: "list", path: folder.to_owned(), source })
}

/// The object that a file is by its folder and name.
fn object_of(folder: &str, name: &str) -> Option<ObjectId> {
    let hex = name.strip_suffix(".safetensors")?;
    // Upper-case digits would name the same hash and another file.
    let plain = hex.starts_with(folder) && folder.len() == 2 && !hex.bytes().any(|b| b.is_ascii_uppercase());
    if plain { hex.parse().ok() } else { None }
}
