use super::*;

fn base() -> Params {
    Params::new(KvType::F16, false)
}

fn rope(rope: Rope) -> Params {
    Params { rope, ..base() }
}

fn lora(n: u8, scale: f32) -> Option<Lora> {
    Some(Lora { hash: ModelHash::from([n; 32]), scale })
}

fn all() -> Params {
    Params {
        kv_type: KvType::Q8_0,
        flash_attention: true,
        rope: Rope {
            scaling: Some(RopeScaling::Yarn),
            freq_base: Some(1e4),
            freq_scale: Some(0.25),
            yarn_ext_factor: Some(1.0),
            yarn_attn_factor: Some(1.0),
            yarn_beta_fast: Some(32.0),
            yarn_beta_slow: Some(1.0),
            yarn_orig_ctx: Some(2048),
        },
        rope_factors: Some(RopeFactors::Long),
        lora: lora(3, 0.5),
        namespace: Some(Namespace::from([9; 32])),
        ..base()
    }
}

/// Roots under the model 0707…, computed apart from this program from the text that `docs/design.md` describes.
fn golden() -> Vec<(&'static str, Params, &'static str)> {
    vec![
        ("base", base(), "77091ed689fb8791816682a5363af9bf412293e0d3bc52b2f38d5c29afccb898"),
        (
            "kv_type",
            Params { kv_type: KvType::Q8_0, flash_attention: true, ..base() },
            "f199b73083fa652fbda944eca35968c6c75f9a2b477a51dfe1762bf553089fda",
        ),
        (
            "kv_type, smaller",
            Params { kv_type: KvType::Q4_0, flash_attention: true, ..base() },
            "bde337d35e7e1770b4c3293c922cb5780c0fff91e52601f33395a89c634f4a35",
        ),
        (
            "flash_attention",
            Params { flash_attention: true, ..base() },
            "9ca3b0f79390092bcf04d81d76a3e16e523338be02ab3205ea6e895a87ea201d",
        ),
        (
            "gpu_layers of version 0.1",
            Params { flash_attention: true, gpu_layers: 99, ..base() },
            "e14229071b8d8dbe57a4fafd18f1b40cccf3db068e66876b22af513dbdd91c9b",
        ),
        (
            "epoch",
            Params { epoch: 2, ..base() },
            "0d23866b79c679f98bac690daf1f1b065da81ba8c1d5dbec09d606bf0b08f455",
        ),
        (
            "rope_scaling none",
            rope(Rope { scaling: Some(RopeScaling::None), ..Rope::default() }),
            "98daa303997db96a8d44db3322ed3f866e18ec44f128e577a42ad1753d768ed5",
        ),
        (
            "rope_scaling linear",
            rope(Rope { scaling: Some(RopeScaling::Linear), ..Rope::default() }),
            "d1879358317b100c65856390c378dca2120daa053db2a3bca202236790d106f6",
        ),
        (
            "rope_scaling yarn",
            rope(Rope { scaling: Some(RopeScaling::Yarn), ..Rope::default() }),
            "4edc310980ee408dffac0733ef091ba4b821434f00c1cdf7291780b1618da292",
        ),
        (
            "rope_freq_base",
            rope(Rope { freq_base: Some(1e6), ..Rope::default() }),
            "707cd2cc73a604a9ec9f228f3f93406f3c532bdee9fa98db72a3eb196fa16c5d",
        ),
        (
            "rope_freq_scale",
            rope(Rope { freq_scale: Some(0.1), ..Rope::default() }),
            "2df8c132f7bffe241c1a8710c9dd9279842218e87ffb9fd708b7b153b3791c08",
        ),
        (
            "yarn_ext_factor",
            rope(Rope { yarn_ext_factor: Some(1.0), ..Rope::default() }),
            "f7ae956a94fb6e61186e50c5fb4a36d97fb03c8758bc9bc37a6b0afd53512116",
        ),
        (
            "yarn_attn_factor",
            rope(Rope { yarn_attn_factor: Some(1.5), ..Rope::default() }),
            "a0f5bf49f64279e4d0557ef9e520733414681973f5c6765bd2581a19ea029b64",
        ),
        (
            "yarn_beta_fast",
            rope(Rope { yarn_beta_fast: Some(32.0), ..Rope::default() }),
            "2ac94ada36c30236ff80ffcd5e5f319ee79b2463b73289987fc0ae47686ec507",
        ),
        (
            "yarn_beta_slow",
            rope(Rope { yarn_beta_slow: Some(1e-7), ..Rope::default() }),
            "a39fcd0fe9cab705a613fc02452826d22a2f1084031c0cb39e9a9db2f2ecc02a",
        ),
        (
            "yarn_orig_ctx",
            rope(Rope { yarn_orig_ctx: Some(4096), ..Rope::default() }),
            "4f32cf485079f7897bffd8e1fa9e5330c7e4c0c984fb74b86e0907d6c66cdb2a",
        ),
        (
            "rope_factors short",
            Params { rope_factors: Some(RopeFactors::Short), ..base() },
            "be5ce0d9d005a0040f6da478b679f57530641fb06cad40524c28ff822092bc7f",
        ),
        (
            "rope_factors long",
            Params { rope_factors: Some(RopeFactors::Long), ..base() },
            "5a563a92f731826c89a25c9771faec319892e28b2006fe191aae90258e443f69",
        ),
        (
            "lora",
            Params { lora: lora(3, 0.75), ..base() },
            "fe2bbe31b45efaeddec2f0a7f886811b2f847d86270e1985329b550d73311e25",
        ),
        (
            "lora, as trained",
            Params { lora: lora(3, 1.0), ..base() },
            "5544f6d15785804cab49dd39f524a8fef8bf0f4fb31448affac24d6b5b21a367",
        ),
        (
            "namespace",
            Params { namespace: Some(Namespace::from([9; 32])), ..base() },
            "d0959371a78a2f60dace5b3b8cf1e2809c4a669823dc97e3232500ba7facb5d3",
        ),
        ("all at once", all(), "10a628cca4ef3d000679d2035dac1242bcc83ca063f88c787b0b9ef1c0b86205"),
    ]
}

