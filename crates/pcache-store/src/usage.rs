//! Contents of the cache folder, byte for byte.

use std::path::{Path, PathBuf};

use pcache_format::{Label, Lineage, Manifest, ObjectId, StateKey};
use rayon::prelude::*;

use super::disk::{Disk, Entry};
use super::layout::{INDEX_NAME, LABELS, MANIFESTS, OBJECTS, STAGING};
use super::{Result, Store, StoreError};

/// Changes beside the index that are not in it yet.
const INDEX_LOG: &str = "index.sqlite-wal";
/// SQLite's shared memory beside the index.
const INDEX_MEMORY: &str = "index.sqlite-shm";

/// Every file under the cache folder, by what it is.
#[derive(Debug, Default)]
pub struct FolderUsage {
    /// Object files, with the hash that their names say.
    pub objects: Vec<(ObjectId, Entry)>,
    /// Manifest files, with the key and the lineage that their names say.
    pub manifests: Vec<(StateKey, Lineage, Entry)>,
    /// Label files, with the key that their names say.
    pub labels: Vec<(StateKey, Entry)>,
    /// Files in staging: of a writer at work, or left behind by one that died.
    pub staging: Vec<Entry>,
    /// The index with its log.
    pub index: Vec<Entry>,
    /// Everything else: the tag, the lock, notes, and what does not belong here.
    pub other: Vec<Entry>,
    /// Folders that could not be listed, and why: what is in them is not counted.
    pub unreadable: Vec<(PathBuf, String)>,
}

impl FolderUsage {
    /// Bytes of all files that could be seen.
    pub fn total_bytes(&self) -> u64 {
        let objects = self.objects.iter().map(|(_, e)| e.bytes);
        let manifests = self.manifests.iter().map(|(.., e)| e.bytes);
        let labels = self.labels.iter().map(|(_, e)| e.bytes);
        objects.chain(manifests).chain(labels).sum::<u64>() + self.fixed_bytes() + bytes(&self.staging)
    }

    /// Bytes of the files that no collection removes: the index and everything else.
    pub fn fixed_bytes(&self) -> u64 {
        bytes(&self.index) + bytes(&self.other)
    }

    /// Contents of `root`; needs no index, so it can be looked for beside one that is being read.
    pub(super) fn read(disk: &dyn Disk, root: &Path) -> Result<Self> {
        let mut walk = Walk { disk, root, usage: Self::default() };
        let entries = disk.list(root).map_err(StoreError::disk("list", root))?;
        walk.entries(root, entries);
        Ok(walk.usage)
    }
}

/// Sum of the sizes.
pub fn bytes(entries: &[Entry]) -> u64 {
    entries.iter().map(|e| e.bytes).sum()
}

impl Store {
    /// Walks the folder. Links are counted, not followed; a folder that cannot be listed is told.
    ///
    /// # Errors
    /// When the store's own folder cannot be listed.
    pub fn folder_usage(&self) -> Result<FolderUsage> {
        FolderUsage::read(self.disk.as_ref(), &self.root)
    }
}

/// A walk through a store's folder.
struct Walk<'a> {
    disk: &'a dyn Disk,
    root: &'a Path,
    usage: FolderUsage,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path) {
        match self.disk.list(folder) {
            Ok(entries) => self.entries(folder, entries),
            Err(error) => self.usage.unreadable.push((folder.to_owned(), error.to_string())),
        }
    }

    fn entries(&mut self, folder: &Path, entries: Vec<Entry>) {
        let staging = folder.starts_with(self.root.join(STAGING));
        let below = folder.strip_prefix(self.root).unwrap_or(folder).to_owned();
        let log = entries.iter().any(|e| e.name == INDEX_LOG && e.bytes > 0);
        for entry in entries {
            let inside = below.join(&entry.name);
            if entry.is_dir && (inside == Path::new(OBJECTS) || inside == Path::new(MANIFESTS)) {
                self.sharded(&entry.path, inside == Path::new(OBJECTS));
            } else if entry.is_dir {
                self.folder(&entry.path);
                if staging {
                    // Something that was in the way; it goes when it is empty.
                    self.usage.staging.push(entry);
                }
            } else if staging {
                self.usage.staging.push(entry);
            } else if below == Path::new(LABELS) {
                match Label::parse_file_name(&entry.name) {
                    Some(key) => self.usage.labels.push((key, entry)),
                    None => self.usage.other.push(entry),
                }
            } else if folder == self.root && entry.name == INDEX_MEMORY && !log {
                // SQLite keeps it while the index is open, and beside a log that stays.
            } else if folder == self.root && entry.name.starts_with(INDEX_NAME) {
                self.usage.index.push(entry);
            } else {
                self.usage.other.push(entry);
            }
        }
    }

    /// The folders of objects or manifests, on all cores: there may be hundreds of thousands of files.
    fn sharded(&mut self, folder: &Path, objects: bool) {
        let entries = match self.disk.list(folder) {
            Ok(entries) => entries,
            Err(error) => return self.usage.unreadable.push((folder.to_owned(), error.to_string())),
        };
        let (folders, files): (Vec<_>, Vec<_>) = entries.into_iter().partition(|e| e.is_dir);
        self.usage.other.extend(files);
        let disk = self.disk;
        let listed: Vec<(Entry, std::io::Result<Vec<Entry>>)> = folders
            .into_par_iter()
            .map(|folder| {
                let entries = disk.list(&folder.path);
                (folder, entries)
            })
            .collect();
        for (folder, entries) in listed {
            let entries = match entries {
                Ok(entries) => entries,
                Err(error) => {
                    self.usage.unreadable.push((folder.path, error.to_string()));
                    continue;
                }
            };
            for entry in entries {
                if entry.is_dir {
                    self.folder(&entry.path);
                } else if let Some(id) = object_of(&folder.name, &entry.name).filter(|_| objects) {
                    self.usage.objects.push((id, entry));
                } else if let Some((key, lineage)) =
                    manifest_of(&folder.name, &entry.name).filter(|_| !objects)
                {
                    self.usage.manifests.push((key, lineage, entry));
                } else {
                    self.usage.other.push(entry);
                }
            }
        }
    }
}

/// Object that a file is by its folder and name.
fn object_of(folder: &str, name: &str) -> Option<ObjectId> {
    let hex = name.strip_suffix(".safetensors")?;
    // Upper-case digits would name the same hash and another file.
    let plain = hex.starts_with(folder) && folder.len() == 2 && !hex.bytes().any(|b| b.is_ascii_uppercase());
    if plain { hex.parse().ok() } else { None }
}

/// Manifest that a file is by its folder and name.
fn manifest_of(folder: &str, name: &str) -> Option<(StateKey, Lineage)> {
    let plain = name.starts_with(folder) && folder.len() == 2;
    if plain { Manifest::parse_file_name(name) } else { None }
}
