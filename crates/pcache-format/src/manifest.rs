//! The manifest: an immutable, complete, shareable description of a state.
//!
//! ```text
//! a safetensors file (see [`crate::object`] for the container) with the tensor "tokens" (I32, all of the state's)
//! and string metadata:
//!
//! format         "pcache manifest v2"
//! key            64 hex digits
//! model          BLAKE3 of the model file
//! params         canonical text (see [`Params::canonical`])
//! compute        lineage of the last segment
//! computed_by    canonical text of the compute identity that evaluated the last segment; may be empty
//! kind           "prompt", "extension" or "conversation"
//! layout         "segment" or "snapshot"
//! pending_text   text behind the tokens that is tokenised again with each question
//! suffix         text that the template puts behind a question
//! raw            "true" where the prompt was taken as it is, control tokens included
//! prompt_span    "FIRST..END", in bytes of the text of the tokens and the pending text; may be absent
//! rendered_with  JSON: template, arguments, date and roles, see [`RenderedWith`]; absent where all are the usual ones
//! segments       JSON: [{chain, tokens, compute, raw_blake3, raw_bytes, object, object_bytes}, …] in order
//! ```
//!
//! No name, path, time or cost: two builds of one prompt by one compute identity write the same bytes. Who has only the
//! manifest knows which objects to fetch, and can prove each of them; an object with the same chain key, lineage and raw
//! BLAKE3 stands for the one that is named, so storing a segment in another codec changes no manifest.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::MAX_TOKENS;
use crate::object::{i32_tensor, metadata};
use crate::{
    Chain, ChainKey, ComputeIdentity, Encoded, FormatError, Layout, Lineage, ModelHash, ObjectId, Params,
    Segment, StateKey,
};

/// Version in the metadata of every manifest.
pub const FORMAT: &str = "pcache manifest v2";

/// Origin of a state's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateKind {
    /// A prompt that was built.
    Prompt,
    /// Another state's prompt with text added or replaced.
    Extension,
    /// A conversation that was saved.
    Conversation,
}

impl StateKind {
    const ALL: [Self; 3] = [Self::Prompt, Self::Extension, Self::Conversation];

    /// Name in metadata and in the index.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Extension => "extension",
            Self::Conversation => "conversation",
        }
    }

    /// Kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One segment (or the snapshot) of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestSegment {
    /// Key of the prefix up to its end.
    pub chain: ChainKey,
    /// Number of its tokens.
    pub tokens: usize,
    /// Compute identity of it and of the prefix before it.
    #[serde(rename = "compute")]
    pub lineage: Lineage,
    /// BLAKE3 of the raw state.
    pub raw_blake3: ObjectId,
    /// Size of the raw state in bytes.
    pub raw_bytes: u64,
    /// Object as it was published first.
    pub object: ObjectId,
    /// Its size in bytes.
    pub object_bytes: u64,
}

/// Things that a chat template rendered a prompt with. Whatever goes on from the state is rendered with the same ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderedWith {
    /// Source of the template; `None` for the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Further variables of the template, by name.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub arguments: serde_json::Map<String, serde_json::Value>,
    /// The date that the template got, as `2026-01-31`; `None` where it did not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// Authors of the messages: `system`, `user`, `assistant`.
    #[serde(default = "RenderedWith::usual_roles")]
    pub roles: Vec<String>,
    /// The template looked into the messages: around others it would say something else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reads_texts: bool,
}

impl RenderedWith {
    fn usual_roles() -> Vec<String> {
        vec!["system".to_owned()]
    }
}

impl Default for RenderedWith {
    /// One system message in the model's own template, which asked for no date.
    fn default() -> Self {
        Self {
            template: None,
            arguments: serde_json::Map::default(),
            date: None,
            roles: Self::usual_roles(),
            reads_texts: false,
        }
    }
}

