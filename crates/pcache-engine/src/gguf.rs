//! Header of a GGUF file, read without llama.cpp: quickly, without its weights, and without trust.
//!
//! llama.cpp aborts the process on some broken files, and says little about the others. So every length is
//! checked here against what is left of the file, and models can be listed without loading one.
//!
//! The layout is that of the GGUF specification, versions 2 and 3
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>): magic, version, number of tensors, number of
//! entries; the entries (key, type, value); then name, shape, type and offset of each tensor.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;

/// Bytes that are read of a file first: enough for most headers but for the vocabulary.
const FIRST_READ: u64 = 1 << 20;
/// No header is longer: a vocabulary of a million tokens takes a tenth of it.
const MAX_HEADER: usize = 1 << 28;
/// The tensors of models with a second set of rotary factors for long contexts.
const LONG_FACTORS: &str = "rope_factors_long.weight";

/// Layers of a model at most (`LLAMA_MAX_LAYERS`).
const MAX_LAYERS: u64 = 512;
/// llama.cpp counts in `int`.
const MAX_NUMBER: u64 = i32::MAX as u64;

/// Architectures that continue no text, and what they do instead.
const UNFIT: [(&[&str], &str); 6] = [
    (&["clip"], "it is a projector for pictures or sound, and belongs to a model"),
    (
        &[
            "bert",
            "modern-bert",
            "nomic-bert",
            "nomic-bert-moe",
            "neo-bert",
            "jina-bert-v2",
            "jina-bert-v3",
            "eurobert",
            "gemma-embedding",
            "llama-embed",
            "t5encoder",
        ],
        "it is an embedding model",
    ),
    (&["t5"], "it is an encoder-decoder, whose texts go through an encoder first"),
    (&["dream", "llada", "llada-moe", "rnd1"], "it writes by diffusion, and not one token behind the other"),
    (&["wavtokenizer-dec", "qwen3tts", "pockettts"], "it makes sound"),
    (&["eagle3", "dflash", "gemma4-assistant"], "it drafts for another model"),
];

/// Why a file is not a GGUF file that can be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GgufError {
    /// Something else.
    #[error("it is not a GGUF file: it begins with {0:?}")]
    Magic(String),
    /// A version that is not understood.
    #[error("its GGUF version is {0}, expected 2 or 3")]
    Version(u32),
    /// It ends in the middle of its description.
    #[error("it ends within its header, after {0} bytes: is it a download that was not finished?")]
    Truncated(usize),
    /// A value makes no sense.
    #[error("its header is damaged: {0}")]
    Damaged(String),
}

/// A single value of the header; arrays are skipped.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(u64),
    Bool(bool),
    Text(String),
    Other,
}

/// Header of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    values: HashMap<String, Value>,
    long_factors: bool,
    /// Bytes that the file has at least: its tensors end there.
    end: u64,
}

