//! A loaded model: weights, vocabulary, kind.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::model::{LlamaLoraAdapter, LlamaModel};
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;

use super::stack;
use super::text::{Run, Specials, Text};
use super::{EngineError, Result, logged_reason};
use pcache_format::Layout;
use pcache_format::{Params, RopeFactors, SEGMENT_TOKENS};

/// Options for loading a model.
#[derive(Default)]
#[non_exhaustive]
pub struct ModelOptions {
    gpu_layers: u32,
    adapter: Option<PathBuf>,
    progress: Option<Progress>,
}

/// Hears which share of a model is loaded.
type Progress = Box<dyn FnMut(f32)>;

impl ModelOptions {
    /// Puts so many layers on a GPU; 0 without it.
    pub fn gpu_layers(mut self, layers: u32) -> Self {
        self.gpu_layers = layers;
        self
    }

    /// Puts the LoRA adapter at `path` on top of the model; its scale is a parameter of each state.
    pub fn adapter(mut self, path: impl Into<PathBuf>) -> Self {
        self.adapter = Some(path.into());
        self
    }

    /// Tells which share of the model is loaded, from 0 to 1, on the thread that loads it.
    pub fn progress(mut self, progress: impl FnMut(f32) + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }
}

/// llama.cpp, started when the first model is loaded.
pub(super) fn backend() -> Result<&'static LlamaBackend> {
    static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
    let started = BACKEND.get_or_init(|| {
        crate::sys::log::install();
        LlamaBackend::init().map_err(|e| e.to_string())
    });
    started.as_ref().map_err(|reason| EngineError::Backend(reason.clone()))
}

/// Characters that vocabularies merge with no text: a control character, which SentencePiece spells as a byte, and a newline.
const GUARDS: [&str; 2] = ["\u{1}", "\n"];

/// Positions that a state under the short set of rotary factors leaves for question and answer.
const ROOM_FOR_CONVERSATION: usize = 512;

/// llama.cpp rounds contexts up to whole multiples of this; rounding down here stays on this side of a limit.
pub(super) fn whole_segments(cells: usize) -> usize {
    cells / SEGMENT_TOKENS * SEGMENT_TOKENS
}

/// A loaded model. A clone is the same model, and threads can share it; it goes with the last one who has it.
#[derive(Clone)]
pub struct Model(pub(super) Arc<Loaded>);

/// Parts of a loaded model.
pub(super) struct Loaded {
    pub(super) llama: LlamaModel,
    path: PathBuf,
    specials: Specials,
    /// Applied to every session; behind a lock only because llama.cpp's binding wants it mutable.
    pub(super) adapter: Mutex<Option<LlamaLoraAdapter>>,
}

impl Model {
    /// Loads the model at `path`.
    ///
    /// # Errors
    /// When llama.cpp refuses the file or the adapter, for instance because it was made for another model; or the model
    /// does not continue text.
    pub fn load(path: &Path, options: ModelOptions) -> Result<Self> {
        let mut params = LlamaModelParams::default().with_n_gpu_layers(options.gpu_layers);
        if let Some(mut progress) = options.progress {
            params = params.with_progress_callback(move |share| {
                progress(share);
                true
            });
        }
        let mut loaded = Loaded::from_file(path, &params)?;
        if let Some(path) = options.adapter {
            let adapter = loaded.llama.lora_adapter_init(&path);
            let adapter = adapter.map_err(|_| EngineError::Load { path, reason: logged_reason() })?;
            loaded.adapter = Mutex::new(Some(adapter));
        }
        let model = Self(Arc::new(loaded));
        model.check_generative()?;
        Ok(model)
    }

    /// Loads the vocabulary of the model at `path` and no weights: enough to tokenise, in a fraction of the time.
    ///
    /// # Errors
    /// When llama.cpp refuses the file.
    pub fn load_vocabulary(path: &Path) -> Result<Self> {
        let loaded = Loaded::from_file(path, &LlamaModelParams::default().with_vocab_only(true))?;
        Ok(Self(Arc::new(loaded)))
    }

    /// The file it was loaded from.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The architecture, as `llama` or `qwen35`.
    pub fn architecture(&self) -> String {
        self.0.llama.meta_val_str("general.architecture").unwrap_or_else(|_| "unknown".into())
    }

