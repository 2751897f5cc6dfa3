//! Small GGUF files made for tests: an adapter, a model with two sets of rotary factors, a vocabulary.
use std::path::Path;

/// Data begins on a multiple of this many bytes.
const ALIGN: usize = 32;
const F32: u32 = 0;

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn text_entry(out: &mut Vec<u8>, key: &str, value: &str) {
    text(out, key);
    out.extend(8u32.to_le_bytes());
    text(out, value);
}

fn float_entry(out: &mut Vec<u8>, key: &str, value: f32) {
    text(out, key);
    out.extend(6u32.to_le_bytes());
    out.extend(value.to_le_bytes());
}

fn tensor(out: &mut Vec<u8>, name: &str, shape: &[u64], offset: usize) {
    text(out, name);
    out.extend((shape.len() as u32).to_le_bytes());
    shape.iter().for_each(|n| out.extend(n.to_le_bytes()));
    out.extend(F32.to_le_bytes());
    out.extend((offset as u64).to_le_bytes());
}

fn floats(n: usize, value: impl Fn(usize) -> f32) -> Vec<u8> {
    (0..n).flat_map(|i| value(i).to_le_bytes()).collect()
}

fn number_entry(out: &mut Vec<u8>, key: &str, value: u32) {
    text(out, key);
    out.extend(4u32.to_le_bytes());
    out.extend(value.to_le_bytes());
}

/// Begins an entry that is an array of `count` values of a type of GGUF's.
fn array_entry(out: &mut Vec<u8>, key: &str, kind: u32, count: usize) {
    text(out, key);
    out.extend(9u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((count as u64).to_le_bytes());
}

/// Writes a SentencePiece vocabulary without a model: control tokens, all bytes, the space, and each of `pieces`.
pub fn write_sentencepiece(path: &Path, pieces: &[&str]) {
    const NORMAL: i32 = 1;
    let mut tokens = vec![("<unk>".to_owned(), 2), ("<s>".to_owned(), 3), ("</s>".to_owned(), 3)];
    tokens.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), 6)));
    tokens.extend(["\u{2581}"].iter().chain(pieces).map(|piece| ((*piece).to_owned(), NORMAL)));
    let mut entries = Vec::new();
    text_entry(&mut entries, "general.architecture", "llama");
    for (key, value) in [
        ("context_length", 4096),
        ("embedding_length", 64),
        ("block_count", 1),
        ("feed_forward_length", 64),
        ("attention.head_count", 1),
    ] {
        number_entry(&mut entries, &format!("llama.{key}"), value);
    }
    float_entry(&mut entries, "llama.attention.layer_norm_rms_epsilon", 1e-5);
    text_entry(&mut entries, "tokenizer.ggml.model", "llama");
    array_entry(&mut entries, "tokenizer.ggml.tokens", 8, tokens.len());
    tokens.iter().for_each(|(piece, _)| text(&mut entries, piece));
    array_entry(&mut entries, "tokenizer.ggml.scores", 6, tokens.len());
    entries.extend(floats(tokens.len(), |i| -(i as f32)));
    array_entry(&mut entries, "tokenizer.ggml.token_type", 5, tokens.len());
    tokens.iter().for_each(|(_, kind)| entries.extend(i32::to_le_bytes(*kind)));
    for (key, token) in [("unknown", 0), ("bos", 1), ("eos", 2)] {
        number_entry(&mut entries, &format!("tokenizer.ggml.{key}_token_id"), token);
    }
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(14u64.to_le_bytes());
    file.extend(entries);
    file.resize(file.len().next_multiple_of(ALIGN), 0);
    std::fs::write(path, file).unwrap();
}

/// Writes a LoRA adapter for the tiny llama: it changes the keys and values of the first layer.
pub fn write_adapter(path: &Path, seed: usize) {
    const WIDTH: usize = 256;
    const RANK: usize = 4;
    let mut entries = Vec::new();
    text_entry(&mut entries, "general.type", "adapter");
    text_entry(&mut entries, "general.architecture", "llama");
    text_entry(&mut entries, "adapter.type", "lora");
    float_entry(&mut entries, "adapter.lora.alpha", 4.0);

    let (mut tensors, mut data) = (Vec::new(), Vec::new());
    for (name, shape) in [("lora_a", [WIDTH, RANK]), ("lora_b", [RANK, WIDTH])] {
        for projection in ["attn_k", "attn_v"] {
            let full = format!("blk.0.{projection}.weight.{name}");
            tensor(&mut tensors, &full, &shape.map(|n| n as u64), data.len());
            data.extend(floats(WIDTH * RANK, |i| ((i * 7 + seed) % 11) as f32 / 20.0 - 0.25));
        }
    }
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend(4u64.to_le_bytes());
    file.extend(4u64.to_le_bytes());
    file.extend(entries);
    file.extend(tensors);
    file.resize(file.len().next_multiple_of(ALIGN), 0);
    file.extend(data);
    std::fs::write(path, file).unwrap();
}

