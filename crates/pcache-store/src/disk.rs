//! The seam to the file system: every operation of the store on its files, so that each can be made to fail.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Kind of a directory entry; links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A pipe, a socket or a device.
    Other,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name, lossily decoded when it is not UTF-8.
    pub name: String,
    /// Path.
    pub path: PathBuf,
    /// Size in bytes; 0 for folders.
    pub bytes: u64,
    /// A folder (a link is none).
    pub is_dir: bool,
    /// Time of the last write, where the system tells.
    pub modified: Option<SystemTime>,
}

/// File operations that the store needs.
pub trait Disk: Send + Sync {
    /// Makes one folder, private to the user. Returns false if there is one.
    fn create_dir(&self, path: &Path) -> io::Result<bool>;
    /// Writes a new private file of a random name into `folder`, from parts, and syncs it. Returns its path.
    fn stage(&self, folder: &Path, parts: &[&[u8]]) -> io::Result<PathBuf>;
    /// Moves a file, replacing what has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a file, or an empty folder.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder with all that is in it; links are removed, not followed.
    fn remove_tree(&self, path: &Path) -> io::Result<()>;
    /// Opens a regular file for reading; links are not followed.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Source>>;
    /// Entries of a folder, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// Kind of what has a name; `None` if nothing has it.
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>>;
    /// Opens a file to lock it, and makes it where there is none; links are not followed. Where nothing can be written, a
    /// file that is there is opened all the same.
    fn open_lock(&self, path: &Path) -> io::Result<File>;
    /// Takes the rights of all others to a folder away.
    fn make_private(&self, path: &Path) -> io::Result<()>;
    /// Bytes that can still be written to the disk of a folder, where the system tells.
    fn free_bytes(&self, path: &Path) -> Option<u64>;
}

/// An open file. It can be read after its name is gone.
pub trait Source: Send + Sync {
    /// Size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reads from a position on until `into` is full or the file ends. Returns the number of bytes.
    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Reads from the beginning as many bytes as there are, `most` at most, into `buffer`, which is emptied first.
    fn read(&self, most: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.clear();
        let wanted = usize::try_from(self.size()?.min(most)).map_err(|_| io::ErrorKind::OutOfMemory)?;
        buffer.try_reserve_exact(wanted).map_err(|_| io::ErrorKind::OutOfMemory)?;
        buffer.resize(wanted, 0);
        let read = self.read_at(0, buffer)?;
        buffer.truncate(read);
        Ok(())
    }
}

/// Real file system.
#[derive(Debug, Clone, Copy)]
pub struct RealDisk;

impl Source for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match read_once(self, position + done as u64, &mut into[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

#[cfg(unix)]
fn read_once(file: &File, position: u64, into: &mut [u8]) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, into, position)
}

#[cfg(not(unix))]
fn read_once(mut file: &File, position: u64, into: &mut [u8]) -> io::Result<usize> {
    io::Seek::seek(&mut file, io::SeekFrom::Start(position))?;
    io::Read::read(&mut file, into)
}

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<bool> {
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        match builder.create(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(false),
            made => made.map(|()| true),
        }
    }

    fn stage(&self, folder: &Path, parts: &[&[u8]]) -> io::Result<PathBuf> {
        // Random names: containers that share a folder have the same process numbers.
        let mut file = tempfile::Builder::new().prefix("").rand_bytes(20).tempfile_in(folder)?;
        parts.iter().try_for_each(|part| file.write_all(part))?;
        file.as_file().sync_all()?;
        Ok(file.into_temp_path().keep()?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Only Unix lets a folder be opened and synced.
        #[cfg(unix)]
        File::open(path)?.sync_all()?;
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::symlink_metadata(path)?.is_dir() {
            true => std::fs::remove_dir(path),
            false => std::fs::remove_file(path),
        }
    }

    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Source>> {
        // Looked at first: opening a pipe would wait for its writer.
        if !std::fs::symlink_metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        Ok(Box::new(File::open(path)?))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let meta = match entry.metadata() {
                Ok(meta) => meta,
                // Gone between the listing and the look: another process's staging file.
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

    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        match std::fs::symlink_metadata(path) {
            Ok(meta) if meta.is_symlink() => Ok(Some(Kind::Link)),
            Ok(meta) if meta.is_dir() => Ok(Some(Kind::Folder)),
            Ok(meta) if meta.is_file() => Ok(Some(Kind::File)),
            Ok(_) => Ok(Some(Kind::Other)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn open_lock(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        private(&mut options);
        // A link would make a file elsewhere.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::custom_flags(
            &mut options,
            rustix::fs::OFlags::NOFOLLOW.bits().cast_signed(),
        );
        options.open(path).or_else(|error| match path.is_symlink() {
            true => Err(error),
            false => File::open(path).map_err(|_| error),
        })
    }

    fn make_private(&self, path: &Path) -> io::Result<()> {
        #[cfg(unix)]
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        Ok(())
    }

    fn free_bytes(&self, path: &Path) -> Option<u64> {
        #[cfg(unix)]
        return rustix::fs::statvfs(path).ok().map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize));
        #[cfg(not(unix))]
        None
    }
}

/// Files are made readable by their owner alone, whatever the umask.
pub(crate) fn private(options: &mut OpenOptions) {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
}
