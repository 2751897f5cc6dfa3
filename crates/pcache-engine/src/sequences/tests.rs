//! Cut and join against what llama.cpp itself writes: in a context in which all sequences share one pool of cells, and in one in
//! which each has a stream of its own.

use std::num::NonZeroU32;

use crate::sys::state::{load_sequence, save_sequence};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use pcache_format::sequence::{Expected, Place, SequenceState, Window, join};
use pcache_format::{KvType, Layout, SEGMENT_TOKENS};

const TINY: [&str; 5] = ["llama", "gemma3", "mamba2", "qwen35", "lfm2"];

fn tiny(name: &str) -> String {
    format!("{}/../../tests/fixtures/models/tiny-{name}.gguf", env!("CARGO_MANIFEST_DIR"))
}

const TOKENS: usize = 600;
const STREAMS: u32 = 4;

/// Options of a context's cache.
#[derive(Debug, Clone, Copy)]
struct Cache {
    kv_type: KvType,
    flash_attention: bool,
}

const CACHES: [Cache; 3] = [
    Cache { kv_type: KvType::F16, flash_attention: false },
    Cache { kv_type: KvType::F16, flash_attention: true },
    Cache { kv_type: KvType::Q8_0, flash_attention: true },
];

fn context<'m>(model: &'m LlamaModel, cache: Cache, sequences: u32, unified: bool) -> LlamaContext<'m> {
    let kv_type = match cache.kv_type {
        KvType::F16 => KvCacheType::F16,
        KvType::Q8_0 => KvCacheType::Q8_0,
        KvType::Q4_0 => KvCacheType::Q4_0,
    };
    let flash = match cache.flash_attention {
        true => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        false => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_DISABLED,
    };
    let cells = 768 * if unified { 1 } else { sequences };
    let options = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(cells))
        .with_n_batch(SEGMENT_TOKENS as u32)
        .with_n_ubatch(SEGMENT_TOKENS as u32)
        .with_n_seq_max(sequences)
        .with_n_threads(2)
        .with_n_threads_batch(2)
        .with_type_k(kv_type)
        .with_type_v(kv_type)
        .with_flash_attention_policy(flash)
        .with_kv_unified(unified)
        .with_swa_full(true);
    model.new_context(crate::model::backend().unwrap(), options).unwrap()
}

fn evaluate(context: &mut LlamaContext<'_>, sequence: i32, vocabulary: i32) {
    for first in (0..TOKENS).step_by(SEGMENT_TOKENS) {
        let mut batch = LlamaBatch::new(SEGMENT_TOKENS, 1);
        for position in first..(first + SEGMENT_TOKENS).min(TOKENS) {
            let token = LlamaToken((position as i32 * 7 + 3) % vocabulary);
            batch.add(token, position as i32, &[sequence], false).unwrap();
        }
        context.decode(&mut batch).unwrap();
    }
}

fn save(context: &LlamaContext<'_>, sequence: i32) -> Vec<u8> {
    let mut buffer = Vec::new();
    save_sequence(context, sequence, &mut buffer).unwrap();
    buffer
}

/// The state of some positions, as a session takes it: tagged for another sequence, and saved.
fn segment(context: &mut LlamaContext<'_>, first: usize, end: usize) -> Vec<u8> {
    context.copy_kv_cache_seq(0, 1, Some(first as u32), Some(end as u32)).unwrap();
    let saved = save(context, 1);
    context.clear_kv_cache_seq(Some(1), None, None).unwrap();
    saved
}

/// Number of positions that a sliding window of the model has, if it has any: others name a size, too, and ignore it.
fn window_of(model: &LlamaModel) -> Option<usize> {
    let architecture = model.meta_val_str("general.architecture").unwrap();
    let named = model.meta_val_str(&format!("{architecture}.attention.sliding_window"));
    (architecture == "gemma3").then(|| named.unwrap().parse().unwrap())
}

#[test]
fn what_is_cut_and_joined_is_what_llama_cpp_writes() {
    for name in TINY {
        let model = LlamaModel::load_from_file(
            crate::model::backend().unwrap(),
            tiny(name),
            &LlamaModelParams::default(),
        )
        .unwrap();
        let cut = !(model.is_recurrent() || model.is_hybrid());
        for cache in CACHES {
            let layout = if cut { Layout::Segment } else { Layout::Snapshot };
            let layers = model.n_layer() as usize;
            let expected = |place: Place, first: usize, count: usize| Expected {
                layout,
                place,
                first,
                count,
                kv_type: cache.kv_type,
                transposed: !cache.flash_attention,
                layers,
            };
            let what = format!("{name}, {cache:?}");

            let mut unified = context(&model, cache, if cut { 2 } else { 1 }, true);
            evaluate(&mut unified, 0, model.n_vocab());
            let (whole, pieces) = if cut {
                let ends = [(0, 256), (256, 512), (512, TOKENS)];
                let pieces = ends.map(|(a, b)| (a, b, segment(&mut unified, a, b)));
                (segment(&mut unified, 0, TOKENS), pieces.to_vec())
            } else {
                let whole = save(&unified, 0);
                (whole.clone(), vec![(0, TOKENS, whole)])
            };
            let place = Place::unified(i32::from(cut));
            let parsed: Vec<SequenceState<'_>> = pieces
                .iter()
                .map(|(a, b, bytes)| SequenceState::parse(bytes, &expected(place, *a, b - a)).unwrap())
                .collect();
            let mut joined = Vec::new();
            let window = window_of(&model).map_or(Window::None, |reach| Window::From(TOKENS - reach));
            join(&parsed, window, place, &mut joined).unwrap();
            assert!(joined == whole, "{what}: segments joined are the state of all positions");

            // Beside three other sequences, each with cells of its own.
            let mut streams = context(&model, cache, STREAMS, false);
            evaluate(&mut streams, 2, model.n_vocab());
            let own = Place::in_stream(2, STREAMS);
            let saved = save(&streams, 2);
            let state = SequenceState::parse(&saved, &expected(own, 0, TOKENS))
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            for (a, b, bytes) in &pieces {
                let mut piece = Vec::new();
                let cut = state.cut(*a..*b, place, &mut piece);
                if *b < TOKENS && window != Window::None {
                    assert!(cut.is_err(), "{what}: the window has let go of positions {a}..{b}");
                    continue;
                }
                cut.unwrap();
                assert!(piece == *bytes, "{what}: positions {a}..{b} of a stream are the segment");
            }
            let other = Place::in_stream(3, STREAMS);
            join(&parsed, window, other, &mut joined).unwrap();
            assert!(load_sequence(&mut streams, 3, &joined), "{what}: joined segments are restored");
            assert!(save(&streams, 3) == joined, "{what}: and saved again as they were");
            assert!(save(&streams, 2) == saved, "{what}: the other sequence is as it was");
        }
    }
}
