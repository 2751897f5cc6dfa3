//! Inputs of the compute identity: the instruction sets of ggml's kernels, the visible cards, and the variables that reach
//! either. Nothing here starts a card's runtime.

use std::ffi::c_int;

/// Variables that change a state's layout, and so would give one key two contents.
pub const LAYOUT_VARIABLES: [&str; 1] = ["LLAMA_ATTN_ROT_DISABLE"];

/// Variables of ggml's processor backend that choose kernels, and so change the order of sums.
const PROCESSOR_VARIABLES: [&str; 5] = [
    "GGML_CPU_DISABLE_FUSION",
    "GGML_CPU_TILED_MM",
    "GGML_CPU_TILED_MM_FORCE",
    "GGML_KLEIDIAI_CHUNK_MULTIPLIER",
    "GGML_KLEIDIAI_SME",
];

/// Variables of llama.cpp and ggml's backends for cards that change the order or the precision of sums. Those that are in
/// their sources (llama-cpp-sys-2 0.1.160) and in none of these lists only log, debug, allocate or schedule, or are of
/// backends that are not built.
const ROUNDING_VARIABLES: [&str; 27] = [
    "GGML_CUDA_ALLREDUCE",
    "GGML_CUDA_CUBLAS_COMPUTE_TYPE",
    "GGML_CUDA_GRAPH_OPT",
    "GGML_CUDA_MMQ_PREC",
    "GGML_METAL_TENSOR_ENABLE",
    "GGML_OP_OFFLOAD_MIN_BATCH",
    "GGML_CUDA_DISABLE_FUSION",
    "GGML_CUDA_DISABLE_GRAPHS",
    "GGML_CUDA_FORCE_CUBLAS_COMPUTE_32F",
    "GGML_CUDA_FORCE_CUBLAS_COMPUTE_16F",
    "GGML_METAL_BF16_DISABLE",
    "GGML_METAL_TENSOR_DISABLE",
    "GGML_METAL_FUSION_DISABLE",
    "GGML_VK_DISABLE_F16",
    "GGML_VK_DISABLE_BFLOAT16",
    "GGML_VK_DISABLE_COOPMAT",
    "GGML_VK_DISABLE_COOPMAT2",
    "GGML_VK_DISABLE_COOPMAT2_DECODE_VECTOR",
    "GGML_VK_DISABLE_DOT2",
    "GGML_VK_DISABLE_FUSION",
    "GGML_VK_DISABLE_GRAPH_OPTIMIZE",
    "GGML_VK_DISABLE_INTEGER_DOT_PRODUCT",
    "GGML_VK_DISABLE_MMVQ",
    "GGML_VK_DISABLE_MULTI_ADD",
    "GGML_VK_DISABLE_OCP_FP4",
    "GGML_VK_FA_SPARSE_DISABLE",
    "GGML_VK_FORCE_MMVQ",
];

/// Variables that hide cards.
const CARD_VARIABLES: [&str; 8] = [
    "CUDA_VISIBLE_DEVICES",
    "GGML_CUDA_DEVICES",
    "GGML_DISABLE_VULKAN",
    "GGML_METAL_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
];

