//! A store for measurements, inside the staging of another one, and so on the same disk: it is removed afterwards.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::lock::{Lock, is_held};
use super::{LOCK_NAME, Result, STAGING, Store};

/// What the name of each scratch folder begins with.
const SCRATCH: &str = "bench-";

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
    /// Makes an empty store inside this one's staging. Nothing of this store's own is touched but what measurements
    /// that died left there.
    ///
    /// # Errors
    /// When the disk or the index fails.
    pub fn scratch(&self) -> Result<(Scratch, Self)> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let _lock = self.lock_shared(|| ())?;
        self.remove_dead_scratch();
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join(STAGING).join(format!("{SCRATCH}{}-{serial}", std::process::id()));
        // What had this name is dead: the process number is this one's.
        let _ = std::fs::remove_dir_all(&path);
        let folder = Folder(path);
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