    /// The longest context that the model was trained for, in tokens.
    pub fn trained_context(&self) -> usize {
        self.0.llama.n_ctx_train() as usize
    }

    /// The longest context under `params`: a stretched rotary embedding reaches further, and a model with two
    /// sets of rotary factors ends with the short one's context.
    pub fn usable_context(&self, params: &Params) -> usize {
        let trained = self.trained_context();
        let stretched = match params.rope.freq_scale {
            Some(scale) if scale < 1.0 => {
                let base = params.rope.yarn_orig_ctx.map_or(trained, |n| n as usize);
                (base as f64 / f64::from(scale)) as usize
            }
            _ => trained,
        };
        match (params.rope_factors, self.short_context()) {
            (Some(RopeFactors::Short), Some(short)) => stretched.min(whole_segments(short)),
            _ => stretched,
        }
    }

    /// The context up to which llama.cpp uses the short set of rotary factors.
    pub(super) fn short_context(&self) -> Option<usize> {
        let key = format!("{}.rope.scaling.original_context_length", self.architecture());
        let original = self.0.llama.meta_val_str(&key).ok().and_then(|v| v.parse().ok());
        original.or(Some(self.trained_context()))
    }

    /// The number of its layers.
    pub fn layers(&self) -> usize {
        self.0.llama.n_layer() as usize
    }

    /// Layout of its saved states: attention caches in segments, recurrent and hybrid ones as one snapshot.
    pub fn layout(&self) -> Layout {
        if self.0.llama.is_recurrent() || self.0.llama.is_hybrid() {
            Layout::Snapshot
        } else {
            Layout::Segment
        }
    }

    /// The chat template that the model file carries.
    pub fn chat_template(&self) -> Option<String> {
        self.0.llama.chat_template(None).ok().and_then(|t| t.to_string().ok())
    }

    /// Number of tokens in the vocabulary.
    pub fn vocabulary(&self) -> i32 {
        self.0.llama.n_vocab()
    }

    /// Returns true if `token` ends an answer.
    pub fn ends_answer(&self, token: i32) -> bool {
        self.0.llama.vocab().is_eog(LlamaToken(token))
    }

    /// Returns true if `token` is one of the vocabulary's control tokens.
    pub fn is_control(&self, token: i32) -> bool {
        self.0.llama.vocab().is_control(LlamaToken(token))
    }

    /// The bytes of a token as they appear in an answer: control tokens have none.
    pub fn piece(&self, token: i32) -> Vec<u8> {
        self.0.llama.vocab().token_to_piece(LlamaToken(token), false, None)
    }

