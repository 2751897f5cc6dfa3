//! Fitness of a file as a model that continues text, as far as its header says: one function decides, for whoever lists, chooses and loads.

use super::{Header, Value};

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

impl Header {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_continues_no_text_says_why() {
        let header = |entries: &[(&str, Value)]| {
            let mut header = Header::parse(&tiny()).unwrap();
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

    fn tiny() -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/models");
        std::fs::read(format!("{folder}/tiny-llama.gguf")).unwrap()
    }
}
