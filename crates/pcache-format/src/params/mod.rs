//! The parameters that change a state's bytes or their meaning, and their canonical text.

use serde::{Deserialize, Serialize};

use crate::epoch::STATE_EPOCH;
pub use crate::id::Namespace;
use crate::id::{ChainKey, ModelHash};

/// Data type of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    /// 16-bit floats: exact, the default.
    #[default]
    F16,
    /// 8-bit blocks of 32: about half the size.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 4-bit blocks of 32: about a quarter of the size, and visibly less exact.
    #[serde(rename = "q4_0")]
    Q4_0,
}

impl KvType {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F16, Self::Q8_0, Self::Q4_0];

    /// Name in keys and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }
}

/// Scaling of positions in the rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Linearly.
    Linear,
    /// By YaRN.
    Yarn,
}

impl RopeScaling {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Linear, Self::Yarn];

    /// Name in keys and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Linear => "linear",
            Self::Yarn => "yarn",
        }
    }
}

/// Overrides of the model's rotary embedding; values that are not given are the model's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rope {
    /// The kind of scaling.
    pub scaling: Option<RopeScaling>,
    /// Base frequency.
    pub freq_base: Option<f32>,
    /// Factor of the frequencies; 0.5 doubles the context.
    pub freq_scale: Option<f32>,
    /// YaRN's mix of extrapolation and interpolation.
    pub yarn_ext_factor: Option<f32>,
    /// YaRN's scaling of attention.
    pub yarn_attn_factor: Option<f32>,
    /// YaRN's low correction dimension.
    pub yarn_beta_fast: Option<f32>,
    /// YaRN's high correction dimension.
    pub yarn_beta_slow: Option<f32>,
    /// The context that the model was first trained for, in tokens.
    pub yarn_orig_ctx: Option<u32>,
}

impl Rope {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `name=value` lines of what is given, in a fixed order.
    fn canonical(&self) -> String {
        let scaling = self.scaling.map(|s| s.name().to_owned());
        // Rust prints the shortest digits that read back as the same float.
        let float = |value: Option<f32>| value.map(|v| v.to_string());
        let lines = [
            ("rope_scaling", scaling),
            ("rope_freq_base", float(self.freq_base)),
            ("rope_freq_scale", float(self.freq_scale)),
            ("yarn_ext_factor", float(self.yarn_ext_factor)),
            ("yarn_attn_factor", float(self.yarn_attn_factor)),
            ("yarn_beta_fast", float(self.yarn_beta_fast)),
            ("yarn_beta_slow", float(self.yarn_beta_slow)),
            ("yarn_orig_ctx", self.yarn_orig_ctx.map(|n| n.to_string())),
        ];
        lines.into_iter().filter_map(|(name, value)| Some(format!("{name}={}\n", value?))).collect()
    }
}

/// Which of a model's two sets of rotary factors is used, where it has two: llama.cpp chooses by the size of the
/// context, so the choice is part of the key and the context is sized to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RopeFactors {
    /// Those for contexts up to the one that the model was first trained for.
    Short,
    /// Those for longer contexts.
    Long,
}

impl RopeFactors {
    /// Name in keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
        }
    }
}

/// A LoRA adapter on top of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// BLAKE3 of the adapter's file.
    pub hash: ModelHash,
    /// Strength; 1 is as trained.
    pub scale: f32,
}

/// Everything beside the model and the tokens that the state's meaning and layout depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Type of both the K and the V cache.
    pub kv_type: KvType,
    /// Attention runs in llama.cpp's fused kernel, which lays V out differently.
    pub flash_attention: bool,
    /// 0 for every new state: where a state was computed is its compute identity, not its key. States of version 0.1
    /// may have another value, which is kept so that their keys stay.
    pub gpu_layers: u32,
    /// llama.cpp's state format ([`STATE_EPOCH`]).
    pub epoch: u32,
    /// Overrides of the model's rotary embedding.
    #[serde(default, skip_serializing_if = "Rope::is_empty")]
    pub rope: Rope,
    /// The set of rotary factors, for models that have two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_factors: Option<RopeFactors>,
    /// The adapter, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// Salt that keeps the states of one user of a server apart from all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Namespace>,
}

/// One parameter that differs: its name and both values, `-` where it is not given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The parameter's name in the canonical text.
    pub name: String,
    /// The value here.
    pub here: String,
    /// The value there.
    pub there: String,
}

impl Params {
    /// Parameters for a cache type, with `auto` flash attention resolved for a processor, or with `on_gpu` for a card.
    ///
    /// The rule is fixed and not measured, so that keys are stable: off for an f16 cache on the CPU, where
    /// it halves the speed of a question, on for a quantised one, which needs it, and on with a GPU.
    pub fn new(kv_type: KvType, on_gpu: bool) -> Self {
        Self {
            kv_type,
            flash_attention: kv_type != KvType::F16 || on_gpu,
            gpu_layers: 0,
            epoch: STATE_EPOCH,
            rope: Rope::default(),
            rope_factors: None,
            lora: None,
            namespace: None,
        }
    }

