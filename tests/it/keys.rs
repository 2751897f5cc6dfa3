//! The same tokens, model and parameters give the same key; anything that changes the state's bytes changes the key.

use std::collections::HashMap;
use std::path::Path;

use crate::common::{prose, tiny};
use crate::program::{Program, json};
use pcache_format::{
    Chain, KvType, Lora, ModelHash, Namespace, Params, Rope, RopeFactors, RopeScaling, StateKey,
};
use proptest::prelude::*;

/// Everything that a key stands for.
#[derive(Debug, Clone, PartialEq)]
struct Inputs {
    model: u8,
    params: Params,
    tokens: Vec<i32>,
    carried: String,
    suffix: String,
}

impl Inputs {
    fn key(&self) -> StateKey {
        let root = self.params.root(&ModelHash::from([self.model; 32]));
        Chain::new(root, &self.tokens).state_key(&self.carried, &self.suffix)
    }
}

/// Of each input only a few values, so that two draws are often the same in most of them.
fn inputs() -> impl Strategy<Value = Inputs> {
    let maybe = || prop::option::of(prop::sample::select(vec![0.5f32, 1.0, 1e6]));
    let rope = (
        prop::option::of(prop::sample::select(vec![
            RopeScaling::None,
            RopeScaling::Linear,
            RopeScaling::Yarn,
        ])),
        (maybe(), maybe(), maybe(), maybe(), maybe(), maybe()),
        prop::option::of(prop::sample::select(vec![1u32, 4096])),
    )
        .prop_map(|(scaling, floats, yarn_orig_ctx)| Rope {
            scaling,
            freq_base: floats.0,
            freq_scale: floats.1,
            yarn_ext_factor: floats.2,
            yarn_attn_factor: floats.3,
            yarn_beta_fast: floats.4,
            yarn_beta_slow: floats.5,
            yarn_orig_ctx,
        });
    let lora = prop::option::of((0u8..2, prop::sample::select(vec![0.5f32, 1.0])))
        .prop_map(|l| l.map(|(n, scale)| Lora { hash: ModelHash::from([n; 32]), scale }));
    let params = (
        prop::sample::select(vec![KvType::F16, KvType::Q8_0, KvType::Q4_0]),
        any::<bool>(),
        0u32..2,
        0u32..2,
        rope,
        prop::option::of(prop::sample::select(vec![RopeFactors::Short, RopeFactors::Long])),
        lora,
        prop::option::of((0u8..2).prop_map(|n| Namespace::from([n; 32]))),
    )
        .prop_map(
            |(kv_type, flash_attention, gpu_layers, epoch, rope, rope_factors, lora, namespace)| Params {
                kv_type,
                flash_attention,
                gpu_layers,
                epoch,
                rope,
                rope_factors,
                lora,
                namespace,
            },
        );
    let text = || prop::sample::select(vec!["", "a", "ab", "\n"]).prop_map(str::to_owned);
    let tokens = (prop::sample::select(vec![0usize, 1, 255, 256, 257, 512]), 0i32..2)
        .prop_map(|(n, salt)| (0..n as i32).map(|i| i ^ salt).collect());
    (0u8..2, params, tokens, text(), text()).prop_map(|(model, params, tokens, carried, suffix)| Inputs {
        model,
        params,
        tokens,
        carried,
        suffix,
    })
}

/// `other` with one input taken from `from`.
fn mix(other: &Inputs, from: &Inputs, which: usize) -> Inputs {
    let mut mixed = other.clone();
    match which {
        0 => mixed.model = from.model,
        1 => mixed.tokens = from.tokens.clone(),
        2 => mixed.carried = from.carried.clone(),
        3 => mixed.suffix = from.suffix.clone(),
        4 => mixed.params.kv_type = from.params.kv_type,
        5 => mixed.params.flash_attention = from.params.flash_attention,
        6 => mixed.params.gpu_layers = from.params.gpu_layers,
        7 => mixed.params.epoch = from.params.epoch,
        8 => mixed.params.rope_factors = from.params.rope_factors,
        9 => mixed.params.lora = from.params.lora.clone(),
        10 => mixed.params.namespace = from.params.namespace,
        _ => {
            let (rope, from) = (&mut mixed.params.rope, &from.params.rope);
            match which {
                11 => rope.scaling = from.scaling,
                12 => rope.freq_base = from.freq_base,
                13 => rope.freq_scale = from.freq_scale,
                14 => rope.yarn_ext_factor = from.yarn_ext_factor,
                15 => rope.yarn_attn_factor = from.yarn_attn_factor,
                16 => rope.yarn_beta_fast = from.yarn_beta_fast,
                17 => rope.yarn_beta_slow = from.yarn_beta_slow,
                _ => rope.yarn_orig_ctx = from.yarn_orig_ctx,
            }
        }
    }
    mixed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn keys_are_the_same_exactly_when_all_inputs_are(a in inputs(), b in inputs(), which in 0usize..19) {
        prop_assert_eq!(a.key(), a.clone().key());
        prop_assert_eq!(a == b, a.key() == b.key());
        // All but one the same, which two draws never are.
        let c = mix(&a, &b, which);
        prop_assert_eq!(a == c, a.key() == c.key(), "{:?} {:?}", a, c);
    }
}

