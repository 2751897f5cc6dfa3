//! Read-only memory maps of write-once files.

use std::fs::File;
use std::io;
use std::ops::Deref;

/// A file mapped read-only; derefs to its bytes.
#[derive(Debug)]
pub struct Map(Option<memmap2::Mmap>);

impl Map {
    /// Maps the whole of `file`. An empty file gives an empty map.
    ///
    /// # Errors
    /// What the operating system says, for instance when the file is a directory.
    pub fn of(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(Self(None));
        }
        // SAFETY: the files mapped here are write-once objects in a private folder (or a model file):
        // pcache replaces them only by rename and removes them only by unlink, which both leave the
        // mapped pages alone. A foreign process that truncates one can make a read fault; that is the
        // accepted cost of mapping, as with llama.cpp's own mapping of the model.
        let map = unsafe { memmap2::Mmap::map(file)? };
        Ok(Self(Some(map)))
    }

    /// Tells the kernel that the pages will be read from the first to the last. A hint: failure is ignored.
    pub fn read_in_order(&self) {
        #[cfg(unix)]
        if let Some(map) = &self.0 {
            let _ = map.advise(memmap2::Advice::Sequential);
        }
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}
