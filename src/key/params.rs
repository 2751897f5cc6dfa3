//! The parameters that change a state's bytes or their meaning, and their canonical text.

use serde::{Deserialize, Serialize};

use super::epoch::STATE_EPOCH;
use super::id::{ChainKey, ModelHash};

/// How the elements of the KV cache are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum, Default)]
#[serde(rename_all = "lowercase")]
pub enum KvType {
    /// 16-bit floats: exact, the default.
    #[default]
    F16,
    /// 8-bit blocks of 32: about half the size.
    #[value(name = "q8_0")]
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 4-bit blocks of 32: about a quarter of the size, and visibly less exact.
    #[value(name = "q4_0")]
    #[serde(rename = "q4_0")]
    Q4_0,
}

impl KvType {
    /// The name used in keys and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
        }
    }
}

/// How positions are scaled in the rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Linearly.
    Linear,
    /// By YaRN.
    Yarn,
}

/// What replaces the model's own rotary embedding; what is not given is the model's.
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
        let scaling = self.scaling.map(|s| format!("{s:?}").to_lowercase());
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

/// A LoRA adapter on top of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// BLAKE3 of the adapter's file.
    pub hash: ModelHash,
    /// How strongly it applies; 1 is as trained.
    pub scale: f32,
}

/// Everything beside the model and the tokens that the state's bytes depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Type of both the K and the V cache.
    pub kv_type: KvType,
    /// Whether attention runs in llama.cpp's fused kernel, which lays V out differently.
    pub flash_attention: bool,
    /// Layers offloaded to a GPU; 0 is the CPU alone. Other devices round differently.
    pub gpu_layers: u32,
    /// llama.cpp's state format ([`STATE_EPOCH`]).
    pub epoch: u32,
    /// What replaces the model's own rotary embedding.
    #[serde(default, skip_serializing_if = "Rope::is_empty")]
    pub rope: Rope,
    /// The set of rotary factors, for models that have two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_factors: Option<RopeFactors>,
    /// The adapter, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
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
    /// The parameters for a cache type and a device, with `auto` flash attention resolved.
    ///
    /// The rule is fixed and not measured, so that keys are stable: off for an f16 cache on the CPU, where
    /// it halves the speed of a question, on for a quantised one, which needs it, and on with a GPU.
    pub fn new(kv_type: KvType, gpu_layers: u32) -> Self {
        Self {
            kv_type,
            flash_attention: kv_type != KvType::F16 || gpu_layers > 0,
            gpu_layers,
            epoch: STATE_EPOCH,
            rope: Rope::default(),
            rope_factors: None,
            lora: None,
        }
    }

    /// The parameters as text, one `name=value` a line in a fixed order. What is hashed and what objects carry.
    /// What a state does without has no line, so a parameter that is added later changes no old key.
    pub fn canonical(&self) -> String {
        let mut text = format!(
            "kv_type={}\nflash_attention={}\ngpu_layers={}\nswa=full\nsegment_tokens={}\nepoch={}\n",
            self.kv_type.name(),
            self.flash_attention,
            self.gpu_layers,
            super::SEGMENT_TOKENS,
            self.epoch,
        );
        text.push_str(&self.rope.canonical());
        if let Some(factors) = self.rope_factors {
            text.push_str(&format!("rope_factors={}\n", format!("{factors:?}").to_lowercase()));
        }
        if let Some(lora) = &self.lora {
            text.push_str(&format!("lora={}*{}\n", lora.hash.to_hex(), lora.scale));
        }
        text
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parameter_changes_the_root() {
        let model = ModelHash::from([1; 32]);
        let base = Params::new(KvType::F16, 0);
        let others = [
            Params { kv_type: KvType::Q8_0, ..base.clone() },
            Params { kv_type: KvType::Q4_0, ..base.clone() },
            Params { flash_attention: true, ..base.clone() },
            Params { gpu_layers: 1, ..base.clone() },
            Params { epoch: base.epoch + 1, ..base.clone() },
            Params { rope: Rope { scaling: Some(RopeScaling::Yarn), ..Rope::default() }, ..base.clone() },
            Params { rope: Rope { freq_base: Some(1e6), ..Rope::default() }, ..base.clone() },
            Params { rope: Rope { freq_scale: Some(0.5), ..Rope::default() }, ..base.clone() },
            Params { rope: Rope { yarn_ext_factor: Some(1.0), ..Rope::default() }, ..base.clone() },
            Params { rope: Rope { yarn_attn_factor: Some(1.0), ..Rope::default() }, ..base.clone() },
            Params { rope: Rope { yarn_beta_fast: Some(1.0), ..Rope::default() }, ..base.clone() },
            Params { rope: Rope { yarn_beta_slow: Some(1.0), ..Rope::default() }, ..base.clone() },
            Params { rope: Rope { yarn_orig_ctx: Some(1), ..Rope::default() }, ..base.clone() },
            Params { rope_factors: Some(RopeFactors::Short), ..base.clone() },
            Params { rope_factors: Some(RopeFactors::Long), ..base.clone() },
            Params { lora: lora(1, 1.0), ..base.clone() },
            Params { lora: lora(1, 0.5), ..base.clone() },
            Params { lora: lora(2, 1.0), ..base.clone() },
        ];
        let mut roots: Vec<_> = others.iter().map(|p| p.root(&model)).collect();
        roots.sort();
        roots.dedup();
        assert_eq!(roots.len(), others.len(), "two of them have the same root");
        for other in others {
            assert_ne!(other.root(&model), base.root(&model), "{other:?}");
        }
        assert_ne!(base.root(&ModelHash::from([2; 32])), base.root(&model));
    }

    fn lora(n: u8, scale: f32) -> Option<Lora> {
        Some(Lora { hash: ModelHash::from([n; 32]), scale })
    }

    #[test]
    fn parameters_read_back_and_differences_are_named() {
        let base = Params::new(KvType::F16, 0);
        let rope = Rope { freq_base: Some(0.1), scaling: Some(RopeScaling::Linear), ..Rope::default() };
        let other = Params { rope, lora: lora(3, 0.75), ..base.clone() };
        let json = serde_json::to_string(&other).unwrap();
        assert_eq!(serde_json::from_str::<Params>(&json).unwrap(), other);
        let names: Vec<_> = other.differences(&base).into_iter().map(|d| (d.name, d.here, d.there)).collect();
        assert_eq!(names[0], ("rope_scaling".into(), "linear".into(), "-".into()));
        assert_eq!(names[1], ("rope_freq_base".into(), "0.1".into(), "-".into()));
        assert!(names[2].1.ends_with("*0.75"), "{names:?}");
        assert_eq!(base.differences(&base), []);
    }

    #[test]
    fn flash_attention_follows_the_fixed_rule() {
        assert!(!Params::new(KvType::F16, 0).flash_attention);
        assert!(Params::new(KvType::Q8_0, 0).flash_attention);
        assert!(Params::new(KvType::F16, 99).flash_attention);
    }

    /// Keys are a promise: this one must never change without a new key version.
    #[test]
    fn the_root_is_pinned() {
        let root = Params::new(KvType::F16, 0).root(&ModelHash::from([7; 32]));
        let pinned = "77091ed689fb8791816682a5363af9bf412293e0d3bc52b2f38d5c29afccb898";
        assert_eq!(root.to_hex(), pinned);
    }
}
