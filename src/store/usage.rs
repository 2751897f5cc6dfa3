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
    /// Walks the folder. Links are counted, not followed.
    ///
    /// # Errors
    /// When a folder cannot be listed.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        self.walk(&self.root, &mut usage)?;
        Ok(usage)
    }

    fn walk(&self, folder: &Path, usage: &mut Usage) -> Result<()> {
        let staging = folder.starts_with(self.root.join(STAGING));
        for entry in self.entries(folder)? {
            if entry.is_dir && entry.path == self.root.join(OBJECTS) {
                self.walk_objects(&entry.path, usage)?;
            } else if entry.is_dir {
                self.walk(&entry.path, usage)?;
            } else if staging {
                usage.staging.push(entry);
            } else if folder == self.root && entry.name == INDEX_MEMORY {
                // Not storage: SQLite keeps it while somebody has the index open.
            } else if folder == self.root && entry.name.starts_with(INDEX_NAME) {
                usage.index.push(entry);
            } else {
                usage.other.push(entry);
            }
        }
        Ok(())
    }

    /// The folders of objects, on all cores: there may be hundreds of thousands of files.
    fn walk_objects(&self, folder: &Path, usage: &mut Usage) -> Result<()> {
        let (folders, files): (Vec<_>, Vec<_>) = self.entries(folder)?.into_iter().partition(|e| e.is_dir);
        usage.other.extend(files);
        let disk = self.disk.as_ref();
        let listed: Result<Vec<(Entry, Vec<Entry>)>> = folders
            .into_par_iter()
            .map(|folder| list(disk, &folder.path).map(|entries| (folder, entries)))
            .collect();
        for (folder, entries) in listed? {
            for entry in entries {
                if entry.is_dir {
                    self.walk(&entry.path, usage)?;
                } else if let Some(id) = object_of(&folder.name, &entry.name) {
                    usage.objects.push((id, entry));
                } else {
                    usage.other.push(entry);
                }
            }
        }
        Ok(())
    }

    fn entries(&self, folder: &Path) -> Result<Vec<Entry>> {
        list(self.disk.as_ref(), folder)
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
