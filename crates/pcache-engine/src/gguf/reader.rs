//! Values of a header, one behind the other, with every length compared with what is left.

use super::{GgufError, Value};

/// Reads from the front; never beyond the end.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8], GgufError> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n));
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(GgufError::Truncated(self.bytes.len()))?;
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(self.take(4)?.try_into().map_or(0, u32::from_le_bytes))
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(self.take(8)?.try_into().map_or(0, u64::from_le_bytes))
    }

    pub(super) fn text(&mut self) -> Result<String, GgufError> {
        let length = self.u64()?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    /// A value of the type with this number.
    pub(super) fn value(&mut self, kind: u32) -> Result<Value, GgufError> {
        match kind {
            7 => Ok(Value::Bool(self.take(1)?[0] != 0)),
            8 => Ok(Value::Text(self.text()?)),
            9 => self.skip_array().map(|()| Value::Other),
            // Signed numbers of the header are small; a negative one is no length of anything.
            0 | 2 | 4 | 10 | 1 | 3 | 5 | 11 => {
                let bytes = self.take(fixed_size(kind)?)?;
                let number = bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
                Ok(Value::Number(number))
            }
            _ => self.take(fixed_size(kind)?).map(|_| Value::Other),
        }
    }

    fn skip_array(&mut self) -> Result<(), GgufError> {
        let (kind, count) = (self.u32()?, self.u64()?);
        if kind == 8 {
            for _ in 0..count {
                let length = self.u64()?;
                self.take(length)?;
            }
            return Ok(());
        }
        let bytes = count.checked_mul(fixed_size(kind)?);
        self.take(bytes.ok_or(GgufError::Truncated(self.bytes.len()))?).map(drop)
    }

    /// A tensor's description.
    pub(super) fn tensor(&mut self) -> Result<Tensor, GgufError> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if dimensions > 4 {
            return Err(GgufError::Damaged(format!("tensor {name:?} has {dimensions} dimensions")));
        }
        let mut numbers: u64 = 1;
        for _ in 0..dimensions {
            numbers = numbers.saturating_mul(self.u64()?);
        }
        let (kind, offset) = (self.u32()?, self.u64()?);
        Ok(Tensor { name, end: offset.saturating_add(tensor_bytes(kind, numbers)) })
    }
}

/// A tensor and its end, counted from where tensors begin.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) end: u64,
}

/// Bytes of so many numbers of a type of ggml's; as few as there can be of a type that is not known.
fn tensor_bytes(kind: u32, numbers: u64) -> u64 {
    let known = TENSOR_TYPES.iter().find(|(number, ..)| *number == kind);
    known.map_or(0, |(_, block, bytes)| (numbers / block).saturating_mul(*bytes))
}

/// Number, numbers in a block, bytes of a block: ggml's `ggml_type` and its blocks in `ggml-common.h`.
#[rustfmt::skip]
const TENSOR_TYPES: [(u32, u64, u64); 30] = [
    (0, 1, 4), (1, 1, 2), (2, 32, 18), (3, 32, 20), (6, 32, 22), (7, 32, 24), (8, 32, 34), (10, 256, 84),
    (11, 256, 110), (12, 256, 144), (13, 256, 176), (14, 256, 210), (16, 256, 66), (17, 256, 74), (18, 256, 98),
    (19, 256, 50), (20, 32, 18), (21, 256, 110), (22, 256, 82), (23, 256, 136), (24, 1, 1), (25, 1, 2),
    (26, 1, 4), (27, 1, 8), (28, 1, 8), (29, 256, 56), (30, 1, 2), (34, 256, 54), (35, 256, 66), (39, 32, 17),
];

/// Bytes of a value of the type with this number.
fn fixed_size(kind: u32) -> Result<u64, GgufError> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        other => Err(GgufError::Damaged(format!("a value has the unknown type {other}"))),
    }
}
