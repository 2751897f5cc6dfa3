//! Storage of the state in an object: as it is, or compressed.
//!
//! A KV cache of 16-bit floats hardly compresses as it lies there: every second byte is the noise of the mantissa. So
//! the bytes are first dealt out to *planes*, one for each byte of an element, and each plane is compressed on its own; one
//! that does not get smaller is kept as it is, and costs a copy to read.
//!
//! ```text
//! for each of `stride` planes:   u64 LE   stored bytes
//!                                bytes    the plane, if there are as many as it has; else a zstd frame of it
//! ```
//!
//! Plane `p` has the bytes at `p`, `p + stride`, `p + 2 × stride`…, so the planes' sizes follow from the raw size. Nothing
//! that a file says is allocated unchecked: a raw size beyond [`MAX_RATIO`] times the stored one is refused, and a frame
//! decodes into exactly the plane that it must be.

use std::str::FromStr;

use super::FormatError;

/// Storage of an object's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codec {
    /// As llama.cpp wrote it: restored straight from the map.
    #[default]
    Raw,
    /// In planes, each compressed by zstd at this level.
    Zstd {
        /// zstd's level; it is not needed to read.
        level: i32,
    },
}

/// The level that is taken when none is named: the fastest, and higher ones hardly gain.
const USUAL_LEVEL: i32 = 1;
/// States compress to four fifths at best; whatever claims to be more is no state.
pub const MAX_RATIO: u64 = 64;
/// Stores raw unless zstd saves at least 2 %.
const MIN_GAIN: f64 = 0.98;

/// The codec's name in metadata.
pub(super) const ZSTD: &str = "zstd";
/// The name for a state as it is.
pub(super) const RAW: &str = "raw";

impl FromStr for Codec {
    type Err = String;

    /// `raw`, `zstd` or `zstd:LEVEL`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, level) = text.split_once(':').map_or((text, None), |(name, level)| (name, Some(level)));
        match (name, level) {
            (RAW, None) => Ok(Self::Raw),
            (ZSTD, None) => Ok(Self::Zstd { level: USUAL_LEVEL }),
            (ZSTD, Some(level)) => {
                let levels = 1..=*zstd::compression_level_range().end();
                let level = level.parse().ok().filter(|level| levels.contains(level));
                let level = level.ok_or_else(|| format!("expected a level of 1 to {}", levels.end()))?;
                Ok(Self::Zstd { level })
            }
            _ => Err("expected raw, zstd or zstd:LEVEL".into()),
        }
    }
}

impl std::fmt::Display for Codec {
    /// Writes the text that [`FromStr`] reads.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Raw => f.write_str(RAW),
            Self::Zstd { level } => write!(f, "{ZSTD}:{level}"),
        }
    }
}

impl Codec {
    /// The name in metadata.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => RAW,
            Self::Zstd { .. } => ZSTD,
        }
    }
}

/// The sizes of the planes of `raw` bytes.
fn plane_sizes(raw: usize, stride: usize) -> impl Iterator<Item = usize> {
    (0..stride).map(move |p| (raw + stride - 1 - p) / stride)
}

/// Compresses `raw`, the elements of which have `stride` bytes. `None` if that is not worth it.
pub(super) fn encode(raw: &[u8], stride: usize, level: i32) -> Option<Vec<u8>> {
    let mut stored = Vec::with_capacity(raw.len());
    for (p, size) in plane_sizes(raw.len(), stride).enumerate() {
        let plane: Vec<u8> = raw.iter().skip(p).step_by(stride).copied().collect();
        debug_assert_eq!(plane.len(), size);
        let frame = zstd::bulk::compress(&plane, level).ok();
        let frame = frame.filter(|f| f.len() < (plane.len() as f64 * MIN_GAIN) as usize).unwrap_or(plane);
        stored.extend((frame.len() as u64).to_le_bytes());
        stored.extend(frame);
    }
    let worth = stored.len() < (raw.len() as f64 * MIN_GAIN) as usize;
    worth.then_some(stored)
}

/// Puts the state back together in `raw`, which is resized to `size` bytes; `planes` is buffer for one plane each. Both
/// are reused by callers, because fresh memory is slow.
pub(super) fn decode(
    stored: &[u8],
    stride: usize,
    size: usize,
    planes: &mut Vec<Vec<u8>>,
    raw: &mut Vec<u8>,
) -> Result<(), FormatError> {
    planes.resize_with(stride, Vec::new);
    let mut rest = stored;
    let mut parts: Vec<&[u8]> = Vec::with_capacity(stride);
    for (expected, buffer) in plane_sizes(size, stride).zip(planes.iter_mut()) {
        let (head, after) = rest.split_first_chunk::<8>().ok_or_else(|| broken("it ends early"))?;
        let length = usize::try_from(u64::from_le_bytes(*head)).ok().filter(|n| *n <= after.len());
        let (part, after) = after.split_at(length.ok_or_else(|| broken("a plane is longer than the rest"))?);
        rest = after;
        parts.push(if part.len() == expected { part } else { frame(part, expected, buffer)? });
    }
    if !rest.is_empty() {
        return Err(broken("something follows the planes"));
    }
    raw.resize(size, 0);
    merge(&parts, raw);
    Ok(())
}