    /// The other value of flash attention, where `auto` may take either.
    pub fn with_other_attention(&self) -> Option<Self> {
        let free = self.kv_type == KvType::F16;
        free.then(|| Self { flash_attention: !self.flash_attention, ..self.clone() })
    }

    /// The parameters as text, one `name=value` a line in a fixed order. What is hashed and what objects carry.
    /// What a state does without has no line, so a parameter that is added later changes no old key.
    pub fn canonical(&self) -> String {
        let mut text = format!(
            "kv_type={}\nflash_attention={}\ngpu_layers={}\nswa=full\nsegment_tokens={}\nepoch={}\n",
            self.kv_type.name(),
            self.flash_attention,
            self.gpu_layers,
            crate::SEGMENT_TOKENS,
            self.epoch,
        );
        text.push_str(&self.rope.canonical());
        if let Some(factors) = self.rope_factors {
            text.push_str(&format!("rope_factors={}\n", factors.name()));
        }
        if let Some(lora) = &self.lora {
            text.push_str(&format!("lora={}*{}\n", lora.hash.to_hex(), lora.scale));
        }
        if let Some(namespace) = &self.namespace {
            text.push_str(&format!("namespace={}\n", namespace.to_hex()));
        }
        text
    }

    /// Reads what [`Self::canonical`] writes.
    ///
    /// # Errors
    /// [`NotParameters`] for a text that is not exactly what some parameters are written as.
    pub fn parse(text: &str) -> Result<Self, NotParameters> {
        let refused = || NotParameters(text.chars().take(200).collect());
        let lines: Vec<(&str, &str)> =
            text.lines().map(|line| line.split_once('=')).collect::<Option<_>>().ok_or_else(refused)?;
        let fields = Fields(&lines);
        let params = Self {
            kv_type: fields.one_of("kv_type", &KvType::ALL, KvType::name).ok_or_else(refused)?,
            flash_attention: fields.number("flash_attention").ok_or_else(refused)?,
            gpu_layers: fields.number("gpu_layers").ok_or_else(refused)?,
            epoch: fields.number("epoch").ok_or_else(refused)?,
            rope: fields.rope(),
            rope_factors: fields.one_of(
                "rope_factors",
                &[RopeFactors::Short, RopeFactors::Long],
                RopeFactors::name,
            ),
            lora: fields.lora(),
            namespace: fields.number("namespace"),
        };
        // A line that is not understood would be lost, and with it the key.
        if params.canonical() == text { Ok(params) } else { Err(refused()) }
    }

    /// The parameters in which `self` and `other` differ.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let (here, there) = (self.canonical(), other.canonical());
        let value = |text: &str, name: &str| {
            let found = text.lines().filter_map(|l| l.split_once('=')).find(|(n, _)| *n == name);
            found.map_or("-".to_owned(), |(_, value)| value.to_owned())
        };
        let mut names: Vec<&str> =
            here.lines().chain(there.lines()).filter_map(|l| l.split_once('=')).map(|(n, _)| n).collect();
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(*name));
        names
            .into_iter()
            .map(|name| Difference {
                name: name.into(),
                here: value(&here, name),
                there: value(&there, name),
            })
            .filter(|d| d.here != d.there)
            .collect()
    }

    /// The start of every chain under this model and these parameters.
    pub fn root(&self, model: &ModelHash) -> ChainKey {
        let material = format!("model={}\n{}", model.to_hex(), self.canonical());
        ChainKey::from(blake3::derive_key("pcache state v1", material.as_bytes()))
    }
}

/// A text that no parameters are written as.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the parameters {0:?} are not understood")]
pub struct NotParameters(String);

/// Lines of a canonical text.
struct Fields<'a>(&'a [(&'a str, &'a str)]);

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.parse().ok()
    }

    fn one_of<T: Copy>(&self, name: &str, all: &[T], name_of: fn(T) -> &'static str) -> Option<T> {
        let value = self.get(name)?;
        all.iter().copied().find(|one| name_of(*one) == value)
    }

    fn rope(&self) -> Rope {
        Rope {
            scaling: self.one_of("rope_scaling", &RopeScaling::ALL, RopeScaling::name),
            freq_base: self.number("rope_freq_base"),
            freq_scale: self.number("rope_freq_scale"),
            yarn_ext_factor: self.number("yarn_ext_factor"),
            yarn_attn_factor: self.number("yarn_attn_factor"),
            yarn_beta_fast: self.number("yarn_beta_fast"),
            yarn_beta_slow: self.number("yarn_beta_slow"),
            yarn_orig_ctx: self.number("yarn_orig_ctx"),
        }
    }

    fn lora(&self) -> Option<Lora> {
        let (hash, scale) = self.get("lora")?.split_once('*')?;
        Some(Lora { hash: hash.parse().ok()?, scale: scale.parse().ok()? })
    }
}

#[cfg(test)]
mod tests;
