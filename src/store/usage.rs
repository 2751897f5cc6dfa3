//! What lies in the cache folder, byte for byte.

use std::path::Path;

use super::disk::Entry;
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
        let entries = self.disk.list(folder).map_err(|source| StoreError::Disk {
            action: "list",
            path: folder.to_owned(),
            source,
        })?;
        for entry in entries {
            if entry.is_dir {
                self.walk(&entry.path, usage)?;
            } else if let Some(id) = self.object_of(&entry) {
                usage.objects.push((id, entry));
            } else if entry.path.starts_with(self.root.join(STAGING)) {
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

    /// The object that a file is by its place and name.
    fn object_of(&self, entry: &Entry) -> Option<ObjectId> {
        if !entry.path.starts_with(self.root.join(OBJECTS)) {
            return None;
        }
        let id = entry.name.strip_suffix(".safetensors")?.parse().ok()?;
        (self.object_path(&id) == entry.path).then_some(id)
    }
}
