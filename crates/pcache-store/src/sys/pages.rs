//! The operating system's page cache: emptying it of one file, to measure what a read from the disk takes.

use std::fs::File;
use std::io;

use memmap2::Mmap;

/// Asks the system to forget the pages of `file`, which must be synced. Says whether none is left: not where the
/// system has no such call, or keeps its files in memory.
///
/// # Errors
/// When the file cannot be mapped.
pub fn drop_pages(file: &File) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    let asked = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).is_ok();
    #[cfg(not(target_os = "linux"))]
    let asked = false;
    Ok(asked && resident_pages(&map(file)?) == Some(0))
}

/// Maps a file, to ask about its pages; none of them is read.
fn map(file: &File) -> io::Result<Option<Mmap>> {
    if file.metadata()?.len() == 0 {
        return Ok(None);
    }
    // SAFETY: only the address and the length of the map are used, and no byte behind them.
    unsafe { Mmap::map(file) }.map(Some)
}

/// Returns the number of pages of a mapped file that are in memory, where the system tells.
#[cfg(target_os = "linux")]
fn resident_pages(map: &Option<Mmap>) -> Option<usize> {
    let Some(map) = map else { return Some(0) };
    let page = rustix::param::page_size();
    let mut resident = vec![0u8; map.len().div_ceil(page)];
    // SAFETY: the address is that of a live map and so a multiple of the page size, the length is the map's, and the
    // vector has a byte for each page of it. The call writes the vector and reads nothing.
    let answer = unsafe { libc::mincore(map.as_ptr().cast_mut().cast(), map.len(), resident.as_mut_ptr()) };
    (answer == 0).then(|| resident.iter().filter(|page| **page & 1 != 0).count())
}

#[cfg(not(target_os = "linux"))]
fn resident_pages(_map: &Option<Mmap>) -> Option<usize> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_is_in_memory_is_counted() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 100_000]).unwrap();
        let mapped = map(&file).unwrap();
        assert_eq!(resident_pages(&mapped), Some(100_000usize.div_ceil(rustix::param::page_size())));
        drop(mapped);
        file.sync_all().unwrap();
        // Where files live in memory alone they stay; what is said must be what is so.
        let dropped = drop_pages(&file).unwrap();
        assert_eq!(dropped, resident_pages(&map(&file).unwrap()) == Some(0));
    }
}
