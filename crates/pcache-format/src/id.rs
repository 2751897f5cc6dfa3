//! The identities: 32-byte BLAKE3 values that must not be mistaken for one another.

use std::fmt;
use std::str::FromStr;

/// A text that is not 64 hex digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected 64 hex digits, found {0:?}")]
pub struct NotAHash(String);

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        // A hash's beginning spreads over a table as well as all of it does.
        impl std::hash::Hash for $name {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                let [a, b, c, d, e, f, g, h, ..] = self.0;
                state.write_u64(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
            }
        }

        impl $name {
            /// The 32 raw bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// All 64 hex digits.
            pub fn to_hex(&self) -> String {
                hex::encode(self.0)
            }

            /// The first 12 hex digits, as shown to people.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..6])
            }
        }

        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
        }

        impl From<blake3::Hash> for $name {
            fn from(hash: blake3::Hash) -> Self {
                Self(*hash.as_bytes())
            }
        }

        impl FromStr for $name {
            type Err = NotAHash;

            fn from_str(text: &str) -> Result<Self, NotAHash> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| NotAHash(text.to_owned()))?;
                Ok(Self(bytes))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.to_hex())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }
    };
}

identity!(
    /// The BLAKE3 of a whole model file.
    ModelHash
);
identity!(
    /// The name of a token prefix under one model and one set of parameters: a link of the chain.
    ChainKey
);
identity!(
    /// The name of a state that can be asked.
    StateKey
);
identity!(
    /// The BLAKE3 of an object file's bytes, which is its name on disk.
    ObjectId
);
identity!(
    /// The hash of a prompt's text alone, whatever the model and the parameters.
    TextDigest
);
identity!(
    /// The hash of a prompt's text and of everything else that its tokens follow from.
    PromptDigest
);

identity!(
    /// Salt in the keys of states that are one user's alone.
    Namespace
);

/// The fewest hex digits that name a state.
pub const MIN_PREFIX_DIGITS: usize = 6;

/// Letters of a name at most: it has to fit into a table.
const MAX_NAME: usize = 64;

/// Why a text cannot be a state's name, if it cannot: it would not fit into a table, be taken for something else on a
/// command line, or send control sequences to a terminal.
pub fn name_problem(name: &str) -> Option<&'static str> {
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        Some("is not letters, digits, '-', '_' and '.' alone")
    } else if name.starts_with('-') {
        Some("would be taken for an option; begin it with a letter")
    } else if name.chars().count() > MAX_NAME {
        Some("is longer than 64 letters")
    } else if looks_like_key(name) {
        Some("looks like a key; add another letter")
    } else {
        None
    }
}

/// Returns true if `text` could be the beginning of a key: six to 64 hex digits.
pub fn looks_like_key(text: &str) -> bool {
    (MIN_PREFIX_DIGITS..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_short_is_its_beginning() {
        let key = StateKey::from([0xab; 32]);
        assert_eq!(key.to_hex().parse::<StateKey>().unwrap(), key);
        assert_eq!(key.short(), "abababababab");
        assert!("ab".parse::<StateKey>().is_err());
    }

    #[test]
    fn a_name_is_not_mistaken_for_a_key() {
        assert!(looks_like_key("4f2a91"));
        assert!(!looks_like_key("4f2a9"));
        assert!(!looks_like_key("restaurant-a"));
    }
}
