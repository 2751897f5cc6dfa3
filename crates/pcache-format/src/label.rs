//! The label: what may change about a state, or is private. One small JSON file a state.
//!
//! ```text
//! {"format": "pcache label v2", "key": "…", "revision": 3,
//!  "names": [{"name": "prod", "given": 1795491205, "pinned": true, "expires": null}],
//!  "pinned": false, "expires": null,
//!  "origin": "menu.txt", "prompt_format": "chat template", "model_path": "/…/model.gguf",
//!  "text": "…", "prompt": "…", "created": 1795491205, "build_s": 6.5, "evaluated": 950,
//!  "provenance": {"kind": "built"}}
//! ```
//!
//! A state has any number of names, each with a pin and an expiry of its own, so that taking one away changes nothing for
//! the others; and a pin and an expiry without a name.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::MAX_TOKENS;
use crate::id::name_problem;
use crate::{FormatError, PromptDigest, StateKey, TextDigest};

/// Version in every label.
pub const FORMAT: &str = "pcache label v2";

/// A change raises the revision by one; no label comes near this.
pub const MAX_REVISION: u64 = 1 << 40;
/// Seconds since 1970, some ten thousand years from now: no later time is written.
pub const MAX_TIME: u64 = 1 << 40;
/// Expiry, without a name, of a state that was told never to expire.
pub const NEVER: i64 = MAX_TIME as i64;
/// Seconds that evaluating may have cost.
const MAX_SECONDS: f64 = 1e12;
/// Bytes of a label: the names of a state take a hundred each.
pub const MAX_BYTES: usize = 16 << 20;

/// A name of a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Name {
    /// The name.
    pub name: String,
    /// Time at which the state got it, in seconds since 1970.
    pub given: i64,
    /// Kept by gc.
    #[serde(default)]
    pub pinned: bool,
    /// Time after which the name no longer wants the state, in seconds since 1970.
    #[serde(default)]
    pub expires: Option<i64>,
}

/// Way in which a state came into a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Provenance {
    /// Evaluated here.
    Built,
    /// Fetched from a shared tier, signed by this key, or unsigned.
    Pulled {
        /// The signer's public key.
        signer: Option<String>,
    },
    /// Imported from another program's file.
    Foreign,
}

/// Everything about a state that may change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// Key of the state.
    pub key: StateKey,
    /// Raised with each change.
    pub revision: u64,
    /// Names, the oldest first.
    pub names: Vec<Name>,
    /// Kept by gc, whatever its names want.
    pub pinned: bool,
    /// Expiry that was given without a name, in seconds since 1970.
    pub expires: Option<i64>,
    /// Prompt file, for people.
    pub origin: String,
    /// Way in which the prompt was put before the model, for people.
    pub prompt_format: String,
    /// Place at which the model was last seen.
    pub model_path: String,
    /// Hash of the prompt's text alone.
    pub text: Option<TextDigest>,
    /// Hash of everything that the tokens follow from, where the same text always gives them.
    pub prompt: Option<PromptDigest>,
    /// Time of the first build, in seconds since 1970.
    pub created: i64,
    /// Seconds spent evaluating.
    pub build_s: f64,
    /// Number of tokens evaluated in that time.
    pub evaluated: usize,
    /// Way in which the state came into this store.
    pub provenance: Provenance,
}

/// Label as a file has it: with its version.
#[derive(Serialize)]
struct Versioned<'l> {
    format: &'static str,
    #[serde(flatten)]
    label: &'l Label,
}

impl Label {
    /// Oldest name.
    pub fn name(&self) -> Option<&str> {
        self.names.first().map(|n| n.name.as_str())
    }

    /// Name of that text.
    pub fn named(&self, name: &str) -> Option<&Name> {
        self.names.iter().find(|n| n.name == name)
    }

    /// The state, or one of its names, is pinned.
    pub fn is_pinned(&self) -> bool {
        self.pinned || self.names.iter().any(|n| n.pinned)
    }