/// Writes a copy of the tiny llama that has two sets of rotary factors, the long one beyond `short_context` tokens.
pub fn write_with_rope_factors(model: &Path, path: &Path, short_context: u32) {
    const ROTARY: usize = 128;
    let old = std::fs::read(model).unwrap();
    let number = |at: usize| u64::from_le_bytes(old[at..at + 8].try_into().unwrap());
    let (tensors, entries) = (number(8), number(16));
    let entries_end = skip_entries(&old, 24, entries);
    let tensors_end = skip_tensors(&old, entries_end, tensors);

    let mut data = old[tensors_end.next_multiple_of(ALIGN)..].to_vec();
    data.resize(data.len().next_multiple_of(ALIGN), 0);
    // The one set that the model has becomes the short one.
    let mut infos =
        with_name(&old[entries_end..tensors_end], "rope_freqs.weight", "rope_factors_short.weight");
    tensor(&mut infos, "rope_factors_long.weight", &[ROTARY as u64 / 2], data.len());
    data.extend(floats(ROTARY / 2, |_| 4.0));
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend((tensors + 1).to_le_bytes());
    file.extend(entries.to_le_bytes());
    let entries = with_value(&old[24..entries_end], "llama.rope.scaling.type", "linear", "longrope");
    file.extend(with_number(entries, "llama.rope.scaling.original_context_length", short_context));
    file.extend(infos);
    file.resize(file.len().next_multiple_of(ALIGN), 0);
    file.extend(data);
    std::fs::write(path, file).unwrap();
}

/// Writes a copy of a model in which a token is of another type of GGUF's: 3 is control, 4 user-defined.
pub fn write_with_token_type(model: &Path, path: &Path, token: usize, kind: i32) {
    let mut bytes = std::fs::read(model).unwrap();
    let mut head = Vec::new();
    text(&mut head, "tokenizer.ggml.token_type");
    // An array of i32; its length follows.
    head.extend(9u32.to_le_bytes());
    head.extend(5u32.to_le_bytes());
    let at = bytes.windows(head.len()).position(|w| w == head).expect("the entry is there");
    let at = at + head.len() + 8 + 4 * token;
    bytes[at..at + 4].copy_from_slice(&kind.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}

/// The entries with another number as the value of `key`.
fn with_number(mut entries: Vec<u8>, key: &str, value: u32) -> Vec<u8> {
    let mut head = Vec::new();
    text(&mut head, key);
    head.extend(4u32.to_le_bytes());
    let at = entries.windows(head.len()).position(|w| w == head).expect("the entry is there") + head.len();
    entries[at..at + 4].copy_from_slice(&value.to_le_bytes());
    entries
}

/// The entries with another text as the value of `key`.
fn with_value(entries: &[u8], key: &str, from: &str, to: &str) -> Vec<u8> {
    let (mut old, mut new) = (Vec::new(), Vec::new());
    text_entry(&mut old, key, from);
    text_entry(&mut new, key, to);
    replaced(entries, &old, &new)
}

/// The descriptions of tensors with another name for one.
fn with_name(infos: &[u8], from: &str, to: &str) -> Vec<u8> {
    let (mut old, mut new) = (Vec::new(), Vec::new());
    text(&mut old, from);
    text(&mut new, to);
    replaced(infos, &old, &new)
}

fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = bytes.windows(old.len()).position(|w| w == old).expect("it is there");
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}

fn skip_entries(bytes: &[u8], mut at: usize, count: u64) -> usize {
    for _ in 0..count {
        at = skip_text(bytes, at);
        let kind = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        at = skip_value(bytes, at + 4, kind);
    }
    at
}