/// A model of the same shape, size and name in which one weight differs.
fn write_twin(path: &Path) {
    let mut bytes = std::fs::read(tiny("llama")).unwrap();
    let last = bytes.len() - 8;
    bytes[last] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_state_never_serves_another_model_of_the_same_shape() {
    let program = Program::new(&tiny("llama"));
    program.write("prompt.txt", &prose(100, 1));
    let twin = program.path("tiny-llama.gguf");
    write_twin(&twin);
    let twin = twin.to_str().unwrap();
    let key = program.ok(&["build", "prompt.txt", "--name", "one"]).stdout;
    let ask = |key: &str, extra: &[&str]| {
        program.run(&[&["ask", key.trim(), "Hm?", "--max-tokens", "4", "--json"], extra].concat())
    };
    let refused = ask(&key, &["-m", twin]);
    assert_eq!((refused.code, refused.stdout.as_str()), (5, ""), "{}", refused.stderr);
    assert!(refused.stderr.contains("needs model"), "{}", refused.stderr);

    let ours = program.segments();
    let built = json(&program.ok(&["build", "prompt.txt", "-m", twin, "--json"]));
    assert_ne!(built["key"], key.trim());
    assert_eq!(built["cache"]["status"], "miss");
    assert_eq!(built["segments"]["reused"], 0);
    // An object of one, put in the place of the other's: its hash is right, and it is another model's.
    let (object, bytes) = (&ours[0], std::fs::read(&ours[0]).unwrap());
    let size = bytes.len();
    program.ok(&["rm", "one"]);
    std::fs::create_dir_all(object.parent().unwrap()).unwrap();
    std::fs::write(object, bytes).unwrap();
    let (theirs, hex) = (built["key"].as_str().unwrap(), object.file_stem().unwrap().display());
    program.sql(&format!(
        "UPDATE segments SET object = x'{hex}', file_bytes = {size}, raw_blake3 = NULL WHERE first = 0"
    ));
    let healed = ask(theirs, &[]);
    let cache = &json(&healed)["cache"];
    assert_eq!(
        (&cache["status"], &cache["restored_tokens"]),
        (&"miss".into(), &0.into()),
        "{}",
        healed.stderr
    );
    assert!(cache["reason"].as_str().unwrap().contains("differs"), "{cache}");
    // A file that was replaced is another model, wherever it lies.
    std::fs::copy(tiny("llama"), twin).unwrap();
    assert_eq!(program.ok(&["build", "prompt.txt", "-m", twin]).stdout, key);
}

/// Options that are no part of the key: speed, size, name and origin.
#[test]
fn what_does_not_change_the_state_does_not_change_the_key() {
    let program = Program::new(&tiny("llama"));
    program.write("prompt.txt", &prose(60, 1));
    program.write("elsewhere/other.txt", &prose(60, 1));
    std::fs::copy(tiny("llama"), program.path("copy.gguf")).unwrap();
    let key = program.ok(&["build", "prompt.txt"]).stdout;
    for args in [
        &["build", "prompt.txt", "--threads", "1"][..],
        &["build", "prompt.txt", "--name", "x"],
        &["build", "elsewhere/other.txt"],
        &["build", "prompt.txt", "-m", "copy.gguf"],
        &["build", "prompt.txt", "--pin", "--ttl", "1h"],
        &["build", "prompt.txt", "--kv-type", "f16", "--flash-attn", "off"],
    ] {
        let mut again = args.to_vec();
        again.extend(["--cache-dir", "another"]);
        assert_eq!(program.ok(args).stdout, key, "{args:?}");
        assert_eq!(program.ok(&again).stdout, key, "{args:?} in another store");
        std::fs::remove_dir_all(program.path("another")).unwrap();
    }
}

/// A store that version 0.1.0 wrote is kept as it was: this version still lists it, knows it intact and restores it.
/// When the state epoch is raised, builds no longer find its state, but it must still be listed, verified and asked
/// with a clear word.
#[test]
fn a_store_of_an_earlier_version_is_read() {
    let program = Program::new(&tiny("llama"));
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stores/0.1.0");
    program.adopt_store(&fixture);
    let listed = json(&program.ok(&["ls", "--json"]));
    let states: HashMap<_, _> = listed["states"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| {
            (
                s["name"].as_str().unwrap(),
                (s["key"].as_str().unwrap(), s["tokens"].as_u64(), s["pinned"].as_bool()),
            )
        })
        .collect();
    let pinned = [
        (
            "bakery",
            ("65eddb4f9e194371c2ceb9bc9e6a71f334d20e391f3d85e99528b1c1c61f7c7b", Some(119), Some(true)),
        ),
        ("raw", ("06c2d7d5d486053154d933948dd8e04b61ad507ea8ebc39bf94a7df959b802fe", Some(14), Some(false))),
    ];
    assert_eq!(states, HashMap::from(pinned));
    assert!(program.ok(&["verify"]).stderr.contains("all intact"));
    for name in ["bakery", "raw"] {
        let asked = program.ok(&["ask", name, "Is it warm?", "--max-tokens", "2", "--json", "--require-hit"]);
        assert_eq!(json(&asked)["cache"]["status"], "hit", "{}", asked.stderr);
    }
    // And from its objects alone.
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(program.store().join(format!("index.sqlite{end}")));
    }
    program.ok(&["verify", "--repair"]);
    let again = json(&program.ok(&["ls", "--json"]));
    let names = |listed: &serde_json::Value| {
        let mut names: Vec<String> = listed["states"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| format!("{}{}", s["key"], s["name"]))
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(&again), names(&listed));
    assert!(
        program.ok(&["ask", "bakery", "Hm?", "--max-tokens", "1", "--require-hit"]).stderr.contains("hit")
    );
}
