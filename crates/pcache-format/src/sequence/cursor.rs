//! A place in bytes that are read number by number, with nothing taken on trust.

use super::SequenceError;

/// The bytes and how far they were read. Copies are cheap: a way that leads nowhere is left by dropping its copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Offset in bytes.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], SequenceError> {
        let found = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>());
        let found = *found.ok_or_else(|| self.ends(what, N as u64))?;
        self.at += N;
        Ok(found)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, SequenceError> {
        self.take(what).map(u32::from_le_bytes)
    }

    pub(super) fn i32(&mut self, what: &'static str) -> Result<i32, SequenceError> {
        self.take(what).map(i32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, SequenceError> {
        self.take(what).map(u64::from_le_bytes)
    }

    /// Passes over the product of `sizes` bytes of data.
    pub(super) fn skip(&mut self, what: &'static str, sizes: &[u64]) -> Result<(), SequenceError> {
        let bytes = sizes.iter().try_fold(1u64, |product, n| product.checked_mul(*n)).unwrap_or(u64::MAX);
        match usize::try_from(bytes).ok().filter(|n| *n <= self.left()) {
            Some(bytes) => self.at += bytes,
            None => return Err(self.ends(what, bytes)),
        }
        Ok(())
    }

    /// The next i32, without passing over it.
    pub(super) fn peek(&self) -> Option<i32> {
        { *self }.i32("").ok()
    }

    fn ends(&self, what: &'static str, wanted: u64) -> SequenceError {
        SequenceError {
            at: self.at,
            what,
            found: wanted.into(),
            expected: format!("at most the {} bytes that are left", self.left()),
        }
    }

    /// Returns the error that the number just read, of `N` bytes, differs from the one that `expected` says.
    pub(super) fn wrong<const N: usize>(
        &self,
        what: &'static str,
        found: impl Into<i128>,
        expected: impl ToString,
    ) -> SequenceError {
        let at = self.at.saturating_sub(N);
        SequenceError { at, what, found: found.into(), expected: expected.to_string() }
    }

    /// Reads a u32 that can only be `value`.
    pub(super) fn expect(&mut self, what: &'static str, value: u32) -> Result<(), SequenceError> {
        match self.u32(what)? {
            found if found == value => Ok(()),
            found => Err(self.wrong::<4>(what, found, value)),
        }
    }

    /// Reads an i32 that can only be `value`.
    pub(super) fn expect_signed(&mut self, what: &'static str, value: i32) -> Result<(), SequenceError> {
        match self.i32(what)? {
            found if found == value => Ok(()),
            found => Err(self.wrong::<4>(what, found, value)),
        }
    }
}