fn frame<'r>(part: &[u8], expected: usize, buffer: &'r mut Vec<u8>) -> Result<&'r [u8], FormatError> {
    buffer.resize(expected, 0);
    let written = zstd::bulk::decompress_to_buffer(part, buffer.as_mut_slice());
    match written {
        Ok(n) if n == expected => Ok(buffer),
        Ok(_) => Err(broken("a plane is shorter than it should be")),
        Err(error) => Err(broken(&error.to_string())),
    }
}

/// Deals the planes' bytes back to their elements.
fn merge(planes: &[&[u8]], raw: &mut [u8]) {
    match planes {
        [only] => raw.copy_from_slice(only),
        // Written so that the compiler makes it wide: two planes are what f16 has.
        [low, high] => {
            let pairs = raw.chunks_exact_mut(2).zip(low.iter().zip(*high));
            pairs.for_each(|(pair, (low, high))| {
                pair[0] = *low;
                pair[1] = *high;
            });
            if low.len() > high.len()
                && let (Some(last), Some(byte)) = (raw.last_mut(), low.last())
            {
                *last = *byte;
            }
        }
        _ => {
            for (p, plane) in planes.iter().enumerate() {
                raw.iter_mut().skip(p).step_by(planes.len()).zip(*plane).for_each(|(to, from)| *to = *from);
            }
        }
    }
}

fn broken(why: &str) -> FormatError {
    FormatError::Codec(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(stored: &[u8], stride: usize, size: usize) -> Result<Vec<u8>, FormatError> {
        let mut raw = vec![7; 3];
        decode(stored, stride, size, &mut vec![vec![1, 2, 3]], &mut raw).map(|()| raw)
    }

    /// Floats of one size, as in a cache: the upper bytes are alike, the lower ones are not.
    fn floats(n: usize) -> Vec<u8> {
        let mut seed = 1u32;
        (0..n)
            .flat_map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                [(seed >> 24) as u8, 0x3c | ((seed >> 20) & 1) as u8]
            })
            .collect()
    }

    #[test]
    fn names_are_read() {
        assert_eq!("raw".parse(), Ok(Codec::Raw));
        assert_eq!("zstd".parse(), Ok(Codec::Zstd { level: 1 }));
        assert_eq!("zstd:19".parse(), Ok(Codec::Zstd { level: 19 }));
        for name in ["raw", "zstd:1", "zstd:19"] {
            assert_eq!(name.parse::<Codec>().unwrap().to_string(), name);
        }
        for wrong in ["", "zstd:", "zstd:0", "zstd:99", "raw:1", "gzip", "zstd:-1"] {
            assert!(wrong.parse::<Codec>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn planes_are_what_makes_floats_compressible() {
        let raw = floats(20_000);
        let two = encode(&raw, 2, 1).expect("it is worth it");
        assert!(two.len() * 10 < raw.len() * 7, "{} of {}", two.len(), raw.len());
        assert_eq!(decoded(&two, 2, raw.len()), Ok(raw.clone()));
        let one = encode(&raw, 1, 1).map_or(raw.len(), |stored| stored.len());
        assert!(two.len() < one, "{} {one}", two.len());
    }

    #[test]
    fn noise_is_not_worth_it() {
        let noise: Vec<u8> = floats(5000).into_iter().step_by(2).collect();
        assert_eq!(encode(&noise, 2, 1), None);
        assert_eq!(encode(&[], 2, 1), None);
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let raw = floats(500);
        let stored = encode(&raw, 2, 1).unwrap();
        for size in [0, 1, 998, 999, 1001, 1002, 100_000] {
            assert!(decoded(&stored, 2, size).is_err(), "{size}");
        }
        assert!(decoded(&stored, 1, 1000).is_err() && decoded(&stored, 3, 1000).is_err());
        for end in 0..stored.len() {
            assert!(decoded(&stored[..end], 2, 1000).is_err(), "{end}");
        }
        assert!(decoded(&[&stored[..], &[0]].concat(), 2, 1000).is_err());
    }

    /// A frame that says it is small and decodes to much more.
    #[test]
    fn a_bomb_fills_no_memory() {
        let bomb = zstd::bulk::compress(&vec![0u8; 100 << 20], 1).unwrap();
        let stored = [&(bomb.len() as u64).to_le_bytes()[..], &bomb].concat();
        assert!(decoded(&stored, 1, 1 << 16).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_encoded_comes_back(
            raw in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..3000),
            repeats in 1usize..4,
            stride in 1usize..6,
        ) {
            let raw = raw.repeat(repeats);
            if let Some(stored) = encode(&raw, stride, 1) {
                prop_assert!(stored.len() < raw.len());
                prop_assert_eq!(decoded(&stored, stride, raw.len()), Ok(raw));
            }
        }

        #[test]
        fn any_bytes_are_answered(stored in prop::collection::vec(any::<u8>(), 0..200), size in 0usize..5000) {
            for stride in 1..5 {
                let _ = decoded(&stored, stride, size);
            }
        }
    }
}