    /// Latest expiry of all that want the state; `None` if one of them wants it for ever.
    pub fn latest_expiry(&self) -> Option<i64> {
        let nameless = self.expires.iter().map(|at| Some(*at));
        let wanted = self.names.iter().map(|n| n.expires).chain(nameless);
        // `None` is for ever, so the maximum cannot be taken of the options as they are.
        wanted.collect::<Option<Vec<i64>>>()?.into_iter().max().filter(|at| *at < NEVER)
    }

    /// Gives the state a name, or changes the one that it has: a pin is added, an expiry is replaced where there is one.
    pub fn give(&mut self, name: &str, now: i64) -> &mut Name {
        let at = self.names.iter().position(|n| n.name == name).unwrap_or_else(|| {
            // Also of two that were given within a second one is the older.
            let given = self.names.iter().map(|n| n.given + 1).fold(now, i64::max).min(NEVER);
            self.names.push(Name { name: name.to_owned(), given, pinned: false, expires: None });
            self.names.len() - 1
        });
        &mut self.names[at]
    }

    /// Takes a name away. Returns it with its pin and expiry.
    pub fn take(&mut self, name: &str) -> Option<Name> {
        let at = self.names.iter().position(|n| n.name == name)?;
        Some(self.names.remove(at))
    }

    /// Seconds that evaluating all `tokens` costs, by what was evaluated of them when the state was built.
    pub fn full_cost_s(&self, tokens: usize) -> f64 {
        full_cost_s(self.build_s, self.evaluated, tokens)
    }

    /// The two differ in nothing but the revision.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        *self == Self { revision: self.revision, ..other.clone() }
    }

    /// File name, below the folder of labels.
    pub fn file_name(key: &StateKey) -> String {
        format!("{key}.json")
    }

    /// Key that a file's name says.
    pub fn parse_file_name(name: &str) -> Option<StateKey> {
        let key = name.strip_suffix(".json")?.parse().ok()?;
        (Self::file_name(&key) == name).then_some(key)
    }

    /// Bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(&Versioned { format: FORMAT, label: self }).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads a label.
    ///
    /// # Errors
    /// [`FormatError::Newer`] for one of a later version; [`FormatError::Label`] for anything that [`Self::encode`] does
    /// not write, and for values that no state has.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let refused = |why: String| FormatError::Label(why);
        if bytes.len() > MAX_BYTES {
            return Err(refused(format!("it has {} bytes", bytes.len())));
        }
        let mut fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(bytes).map_err(|e| refused(e.to_string()))?;
        match fields.remove("format") {
            Some(serde_json::Value::String(format)) if format == FORMAT => {}
            Some(serde_json::Value::String(format)) if format.starts_with("pcache ") => {
                return Err(FormatError::Newer(format));
            }
            other => return Err(refused(format!("its format is {other:?}, expected {FORMAT:?}"))),
        }
        let label: Self =
            serde_json::from_value(serde_json::Value::Object(fields)).map_err(|e| refused(e.to_string()))?;
        label.problem().map_or(Ok(label), |problem| Err(refused(problem)))
    }

    /// First value that the index or a terminal could not hold.
    fn problem(&self) -> Option<String> {
        let given = self.names.iter().map(|n| n.given).max().unwrap_or_default();
        let bounds = [
            ("revision", self.revision, MAX_REVISION),
            ("number of evaluated tokens", self.evaluated as u64, MAX_TOKENS as u64),
            ("time of building", self.created.unsigned_abs(), MAX_TIME),
            ("time of naming", given.unsigned_abs(), MAX_TIME),
        ];
        let beyond = bounds.into_iter().find(|(_, value, most)| value > most);
        let mut names = HashSet::new();
        let twice = self.names.iter().find(|n| !names.insert(n.name.as_str()));
        if let Some((what, value, most)) = beyond {
            Some(format!("its {what} is {value}, expected at most {most}"))
        } else if let Some(problem) = self.names.iter().find_map(|n| name_problem(&n.name)) {
            Some(format!("a name of it {problem}"))
        } else if let Some(name) = twice {
            Some(format!("it has the name {:?} twice", name.name))
        } else if !(0.0..=MAX_SECONDS).contains(&self.build_s) {
            Some("its cost is not a number of seconds".into())
        } else {
            None
        }
    }
}

