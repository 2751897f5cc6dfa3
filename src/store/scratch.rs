//! A store for measurements, inside the staging of another one, and so on the same disk: it is removed afterwards.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lock::{Lock, Turn, is_held};
use super::{LOCK_NAME, Result, STAGING, Store};

/// What the name of each scratch folder begins with.
const SCRATCH: &str = "bench-";
/// Whose turn it is to make one.
const CREATION: &str = "turn-bench";

/// A store that ends with this value. One whose process died is removed by the next gc or the next measurement.
pub struct Scratch {
    /// Held for as long as it lives: it tells those who clean up that somebody is at work.
    _lock: Lock,
    folder: Folder,
}

/// Removes itself.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Scratch {
    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.folder.0
    }
}

impl Store {
    /// Makes an empty store inside this one's staging; `named` hears its folder before it is made. Nothing of this store's
    /// own is touched but what measurements that died left there.
    ///
    /// # Errors
    /// When the disk or the index fails.
    pub fn scratch(&self, named: impl FnOnce(&Path)) -> Result<(Scratch, Self)> {
        let _lock = self.lock_shared(|| ())?;
        // One after the other: until it has its lock, a new one looks like one that died.
        let _turn = Turn::take(&self.staging_path(CREATION), || ())?;
        self.remove_dead_scratch();
        // Process numbers are not unique: containers may share a folder.
        let unique = RandomState::new().hash_one(std::process::id());
        let folder = Folder(self.staging_path(&format!("{SCRATCH}{unique:016x}")));
        named(&folder.0);
        let store = Self::open(&folder.0, Arc::clone(&self.disk), Arc::clone(&self.clock))?;
        let lock = store.lock_shared(|| ())?;
        Ok((Scratch { _lock: lock, folder }, store))
    }

    /// Removes the scratch folders that nobody works in, as far as that can be done.
    fn remove_dead_scratch(&self) {
        let entries = self.disk.list(&self.root.join(STAGING)).unwrap_or_default();
        let scratch = entries.iter().filter(|e| e.is_dir && e.name.starts_with(SCRATCH));
        for entry in scratch.filter(|e| !is_in_use(&self.root, &e.path)) {
            let _ = std::fs::remove_dir_all(&entry.path);
        }
    }

    /// A path in staging, for files that are never published.
    pub fn staging_path(&self, name: &str) -> PathBuf {
        self.root.join(STAGING).join(name)
    }
}

/// Whether a path in the staging of the store at `root` belongs to a measurement that is under way.
pub(super) fn is_in_use(root: &Path, path: &Path) -> bool {
    let staging = root.join(STAGING);
    let Some(first) = path.strip_prefix(&staging).ok().and_then(|inner| inner.components().next()) else {
        return false;
    };
    let name = first.as_os_str();
    name.to_string_lossy().starts_with(SCRATCH) && is_held(&staging.join(name).join(LOCK_NAME))
}
