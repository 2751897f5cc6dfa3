//! A llama.cpp context: the cells of its sequences, and what llama.cpp says when it is asked to change them.

use std::num::NonZeroU32;
use std::ops::Range;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams, RopeScalingType};
use llama_cpp_2::llama_batch::LlamaBatch;

use crate::model::{self, Loaded, Model};
use crate::{EngineError, Result, logged_reason, sys};
use pcache_format::sequence::{Expected, Place};
use pcache_format::{KvType, Params, Rope, RopeScaling, SEGMENT_TOKENS};

self_cell::self_cell!(
    /// A context and the model that it reads, which lives as long.
    struct Owned {
        owner: Model,
        #[covariant]
        dependent: LlamaContext,
    }
);

/// Size and kind of a context.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ContextShape {
    /// Positions of all sequences together.
    pub cells: usize,
    /// Number of sequences.
    pub sequences: u32,
    /// All sequences share one pool of cells.
    pub unified: bool,
    /// Threads that evaluate.
    pub threads: u32,
}

/// A context on a model.
pub(crate) struct Context {
    owned: Owned,
    params: Params,
}

impl Context {
    /// Makes a context.
    ///
    /// # Errors
    /// When llama.cpp refuses, mostly for want of memory.
    pub fn new(model: &Model, params: &Params, shape: ContextShape) -> Result<Self> {
        let refused = |reason| EngineError::Context { cells: shape.cells, reason };
        let options = options(params, shape).ok_or_else(|| refused("the number is out of range".into()))?;
        let backend = model::backend()?;
        let owned = Owned::try_new(model.clone(), |model| -> Result<_> {
            let mut context =
                model.0.llama.new_context(backend, options).map_err(|_| refused(logged_reason()))?;
            add_adapter(&model.0, params, &mut context).map_err(refused)?;
            Ok(context)
        })?;
        Ok(Self { owned, params: params.clone() })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.owned.borrow_owner()
    }

    /// A batch of one token divides its attention over the cells among the threads, where there are many of them and one stream: then
    /// sums are made in another order than beside others.
    pub fn splits_attention(&self) -> bool {
        self.params.flash_attention && self.params.kv_type == KvType::F16
    }

    /// llama.cpp's own context.
    pub fn llama(&self) -> &LlamaContext<'_> {
        self.owned.borrow_dependent()
    }

    fn change<T>(&mut self, change: impl FnOnce(&mut LlamaContext<'_>) -> T) -> T {
        self.owned.with_dependent_mut(|_, context| change(context))
    }

    /// Empties all sequences, and zeroes their cells.
    pub fn clear(&mut self) {
        self.change(|context| context.clear_kv_cache());
    }

    /// Empties a sequence.
    ///
    /// # Errors
    /// When llama.cpp refuses.
    pub fn empty(&mut self, sequence: i32) -> Result<()> {
        let emptied =
            self.change(|context| context.clear_kv_cache_seq(Some(sequence.unsigned_abs()), None, None));
        match emptied {
            Ok(true) => Ok(()),
            Ok(false) => Err(EngineError::Cells { sequence, reason: "it cannot be emptied".into() }),
            Err(error) => Err(EngineError::Cells { sequence, reason: error.to_string() }),
        }
    }

    /// Gives `to` the cells of positions of `from`, or all of them: by a tag in one pool of cells, else as a copy. Between
    /// two streams only all of them can be copied: llama.cpp aborts the process otherwise.
    ///
    /// # Errors
    /// When llama.cpp refuses.
    pub fn copy(&mut self, from: i32, to: i32, positions: Option<(u32, u32)>) -> Result<()> {
        let (first, end) = positions.unzip();
        let copied = self.change(|context| context.copy_kv_cache_seq(from, to, first, end));
        copied.map_err(|error| EngineError::Cells { sequence: to, reason: error.to_string() })
    }

    /// Evaluates a batch whose first token is at position `first`.
    ///
    /// # Errors
    /// When llama.cpp fails, for instance because there is no room.
    pub fn decode(&mut self, first: usize, batch: &mut LlamaBatch<'_>) -> Result<()> {
        let count = batch.n_tokens().unsigned_abs() as usize;
        self.change(|context| context.decode(batch)).map_err(|e| EngineError::Evaluate {
            first,
            count,
            reason: format!("{e} ({})", logged_reason()),
        })
    }

    /// Saves a sequence into `buffer`.
    ///
    /// # Errors
    /// When llama.cpp writes another size than it announced.
    pub fn save(&self, sequence: i32, buffer: &mut Vec<u8>) -> Result<()> {
        sys::state::save_sequence(self.llama(), sequence, buffer)
            .map_err(|(expected, written)| EngineError::Save { expected, written })
    }

    /// Loads a state, which was checked, of `positions` into a sequence.
    ///
    /// # Errors
    /// When llama.cpp refuses it.
    pub fn load(&mut self, sequence: i32, positions: &Range<usize>, state: &[u8]) -> Result<()> {
        let loaded = self.change(|context| sys::state::load_sequence(context, sequence, state));
        if loaded && self.llama().kv_cache_seq_pos_max(sequence) == positions.end as i32 - 1 {
            return Ok(());
        }
        Err(EngineError::Restore { first: positions.start, bytes: state.len(), reason: logged_reason() })
    }

    /// Form of a state of `positions` in that place.
    pub fn expected(&self, place: Place, positions: &Range<usize>) -> Expected {
        let model = self.model();
        Expected::new(model.layout(), place, positions, &self.params, model.layers())
    }
}

