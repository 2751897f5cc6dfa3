//! One context: evaluate, snapshot, restore, logits.

use std::num::NonZeroU32;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams, RopeScalingType};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use super::model::{self, Loaded, Model, whole_segments};
use super::{EngineError, Result, logged_reason};
use crate::sys;
use pcache_format::Layout;
use pcache_format::sequence::{self, Expected, Place};
use pcache_format::{KvType, Params, Rope, RopeFactors, RopeScaling, SEGMENT_TOKENS, Segment};

/// The sequence that is evaluated.
const MAIN: i32 = 0;
/// The sequence through which segments go in and out; it only ever shares cells with [`MAIN`].
const PORT: i32 = 1;
/// The first of the sequences that go on from it: see [`super::slots`].
pub(super) const FIRST_SLOT: i32 = 2;

/// The cells of a context for `wanted` positions: whole segments, on the side of the line between the model's two sets
/// of rotary factors (if it has two) that the parameters say.
fn cells_for(model: &Model, params: &Params, wanted: usize) -> usize {
    let cells = wanted.next_multiple_of(SEGMENT_TOKENS);
    match (params.rope_factors, model.short_context()) {
        (Some(RopeFactors::Long), Some(short)) => cells.max((short + 1).next_multiple_of(SEGMENT_TOKENS)),
        (Some(RopeFactors::Short), Some(short)) => cells.min(whole_segments(short)),
        _ => cells,
    }
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

self_cell::self_cell!(
    /// A context and the model that it reads, which lives as long.
    struct Context {
        owner: Model,
        #[covariant]
        dependent: LlamaContext,
    }
);

/// A context on a model, and how far its sequence goes.
pub struct Session {
    params: Params,
    context: Context,
    batch: LlamaBatch<'static>,
    position: usize,
    cells: usize,
    has_logits: bool,
    /// Whether anything may be in the cache.
    used: bool,
}

impl Session {
    /// Makes a context of at least `cells` positions. Its cost is proportional to them, so ask for what the
    /// job needs.
    ///
    /// # Errors
    /// When llama.cpp refuses, mostly for want of memory.
    pub fn new(model: &Model, params: &Params, cells: usize, threads: u32) -> Result<Self> {
        Self::with_slots(model, params, cells, threads, 0)
    }

    /// As [`Self::new`], with so many sequences besides the one that is evaluated: see [`super::slots`].
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_slots(
        model: &Model,
        params: &Params,
        cells: usize,
        threads: u32,
        slots: u32,
    ) -> Result<Self> {
        let cells = cells_for(model, params, cells);
        let refused = |reason| EngineError::Context { cells, reason };
        // Positions are i32 in llama.cpp.
        let n_ctx = i32::try_from(cells).ok().and_then(|n| NonZeroU32::new(n.unsigned_abs()));
        if n_ctx.is_none() {
            return Err(refused("the number is out of range".into()));
        }
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
        let sequences = match model.layout() {
            Layout::Snapshot if slots == 0 => 1,
            Layout::Segment | Layout::Snapshot => FIRST_SLOT.unsigned_abs() + slots,
        };
        let threads = i32::try_from(threads).unwrap_or(1);
        let options = LlamaContextParams::default()
            .with_n_ctx(n_ctx)
            .with_n_batch(SEGMENT_TOKENS as u32)
            .with_n_ubatch(SEGMENT_TOKENS as u32)
            .with_n_seq_max(sequences)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_type_k(kv_type)
            .with_type_v(kv_type)
            .with_flash_attention_policy(flash)
            .with_kv_unified(true)
            .with_swa_full(true)
            .with_no_perf(true);
        let options = with_rope(options, &params.rope);
        let backend = model::backend()?;
        let context = Context::try_new(model.clone(), |model| -> Result<_> {
            let Loaded { llama, adapter, .. } = &*model.0;
            let mut context = llama.new_context(backend, options).map_err(|_| refused(logged_reason()))?;
            let mut adapter = adapter.lock().unwrap_or_else(|e| e.into_inner());
            match (adapter.as_mut(), &params.lora) {
                (_, None) => {}
                (Some(adapter), Some(lora)) => {
                    let set = context.lora_adapter_set(adapter, lora.scale);
                    set.map_err(|e| refused(format!("the LoRA adapter: {e}")))?;
                }
                (None, Some(_)) => {
                    return Err(refused("its states need a LoRA adapter, and the model has none".into()));
                }
            }
            Ok(context)
        })?;
        Ok(Self {
            params: params.clone(),
            context,
            batch: LlamaBatch::new(SEGMENT_TOKENS, 1),
            position: 0,
            cells,
            has_logits: false,
            used: false,
        })
    }

    /// Positions evaluated or restored so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Positions there is room for.
    pub fn cells(&self) -> usize {
        self.cells
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.context.borrow_owner()
    }

    /// Forgets everything. Zeroes the cache, so it costs what making the context did; a new one is left alone.
    pub fn reset(&mut self) {
        if !std::mem::take(&mut self.used) {
            return;
        }
        self.change(|context| context.clear_kv_cache());
        self.position = 0;
        self.has_logits = false;
    }

    /// Evaluates `tokens` at the current position, in batches of [`SEGMENT_TOKENS`]. With `logits` those after
    /// the last token can be read and sampled from.
    ///
    /// # Errors
    /// When there is no room for them or llama.cpp fails.
    pub fn evaluate(&mut self, tokens: &[i32], logits: bool) -> Result<()> {
        let batches = tokens.chunks(SEGMENT_TOKENS).len();
        for (i, ids) in tokens.chunks(SEGMENT_TOKENS).enumerate() {
            self.evaluate_batch(ids, logits && i + 1 == batches)?;
        }
        Ok(())
    }

    fn evaluate_batch(&mut self, ids: &[i32], logits: bool) -> Result<()> {
        let first = self.position;
        if first + ids.len() > self.cells {
            let reason = format!("the context has {} cells", self.cells);
            return Err(EngineError::Evaluate { first, count: ids.len(), reason });
        }
        let place = |(i, id): (usize, &i32)| (*id, first + i, MAIN, logits && i + 1 == ids.len());
        self.decode(first, ids.iter().enumerate().map(place))?;
        self.position += ids.len();
        self.has_logits = logits;
        Ok(())
    }

    /// Evaluates tokens, each with its position, its sequence and whether its logits are wanted; at most
    /// [`SEGMENT_TOKENS`]. `first` is for error messages.
    pub(super) fn decode(
        &mut self,
        first: usize,
        tokens: impl ExactSizeIterator<Item = (i32, usize, i32, bool)>,
    ) -> Result<()> {
        let count = tokens.len();
        let failed = |reason| EngineError::Evaluate { first, count, reason };
        self.used = true;
        self.batch.clear();
        for (id, position, sequence, logits) in tokens {
            let position = i32::try_from(position).map_err(|e| failed(e.to_string()))?;
            let added = self.batch.add(LlamaToken(id), position, &[sequence], logits);
            added.map_err(|e| failed(e.to_string()))?;
        }
        let batch = &mut self.batch;
        let decoded = self.context.with_dependent_mut(|_, context| context.decode(batch));
        decoded.map_err(|e| failed(format!("{e} ({})", logged_reason())))
    }

    /// Empties sequence `to` and lets it go on from what was evaluated. Where all of a state is in cells, they are only
    /// tagged.
    ///
    /// # Errors
    /// When llama.cpp refuses.
    pub(super) fn fork(&mut self, to: i32) -> Result<()> {
        self.empty(to)?;
        self.copy(MAIN, to, None)
    }

    /// Empties a sequence.
    fn empty(&mut self, sequence: i32) -> Result<()> {
        let emptied =
            self.change(|context| context.clear_kv_cache_seq(Some(sequence.unsigned_abs()), None, None));
        match emptied {
            Ok(true) => Ok(()),
            Ok(false) => Err(EngineError::Cells { sequence, reason: "it cannot be emptied".into() }),
            Err(error) => Err(EngineError::Cells { sequence, reason: error.to_string() }),
        }
    }

    /// Tags the cells of positions of `from`, or all of them, as those of `to`, too.
    fn copy(&mut self, from: i32, to: i32, positions: Option<(u32, u32)>) -> Result<()> {
        let (first, end) = positions.unzip();
        let copied = self.change(|context| context.copy_kv_cache_seq(from, to, first, end));
        copied.map_err(|error| EngineError::Cells { sequence: to, reason: error.to_string() })
    }

    fn change<T>(&mut self, change: impl FnOnce(&mut LlamaContext<'_>) -> T) -> T {
        self.context.with_dependent_mut(|_, context| change(context))
    }

    /// Waits until what was evaluated is computed, for timings.
    pub fn wait(&self) {
        self.context().synchronize();
    }

    /// Saves the state of `segment` into `buffer`: its positions alone, or for a model whose state cannot be
    /// cut everything up to the current position.
    ///
    /// # Errors
    /// When llama.cpp writes another size than it announced, or what [`Self::restore`] would refuse.
    pub fn snapshot(&mut self, segment: &Segment, buffer: &mut Vec<u8>) -> Result<()> {
        let save = |context: &LlamaContext<'_>, seq, buffer: &mut Vec<u8>| {
            sys::state::save_sequence(context, seq, buffer)
                .map_err(|(expected, written)| EngineError::Save { expected, written })
        };
        match self.model().layout() {
            Layout::Snapshot => save(self.context(), MAIN, buffer)?,
            Layout::Segment => {
                // Tags cells only; conversions fail beyond i32::MAX, which `new` has excluded.
                self.copy(MAIN, PORT, Some((segment.first as u32, segment.end() as u32)))?;
                let saved = save(self.context(), PORT, buffer);
                self.empty(PORT)?;
                saved?;
            }
        }
        sequence::check(buffer, &self.expected(segment)).map_err(EngineError::UnknownState)
    }

    /// The sequence through which states go in and out.
    fn door(&self) -> i32 {
        match self.model().layout() {
            Layout::Segment => PORT,
            Layout::Snapshot => MAIN,
        }
    }

    fn expected(&self, segment: &Segment) -> Expected {
        let model = self.model();
        Expected::of(model.layout(), Place::unified(self.door()), segment, &self.params, model.layers())
    }

    /// Restores `state`, which [`Self::snapshot`] gave for `segment`, after what was restored so far.
    ///
    /// # Errors
    /// When it is not a state of that segment on this model, down to the last number in it, or when llama.cpp refuses
    /// it. The session must then be reset.
    pub fn restore(&mut self, segment: &Segment, state: &[u8]) -> Result<()> {
        sequence::check(state, &self.expected(segment))
            .map_err(|reason| EngineError::NoState { first: segment.first, reason })?;
        self.used = true;
        let target = self.door();
        let loaded = self.change(|context| sys::state::load_sequence(context, target, state));
        let last = segment.end() as i32 - 1;
        if !loaded || self.context().kv_cache_seq_pos_max(target) != last {
            return Err(EngineError::Restore {
                first: segment.first,
                bytes: state.len(),
                reason: logged_reason(),
            });
        }
        if target == PORT {
            self.copy(PORT, MAIN, None)?;
            self.empty(PORT)?;
        }
        self.position = segment.end();
        self.has_logits = false;
        Ok(())
    }

    /// The logits after the last evaluated token, one per token of the vocabulary, if they were asked for.
    pub fn logits(&self) -> Option<&[f32]> {
        self.has_logits.then(|| self.context().get_logits_ith(-1))
    }

    /// The logits number `index` of the last batch, one per token of the vocabulary; -1 is the last.
    pub(super) fn logits_at(&self, index: i32) -> &[f32] {
        self.context().get_logits_ith(index)
    }

    /// Whether the last evaluation left logits to sample from.
    pub fn has_logits(&self) -> bool {
        self.has_logits
    }

    pub(super) fn context(&self) -> &LlamaContext<'_> {
        self.context.borrow_dependent()
    }
}