impl Header {
    /// Reads the header of the file at `path`.
    ///
    /// # Errors
    /// What the operating system says, or a [`GgufError`] inside an error of kind `InvalidData`.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut file = std::fs::File::open(path)?;
        let (mut bytes, mut wanted) = (Vec::new(), FIRST_READ);
        loop {
            let before = bytes.len();
            file.by_ref().take(wanted).read_to_end(&mut bytes)?;
            let ended = (bytes.len() - before) as u64 != wanted;
            match Self::parse(&bytes) {
                // A vocabulary of hundreds of thousands of tokens takes more.
                Err(GgufError::Truncated(_)) if !ended && bytes.len() < MAX_HEADER => {
                    wanted = bytes.len() as u64
                }
                parsed => return parsed.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e)),
            }
        }
    }

    /// Reads the header at the beginning of `bytes`.
    ///
    /// # Errors
    /// A [`GgufError`] for anything that is not a whole header.
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        if !bytes.starts_with(b"GGUF") {
            let begins = &bytes[..bytes.len().min(4)];
            return Err(GgufError::Magic(begins.escape_ascii().to_string()));
        }
        let mut reader = Reader { bytes, at: 4 };
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version(version));
        }
        let (tensors, entries) = (reader.u64()?, reader.u64()?);
        let mut values = HashMap::new();
        for _ in 0..entries {
            let key = reader.text()?;
            let kind = reader.u32()?;
            values.insert(key, reader.value(kind)?);
        }
        let (mut long_factors, mut last) = (false, 0);
        for _ in 0..tensors {
            let tensor = reader.tensor()?;
            long_factors |= tensor.name == LONG_FACTORS;
            last = last.max(tensor.end);
        }
        let mut header = Self { values, long_factors, end: 0 };
        let alignment = header.number("general.alignment").filter(|a| a.is_power_of_two()).unwrap_or(32);
        header.end = (reader.at as u64).next_multiple_of(alignment).saturating_add(last);
        Ok(header)
    }

    /// The architecture, as `llama` or `qwen2`.
    pub fn architecture(&self) -> &str {
        self.text("general.architecture").unwrap_or("unknown")
    }

    /// The longest context that the model was trained for, in tokens.
    pub fn context(&self) -> Option<u64> {
        self.of_architecture("context_length")
    }

    /// Returns true if the file is a LoRA adapter and not a model.
    pub fn is_adapter(&self) -> bool {
        self.text("general.type") == Some("adapter")
    }

    /// Into how many files the model is split; 1 for a whole one.
    pub fn parts(&self) -> u64 {
        self.number("split.count").unwrap_or(1).max(1)
    }

    /// Why a file of so many bytes is no model that continues text, as far as its header says.
    pub fn problem(&self, bytes: u64) -> Option<String> {
        let kind = self.text("general.type").filter(|kind| *kind != "model");
        let unfit = UNFIT.iter().find(|(names, _)| names.contains(&self.architecture()));
        let causal = self.values.get(&format!("{}.attention.causal", self.architecture()));
        let vocabulary =
            self.text("tokenizer.ggml.model").filter(|name| !["none", "no_vocab", ""].contains(name));
        if self.is_adapter() {
            Some("it is a LoRA adapter, which goes on top of a model".into())
        } else if kind == Some("mmproj") {
            Some("it is a projector for pictures or sound, and belongs to a model".into())
        } else if let Some(kind) = kind {
            Some(format!("its kind is {kind:?}, expected \"model\""))
        } else if self.parts() > 1 {
            Some(format!(
                "it is one of {} parts of a model; join them with llama-gguf-split --merge",
                self.parts()
            ))
        } else if let Some((_, why)) = unfit {
            Some((*why).to_owned())
        } else if causal == Some(&Value::Bool(false)) {
            Some("its attention is not causal (an embedding model?)".into())
        } else if vocabulary.is_none() {
            Some("it has no vocabulary".into())
        } else if bytes < self.end {
            Some(format!(
                "it has {bytes} bytes, and its tensors end at {}: is it a download that was not finished?",
                self.end
            ))
        } else {
            self.absurd_number()
        }
    }

    /// A number that llama.cpp or its binding gives up at.
    fn absurd_number(&self) -> Option<String> {
        let wrong = |key: &str, most: u64| {
            let number = self.of_architecture(key).filter(|n| *n == 0 || *n > most)?;
            Some(format!("its {key} is {number}, expected 1 to {most}"))
        };
        let bounds = [
            ("block_count", MAX_LAYERS),
            ("context_length", MAX_NUMBER),
            ("embedding_length", MAX_NUMBER),
            ("feed_forward_length", MAX_NUMBER),
            ("vocab_size", MAX_NUMBER),
        ];
        bounds.into_iter().find_map(|(key, most)| wrong(key, most))
    }

    /// Returns true if the file carries a chat template.
    pub fn has_template(&self) -> bool {
        self.text("tokenizer.chat_template").is_some()
    }

    /// The context up to which the short set of rotary factors is used, for models that have two.
    pub fn short_context(&self) -> Option<u64> {
        let original = self.of_architecture("rope.scaling.original_context_length");
        original.or(self.context()).filter(|_| self.long_factors)
    }

    /// Quantisation of the weights, as `Q4_K_M`. The numbers are those of llama.cpp's `llama_ftype`.
    pub fn quantisation(&self) -> String {
        let Some(number) = self.number("general.file_type") else { return "-".into() };
        let name = FILE_TYPES.iter().find(|(n, _)| *n == number).map(|(_, name)| *name);
        name.map_or_else(|| format!("type {number}"), str::to_owned)
    }

    fn of_architecture(&self, key: &str) -> Option<u64> {
        self.number(&format!("{}.{key}", self.architecture()))
    }

    fn number(&self, key: &str) -> Option<u64> {
        match self.values.get(key) {
            Some(Value::Number(n)) => Some(*n),
            _ => None,
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }
}