/// None where numbers are out of range: positions are i32 in llama.cpp.
fn options(params: &Params, shape: ContextShape) -> Option<LlamaContextParams> {
    let cells = i32::try_from(shape.cells).ok().and_then(|n| NonZeroU32::new(n.unsigned_abs()))?;
    let kv_type = match params.kv_type {
        KvType::F16 => KvCacheType::F16,
        KvType::Q8_0 => KvCacheType::Q8_0,
        KvType::Q4_0 => KvCacheType::Q4_0,
    };
    let flash = if params.flash_attention {
        llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_ENABLED
    } else {
        llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_DISABLED
    };
    let threads = i32::try_from(shape.threads).unwrap_or(1);
    let options = LlamaContextParams::default()
        .with_n_ctx(Some(cells))
        .with_n_batch(SEGMENT_TOKENS as u32)
        .with_n_ubatch(SEGMENT_TOKENS as u32)
        .with_n_seq_max(shape.sequences)
        .with_n_threads(threads)
        .with_n_threads_batch(threads)
        .with_type_k(kv_type)
        .with_type_v(kv_type)
        .with_flash_attention_policy(flash)
        .with_kv_unified(shape.unified)
        .with_swa_full(true)
        .with_no_perf(true);
    Some(with_rope(options, &params.rope))
}

fn with_rope(mut options: LlamaContextParams, rope: &Rope) -> LlamaContextParams {
    if let Some(scaling) = rope.scaling {
        options = options.with_rope_scaling_type(match scaling {
            RopeScaling::None => RopeScalingType::None,
            RopeScaling::Linear => RopeScalingType::Linear,
            RopeScaling::Yarn => RopeScalingType::Yarn,
        });
    }
    type Set = fn(LlamaContextParams, f32) -> LlamaContextParams;
    let floats: [(Option<f32>, Set); 6] = [
        (rope.freq_base, LlamaContextParams::with_rope_freq_base),
        (rope.freq_scale, LlamaContextParams::with_rope_freq_scale),
        (rope.yarn_ext_factor, LlamaContextParams::with_yarn_ext_factor),
        (rope.yarn_attn_factor, LlamaContextParams::with_yarn_attn_factor),
        (rope.yarn_beta_fast, LlamaContextParams::with_yarn_beta_fast),
        (rope.yarn_beta_slow, LlamaContextParams::with_yarn_beta_slow),
    ];
    for (value, set) in floats {
        if let Some(value) = value {
            options = set(options, value);
        }
    }
    match rope.yarn_orig_ctx {
        Some(n) => options.with_yarn_orig_ctx(n),
        None => options,
    }
}

/// Puts the model's adapter on, where the parameters want one.
fn add_adapter(loaded: &Loaded, params: &Params, context: &mut LlamaContext<'_>) -> Result<(), String> {
    let mut adapter = loaded.adapter.lock().unwrap_or_else(|e| e.into_inner());
    match (adapter.as_mut(), &params.lora) {
        (_, None) => Ok(()),
        (Some(adapter), Some(lora)) => {
            context.lora_adapter_set(adapter, lora.scale).map_err(|e| format!("the LoRA adapter: {e}"))
        }
        (None, Some(_)) => Err("its states need a LoRA adapter, and the model has none".into()),
    }
}
