//! Memory for the bytes of objects: in huge pages where the system has them, because the page faults of a large state cost
//! more time than its hash.

use std::io;

use memmap2::{MmapMut, MmapOptions};

/// Bytes of a huge page on x86-64 and on most arm64 systems. Elsewhere the advice is of less use, and of no harm.
const HUGE_PAGE: usize = 2 << 20;

/// Memory that grows to what is wanted, and is reused.
#[derive(Debug, Default)]
pub(crate) struct Memory(Option<MmapMut>);

impl Memory {
    /// The first `bytes` of it, with whatever they held before.
    ///
    /// # Errors
    /// When the system has no memory left.
    pub(crate) fn room(&mut self, bytes: u64) -> io::Result<&mut [u8]> {
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        if self.0.as_ref().is_none_or(|map| map.len() < bytes) {
            // Given back first: both at once may be too much.
            self.0 = None;
            self.0 = Some(map(bytes)?);
        }
        Ok(self.0.as_deref_mut().map(|map| &mut map[..bytes]).unwrap_or_default())
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

fn map(bytes: usize) -> io::Result<MmapMut> {
    let whole = if bytes < HUGE_PAGE { Some(bytes) } else { bytes.checked_next_multiple_of(HUGE_PAGE) };
    let whole = whole.ok_or(io::ErrorKind::OutOfMemory)?;
    let mut options = MmapOptions::new();
    options.len(whole.max(1));
    if whole < HUGE_PAGE {
        // All pages at once cost less than one after the other.
        options.populate();
    }
    let map = options.map_anon()?;
    // Advice: a kernel without huge pages refuses it, and the memory is as good.
    #[cfg(target_os = "linux")]
    if whole >= HUGE_PAGE {
        let _ = map.advise(memmap2::Advice::HugePage);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::Memory;

    #[test]
    fn memory_grows_to_what_is_wanted_and_is_reused() {
        let mut memory = Memory::default();
        assert_eq!(memory.bytes(), [0; 0]);
        memory.room(3).unwrap().copy_from_slice(b"abc");
        assert_eq!(memory.room(2).unwrap(), b"ab");
        assert_eq!(memory.room(5 << 20).unwrap().len(), 5 << 20);
        assert_eq!(memory.bytes().len(), 6 << 20, "whole huge pages");
        assert!(memory.room(u64::MAX).is_err());
    }
}
