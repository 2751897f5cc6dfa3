//! The seam to the file system: every operation of the store on its files, so that each can be made to fail.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::sys::map::Map;

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, lossily decoded when it is not UTF-8.
    pub name: String,
    /// The path.
    pub path: PathBuf,
    /// Size in bytes; 0 for folders.
    pub bytes: u64,
    /// Whether it is a folder (a link is not).
    pub is_dir: bool,
    /// When it was last written, where the system tells.
    pub modified: Option<SystemTime>,
}

/// The file operations that the store needs.
pub trait Disk: Send + Sync {
    /// Makes a folder and its parents, private to the user; one that exists is fine.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Writes a new private file from parts and syncs it. The name must not exist.
    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()>;
    /// Moves a file, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a file, or an empty folder.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Maps a regular file; links are not followed.
    fn map(&self, path: &Path) -> io::Result<Map>;
    /// The entries of a folder, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
}

/// The real file system.
#[derive(Debug, Clone, Copy)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path)
    }

    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        private(&mut options);
        let mut file = options.open(path)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Only Unix lets a folder be opened and synced.
        #[cfg(unix)]
        std::fs::File::open(path)?.sync_all()?;
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::symlink_metadata(path)?.is_dir() {
            true => std::fs::remove_dir(path),
            false => std::fs::remove_file(path),
        }
    }

    fn map(&self, path: &Path) -> io::Result<Map> {
        if !std::fs::symlink_metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        Map::of(&std::fs::File::open(path)?)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                // Gone between the listing and the look: somebody else's staging file.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            entries.push(Entry {
                name: entry.file_name().to_string_lossy().into_owned(),
                path: entry.path(),
                bytes: if meta.is_dir() { 0 } else { meta.len() },
                is_dir: meta.is_dir(),
                modified: meta.modified().ok(),
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }
}

/// Files are made readable by their owner alone, whatever the umask.
pub(super) fn private(options: &mut OpenOptions) {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
}
