//! The answer is the same wherever it comes from: evaluated, restored, healed, repaired, or from a store that was built
//! in another way. On the real binary, for every kind of model.

use std::path::Path;

use crate::common::{TINY, full, prose, smollm2, tiny};
use crate::program::{Program, Run, json};

struct Asked<'a> {
    program: &'a Program,
    expected: String,
    tokens: u64,
}

impl Asked<'_> {
    fn ask(&self, extra: &[&str]) -> Run {
        let args = ["ask", "state", "Is it warm?", "--max-tokens", "12", "--json"];
        self.program.ok(&[&args, extra].concat())
    }

    /// The answer with these arguments is the expected one, and it came from so much of the cache.
    fn assert_same(&self, extra: &[&str], restored: std::ops::RangeInclusive<u64>, what: &str) {
        let report = json(&self.ask(extra));
        assert_eq!(report["answer"], self.expected.as_str(), "{what}");
        let found = report["cache"]["restored_tokens"].as_u64().unwrap();
        assert!(restored.contains(&found), "{what}: {found} of {} tokens were restored", self.tokens);
    }

    fn assert_hit(&self, extra: &[&str], what: &str) {
        self.assert_same(&[extra, &["--require-hit"]].concat(), self.tokens..=self.tokens, what);
    }
}

fn check(model: &Path, kv_type: &str, words: usize) {
    let name = model.file_stem().unwrap().display().to_string();
    let what = |how: &str| format!("{name} {kv_type}: {how}");
    let program = Program::new(model);
    program.write("prompt.txt", &prose(words, 1));
    let build: &[&str] = &["build", "prompt.txt", "--name", "state", "--kv-type", kv_type];
    let built = json(&program.ok(&[build, &["--json"]].concat()));
    let tokens = built["tokens"].as_u64().unwrap();
    assert!(tokens > 256, "{name}: {tokens} tokens are too few");
    let mut asked = Asked { program: &program, expected: String::new(), tokens };
    let cold = json(&asked.ask(&["--no-cache"]));
    assert_eq!(cold["cache"]["restored_tokens"], 0);
    asked.expected = cold["answer"].as_str().unwrap().to_owned();

    asked.assert_hit(&[], &what("a full hit"));
    asked.assert_hit(&["--threads", "1"], &what("another number of threads"));
    asked.assert_hit(&["--threads", "3"], &what("more threads than cores"));
    // The last segment is gone: healed from the prefix, where the model can go on from one.
    let segments = program.segments();
    let last = segments.iter().max_by_key(|path| first_position(path)).unwrap();
    std::fs::remove_file(last).unwrap();
    asked.assert_same(&[], 0..=tokens - 1, &what("healed"));
    asked.assert_hit(&[], &what("after healing"));

    let first = program.segments().into_iter().min_by_key(|path| first_position(path)).unwrap();
    std::fs::write(first, "damaged").unwrap();
    program.ok(&["verify", "--repair"]);
    asked.assert_hit(&[], &what("after a repair"));
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(program.store().join(format!("index.sqlite{end}")));
    }
    program.ok(&["verify", "--repair"]);
    asked.assert_hit(&[], &what("after the index was lost"));

    // In the other codec, all of it and then a part.
    std::fs::remove_dir_all(program.store()).unwrap();
    program.ok(&[build, &["--codec", "zstd"]].concat());
    asked.assert_hit(&[], &what("compressed"));
    let last = program.segments().into_iter().max_by_key(|path| first_position(path)).unwrap();
    std::fs::remove_file(last).unwrap();
    asked.assert_same(&[], 0..=tokens - 1, &what("healed behind compressed segments"));
    asked.assert_hit(&[], &what("some of it compressed"));

    // A store that was built with other threads, and beside a longer prompt with the same beginning.
    std::fs::remove_dir_all(program.store()).unwrap();
    program.write("longer.txt", &format!("{} And much more than that.", prose(words, 1)));
    program.ok(&["build", "longer.txt", "--kv-type", kv_type, "--threads", "1"]);
    let again = json(&program.ok(&[build, &["--threads", "1", "--json"]].concat()));
    assert_eq!(again["key"], built["key"], "{name}");
    asked.assert_hit(&[], &what("built on the prefix of another prompt, with one thread"));
    // And one whose context was larger.
    program.ok(&["ask", "state", "Is it warm?", "--max-tokens", "700", "--stop", "zzz"]);
    let verified = json(&program.ok(&["verify", "state", "--logits", "--json"]));
    assert_eq!(verified["states"][0]["max_logit_difference"], 0.0, "{name}");
}

fn first_position(path: &Path) -> usize {
    pcache_format::object::decode(&std::fs::read(path).unwrap()).unwrap().meta.first
}

#[test]
fn every_tiny_model_with_every_cache_type() {
    for name in TINY {
        for kv_type in ["f16", "q8_0", "q4_0"] {
            check(&tiny(name), kv_type, 60);
        }
    }
}

#[test]
fn a_real_model() {
    // The others' logits are compared by tests/same_logits.rs, and their answers with --full.
    let kv_types: &[&str] = if full() { &["f16", "q8_0", "q4_0"] } else { &["f16"] };
    for kv_type in kv_types {
        check(&smollm2(), kv_type, 260);
    }
}