    /// The text of tokens, control tokens included.
    pub fn text_of(&self, tokens: &[i32]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|t| self.bytes_of(*t)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes of a token in [`Self::text_of`], which can be a part of a character.
    pub fn bytes_of(&self, token: i32) -> Vec<u8> {
        let valid = (0..self.vocabulary()).contains(&token);
        if valid { self.0.llama.vocab().token_to_piece(LlamaToken(token), true, None) } else { Vec::new() }
    }

    /// The text of a control token, as templates write it.
    pub(super) fn control_text(&self, token: i32) -> String {
        let valid = (0..self.vocabulary()).contains(&token);
        let piece = |t| self.0.llama.vocab().token_to_piece(LlamaToken(t), true, None);
        if valid { String::from_utf8_lossy(&piece(token)).into_owned() } else { String::new() }
    }

    /// The vocabulary's beginning-of-text token, if prompts must start with it.
    pub fn required_bos(&self) -> Option<i32> {
        let vocab = self.0.llama.vocab();
        vocab.should_add_bos().then(|| vocab.bos().0)
    }

    /// Tokenises a text whose parts say which of them may contain control tokens. No token is added.
    pub fn tokenize(&self, text: &Text) -> Vec<i32> {
        super::text::tokens_of(text.runs(&self.0.specials), |plain| self.tokenize_plain(plain))
    }

    /// Tokenises a text that goes on where plain text ended: without the space that some tokenizers (SentencePiece) put in
    /// front of a text.
    pub(super) fn tokenize_behind_text(&self, text: &Text) -> Vec<i32> {
        let mut runs = text.runs(&self.0.specials);
        let joined = match runs.first() {
            Some(Run::Plain(first)) if self.adds_a_space() => self.tokenize_joined(first),
            _ => None,
        };
        if joined.is_some() {
            runs.remove(0);
        }
        let rest = super::text::tokens_of(runs, |plain| self.tokenize_plain(plain));
        [joined.unwrap_or_default(), rest].concat()
    }

    /// Tokenises text behind a character that merges with nothing, and takes that one's tokens away again.
    fn tokenize_joined(&self, plain: &str) -> Option<Vec<i32>> {
        GUARDS.iter().find_map(|guard| {
            let alone = self.tokenize_plain(guard);
            let both = self.tokenize_plain(&format!("{guard}{plain}"));
            both.strip_prefix(alone.as_slice()).map(<[i32]>::to_vec)
        })
    }

    fn adds_a_space(&self) -> bool {
        self.text_of(&self.tokenize_plain("a")).starts_with(' ')
    }

    /// A token of plain text: llama.cpp takes what follows any other for the beginning of a text.
    pub(super) fn is_plain(&self, token: i32) -> bool {
        // A manifest may hold any number, and llama.cpp ends the process for one that is no token.
        if !(0..self.vocabulary()).contains(&token) {
            return false;
        }
        let attributes = self.0.llama.vocab().attr(LlamaToken(token));
        let others = [LlamaTokenAttr::Control, LlamaTokenAttr::Unknown, LlamaTokenAttr::UserDefined];
        !others.iter().any(|other| attributes.contains(*other))
    }

    fn tokenize_plain(&self, plain: &str) -> Vec<i32> {
        let tokenize = |text: &str| {
            let tokens = self.0.llama.vocab().tokenize(text.as_bytes(), false, false);
            tokens.into_iter().map(|token| token.0).collect()
        };
        let pieces = self.0.specials.without_markers(plain).into_iter();
        pieces.flat_map(|piece| stack::with_enough(piece, tokenize)).collect()
    }

    /// Tokenises all of `text` but the plain run at its end (if it ends with one), which is given back as text.
    pub(super) fn tokenize_open(&self, text: &Text) -> (Vec<i32>, String) {
        let (closed, tail) = text.split_tail(&self.0.specials);
        (super::text::tokens_of(closed, |plain| self.tokenize_plain(plain)), tail)
    }

    /// Control tokens and chat markers of the vocabulary.
    pub(super) fn specials(&self) -> &Specials {
        &self.0.specials
    }

    /// The texts of the beginning-of-text and end-of-text tokens, for templates that write them.
    pub(super) fn bos_eos_texts(&self) -> (String, String) {
        let vocab = self.0.llama.vocab();
        (self.control_text(vocab.bos().0), self.control_text(vocab.eos().0))
    }

    /// Which of the two sets of rotary factors a state of so many tokens is built with: the short one as long as it
    /// leaves room for a conversation.
    pub fn rope_factors(tokens: usize, short_context: usize) -> RopeFactors {
        if tokens + ROOM_FOR_CONVERSATION <= whole_segments(short_context) {
            RopeFactors::Short
        } else {
            RopeFactors::Long
        }
    }

    fn check_generative(&self) -> Result<()> {
        let reason = if self.0.llama.n_vocab() <= 0 {
            "it has no vocabulary"
        } else if !self.has_causal_attention() {
            "its attention is not causal (an embedding model?)"
        } else {
            return Ok(());
        };
        Err(EngineError::NotGenerative {
            path: self.0.path.clone(),
            architecture: self.architecture(),
            reason,
        })
    }

    fn has_causal_attention(&self) -> bool {
        let key = format!("{}.attention.causal", self.architecture());
        self.0.llama.meta_val_str(&key).map_or(true, |value| value != "false")
    }
}

impl Loaded {
    fn from_file(path: &Path, params: &LlamaModelParams) -> Result<Self> {
        let llama = LlamaModel::load_from_file(backend()?, path, params)
            .map_err(|_| EngineError::Load { path: path.to_owned(), reason: logged_reason() })?;
        let template = llama.chat_template(None).ok().and_then(|t| t.to_string().ok());
        let specials = Specials::read(&llama, &template.unwrap_or_default());
        Ok(Self { path: path.to_owned(), specials, llama, adapter: Mutex::new(None) })
    }
}