/// Immutable description of a state.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Key of the state.
    pub key: StateKey,
    /// BLAKE3 of the model file.
    pub model: ModelHash,
    /// Parameters that it was built with.
    pub params: Params,
    /// Lineage of the last segment.
    pub lineage: Lineage,
    /// Compute identity that evaluated the last segment; empty where that is not known.
    pub computed_by: ComputeIdentity,
    /// Origin of the tokens.
    pub kind: StateKind,
    /// Segments or one snapshot.
    pub layout: Layout,
    /// Text behind the tokens that is tokenised again with each question.
    pub pending_text: String,
    /// Text that the template puts behind a question.
    pub suffix: String,
    /// Place of the prompt's own text in the text of the tokens and the pending text, in bytes.
    pub prompt_span: Option<Range<usize>>,
    /// The prompt was taken as it is, control tokens included.
    pub raw: bool,
    /// Template, arguments, date and roles that it was rendered with.
    pub rendered_with: RenderedWith,
    /// All tokens.
    pub tokens: Vec<i32>,
    /// Objects in order; none in what was read from a record of version 0.1.
    pub segments: Vec<ManifestSegment>,
}

impl Manifest {
    /// Segments of the tokens under the model and the parameters.
    pub fn chain(&self) -> Chain {
        Chain::new(self.params.root(&self.model), &self.tokens)
    }

    /// Parts of the tokens that are saved as objects.
    pub fn pieces(&self) -> Vec<Segment> {
        self.layout.pieces(&self.chain())
    }

    /// Its segments by chain key and lineage.
    pub fn links(&self) -> Vec<(ChainKey, Lineage)> {
        self.segments.iter().map(|segment| (segment.chain, segment.lineage)).collect()
    }

    /// Tokens, pending text and suffix give the key.
    pub fn is_whole(&self) -> bool {
        self.chain().state_key(&self.pending_text, &self.suffix) == self.key
    }

    /// File name, below the folder of manifests.
    pub fn file_name(key: &StateKey, lineage: Lineage) -> String {
        format!("{key}.{lineage}.safetensors")
    }

    /// Key and lineage that a file's name says.
    pub fn parse_file_name(name: &str) -> Option<(StateKey, Lineage)> {
        let (key, lineage) = name.strip_suffix(".safetensors")?.split_once('.')?;
        let id = (key.parse().ok()?, lineage.parse().ok()?);
        // Upper-case digits would name the same state and another file.
        (Self::file_name(&id.0, id.1) == name).then_some(id)
    }