#[rustfmt::skip]
const FILE_TYPES: [(u64, &str); 35] = [
    (0, "F32"), (1, "F16"), (2, "Q4_0"), (3, "Q4_1"), (7, "Q8_0"), (8, "Q5_0"), (9, "Q5_1"), (10, "Q2_K"),
    (11, "Q3_K_S"), (12, "Q3_K_M"), (13, "Q3_K_L"), (14, "Q4_K_S"), (15, "Q4_K_M"), (16, "Q5_K_S"),
    (17, "Q5_K_M"), (18, "Q6_K"), (19, "IQ2_XXS"), (20, "IQ2_XS"), (21, "Q2_K_S"), (22, "IQ3_XS"),
    (23, "IQ3_XXS"), (24, "IQ1_S"), (25, "IQ4_NL"), (26, "IQ3_S"), (27, "IQ3_M"), (28, "IQ2_S"), (29, "IQ2_M"),
    (30, "IQ4_XS"), (31, "IQ1_M"), (32, "BF16"), (36, "TQ1_0"), (37, "TQ2_0"), (38, "MXFP4"), (39, "NVFP4"),
    (40, "Q1_0"),
];

/// Reads from the front; never beyond the end.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8], GgufError> {
        let end = usize::try_from(n).ok().and_then(|n| self.at.checked_add(n));
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(GgufError::Truncated(self.bytes.len()))?;
        self.at += taken.len();
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(self.take(4)?.try_into().map_or(0, u32::from_le_bytes))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(self.take(8)?.try_into().map_or(0, u64::from_le_bytes))
    }

    fn text(&mut self) -> Result<String, GgufError> {
        let length = self.u64()?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    /// A value of the type with this number.
    fn value(&mut self, kind: u32) -> Result<Value, GgufError> {
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
    fn tensor(&mut self) -> Result<Tensor, GgufError> {
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
struct Tensor {
    name: String,
    end: u64,
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tiny(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models");
        std::fs::read(format!("{folder}/tiny-{name}.gguf")).unwrap()
    }

    #[test]
    fn the_header_of_a_model_is_read() {
        let header = Header::parse(&tiny("llama")).unwrap();
        assert_eq!(header.architecture(), "llama");
        assert_eq!(header.context(), Some(4096));
        assert!(header.has_template() && !header.is_adapter());
        let bytes = tiny("llama").len() as u64;
        assert_eq!(header.problem(bytes), None);
        assert!(header.problem(bytes - 100).unwrap().contains("not finished"));
        assert_eq!((header.parts(), header.short_context()), (1, None));
        assert_eq!(Header::parse(&tiny("gemma3")).unwrap().architecture(), "gemma3");
    }

    #[test]
    fn what_is_no_whole_header_is_refused() {
        let whole = tiny("llama");
        assert_eq!(Header::parse(b"GGML"), Err(GgufError::Magic("GGML".into())));
        assert_eq!(Header::parse(b""), Err(GgufError::Magic(String::new())));
        assert_eq!(Header::parse(b"GGUF\x01\0\0\0"), Err(GgufError::Version(1)));
        for length in (4..3000).step_by(7) {
            assert!(Header::parse(&whole[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn what_continues_no_text_says_why() {
        let header = |entries: &[(&str, Value)]| {
            let mut header = Header::parse(&tiny("llama")).unwrap();
            header.values.extend(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
            header.problem(u64::MAX).unwrap_or_default()
        };
        let text = |text: &str| Value::Text(text.into());
        assert_eq!(header(&[]), "");
        assert!(header(&[("general.architecture", text("clip"))]).contains("projector"));
        assert!(header(&[("general.type", text("mmproj"))]).contains("projector"));
        assert!(header(&[("general.type", text("imatrix"))]).contains("imatrix"));
        assert!(header(&[("general.architecture", text("t5"))]).contains("encoder-decoder"));
        assert!(header(&[("general.architecture", text("gemma-embedding"))]).contains("embedding"));
        assert!(header(&[("llama.attention.causal", Value::Bool(false))]).contains("not causal"));
        assert!(header(&[("tokenizer.ggml.model", text("none"))]).contains("no vocabulary"));
        assert!(
            header(&[("llama.context_length", Value::Number(u32::MAX.into()))]).contains("context_length")
        );
        assert!(header(&[("llama.block_count", Value::Number(513))]).contains("1 to 512"));
        assert!(header(&[("split.count", Value::Number(3))]).contains("3 parts"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(at in 4usize..4000, value in any::<u8>()) {
            let mut bytes = tiny("llama");
            bytes[at] = value;
            let header = Header::parse(&bytes[..20_000.min(bytes.len())]);
            let _ = header.map(|header| header.problem(20_000));
        }
    }
}