fn skip_text(bytes: &[u8], at: usize) -> usize {
    at + 8 + u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

fn skip_value(bytes: &[u8], at: usize, kind: u32) -> usize {
    match kind {
        0 | 1 | 7 => at + 1,
        2 | 3 => at + 2,
        4..=6 => at + 4,
        8 => skip_text(bytes, at),
        9 => {
            let kind = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            let count = u64::from_le_bytes(bytes[at + 4..at + 12].try_into().unwrap());
            (0..count).fold(at + 12, |at, _| skip_value(bytes, at, kind))
        }
        _ => at + 8,
    }
}

fn skip_tensors(bytes: &[u8], mut at: usize, count: u64) -> usize {
    for _ in 0..count {
        at = skip_text(bytes, at);
        let dimensions = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        at += 4 + dimensions * 8 + 4 + 8;
    }
    at
}

/// Value of a header entry.
#[derive(Debug, Clone)]
pub enum Value {
    Text(String),
    Number(u32),
}

/// A GGUF file with other values for some header entries, which it may have or not.
pub fn with(file: &[u8], changes: &[(&str, Value)]) -> Vec<u8> {
    let mut reader = Walk { file, at: 8 };
    let (tensors, entries) = (reader.u64(), reader.u64());
    let mut kept: Vec<&[u8]> = Vec::new();
    for _ in 0..entries {
        let start = reader.at;
        let key = reader.text();
        let kind = reader.u32();
        reader.skip_value(kind);
        if !changes.iter().any(|(changed, _)| changed.as_bytes() == key) {
            kept.push(&file[start..reader.at]);
        }
    }
    let infos = reader.at;
    for _ in 0..tensors {
        reader.text();
        let dimensions = reader.u32();
        reader.at += dimensions as usize * 8 + 12;
    }
    let mut made = file[..8].to_vec();
    made.extend(tensors.to_le_bytes());
    made.extend(((kept.len() + changes.len()) as u64).to_le_bytes());
    kept.iter().for_each(|entry| made.extend(*entry));
    for (key, value) in changes {
        match value {
            Value::Text(text) => text_entry(&mut made, key, text),
            Value::Number(number) => number_entry(&mut made, key, *number),
        }
    }
    made.extend(&file[infos..reader.at]);
    made.resize(made.len().next_multiple_of(ALIGN), 0);
    made.extend(&file[reader.at.next_multiple_of(ALIGN)..]);
    made
}

/// Places of the numbers in a file's header (values of entries but for those in arrays, and all of the tensors' descriptions), with
/// their sizes in bytes.
pub fn numbers(file: &[u8]) -> Vec<(usize, usize)> {
    let mut reader = Walk { file, at: 8 };
    let (tensors, entries) = (reader.u64(), reader.u64());
    let mut found = vec![(8, 8), (16, 8)];
    for _ in 0..entries {
        reader.text();
        let kind = reader.u32();
        let start = reader.at;
        reader.skip_value(kind);
        match kind {
            8 => found.push((start, 8)),
            9 => found.extend([(start, 4), (start + 4, 8)]),
            _ => found.push((start, reader.at - start)),
        }
        found.push((start - 4, 4));
    }
    for _ in 0..tensors {
        reader.text();
        let dimensions = reader.u32() as usize;
        found.push((reader.at - 4, 4));
        found.extend((0..dimensions).map(|n| (reader.at + 8 * n, 8)));
        reader.at += dimensions * 8;
        found.extend([(reader.at, 4), (reader.at + 4, 8)]);
        reader.at += 12;
    }
    found
}

struct Walk<'f> {
    file: &'f [u8],
    at: usize,
}

impl<'f> Walk<'f> {
    fn u32(&mut self) -> u32 {
        self.at += 4;
        u32::from_le_bytes(self.file[self.at - 4..self.at].try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        self.at += 8;
        u64::from_le_bytes(self.file[self.at - 8..self.at].try_into().unwrap())
    }

    fn text(&mut self) -> &'f [u8] {
        let length = self.u64() as usize;
        self.at += length;
        &self.file[self.at - length..self.at]
    }

    fn skip_value(&mut self, kind: u32) {
        let size = |kind: u32| match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            _ => 8,
        };
        match kind {
            8 => {
                self.text();
            }
            9 => {
                let (kind, count) = (self.u32(), self.u64());
                for _ in 0..count {
                    match kind {
                        8 => {
                            self.text();
                        }
                        kind => self.at += size(kind),
                    }
                }
            }
            kind => self.at += size(kind),
        }
    }
}