    /// Bytes of the file.
    pub fn encode(&self) -> Encoded<'static> {
        let mut strings = BTreeMap::new();
        strings.insert("format", FORMAT.to_owned());
        strings.insert("key", self.key.to_hex());
        strings.insert("model", self.model.to_hex());
        strings.insert("params", self.params.canonical());
        strings.insert("compute", self.lineage.to_string());
        strings.insert("computed_by", self.computed_by.canonical());
        strings.insert("kind", self.kind.name().to_owned());
        strings.insert("layout", self.layout.name().to_owned());
        strings.insert("pending_text", self.pending_text.clone());
        strings.insert("suffix", self.suffix.clone());
        strings.insert("raw", self.raw.to_string());
        strings.extend(self.prompt_span.as_ref().map(|s| ("prompt_span", format!("{}..{}", s.start, s.end))));
        if self.rendered_with != RenderedWith::default() {
            let json = serde_json::to_string(&self.rendered_with).unwrap_or_default();
            strings.insert("rendered_with", json);
        }
        strings.insert("segments", serde_json::to_string(&self.segments).unwrap_or_default());
        Encoded::with_tokens(&strings, &self.tokens, None)
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`FormatError::Newer`] for one of a later version; another [`FormatError`] for anything that [`Self::encode`] does
    /// not write, and for a manifest whose content does not give its key.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let strings = metadata(bytes)?;
        let fields = Fields(&strings);
        match fields.get("format")? {
            FORMAT => {}
            other if other.starts_with("pcache ") => return Err(FormatError::Newer(other.to_owned())),
            other => {
                let found = other.to_owned();
                return Err(FormatError::Value { key: "format", found, expected: FORMAT });
            }
        }
        let params = Params::parse(fields.get("params")?).map_err(|e| refused(&e.to_string()))?;
        let manifest = Self {
            key: fields.parse("key")?,
            model: fields.parse("model")?,
            params,
            lineage: fields.parse("compute")?,
            computed_by: ComputeIdentity::parse(fields.get("computed_by")?),
            kind: fields.named("kind", StateKind::named)?,
            layout: fields.named("layout", Layout::named)?,
            pending_text: fields.get("pending_text")?.to_owned(),
            suffix: fields.get("suffix")?.to_owned(),
            raw: fields.parse("raw")?,
            prompt_span: fields.span()?,
            rendered_with: fields.rendered_with()?,
            tokens: i32_tensor(bytes)?,
            segments: serde_json::from_str(fields.get("segments")?).map_err(|e| refused(&e.to_string()))?,
        };
        manifest.problem().map_or(Ok(manifest), |problem| Err(refused(problem)))
    }

    /// First thing in it that does not fit the rest.
    fn problem(&self) -> Option<&'static str> {
        let pieces = self.pieces();
        let fits = |(piece, segment): (&Segment, &ManifestSegment)| {
            (piece.chain, piece.count) == (segment.chain, segment.tokens)
        };
        if self.tokens.is_empty() || self.tokens.len() > MAX_TOKENS {
            Some("it has no tokens, or too many")
        } else if !self.is_whole() {
            Some("its content does not give its key")
        } else if pieces.len() != self.segments.len() || !pieces.iter().zip(&self.segments).all(fits) {
            Some("its segments are not those of its tokens")
        } else if self.segments.last().is_some_and(|last| last.lineage != self.lineage) {
            Some("its lineage is not that of its last segment")
        } else {
            None
        }
    }
}

fn refused(why: &str) -> FormatError {
    FormatError::Manifest(why.to_owned())
}

/// String metadata by name.
struct Fields<'a>(&'a HashMap<String, String>);

