//! Record of version 0.1: manifest and label of a state in one object. It is only read; when its state next changes it is
//! split into the two.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::MAX_TOKENS;
use crate::id::name_problem;
use crate::label::{Name, Provenance};
use crate::object::{i32_tensor, metadata};
use crate::{
    Chain, ComputeIdentity, Encoded, FormatError, Label, Layout, Lineage, Manifest, ModelHash, Params,
    PromptDigest, RenderedWith, Segment, StateKey, StateKind, TextDigest,
};

/// Version in the metadata of every record.
pub const FORMAT: &str = "pcache state v1";

/// Separator between the origin of a state and that of what it was extended by.
const EXTENDED_BY: &str = " + ";

/// A change raises the revision by one; no label comes near this.
const MAX_REVISION: u64 = 1 << 40;
/// Seconds since 1970, some ten thousand years from now.
const MAX_TIME: u64 = 1 << 40;
/// Bytes of a prompt's text.
const MAX_TEXT: u64 = 1 << 40;
/// Seconds that evaluating may have cost.
const MAX_SECONDS: f64 = 1e12;

/// Everything about a state that should outlive the index. When it was used is not part of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The state's key.
    pub key: StateKey,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The model.
    pub model: ModelHash,
    /// Place at which the model was last seen.
    pub model_path: String,
    /// Parameters that it was built with.
    pub params: Params,
    /// Segments or one snapshot.
    pub layout: Layout,
    /// The tokens of the state; they are a tensor of the file.
    #[serde(skip)]
    pub tokens: Vec<i32>,
    /// The prompt's end that is evaluated with each question.
    pub carried: String,
    /// Text behind a question.
    pub suffix: String,
    /// Way in which the prompt was put before the model, for people.
    pub framing: String,
    /// Place of the prompt's own text in the text of the tokens and the pending text, in bytes.
    pub own: Option<(usize, usize)>,
    /// The prompt's text alone.
    pub text: Option<TextDigest>,
    /// The text it was built from, if the same text always gives the same tokens.
    pub digest: Option<PromptDigest>,
    /// The prompt file, for people.
    pub origin: String,
    /// Time of the build, in seconds since 1970.
    pub created: i64,
    /// Time after which it may go, in seconds since 1970.
    pub expires: Option<i64>,
    /// Kept by gc.
    pub pinned: bool,
    /// Seconds spent evaluating.
    pub build_s: f64,
    /// Tokens evaluated in that time.
    pub evaluated: usize,
    /// Raised with each change; of two records of a state the higher one counts.
    pub revision: u64,
}

impl Record {
    /// The segments of the tokens under the model and the parameters.
    pub fn chain(&self) -> Chain {
        Chain::new(self.params.root(&self.model), &self.tokens)
    }

    /// Returns the parts of the tokens that are saved as objects.
    pub fn pieces(&self) -> Vec<Segment> {
        self.layout.pieces(&self.chain())
    }

    /// Returns true if the two differ in nothing but the revision.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        *self == Self { revision: self.revision, ..other.clone() }
    }

    /// Returns true if the record is what its key says: tokens, carried text and suffix give the key.
    pub fn is_whole(&self) -> bool {
        self.chain().state_key(&self.carried, &self.suffix) == self.key
    }

    /// Immutable part. It names no objects: those are found by their chain keys.
    pub fn manifest(&self) -> Manifest {
        let kind = match (&self.own, self.origin.contains(EXTENDED_BY)) {
            (None, _) => StateKind::Conversation,
            (Some(_), true) => StateKind::Extension,
            (Some(_), false) => StateKind::Prompt,
        };
        Manifest {
            key: self.key,
            model: self.model,
            params: self.params.clone(),
            lineage: Lineage::Unknown,
            computed_by: ComputeIdentity::default(),
            kind,
            layout: self.layout,
            pending_text: self.carried.clone(),
            suffix: self.suffix.clone(),
            prompt_span: self.own.map(|(first, bytes)| first..first.saturating_add(bytes)),
            raw: self.framing.starts_with("raw"),
            rendered_with: RenderedWith::default(),
            tokens: self.tokens.clone(),
            segments: Vec::new(),
        }
    }

    /// Changeable part. Its pin and its expiry belong to its name, if it has one.
    pub fn label(&self) -> Label {
        let (pinned, expires) = (self.pinned, self.expires);
        let name = self.name.clone().map(|name| Name { name, given: self.created, pinned, expires });
        let named = name.is_some();
        Label {
            key: self.key,
            revision: self.revision,
            names: name.into_iter().collect(),
            pinned: pinned && !named,
            expires: expires.filter(|_| !named),
            origin: self.origin.clone(),
            prompt_format: self.framing.clone(),
            model_path: self.model_path.clone(),
            text: self.text,
            prompt: self.digest,
            created: self.created,
            build_s: self.build_s,
            evaluated: self.evaluated,
            provenance: Provenance::Built,
        }
    }

    /// The file's bytes. Only tests write records.
    pub fn encode(&self) -> Encoded<'static> {
        let mut strings = BTreeMap::new();
        strings.insert("format", FORMAT.to_owned());
        strings.insert("state", serde_json::to_string(self).unwrap_or_default());
        Encoded::with_tokens(&strings, &self.tokens, None)
    }

    /// Reads a record.
    ///
    /// # Errors
    /// A [`FormatError`] for anything that [`Self::encode`] does not write, and for a record whose content does not
    /// give its key.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let strings = metadata(bytes)?;
        let get = |key: &'static str| strings.get(key).map(String::as_str).ok_or(FormatError::Missing(key));
        if get("format")? != FORMAT {
            let found = get("format")?.to_owned();
            return Err(FormatError::Value { key: "format", found, expected: FORMAT });
        }
        let mut record: Self =
            serde_json::from_str(get("state")?).map_err(|e| FormatError::Record(e.to_string()))?;
        record.tokens = i32_tensor(bytes)?;
        if let Some(problem) = record.problem() {
            return Err(FormatError::Record(problem));
        }
        if record.tokens.is_empty() || !record.is_whole() {
            return Err(FormatError::Record("its content does not give its key".into()));
        }
        Ok(record)
    }

    /// Problem with a part that the index or a terminal could not hold, if there is one.
    fn problem(&self) -> Option<String> {
        let own = self.own.unwrap_or_default();
        let bounds = [
            ("revision", self.revision, MAX_REVISION),
            ("number of evaluated tokens", self.evaluated as u64, MAX_TOKENS as u64),
            ("time of building", self.created.unsigned_abs(), MAX_TIME),
            ("place of the prompt's text", own.0.max(own.1) as u64, MAX_TEXT),
        ];
        let beyond = bounds.into_iter().find(|(_, value, most)| value > most);
        let name = self.name.as_deref().and_then(name_problem);
        if let Some((what, value, most)) = beyond {
            Some(format!("its {what} is {value}, expected at most {most}"))
        } else if let Some(problem) = name {
            Some(format!("its name {problem}"))
        } else if !(0.0..=MAX_SECONDS).contains(&self.build_s) {
            Some("its cost is not a number of seconds".into())
        } else {
            None
        }
    }
}
