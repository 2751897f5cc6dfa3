//! Hashing model files, and the file identity under which a hash is remembered.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use pcache_format::ModelHash;

/// Properties by which a file is recognised as the one that was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Last change of the content, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// Last change of content or metadata, in nanoseconds since 1970.
    pub changed_ns: i64,
}

impl FileIdentity {
    /// The identity of the file at `path`, links followed.
    ///
    /// # Errors
    /// When the file cannot be looked at.
    #[cfg(unix)]
    pub fn read(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let meta = fs_err::metadata(path)?;
        let ns = |seconds: i64, nanos: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos);
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified_ns: ns(meta.mtime(), meta.mtime_nsec()),
            changed_ns: ns(meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// Bytes hashed between two calls of the progress function.
const CHUNK: usize = 16 << 20;

/// The BLAKE3 of the whole file, on all cores; `progress` hears how many bytes are done.
///
/// # Errors
/// When the file cannot be read.
pub fn hash_file(path: &Path, mut progress: impl FnMut(u64)) -> io::Result<ModelHash> {
    let mut file: File = fs_err::File::open(path)?.into_parts().0;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(ModelHash::from(hasher.finalize()));
        }
        hasher.update_rayon(&buffer[..n]);
        done += n as u64;
        progress(done);
    }
}