impl Fields<'_> {
    fn get(&self, key: &'static str) -> Result<&str, FormatError> {
        self.0.get(key).map(String::as_str).ok_or(FormatError::Missing(key))
    }

    fn parse<T: std::str::FromStr>(&self, key: &'static str) -> Result<T, FormatError> {
        let found = self.get(key)?;
        found.parse().map_err(|_| refused(&format!("its {key} is {found:?}")))
    }

    fn named<T>(&self, key: &'static str, named: fn(&str) -> Option<T>) -> Result<T, FormatError> {
        let found = self.get(key)?;
        named(found).ok_or_else(|| refused(&format!("its {key} is {found:?}")))
    }

    fn rendered_with(&self) -> Result<RenderedWith, FormatError> {
        let Some(json) = self.0.get("rendered_with") else { return Ok(RenderedWith::default()) };
        serde_json::from_str(json).map_err(|e| refused(&format!("its rendered_with is wrong: {e}")))
    }

    fn span(&self) -> Result<Option<Range<usize>>, FormatError> {
        let Some(text) = self.0.get("prompt_span") else { return Ok(None) };
        let ends = text.split_once("..").and_then(|(a, b)| Some(a.parse().ok()?..b.parse().ok()?));
        let span = ends.filter(|span: &Range<usize>| span.start <= span.end);
        span.map(Some).ok_or_else(|| refused("its prompt_span is no range"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KvType;

    fn manifest() -> Manifest {
        let (model, params) = (ModelHash::from([7; 32]), Params::new(KvType::F16, false));
        let tokens: Vec<i32> = (0..300).collect();
        let chain = Chain::new(params.root(&model), &tokens);
        let computed_by = ComputeIdentity::new([("backend", "cpu"), ("isa", "avx2")]);
        let lineage = Lineage::from(computed_by.id());
        let segment = |s: &Segment| ManifestSegment {
            chain: s.chain,
            tokens: s.count,
            lineage,
            raw_blake3: ObjectId::from([1; 32]),
            raw_bytes: 1000,
            object: ObjectId::from([2; 32]),
            object_bytes: 1200,
        };
        Manifest {
            key: chain.state_key(" tail", "\n<end>"),
            model,
            params,
            lineage,
            computed_by,
            kind: StateKind::Prompt,
            layout: Layout::Segment,
            pending_text: " tail".into(),
            suffix: "\n<end>".into(),
            prompt_span: Some(3..900),
            raw: false,
            rendered_with: RenderedWith::default(),
            segments: chain.segments().iter().map(segment).collect(),
            tokens,
        }
    }

    fn bytes(manifest: &Manifest) -> Vec<u8> {
        manifest.encode().parts().concat()
    }

    #[test]
    fn a_manifest_reads_back_and_has_the_same_bytes_again() {
        let manifest = manifest();
        assert_eq!(Manifest::decode(&bytes(&manifest)), Ok(manifest.clone()));
        assert_eq!(bytes(&manifest), bytes(&manifest.clone()));
        let tensors = bytes(&manifest);
        assert!(safetensors::SafeTensors::deserialize(&tensors).unwrap().tensor("tokens").is_ok());
    }

    #[test]
    fn what_it_was_rendered_with_reads_back() {
        let mut manifest = manifest();
        manifest.rendered_with = RenderedWith {
            template: Some("{{ messages }}".into()),
            arguments: [("enable_thinking".to_owned(), false.into())].into_iter().collect(),
            date: Some("2026-01-31".into()),
            roles: vec!["user".into(), "assistant".into()],
            reads_texts: true,
        };
        assert_eq!(Manifest::decode(&bytes(&manifest)), Ok(manifest));
    }

    /// Others compute the hash of a manifest's bytes to sign them: they never change.
    #[test]
    fn golden_bytes() {
        assert_eq!(
            blake3::hash(&bytes(&manifest())).to_hex().as_str(),
            "1c063ffd063760acc6c70aebc983393e0640a1a0977779a82733463cd649232a"
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let lineage = Lineage::Unknown;
        let mut wrong: Vec<Manifest> = std::iter::repeat_with(manifest).take(6).collect();
        wrong[0].tokens[0] += 1;
        wrong[1].suffix.push('x');
        wrong[2].segments[1].tokens -= 1;
        wrong[3].segments.truncate(1);
        wrong[4].segments[1].lineage = lineage;
        wrong[5].tokens.clear();
        for (n, manifest) in wrong.iter().enumerate() {
            assert!(matches!(Manifest::decode(&bytes(manifest)), Err(FormatError::Manifest(_))), "{n}");
        }
    }

    #[test]
    fn a_later_one_is_told_from_a_broken_one() {
        let replaced = |from: &str, to: &str| {
            let text: Vec<u8> = bytes(&manifest());
            let at = text.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
            let mut text = text;
            text[at..at + to.len()].copy_from_slice(to.as_bytes());
            Manifest::decode(&text)
        };
        assert!(matches!(replaced("pcache manifest v2", "pcache manifest v3"), Err(FormatError::Newer(_))));
        assert!(matches!(
            replaced("pcache manifest v2", "qcache manifest v2"),
            Err(FormatError::Value { .. })
        ));
    }

    #[test]
    fn file_names_are_read_back() {
        let manifest = manifest();
        let name = Manifest::file_name(&manifest.key, manifest.lineage);
        assert_eq!(Manifest::parse_file_name(&name), Some((manifest.key, manifest.lineage)));
        let old = Manifest::file_name(&manifest.key, Lineage::Unknown);
        assert_eq!(Manifest::parse_file_name(&old), Some((manifest.key, Lineage::Unknown)));
        for wrong in ["", "a.b.safetensors", &name.to_uppercase(), &name.replace("safetensors", "sig")] {
            assert_eq!(Manifest::parse_file_name(wrong), None, "{wrong}");
        }
    }
}