/// Seconds that evaluating all `tokens` costs, where `evaluated` of them took `build_s`; 0 where that is not known.
pub fn full_cost_s(build_s: f64, evaluated: usize, tokens: usize) -> f64 {
    if evaluated == 0 { 0.0 } else { build_s * tokens as f64 / evaluated as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label() -> Label {
        Label {
            key: StateKey::from([5; 32]),
            revision: 3,
            names: vec![
                Name { name: "prod".into(), given: 10, pinned: true, expires: None },
                Name { name: "test".into(), given: 20, pinned: false, expires: Some(99) },
            ],
            pinned: false,
            expires: Some(50),
            origin: "menu.txt".into(),
            prompt_format: "chat template".into(),
            model_path: "/models/m.gguf".into(),
            text: Some(TextDigest::from([1; 32])),
            prompt: None,
            created: 10,
            build_s: 1.5,
            evaluated: 100,
            provenance: Provenance::Pulled { signer: None },
        }
    }

    #[test]
    fn a_label_reads_back() {
        for provenance in
            [Provenance::Built, Provenance::Foreign, Provenance::Pulled { signer: Some("ab".into()) }]
        {
            let label = Label { provenance, ..label() };
            assert_eq!(Label::decode(&label.encode()), Ok(label.clone()));
            assert!(label.encode().len() < 800, "{}", label.encode().len());
        }
    }

    /// Files on disk depend on it.
    #[test]
    fn golden_text() {
        let expected = concat!(
            r#"{"format":"pcache label v2","key":"0505050505050505050505050505050505050505050505050505050505050505","#,
            r#""revision":3,"names":[{"name":"prod","given":10,"pinned":true,"expires":null},"#,
            r#"{"name":"test","given":20,"pinned":false,"expires":99}],"pinned":false,"expires":50,"#,
            r#""origin":"menu.txt","prompt_format":"chat template","model_path":"/models/m.gguf","#,
            r#""text":"0101010101010101010101010101010101010101010101010101010101010101","prompt":null,"#,
            r#""created":10,"build_s":1.5,"evaluated":100,"provenance":{"kind":"pulled","signer":null}}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(label().encode()).unwrap(), expected);
    }

    #[test]
    fn the_longest_wish_counts() {
        let mut label = label();
        assert_eq!(label.latest_expiry(), None, "prod wants it for ever");
        assert!(label.is_pinned());
        assert!(label.take("prod").is_some_and(|n| n.pinned));
        assert!(!label.is_pinned());
        assert_eq!(label.latest_expiry(), Some(99));
        label.take("test");
        assert_eq!((label.latest_expiry(), label.name()), (Some(50), None));
        label.expires = None;
        assert_eq!(label.latest_expiry(), None);
        label.give("late", 7).expires = Some(1);
        assert_eq!(label.latest_expiry(), Some(1), "only the name said something");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let text = String::from_utf8(label().encode()).unwrap();
        for (from, to) in [
            ("\"revision\":3", "\"revision\":-3"),
            ("\"test\"", "\"prod\""),
            ("\"test\"", "\"a b\""),
            ("1.5", "-1.5"),
            ("\"evaluated\"", "\"envaluated\""),
            ("pcache label v2", "other label v2"),
            ("\"given\":20", "\"given\":9223372036854775807"),
        ] {
            let changed = text.replace(from, to);
            assert!(matches!(Label::decode(changed.as_bytes()), Err(FormatError::Label(_))), "{to}");
        }
        let later = text.replace("label v2", "label v3");
        assert_eq!(Label::decode(later.as_bytes()), Err(FormatError::Newer("pcache label v3".into())));
        assert!(Label::decode(b"").is_err() && Label::decode(b"[]").is_err());
    }
}
