//! Header of a GGUF file, read without llama.cpp: quickly, without its weights, and without trust.
//!
//! llama.cpp aborts the process on some broken files, and says little about the others. So every length is
//! checked here against what is left of the file, and models can be listed without loading one.
//!
//! The layout is that of the GGUF specification, versions 2 and 3
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>): magic, version, number of tensors, number of
//! entries; the entries (key, type, value); then name, shape, type and offset of each tensor.

mod fitness;
mod reader;

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;

use reader::Reader;

/// Bytes that are read of a file first: enough for most headers but for the vocabulary.
const FIRST_READ: u64 = 1 << 20;
/// No header is longer: a vocabulary of a million tokens takes a tenth of it.
const MAX_HEADER: usize = 1 << 28;
/// The tensors of models with a second set of rotary factors for long contexts.
const LONG_FACTORS: &str = "rope_factors_long.weight";

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