/// Variables that are set, in the order of the lists.
#[derive(Debug, Clone, Default)]
pub struct Variables {
    /// Name and value of each that changes the processor's sums.
    pub processor: Vec<(&'static str, String)>,
    /// Name and value of each that changes a card's sums.
    pub rounding: Vec<(&'static str, String)>,
    /// Name and value of each that hides cards.
    pub cards: Vec<(&'static str, String)>,
}

impl Variables {
    /// Reads the fixed lists from the environment.
    ///
    /// # Errors
    /// The name of a variable that is set and would change the layout of states.
    pub fn read() -> Result<Self, &'static str> {
        if let Some(name) = LAYOUT_VARIABLES.into_iter().find(|name| std::env::var_os(name).is_some()) {
            return Err(name);
        }
        let set = |names: &[&'static str]| {
            let values = names.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
            values.map(|(name, value)| (name, value.to_string_lossy().into_owned())).collect()
        };
        Ok(Self {
            processor: set(&PROCESSOR_VARIABLES),
            rounding: set(&ROUNDING_VARIABLES),
            cards: set(&CARD_VARIABLES),
        })
    }
}

/// Names of the instruction sets that the kernels of ggml's processor backend use.
pub fn instruction_sets() -> Vec<&'static str> {
    type Has = unsafe extern "C" fn() -> c_int;
    use llama_cpp_sys_2 as ggml;
    let all: [(&str, Has); 24] = [
        ("amx_int8", ggml::ggml_cpu_has_amx_int8),
        ("arm_fma", ggml::ggml_cpu_has_arm_fma),
        ("avx", ggml::ggml_cpu_has_avx),
        ("avx2", ggml::ggml_cpu_has_avx2),
        ("avx512", ggml::ggml_cpu_has_avx512),
        ("avx512_bf16", ggml::ggml_cpu_has_avx512_bf16),
        ("avx512_vbmi", ggml::ggml_cpu_has_avx512_vbmi),
        ("avx512_vnni", ggml::ggml_cpu_has_avx512_vnni),
        ("avx_vnni", ggml::ggml_cpu_has_avx_vnni),
        ("bmi2", ggml::ggml_cpu_has_bmi2),
        ("dotprod", ggml::ggml_cpu_has_dotprod),
        ("f16c", ggml::ggml_cpu_has_f16c),
        ("fma", ggml::ggml_cpu_has_fma),
        ("fp16_va", ggml::ggml_cpu_has_fp16_va),
        ("llamafile", ggml::ggml_cpu_has_llamafile),
        ("matmul_int8", ggml::ggml_cpu_has_matmul_int8),
        ("neon", ggml::ggml_cpu_has_neon),
        ("riscv_v", ggml::ggml_cpu_has_riscv_v),
        ("sme", ggml::ggml_cpu_has_sme),
        ("sse3", ggml::ggml_cpu_has_sse3),
        ("ssse3", ggml::ggml_cpu_has_ssse3),
        ("sve", ggml::ggml_cpu_has_sve),
        ("vsx", ggml::ggml_cpu_has_vsx),
        ("vxe", ggml::ggml_cpu_has_vxe),
    ];
    // SAFETY: the functions take nothing, read constants of the build or the processor's own flags, and touch no memory.
    all.into_iter().filter(|(_, has)| unsafe { has() } != 0).map(|(name, _)| name).collect()
}

/// Cards in sight, as the system's bus lists them: `vendor:device` of each display controller, sorted.
#[cfg(target_os = "linux")]
pub fn cards() -> Vec<String> {
    let read = |path: std::path::PathBuf| {
        std::fs::read_to_string(path).ok().map(|text| text.trim().trim_start_matches("0x").to_owned())
    };
    let devices = std::fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    let display = devices.map(|entry| entry.path()).filter(|path| {
        // Display controllers are class 03, and cards without an output are class 12 or 0b as well.
        let class = read(path.join("class")).unwrap_or_default();
        ["03", "12", "0b"].iter().any(|kind| class.starts_with(kind))
    });
    let names = display
        .filter_map(|path| Some(format!("{}:{}", read(path.join("vendor"))?, read(path.join("device"))?)));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Cards in sight: not known before a runtime is started, so the machine's model stands for them.
#[cfg(not(target_os = "linux"))]
pub fn cards() -> Vec<String> {
    vec![format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference is the list that ggml itself prints of its processor backend.
    #[test]
    fn the_instruction_sets_are_those_that_llama_cpp_says() {
        // SAFETY: the call takes nothing and gives a NUL-terminated text that lives as long as the process.
        let said = unsafe { std::ffi::CStr::from_ptr(llama_cpp_sys_2::llama_print_system_info()) };
        let said = said.to_string_lossy().to_lowercase();
        for name in instruction_sets() {
            assert!(said.contains(&format!("{name} = 1")), "{name}: {said}");
        }
        for name in ["avx", "avx2", "fma", "f16c", "neon", "llamafile"] {
            let here = instruction_sets().contains(&name);
            assert_eq!(here, said.contains(&format!("{name} = 1")), "{name}: {said}");
        }
    }
}