/// Keys are a promise: none of these may ever change.
#[test]
fn golden_roots() {
    for (name, params, root) in golden() {
        assert_eq!(params.root(&ModelHash::from([7; 32])).to_hex(), root, "{name}: {}", params.canonical());
    }
}

#[test]
fn each_parameter_changes_the_root() {
    let mut roots: Vec<_> = golden().iter().map(|(_, p, _)| p.root(&ModelHash::from([1; 32]))).collect();
    roots.push(base().root(&ModelHash::from([2; 32])));
    let before = roots.len();
    roots.sort();
    roots.dedup();
    assert_eq!(roots.len(), before, "two of them have the same root");
}

#[test]
fn parameters_read_back() {
    for (name, params, _) in golden() {
        assert_eq!(Params::parse(&params.canonical()), Ok(params.clone()), "{name}");
        let json = serde_json::to_string(&params).unwrap();
        assert_eq!(serde_json::from_str::<Params>(&json).unwrap(), params, "{name}");
    }
    let text = base().canonical();
    for wrong in
        ["", "kv_type=f16\n", &format!("{text}new_thing=1\n"), &text.replace("f16", "f15"), text.trim_end()]
    {
        assert!(Params::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn differences_are_named() {
    let rope = Rope { freq_base: Some(0.1), scaling: Some(RopeScaling::Linear), ..Rope::default() };
    let other = Params { rope, lora: lora(3, 0.75), ..base() };
    let names: Vec<_> = other.differences(&base()).into_iter().map(|d| (d.name, d.here, d.there)).collect();
    assert_eq!(names[0], ("rope_scaling".into(), "linear".into(), "-".into()));
    assert_eq!(names[1], ("rope_freq_base".into(), "0.1".into(), "-".into()));
    assert!(names[2].1.ends_with("*0.75"), "{names:?}");
    assert_eq!(base().differences(&base()), []);
}

#[test]
fn flash_attention_follows_the_fixed_rule() {
    assert!(!Params::new(KvType::F16, false).flash_attention);
    assert!(Params::new(KvType::Q8_0, false).flash_attention);
    assert!(Params::new(KvType::F16, true).flash_attention);
    assert_eq!(Params::new(KvType::F16, true).gpu_layers, 0, "where it runs is no part of the key");
    assert_eq!(base().with_other_attention(), Some(Params::new(KvType::F16, true)));
    assert_eq!(Params::new(KvType::Q4_0, false).with_other_attention(), None);
}
