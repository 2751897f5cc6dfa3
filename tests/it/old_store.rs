//! A store that version 0.1 wrote, through the program: see `tests/fixtures/stores/README.md`.

use std::path::{Path, PathBuf};

use crate::common::tiny;
use crate::program::{Program, json};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stores/0.1")
}

/// A working folder with a copy of the store and the prompts that its states were built from.
fn old(model: &str) -> Program {
    let program = Program::new(&tiny(model));
    program.adopt_store(&fixture().join("store"));
    for prompt in ["shop.txt", "bowl.txt", "short.txt"] {
        program.write(prompt, &std::fs::read_to_string(fixture().join("prompts").join(prompt)).unwrap());
    }
    program
}

const NAMES: [&str; 5] = ["shop", "bowl", "quantised", "card", "hybrid"];

fn names(program: &Program) -> Vec<String> {
    let listed = json(&program.ok(&["ls", "--json"]));
    let states = listed["states"].as_array().unwrap();
    let mut names: Vec<String> =
        states.iter().map(|s| s["name"].as_str().unwrap_or("(none)").to_owned()).collect();
    names.sort();
    names
}

#[test]
fn it_opens_hits_and_verifies() {
    let program = old("llama");
    assert_eq!(names(&program), ["(none)", "bowl", "card", "hybrid", "quantised", "shop"]);
    assert!(program.ok(&["verify"]).stderr.contains("6 states verified"), "all of them");
    for name in NAMES {
        let model = if name == "hybrid" { "lfm2" } else { "llama" };
        let model = tiny(model).to_string_lossy().into_owned();
        let asked =
            program.ok(&["-m", &model, "ask", name, "Open?", "--max-tokens", "4", "--json", "--require-hit"]);
        let asked = json(&asked);
        assert_eq!(asked["cache"]["status"], "hit", "{name}");
        assert_eq!(asked["cache"]["compute"], "0.1", "{name}: another may have computed it");
        let own = json(&program.ok(&[
            "-m",
            &model,
            "ask",
            name,
            "Open?",
            "--max-tokens",
            "4",
            "--json",
            "--no-cache",
        ]));
        assert_eq!(asked["answer"], own["answer"], "{name}: the same kernels computed it here");
    }
    // The same prompts are hits, those of a card too: they have the keys that they had.
    for (prompt, options) in
        [("shop.txt", &[][..]), ("bowl.txt", &[]), ("short.txt", &[]), ("short.txt", &["--kv-type", "q8_0"])]
    {
        let run = program.ok(&[&["build", prompt, "--json"], options].concat());
        assert_eq!(json(&run)["cache"]["status"], "hit", "{prompt} {options:?}");
        assert!(run.stderr.contains("computed by pcache 0.1"), "{}", run.stderr);
    }
}

/// A state of an unknown compute identity is not taken for one's own.
#[test]
fn with_same_compute_it_is_evaluated_again() {
    let program = old("llama");
    let refused = program.run(&["ask", "shop", "Open?", "--require-hit", "--same-compute"]);
    assert_eq!(
        (refused.code, refused.stderr.contains("not computed by this machine and program alone")),
        (3, true),
        "{}",
        refused.stderr
    );
    let built = json(&program.ok(&["build", "shop.txt", "--same-compute", "--json"]));
    assert_eq!(
        (&built["cache"]["status"], &built["cache"]["evaluated_tokens"]),
        (&"miss".into(), &305.into())
    );
    let asked = json(&program.ok(&["ask", "shop", "Open?", "--same-compute", "--max-tokens", "1", "--json"]));
    assert_eq!(
        (&asked["cache"]["status"], &asked["cache"]["compute"]),
        (&"hit".into(), &serde_json::Value::Null)
    );
    let verified = program.ok(&["verify", "shop", "--logits"]);
    assert!(verified.stdout.contains("bit-identical"), "{}", verified.stdout);
    let old = program.ok(&["verify", "bowl", "--logits"]);
    assert!(old.stdout.contains("between this machine and pcache 0.1"), "{}", old.stdout);
    assert!(!old.stdout.contains("bit-identical"), "{}", old.stdout);
}

