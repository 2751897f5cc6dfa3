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

/// Everything beside the model and the tokens that the state's bytes depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
        }
    }

    /// The parameters as text, one `name=value` a line in a fixed order. What is hashed and what objects carry.
    pub fn canonical(&self) -> String {
        format!(
            "kv_type={}\nflash_attention={}\ngpu_layers={}\nswa=full\nsegment_tokens={}\nepoch={}\n",
            self.kv_type.name(),
            self.flash_attention,
            self.gpu_layers,
            super::SEGMENT_TOKENS,
            self.epoch,
        )
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
        ];
        for other in others {
            assert_ne!(other.root(&model), base.root(&model), "{other:?}");
        }
        assert_ne!(base.root(&ModelHash::from([2; 32])), base.root(&model));
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
