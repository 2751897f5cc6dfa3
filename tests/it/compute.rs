//! States that another machine computed: found, named, and never called exact.

use crate::common::{prose, tiny};
use crate::program::{Program, json};
use pcache_format::{Codec, ComputeIdentity};
use pcache_store::{
    Built, Claim, Description, Options, Prefix, ReadBuffers, Store, StoreError, VerifiedPrefix,
};

/// Builds a state here and hands it to the store as if another machine had computed it.
fn computed_elsewhere(program: &Program, key: &str) {
    let elsewhere = ComputeIdentity::new([
        ("backend", "cuda"),
        ("device", "10de:2330"),
        ("isa", "avx2"),
        ("build", "llama-cpp-sys-2 0.1.160; gcc"),
    ]);
    let options = Options::new(elsewhere);
    let here = Store::open(&program.path("here"), &options).unwrap();
    let pcache_store::Lookup::Found(key) = here.lookup(key).unwrap() else { panic!("it was just built") };
    let state = here.state(&key).unwrap().unwrap();
    let prefix = Prefix::of_manifest(&state.manifest);
    let found = {
        let guard = here.lock_shared(|| ()).unwrap();
        here.find(&guard, &prefix, false).unwrap().verify(&prefix)
    };
    let there = Store::open(&program.store(), &options).unwrap();
    let guard = there.lock_shared(|| ()).unwrap();
    let writer = there.writer(&guard, &prefix, Codec::Raw, &VerifiedPrefix::none());
    let mut buffers = ReadBuffers::default();
    writer
        .run(|pipeline| {
            for (piece, object) in &found.parts {
                pipeline.save(piece, object.state(&mut buffers).unwrap().to_vec())?;
            }
            Ok::<(), StoreError>(())
        })
        .unwrap();
    let manifest = state.manifest;
    let description = Description {
        kind: manifest.kind,
        pending_text: manifest.pending_text,
        suffix: manifest.suffix,
        prompt_span: manifest.prompt_span,
        raw: manifest.raw,
        rendered_with: manifest.rendered_with,
    };
    let label = state.label;
    let built = Built {
        origin: label.origin,
        prompt_format: label.prompt_format,
        model_path: label.model_path,
        text: label.text,
        prompt: label.prompt,
        build_s: 1.0,
        evaluated: 1,
        claim: Claim { name: Some("far".into()), ..Claim::default() },
    };
    writer.finish(&description, &built).unwrap();
}

fn program() -> Program {
    let program = Program::new(&tiny("llama"));
    program.write("a.txt", &prose(120, 1));
    let here = program.path("here").to_string_lossy().into_owned();
    let built = json(&program.ok(&["build", "a.txt", "--cache-dir", &here, "--json"]));
    computed_elsewhere(&program, built["key"].as_str().unwrap());
    program
}

#[test]
fn every_verdict_names_what_computed_a_state_elsewhere() {
    let program = program();
    let asked = program.ok(&["ask", "far", "Hm?", "--max-tokens", "1"]);
    assert!(asked.stderr.contains("hit") && asked.stderr.contains("computed by"), "{}", asked.stderr);
    assert!(asked.stderr.contains("cuda on 10de:2330"), "{}", asked.stderr);
    let lineage =
        json(&program.ok(&["ask", "far", "Hm?", "--max-tokens", "1", "--json"]))["cache"]["compute"].clone();
    let built = program.ok(&["build", "a.txt"]);
    assert!(built.stderr.contains("hit") && built.stderr.contains("cuda on 10de:2330"), "{}", built.stderr);
    assert!(program.ok(&["explain", "a.txt"]).stdout.contains("cuda on 10de:2330"));
    assert!(program.ok(&["show", "far"]).stdout.contains("cuda on 10de:2330"));
    let listed = program.ok(&["ls", "-v"]);
    assert!(listed.stdout.contains(&lineage.as_str().unwrap()[..12]), "{}", listed.stdout);
    assert_eq!(json(&program.ok(&["ls", "--json"]))["states"][0]["compute"], lineage);
    let verified = program.ok(&["verify", "far", "--logits"]);
    assert!(verified.stdout.contains("between this machine and"), "{}", verified.stdout);
    assert!(!verified.stdout.contains("bit-identical"), "{}", verified.stdout);
}

#[test]
fn same_compute_takes_only_what_was_computed_here() {
    let program = program();
    assert_eq!(program.run(&["ask", "far", "Hm?", "--require-hit", "--same-compute"]).code, 3);
    let built = json(&program.ok(&["build", "a.txt", "--same-compute", "--json"]));
    assert_eq!(built["cache"]["status"], "miss");
    assert_eq!(built["cache"]["compute"], serde_json::Value::Null);
    let asked = program.ok(&["ask", "far", "Hm?", "--max-tokens", "1"]);
    assert!(!asked.stderr.contains("computed by"), "now there is an own one: {}", asked.stderr);
    assert!(program.ok(&["verify", "far", "--logits"]).stdout.contains("bit-identical"));
    assert_eq!(
        json(&program.ok(&["ls", "--json"]))["states"].as_array().unwrap().len(),
        1,
        "one state, two lines"
    );
    program.ok(&["gc", "--keep", "0"]);
    assert!(program.objects().is_empty());
}

/// A state that this machine evaluates behind another's prefix is nobody's own: it says so, and is found again.
#[test]
fn what_continues_another_machines_prefix_says_so() {
    let program = program();
    let text = std::fs::read_to_string(program.path("a.txt")).unwrap();
    program.write("b.txt", &format!("{text} {}", prose(100, 2)));
    let first = json(&program.ok(&["build", "b.txt", "--name", "both", "--json"]));
    if first["cache"]["restored_tokens"] == 0 {
        panic!("they share a segment: {first}");
    }
    assert_ne!(first["cache"]["compute"], serde_json::Value::Null);
    let asked = json(&program.ok(&["ask", "both", "Hm?", "--max-tokens", "1", "--require-hit", "--json"]));
    assert_eq!(asked["cache"]["status"], "hit");
    assert_ne!(asked["cache"]["compute"], serde_json::Value::Null);
    assert_ne!(asked["cache"]["compute"], first["cache"]["compute"], "both had a part in it");
    program.ok(&["verify"]);
    let own = json(&program.ok(&["build", "b.txt", "--same-compute", "--json"]));
    assert_eq!(own["cache"]["restored_tokens"], 0);
}
