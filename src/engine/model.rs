//! A loaded model: weights, vocabulary, kind.

use std::path::{Path, PathBuf};

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;

use super::text::{Specials, Text};
use super::{EngineError, Result, logged_reason};
use crate::format::Layout;

/// llama.cpp, started once per process.
pub struct Engine {
    pub(super) backend: LlamaBackend,
}

impl Engine {
    /// Starts llama.cpp; with `verbose` its log goes to stderr.
    ///
    /// # Errors
    /// When it was started before.
    pub fn start(verbose: bool) -> Result<Self> {
        crate::sys::log::install(verbose);
        let backend = LlamaBackend::init().map_err(|e| EngineError::Backend(e.to_string()))?;
        Ok(Self { backend })
    }

    /// Loads the model at `path`, with `gpu_layers` of its layers on a GPU. `progress` hears which share is loaded.
    ///
    /// # Errors
    /// When llama.cpp refuses the file, or the model does not continue text.
    pub fn load(
        &self,
        path: &Path,
        gpu_layers: u32,
        mut progress: impl FnMut(f32) + 'static,
    ) -> Result<Model<'_>> {
        let params =
            LlamaModelParams::default().with_n_gpu_layers(gpu_layers).with_progress_callback(move |share| {
                progress(share);
                true
            });
        let llama = LlamaModel::load_from_file(&self.backend, path, &params)
            .map_err(|_| EngineError::Load { path: path.to_owned(), reason: logged_reason() })?;
        let model = Model { engine: self, path: path.to_owned(), specials: Specials::of(&llama), llama };
        model.check_generative()?;
        Ok(model)
    }
}

/// A loaded model.
pub struct Model<'e> {
    pub(super) engine: &'e Engine,
    pub(super) llama: LlamaModel,
    path: PathBuf,
    specials: Specials,
}

impl Model<'_> {
    /// The file it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The architecture, as `llama` or `qwen35`.
    pub fn architecture(&self) -> String {
        self.llama.meta_val_str("general.architecture").unwrap_or_else(|_| "unknown".into())
    }

    /// The longest context that the model was trained for, in tokens.
    pub fn trained_context(&self) -> usize {
        self.llama.n_ctx_train() as usize
    }

    /// How its state is saved: attention caches in segments, recurrent and hybrid ones as one snapshot.
    pub fn layout(&self) -> Layout {
        if self.llama.is_recurrent() || self.llama.is_hybrid() { Layout::Snapshot } else { Layout::Segment }
    }

    /// The chat template that the model file carries.
    pub fn chat_template(&self) -> Option<String> {
        self.llama.chat_template(None).ok().and_then(|t| t.to_string().ok())
    }

    /// Number of tokens in the vocabulary.
    pub fn vocabulary(&self) -> i32 {
        self.llama.n_vocab()
    }

    /// Whether `token` ends an answer.
    pub fn ends_answer(&self, token: i32) -> bool {
        self.llama.vocab().is_eog(LlamaToken(token))
    }

    /// Whether `token` is one of the vocabulary's control tokens.
    pub fn is_control(&self, token: i32) -> bool {
        self.llama.vocab().is_control(LlamaToken(token))
    }

    /// The bytes of a token as they appear in an answer: control tokens have none.
    pub fn piece(&self, token: i32) -> Vec<u8> {
        self.llama.vocab().token_to_piece(LlamaToken(token), false, None)
    }

    /// The text of a control token, as templates write it.
    pub(super) fn control_text(&self, token: i32) -> String {
        let valid = (0..self.vocabulary()).contains(&token);
        let piece = |t| self.llama.vocab().token_to_piece(LlamaToken(t), true, None);
        if valid { String::from_utf8_lossy(&piece(token)).into_owned() } else { String::new() }
    }

    /// The vocabulary's beginning-of-text token, if prompts must start with it.
    pub fn required_bos(&self) -> Option<i32> {
        let vocab = self.llama.vocab();
        vocab.should_add_bos().then(|| vocab.bos().0)
    }

    /// Tokenises a text whose parts say which of them may contain control tokens. No token is added.
    pub fn tokenize(&self, text: &Text) -> Vec<i32> {
        super::text::tokens_of(text.runs(&self.specials), |plain| self.tokenize_plain(plain))
    }

    fn tokenize_plain(&self, plain: &str) -> Vec<i32> {
        let tokens = self.llama.vocab().tokenize(plain.as_bytes(), false, false);
        tokens.into_iter().map(|t| t.0).collect()
    }

    /// Tokenises all of `text` but the plain run at its end (if it ends with one), which is given back as text.
    pub(super) fn tokenize_open(&self, text: &Text) -> (Vec<i32>, String) {
        let (closed, tail) = text.split_tail(&self.specials);
        (super::text::tokens_of(closed, |plain| self.tokenize_plain(plain)), tail)
    }

    /// The texts of the beginning-of-text and end-of-text tokens, for templates that write them.
    pub(super) fn bos_eos_texts(&self) -> (String, String) {
        let vocab = self.llama.vocab();
        (self.control_text(vocab.bos().0), self.control_text(vocab.eos().0))
    }

    fn check_generative(&self) -> Result<()> {
        let reason = if self.llama.n_vocab() <= 0 {
            "it has no vocabulary"
        } else if !self.has_causal_attention() {
            "its attention is not causal (an embedding model?)"
        } else {
            return Ok(());
        };
        Err(EngineError::NotGenerative { path: self.path.clone(), architecture: self.architecture(), reason })
    }

    fn has_causal_attention(&self) -> bool {
        let key = format!("{}.attention.causal", self.architecture());
        self.llama.meta_val_str(&key).map_or(true, |value| value != "false")
    }
}
