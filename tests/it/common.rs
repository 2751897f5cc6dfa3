//! Models and prompts of the integration tests.
use std::path::{Path, PathBuf};

use pcache_engine::model::{Model, ModelOptions};
use pcache_engine::prompt::{self, Asker, ChatFormat, Ending, Prompt};
use pcache_engine::template::TemplateError;

/// A model, loaded as it is.
pub fn load(path: &Path) -> Model {
    Model::load(path, ModelOptions::default()).unwrap()
}

/// A prompt in the model's own chat template, as a file has it: with a newline at its end that is the file's.
pub fn from_template(model: &Model, text: &str) -> Result<Prompt, TemplateError> {
    prompt::from_template(model, text.trim_end_matches('\n'), &ChatFormat::default())
}

/// The tokens that an ask evaluates behind a state.
pub fn question_tokens(model: &Model, ending: Ending<'_>, question: &str) -> Vec<i32> {
    Asker::new(model, ending).ask(model, question).tokens
}

/// The tiny models with random weights, one per kind of state.
pub const TINY: [&str; 5] = ["llama", "gemma3", "mamba2", "qwen35", "lfm2"];

/// The path of a tiny model.
pub fn tiny(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/models/tiny-{name}.gguf"))
}

/// The path of SmolLM2, which `scripts/test` fetches.
pub fn smollm2() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .expect("a home folder");
    let path = cache.join("pcache/models/smollm2-135m.gguf");
    assert!(path.is_file(), "{} is missing: run scripts/fetch-model smollm2-135m", path.display());
    path
}

/// English-like text of about `words` words, different for each `seed`.
pub fn prose(words: usize, seed: u64) -> String {
    const WORDS: [&str; 16] = [
        "the", "baker", "opens", "at", "six", "and", "bread", "is", "warm", "until", "noon", "cheese",
        "sold", "out", "again", "today",
    ];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::new();
    for i in 0..words {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = WORDS[(state % WORDS.len() as u64) as usize];
        text.push_str(if i == 0 { "" } else { " " });
        text.push_str(word);
        if i % 11 == 10 {
            text.push('.');
        }
    }
    text
}

/// Returns true if the long tests run to their full length: `scripts/test --full`.
pub fn full() -> bool {
    std::env::var_os("PCACHE_TEST_FULL").is_some_and(|value| value != "0")
}
