//! Compute identity: what computed a state's numbers, and the line of those who did.
//!
//! Two machines that evaluate the same tokens agree on what a state means and not on its last bits: another instruction
//! set, card or compiler adds in another order. So beside its key a state has the identity of what computed it.
//!
//! ```text
//! text      sorted lines "name=value\n"
//! id        first 16 bytes of BLAKE3 derive_key("pcache compute v1", text), in 32 hex digits
//!
//! L[0]      the id of what computed the first segment
//! L[i+1]    L[i] where that is the id of what computes segment i+1,
//!           else the first 16 bytes of BLAKE3(L[i] ‖ id), both as they are written
//! ```
//!
//! A segment's bytes depend on who computed the prefix that it continues, so a segment has a lineage and not an id. The
//! lineage of what one machine computed alone is that machine's id. Objects of version 0.1 say nothing about it: their
//! lineage is written `0.1`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

const CONTEXT: &str = "pcache compute v1";
/// Lineage of objects that version 0.1 wrote.
const UNKNOWN: &str = "0.1";

/// Parts of a compute identity, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ComputeIdentity(BTreeMap<String, String>);

impl ComputeIdentity {
    /// Makes an identity of named parts. Line ends in a value become spaces.
    pub fn new<N: Into<String>, V: Into<String>>(parts: impl IntoIterator<Item = (N, V)>) -> Self {
        let line = |text: String| text.replace(['\n', '\r'], " ");
        Self(parts.into_iter().map(|(name, value)| (line(name.into()), line(value.into()))).collect())
    }

    /// Canonical text: sorted `name=value` lines.
    pub fn canonical(&self) -> String {
        self.0.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
    }

    /// Reads what [`Self::canonical`] writes; lines that are none are passed over.
    pub fn parse(text: &str) -> Self {
        Self::new(text.lines().filter_map(|line| line.split_once('=')))
    }

    /// Hash of the canonical text.
    pub fn id(&self) -> ComputeId {
        let hash = blake3::derive_key(CONTEXT, self.canonical().as_bytes());
        ComputeId(truncated(&hash))
    }

    /// Value of a part.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// Hash of a compute identity; shown as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ComputeId([u8; 16]);

/// Line of those who computed a segment and the prefix before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lineage {
    /// Written by version 0.1, which did not say.
    Unknown,
    /// Of one compute identity, or of several one after the other.
    Known([u8; 16]),
}

impl Lineage {
    /// Lineage of the segment that `own` computes behind a prefix of this one.
    pub fn continued_by(self, own: ComputeId) -> Self {
        if self == Self::from(own) {
            return self;
        }
        let joined = blake3::hash(format!("{self}{own}").as_bytes());
        Self::Known(truncated(joined.as_bytes()))
    }

    /// First 12 digits, as shown to people.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl ComputeId {
    /// Id of these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl From<ComputeId> for Lineage {
    fn from(id: ComputeId) -> Self {
        Self::Known(id.0)
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str(UNKNOWN),
            Self::Known(bytes) => f.write_str(&hex::encode(bytes)),
        }
    }
}

impl fmt::Display for ComputeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ComputeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ComputeId({self})")
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lineage({self})")
    }
}

/// A text that is no lineage.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected 32 lower-case hex digits or \"0.1\", found {0:?}")]
pub struct NotALineage(String);

impl FromStr for Lineage {
    type Err = NotALineage;

    fn from_str(text: &str) -> Result<Self, NotALineage> {
        if text == UNKNOWN {
            return Ok(Self::Unknown);
        }
        let mut bytes = [0; 16];
        let plain = !text.bytes().any(|b| b.is_ascii_uppercase());
        match plain && hex::decode_to_slice(text, &mut bytes).is_ok() {
            true => Ok(Self::Known(bytes)),
            false => Err(NotALineage(text.to_owned())),
        }
    }
}

impl serde::Serialize for Lineage {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Lineage {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

fn truncated(hash: &[u8; 32]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> ComputeIdentity {
        ComputeIdentity::new([("isa", "avx2,fma"), ("backend", "cpu"), ("build", "b1")])
    }

    #[test]
    fn parts_are_sorted_and_read_back() {
        assert_eq!(one().canonical(), "backend=cpu\nbuild=b1\nisa=avx2,fma\n");
        assert_eq!(ComputeIdentity::parse(&one().canonical()), one());
        assert_eq!(one().get("isa"), Some("avx2,fma"));
        assert_eq!(ComputeIdentity::new([("a", "b\nc=d")]).canonical(), "a=b c=d\n");
    }

    /// Files on disk depend on these: they never change.
    #[test]
    fn golden_identities_and_lineages() {
        let own = one().id();
        let other = ComputeIdentity::new([("backend", "cuda")]).id();
        let alone = Lineage::from(own);
        assert_eq!(own.to_string(), "3300f34e16f3fab9f2b9bfc2f4276b9e");
        assert_eq!(alone.continued_by(own), alone);
        let mixed = alone.continued_by(other);
        assert_eq!(mixed.to_string(), "0373796764f3e0b43e9a81a509977d4b");
        assert_eq!(mixed.continued_by(other).to_string(), "5b730d0474838d43cd89e8009df5b1a7");
        assert_eq!(Lineage::Unknown.continued_by(own).to_string(), "d6de62812a949d570bfecb175e39608a");
    }

    #[test]
    fn a_lineage_is_read_back() {
        for lineage in [Lineage::Unknown, Lineage::from(one().id())] {
            assert_eq!(lineage.to_string().parse(), Ok(lineage));
        }
        for wrong in ["", "0.2", "ab", &"AB".repeat(16), &"ab".repeat(32)] {
            assert!(wrong.parse::<Lineage>().is_err(), "{wrong}");
        }
    }
}
