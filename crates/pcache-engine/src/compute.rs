//! The identity of what computes states in this process.

use std::sync::OnceLock;

use super::{EngineError, Result};
use crate::sys::compute::{Variables, cards, instruction_sets};
use pcache_format::ComputeIdentity;
use pcache_format::epoch::LLAMA_CPP_BUILD;

/// Compiler and flags of the kernels, as far as the build script sees them.
const COMPILER: &str = env!("PCACHE_COMPILER");
const FLAGS: &str = env!("PCACHE_KERNEL_FLAGS");

/// Backends for cards that are compiled in.
const CARD_BACKENDS: [(&str, bool); 4] = [
    ("cuda", cfg!(feature = "cuda")),
    ("metal", cfg!(any(feature = "metal", all(target_os = "macos", target_arch = "aarch64")))),
    ("rocm", cfg!(feature = "rocm")),
    ("vulkan", cfg!(feature = "vulkan")),
];

/// Identity of what computes with so many layers on a card. Nothing of llama.cpp is started for it.
///
/// # Errors
/// When a variable is set that would change the layout of states.
pub fn identity(gpu_layers: u32) -> Result<ComputeIdentity> {
    let variables = variables()?;
    let backends: Vec<&str> = CARD_BACKENDS.iter().filter(|(_, here)| *here).map(|(name, _)| *name).collect();
    let cards = if backends.is_empty() { Vec::new() } else { cards() };
    Ok(described(&backends, &cards, gpu_layers, &variables))
}

/// Instruction sets of the processor's kernels, for people: `avx avx2 bmi2 f16c fma`.
pub fn kernels() -> String {
    instruction_sets().join(" ")
}

/// Variables of the environment, read once and before llama.cpp starts.
fn variables() -> Result<Variables> {
    static READ: OnceLock<Result<Variables, &'static str>> = OnceLock::new();
    READ.get_or_init(Variables::read).clone().map_err(EngineError::LayoutVariable)
}

/// With a card in sight llama.cpp computes on it whatever the number of layers; without one it is the processor's work.
fn described(backends: &[&str], cards: &[String], gpu_layers: u32, variables: &Variables) -> ComputeIdentity {
    let on_card = !backends.is_empty() && !cards.is_empty();
    let text = |text: &str| text.to_owned();
    let mut parts: Vec<(String, String)> = vec![
        (text("backend"), if on_card { backends.join(",") } else { text("cpu") }),
        (text("device"), if on_card { cards.join(",") } else { text("cpu") }),
        (text("isa"), instruction_sets().join(",")),
        (text("offload"), if on_card { gpu_layers.to_string() } else { text("0") }),
        (text("build"), format!("{LLAMA_CPP_BUILD}; {COMPILER}; {FLAGS}")),
    ];
    let of_cards = variables.rounding.iter().chain(&variables.cards).filter(|_| on_card);
    // With a card the processor still computes what is left to it.
    let set = variables.processor.iter().chain(of_cards);
    parts.extend(set.map(|(name, value)| (text(name), value.clone())));
    ComputeIdentity::new(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(backends: &[&str], cards: &[&str], layers: u32, variables: &Variables) -> ComputeIdentity {
        let cards: Vec<String> = cards.iter().map(|card| (*card).to_owned()).collect();
        described(backends, &cards, layers, variables)
    }

    /// A build for cards computes on them as soon as one is in sight, and like the processor's build where none is.
    #[test]
    fn what_computes_is_told_apart() {
        let none = Variables::default();
        let cpu = with(&[], &[], 0, &none);
        assert_eq!(with(&["cuda"], &[], 99, &none).id(), cpu.id(), "no card: the same arithmetic");
        let card = with(&["cuda"], &["10de:2330"], 0, &none);
        assert_ne!(card.id(), cpu.id(), "a card evaluates batches without a layer on it");
        assert_ne!(card.id(), with(&["cuda"], &["10de:2330"], 99, &none).id());
        assert_ne!(card.id(), with(&["cuda"], &["10de:20b0"], 0, &none).id());
        assert_ne!(card.id(), with(&["vulkan"], &["10de:2330"], 0, &none).id());
        let hidden = Variables { cards: vec![("CUDA_VISIBLE_DEVICES", String::new())], ..none.clone() };
        assert_ne!(card.id(), with(&["cuda"], &["10de:2330"], 0, &hidden).id());
        assert_eq!(cpu.id(), with(&[], &[], 0, &hidden).id(), "nothing to hide");
        let other = Variables { rounding: vec![("GGML_VK_DISABLE_F16", "1".into())], ..none };
        assert_ne!(card.id(), with(&["cuda"], &["10de:2330"], 0, &other).id());
        assert_eq!(cpu.id(), with(&[], &[], 0, &other).id(), "it does not reach the processor's kernels");
        let tiled = Variables { processor: vec![("GGML_CPU_TILED_MM", "0".into())], ..Variables::default() };
        assert_ne!(cpu.id(), with(&[], &[], 0, &tiled).id());
        assert_ne!(card.id(), with(&["cuda"], &["10de:2330"], 0, &tiled).id());
        assert_eq!(cpu.get("backend"), Some("cpu"));
        assert!(cpu.get("build").unwrap().starts_with(LLAMA_CPP_BUILD));
    }
}
