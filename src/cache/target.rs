//! A model and the parameters of its states.

use std::path::PathBuf;

use anyhow::Result;

use super::{Observer, load};
use pcache_engine::gguf::Header;
use pcache_engine::model::Model;
use pcache_format::{ChainKey, Layout, ModelHash, Params};
use pcache_store::Prefix;

/// A model, what is put on top of it, and the parameters of its states.
#[derive(Debug, Clone)]
pub struct Target {
    /// File of the model.
    pub model_path: PathBuf,
    /// Name of the model, for people.
    pub model_name: String,
    /// Hash of that file.
    pub model: ModelHash,
    /// Without the choice of rotary factors, which depends on the prompt's length.
    pub params: Params,
    /// Flash attention is as this machine has it best: a state with the other value is as good.
    pub any_attention: bool,
    /// Its LoRA adapter's file.
    pub lora: Option<PathBuf>,
    /// Layers of the model on a GPU.
    pub gpu_layers: u32,
}

impl Target {
    /// The same with the other value of flash attention, where that is as good.
    pub fn with_other_attention(&self) -> Option<Self> {
        let params = self.params.with_other_attention().filter(|_| self.any_attention)?;
        Some(Self { params, any_attention: false, ..self.clone() })
    }

    /// Beginnings of the chains of its states.
    pub fn roots(&self) -> Vec<ChainKey> {
        let other = self.with_other_attention();
        let all = std::iter::once(self).chain(other.as_ref());
        all.map(|target| target.params.root(&target.model)).collect()
    }

    /// Tokens under this model and these parameters.
    ///
    /// # Errors
    /// When the model's header cannot be read.
    pub fn prefix(&self, layout: Layout, tokens: Vec<i32>) -> Result<Prefix> {
        let mut params = self.params.clone();
        if let Some(short) = Header::read(&self.model_path)?.short_context() {
            let short = usize::try_from(short).unwrap_or(usize::MAX);
            params.rope_factors = Some(Model::rope_factors(tokens.len(), short));
        }
        Ok(Prefix::new(self.model, params, layout, tokens))
    }

    /// Loads the model with its adapter.
    ///
    /// # Errors
    /// When llama.cpp refuses one of the files.
    pub fn load(&self, observer: &dyn Observer) -> Result<Model> {
        load(observer, &self.model_path, self.gpu_layers, self.lora.as_deref())
    }
}
