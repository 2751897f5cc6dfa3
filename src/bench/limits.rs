//! Limits of the machine: times for as many bytes, on the same disk, in the same run.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::Result;

use super::results::{Length, Stage};
use super::subject::timed;
use pcache_store::sys::pages;

/// Larger copies go through memory of this size again and again; that is beyond every processor's own.
const MEMORY: usize = 256 << 20;
/// Bytes read at once.
const READ: usize = 1 << 20;

/// Memory that is copied from and to, and written: fresh once, because fresh memory is slow.
#[derive(Default)]
pub struct Buffers {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Buffers {
    fn of_size(&mut self, bytes: usize) -> (&[u8], &mut [u8]) {
        let size = bytes.min(MEMORY);
        if self.from.len() < size {
            // Bytes that no disk and no file system could store in less.
            let mut random = blake3::Hasher::new().finalize_xof();
            self.from.resize(size, 0);
            random.fill(&mut self.from);
            self.to = self.from.clone();
        }
        (&self.from[..size], &mut self.to[..size])
    }
}

/// Measures the limits for a length once. `path` is for a file, which is removed again; a read is cold only where the
/// page cache can be dropped.
pub fn measure(length: &mut Length, path: &Path, buffers: &mut Buffers) -> Result<()> {
    let (from, to) = buffers.of_size(usize::try_from(length.state_bytes)?);
    let (_, seconds) = timed(|| copy(from, to, length.state_bytes));
    length.add(Stage::MemoryCopy, seconds);

    let (from, _) = buffers.of_size(usize::try_from(length.stored_bytes)?);
    let (written, seconds) = timed(|| write(path, from, length.stored_bytes));
    length.add(Stage::SyncedWrite, seconds);
    let read = written.and_then(|()| read_cold(path));
    let _ = std::fs::remove_file(path);
    if let Some(seconds) = read? {
        length.add(Stage::SequentialRead, seconds);
    }
    Ok(())
}

fn copy(from: &[u8], to: &mut [u8], bytes: u64) {
    let Ok(()) = each_part::<Infallible>(from, bytes, |part| {
        to[..part.len()].copy_from_slice(part);
        std::hint::black_box(&to);
        Ok(())
    });
}

fn write(path: &Path, from: &[u8], bytes: u64) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    each_part(from, bytes, |part| file.write_all(part))?;
    file.sync_all()
}

/// Calls `work` with parts of `memory` that come to so many bytes.
fn each_part<E>(memory: &[u8], bytes: u64, mut work: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let mut left = bytes;
    while left > 0 && !memory.is_empty() {
        let part = usize::try_from(left).map_or(memory.len(), |left| left.min(memory.len()));
        work(&memory[..part])?;
        left -= part as u64;
    }
    Ok(())
}

/// Seconds to read a file from the disk; nothing if it cannot be driven out of the page cache.
fn read_cold(path: &Path) -> std::io::Result<Option<f64>> {
    let mut file = std::fs::File::open(path)?;
    if !pages::drop_pages(&file)? {
        return Ok(None);
    }
    let mut buffer = vec![0; READ];
    let (read, seconds) = timed(|| {
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(e) => return Err(e),
            }
        }
    });
    read.map(|()| Some(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_moved() {
        let memory = [1u8; 10];
        let mut parts = Vec::new();
        each_part(&memory, 25, |part| {
            parts.push(part.len());
            Ok::<(), ()>(())
        })
        .unwrap();
        assert_eq!(parts, [10, 10, 5]);
    }

    #[test]
    fn the_limits_leave_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limit");
        let mut length = Length { state_bytes: 100_000, stored_bytes: 70_000, ..Length::new(1) };
        measure(&mut length, &path, &mut Buffers::default()).unwrap();
        assert!(!path.exists());
        let taken = [Stage::MemoryCopy, Stage::SyncedWrite].map(|stage| length.median(stage).is_some());
        assert_eq!(taken, [true, true]);
    }
}
