//! A store for measurements, inside the staging of another one, and so on the same disk: it is removed afterwards.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::Disk;
use super::files::random_name;
use super::layout::{LOCK_NAME, STAGING};
use super::lock::{SharedGuard, StagingLock, is_held};
use super::{Result, Store};

/// Prefix of the name of each scratch folder.
const SCRATCH: &str = "bench-";
/// Name of the lock under which one is made.
const CREATION: &str = "scratch.lock";

/// A store that ends with this value. One whose process died is removed by the next gc or the next measurement.
pub struct Scratch {
    /// Held for as long as it lives: it tells those who clean up that a measurement is under way.
    _guard: SharedGuard,
    folder: Folder,
}

/// Removes itself.
struct Folder {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = self.disk.remove_tree(&self.path);
    }
}

impl Scratch {
    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.folder.path
    }
}

impl Store {
    /// Makes an empty store inside this one's staging; `named` hears its folder before it is made. Nothing of this store's
    /// own is touched but what measurements that died left there.
    ///
    /// # Errors
    /// When the disk or the index fails.
    pub fn scratch(&self, named: impl FnOnce(&Path)) -> Result<(Scratch, Self)> {
        let _guard = self.lock_shared(|| ())?;
        // One after the other: until it has its lock, a new one looks like one that died.
        let _lock = StagingLock::wait(&self.disk, &self.staging_path(CREATION), || ())?;
        self.remove_dead_scratch();
        let path = self.staging_path(&random_name(SCRATCH));
        let folder = Folder { disk: Arc::clone(&self.disk), path };
        named(&folder.path);
        let store = Self::open(&folder.path, &self.options())?;
        let guard = store.lock_shared(|| ())?;
        Ok((Scratch { _guard: guard, folder }, store))
    }

    /// Removes the scratch folders in which no measurement is under way, as far as that can be done.
    fn remove_dead_scratch(&self) {
        let entries = self.disk.list(&self.root.join(STAGING)).unwrap_or_default();
        let scratch = entries.iter().filter(|e| e.is_dir && e.name.starts_with(SCRATCH));
        for entry in scratch.filter(|e| !is_in_use(&self.root, &e.path)) {
            let _ = self.disk.remove_tree(&entry.path);
        }
    }

    /// A path in staging, for files that are never published.
    pub fn staging_path(&self, name: &str) -> PathBuf {
        self.root.join(STAGING).join(name)
    }
}

/// A path in the staging of the store at `root` belongs to a measurement that is under way.
pub(super) fn is_in_use(root: &Path, path: &Path) -> bool {
    let staging = root.join(STAGING);
    let Some(first) = path.strip_prefix(&staging).ok().and_then(|inner| inner.components().next()) else {
        return false;
    };
    let name = first.as_os_str();
    name.to_string_lossy().starts_with(SCRATCH) && is_held(&staging.join(name).join(LOCK_NAME))
}