/// Healing once left the damaged object's row beside the new one, which was of another lineage, and each look found the
/// damage again.
#[test]
fn what_is_damaged_is_healed_once_and_for_all() {
    let program = old("llama");
    program.ok(&["rename", "bowl", "split"]);
    let (llama, lfm2) = (tiny("llama"), tiny("lfm2"));
    for (name, model) in [("shop", &llama), ("split", &llama), ("quantised", &llama), ("hybrid", &lfm2)] {
        let shown = json(&program.ok(&["show", name, "--json"]));
        let id = shown["segments"].as_array().unwrap().last().unwrap()["object"].as_str().unwrap();
        let path = program.store().join(format!("objects/v1/{}/{id}.safetensors", &id[..2]));
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
        assert_eq!(program.run(&["verify", name]).code, 4, "{name}");
        let model = model.to_str().unwrap();
        let healed = program.ok(&["-m", model, "verify", name, "--repair"]);
        assert!(healed.stdout.contains("repaired"), "{name}: {}", healed.stdout);
        program.ok(&["verify"]);
        let ask = ["-m", model, "ask", name, "Open?", "--max-tokens", "1", "--json", "--require-hit"];
        assert_eq!(json(&program.ok(&ask))["cache"]["status"], "hit", "{name}");
    }
    program.ok(&["gc"]);
    program.ok(&["verify"]);
}

#[test]
fn it_is_renamed_reindexed_and_collected() {
    let program = old("llama");
    program.ok(&["rename", "shop", "store"]);
    program.ok(&["pin", "card"]);
    program.ok(&["verify"]);
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(program.store().join(format!("index.sqlite{end}")));
    }
    program.ok(&["verify", "--repair"]);
    assert_eq!(names(&program), ["(none)", "bowl", "card", "hybrid", "quantised", "store"]);
    program.ok(&["gc", "--keep", "0"]);
    assert_eq!(names(&program), ["card", "store"], "pinned by their names");
    program.ok(&["verify"]);
    assert!(program.ok(&["ask", "store", "Open?", "--max-tokens", "1"]).stderr.contains("hit"));
    program.ok(&["rm", "--force", "store", "card"]);
    let left: Vec<_> = program.objects();
    assert!(left.is_empty(), "{left:?}");
}

/// A card's build evaluates with flash attention; a machine without one finds its state all the same, and says so.
#[test]
fn auto_finds_a_state_with_the_other_attention() {
    let program = Program::new(&tiny("llama"));
    program.write("a.txt", &crate::common::prose(150, 1));
    let on = json(&program.ok(&["build", "a.txt", "--flash-attn", "on", "--json"]));
    let run = program.ok(&["build", "a.txt", "--json"]);
    let auto = json(&run);
    assert_eq!((&auto["key"], &auto["cache"]["status"]), (&on["key"], &"hit".into()));
    assert!(run.stderr.contains("found with flash attention"), "{}", run.stderr);
    let explained = program.ok(&["explain", "a.txt"]);
    assert!(explained.stdout.contains("flash_attention=true"), "{}", explained.stdout);
    let off = json(&program.ok(&["build", "a.txt", "--flash-attn", "off", "--json"]));
    assert_ne!(off["key"], on["key"]);
    // Where both are there, each machine takes its own.
    assert_eq!(json(&program.ok(&["build", "a.txt", "--json"]))["key"], off["key"]);
}

/// A variable that changes the layout of states gave one key two contents.
#[test]
fn a_variable_that_changes_the_layout_is_taken_away() {
    let program = Program::new(&tiny("llama"));
    program.write("a.txt", &crate::common::prose(50, 1));
    let build = ["build", "a.txt", "--kv-type", "q8_0", "--json"];
    let run = program.run_with_env(&build, &[("LLAMA_ATTN_ROT_DISABLE", "1")]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("LLAMA_ATTN_ROT_DISABLE is ignored"), "{}", run.stderr);
    let objects = program.objects();
    let other = Program::new(&tiny("llama"));
    other.write("a.txt", &crate::common::prose(50, 1));
    other.ok(&build);
    let names = |objects: Vec<(PathBuf, u64)>| -> Vec<_> {
        objects.into_iter().map(|(path, _)| path.file_name().unwrap().to_owned()).collect()
    };
    assert_eq!(names(objects), names(other.objects()), "the same key has the same bytes");
}
