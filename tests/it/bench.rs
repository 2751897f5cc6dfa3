//! `pcache bench` on the real binary and the tiny models: what it measures, and that nothing is left of it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::common::tiny;
use crate::program::{Program, json};
use serde_json::Value;

/// Contents of the staging folder of the program's store.
fn staging(program: &Program) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(program.store().join("tmp")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn stage<'a>(length: &'a Value, name: &str) -> &'a [Value] {
    let stages = length["stages"].as_array().unwrap();
    let found = stages.iter().find(|s| s["stage"] == name);
    found.map_or(&[], |s| s["samples_s"].as_array().unwrap())
}

const QUICK: [&str; 5] = ["bench", "--max-tokens", "300", "--runs", "2"];

fn quick<'a>(more: &[&'a str]) -> Vec<&'a str> {
    QUICK.iter().chain(more).copied().collect()
}

#[test]
fn every_stage_of_every_length_is_sampled_and_no_state_is_touched() {
    let program = Program::with_two_states();
    let before = program.contents();
    let run = program.ok(&quick(&["--kv-type", "f16,q8_0", "--json"]));
    let results = json(&run);
    assert_eq!((&results["schema"], &results["settings"]["runs"]), (&1.into(), &2.into()));
    assert_eq!(results["model"]["architecture"], "llama");
    let setups = results["setups"].as_array().unwrap();
    let names: Vec<_> = setups.iter().map(|s| format!("{} {}", s["kv_type"], s["codec"])).collect();
    assert_eq!(names.join(", ").replace('"', ""), "f16 raw, f16 zstd:1, q8_0 raw, q8_0 zstd:1");
    for (n, setup) in setups.iter().enumerate() {
        let lengths = setup["lengths"].as_array().unwrap();
        let tokens: Vec<u64> = lengths.iter().map(|l| l["tokens"].as_u64().unwrap()).collect();
        assert_eq!(tokens, [1, 8, 32, 128, 256, 300]);
        for length in lengths {
            let longest = length["tokens"] == 300;
            for name in
                ["prefill", "snapshot", "encode", "hash", "write", "sync", "save", "read_warm", "verify"]
            {
                assert_eq!(stage(length, name).len(), 2, "{name} of {length}");
            }
            for name in ["restore", "context", "question", "memory_copy", "synced_write"] {
                assert_eq!(stage(length, name).len(), 2, "{name} of {length}");
            }
            let asked = if n == 0 || longest { 2 } else { 0 };
            assert_eq!(stage(length, "first_token_warm").len(), asked);
            assert_eq!(stage(length, "first_token_evaluated").len(), asked);
            let cold = results["settings"]["drops_page_cache"].as_bool().unwrap();
            assert_eq!(stage(length, "read_cold").len(), if cold { 2 } else { 0 });
        }
        assert_eq!(lengths[5]["objects"], 2);
        let exact = setup["kv_type"] == "f16";
        assert_eq!(setup["largest_logit_difference"].is_null(), exact);
    }
    let bytes = |n: usize| setups[n]["lengths"][5]["state_bytes"].as_u64().unwrap();
    assert!(bytes(2) * 2 < bytes(0) * 3 / 2, "q8_0 is about half of f16: {} of {}", bytes(2), bytes(0));
    assert_eq!(program.contents(), before);
    assert_eq!(staging(&program), Vec::<PathBuf>::new());
}

#[test]
fn recurrent_and_hybrid_models_are_measured_as_they_are_saved() {
    for model in ["lfm2", "mamba2"] {
        let program = Program::new(&tiny(model));
        let results = json(&program.ok(&quick(&["--codec", "raw", "--json"])));
        let longest = &results["setups"][0]["lengths"][5];
        assert_eq!((&longest["tokens"], &longest["objects"]), (&300.into(), &1.into()), "{model}");
    }
}

#[test]
fn measurements_are_compared_and_drawn() {
    let program = Program::new(&tiny("llama"));
    let text = program.ok(&quick(&["--save", "a.json"])).stdout;
    for part in
        ["Time to the first token", "REACHED", "KV types and codecs", "From the page cache, a saved state"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    program.ok(&quick(&["--save", "b.json", "--codec", "raw"]));
    let table = program.ok(&["bench", "compare", "a.json", "b.json"]).stdout;
    assert!(table.lines().nth(1).unwrap().contains("RATIO"), "{table}");
    assert!(table.contains("restore") && table.contains("first token warm"), "{table}");
    // The same file twice differs by nothing, and that is noise.
    let same = program.ok(&["bench", "compare", "a.json", "a.json", "--all"]).stdout;
    let rows = same.lines().filter(|l| l.starts_with("f16"));
    rows.for_each(|row| assert!(row.ends_with("~1.00"), "{row}"));

    for name in ["report.html", "report.svg", "report.md"] {
        program.ok(&["bench", "report", "a.json", "b.json", "-o", name]);
        let report = std::fs::read_to_string(program.path(name)).unwrap();
        let links = report.replace("http://www.w3.org/2000/svg", "");
        assert!(!links.contains("http") && !links.contains("src="), "{name} needs something from elsewhere");
        assert!(report.len() > 1000 && !report.contains("NaN"), "{name}");
    }
}

#[test]
fn what_cannot_be_compared_drawn_or_measured_is_said() {
    let program = Program::new(&tiny("llama"));
    program.write("text.json", "{\"schema\": 99}");
    program.write("other.json", "[]");
    program.write("empty.txt", " \n");
    let cases: [(&[&str], i32, &str); 8] = [
        (&["bench", "--prompt", "empty.txt"], 1, "empty.txt is empty"),
        (&["bench", "compare", "text.json", "text.json"], 1, "its schema is 99, and this pcache reads 1"),
        (&["bench", "compare", "other.json", "other.json"], 1, "no measurement of pcache bench"),
        (&["bench", "compare", "text.json"], 2, "FILE"),
        (&["bench", "report", "missing.json", "-o", "a.html"], 3, "missing.json"),
        (&["bench", "--kv-type", "q8_0", "--flash-attn", "off"], 2, "needs flash attention"),
        (&["bench", "--save", "no/such/folder.json"], 1, "no/such/folder.json"),
        (&["bench", "--codec", "gzip"], 2, "raw, zstd or zstd:LEVEL"),
    ];
    for (args, code, said) in cases {
        let run = program.run(args);
        assert_eq!(run.code, code, "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(said), "{args:?}: {}", run.stderr);
    }
    assert_eq!(staging(&program), Vec::<PathBuf>::new());
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// It takes minutes, unless it is stopped.
const LONG: [&str; 6] = ["bench", "--max-tokens", "1024", "--runs", "500", "-q"];

#[test]
fn ctrl_c_leaves_nothing() {
    let program = Program::new(&tiny("llama"));
    let mut bench = program.start(&LONG);
    wait_for("the scratch folder", || !staging(&program).is_empty());
    std::thread::sleep(Duration::from_millis(300));
    let signal = std::process::Command::new("kill").args(["-INT", &bench.id().to_string()]).status();
    assert!(signal.unwrap().success());
    assert_eq!(bench.wait().unwrap().code(), Some(130));
    assert_eq!(staging(&program), Vec::<PathBuf>::new());
}

/// gc leaves a measurement alone as long as its process lives, and takes it away when it was killed.
#[test]
fn gc_knows_a_measurement_from_what_one_left_behind() {
    let program = Program::with_two_states();
    let mut bench = program.start(&LONG);
    let index = |folder: &PathBuf| folder.join("index.sqlite").exists();
    wait_for("the scratch store", || staging(&program).iter().filter(|f| index(f)).count() == 2);
    program.ok(&["gc"]);
    assert_eq!(staging(&program).len(), 2);
    assert!(staging(&program).iter().all(index), "gc took something of it");
    assert!(bench.try_wait().unwrap().is_none(), "the measurement ended");
    bench.kill().unwrap();
    bench.wait().unwrap();
    let freed = json(&program.ok(&["gc", "--json"]));
    assert_eq!(staging(&program), Vec::<PathBuf>::new());
    assert!(freed["freed_bytes"].as_u64().unwrap() > 0);
    assert_eq!(freed["evicted"].as_array().map(Vec::len), Some(0));
}

#[test]
fn build_says_once_when_a_prompt_is_too_short_to_gain() {
    let program = Program::new(&tiny("llama"));
    program.write("a.txt", "Soup is served.");
    program.write("b.txt", "Tea is served.");
    program.ok(&["build", "a.txt", "--threads", "1"]);
    program.sql("INSERT INTO break_even SELECT hash, 1, 500 FROM models");
    program.write("c.txt", "Cake is served.");
    let run = program.ok(&["build", "b.txt", "c.txt", "--threads", "1"]);
    assert_eq!(run.stderr.matches("saving pays from 500 tokens on").count(), 1, "{}", run.stderr);
    let others = program.ok(&["build", "--raw", "b.txt", "--threads", "2"]);
    assert!(!others.stderr.contains("saving pays"), "{}", others.stderr);
}

/// Each removed the other's store that was not locked yet, and containers, whose processes have the same numbers, the
/// other's that was.
#[test]
fn measurements_at_the_same_time_leave_each_other_alone() {
    let program = Program::with_two_states();
    let before = program.contents();
    for _ in 0..4 {
        let args = ["bench", "--max-tokens", "40", "--runs", "1", "--codec", "raw", "--json"];
        let children: Vec<_> = (0..3).map(|_| program.start(&args)).collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    assert_eq!(staging(&program), Vec::<PathBuf>::new());
    assert_eq!(program.contents(), before);
}

/// One number without end made a picture of a report take all memory; others made it no picture.
#[test]
fn what_cannot_have_been_measured_is_refused() {
    let program = Program::new(&tiny("llama"));
    program.ok(&["bench", "--max-tokens", "40", "--runs", "2", "--codec", "raw", "--save", "a.json"]);
    let good: Value =
        serde_json::from_str(&std::fs::read_to_string(program.path("a.json")).unwrap()).unwrap();
    let sample = "/setups/0/lengths/0/stages/0/samples_s";
    let cases = [
        (sample, serde_json::json!([1.7e308]), "a sample of 1.7e308 seconds"),
        (sample, serde_json::json!([-1.0]), "a sample of -1e0 seconds"),
        (sample, serde_json::json!([5e-324]), "a sample of 5e-324 seconds"),
        (sample, serde_json::json!([]), "has no samples"),
        ("/setups/0/lengths/0/stored_bytes", serde_json::json!(0), "0 tokens, objects or bytes"),
    ];
    for (place, value, text) in cases {
        let mut bad = good.clone();
        *bad.pointer_mut(place).unwrap() = value;
        program.write("bad.json", &bad.to_string());
        let run = program.run(&["bench", "report", "bad.json", "-o", "x.svg"]);
        assert_eq!(run.code, 1, "{text}");
        assert!(run.stderr.contains(text), "{text}: {}", run.stderr);
    }
    // A stage of a later version is passed over; names that a terminal would obey are not shown as they are.
    let mut later = good.clone();
    later["setups"][0]["lengths"][0]["stages"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({"stage": "new", "samples_s": [1]}));
    later["model"]["name"] = "evil\u{1b}]0;x\u{7}".into();
    program.write("later.json", &later.to_string());
    let run = program.ok(&["bench", "compare", "a.json", "later.json"]);
    assert!(!run.stdout.contains('\u{1b}'), "{}", run.stdout);
    program.ok(&["bench", "report", "later.json", "-o", "x.svg"]);
    assert!(!std::fs::read_to_string(program.path("x.svg")).unwrap().contains('\u{1b}'));
}

#[test]
fn comparisons_are_numbers_for_programs() {
    let program = Program::new(&tiny("llama"));
    for folder in ["old", "new", "newest"] {
        std::fs::create_dir(program.path(folder)).unwrap();
        program.ok(&[
            "bench",
            "--max-tokens",
            "40",
            "--runs",
            "2",
            "--codec",
            "raw",
            "--save",
            &format!("{folder}/run.json"),
        ]);
    }
    let files = ["old/run.json", "new/run.json", "newest/run.json"];
    let compared = json(&program.ok(&[&["bench", "compare", "--json"], &files[..]].concat()));
    assert_eq!(compared["files"], serde_json::json!(files));
    for row in compared["differences"].as_array().unwrap() {
        let times = row["files"].as_array().unwrap();
        assert_eq!((times.len(), &times[0]["ratio"]), (3, &1.0.into()));
        let median = |n: usize| times[n]["median_s"].as_f64().unwrap();
        assert!((times[2]["ratio"].as_f64().unwrap() - median(2) / median(0)).abs() < 1e-9);
        assert!(times[1]["noise"].is_boolean());
    }
    let table = program.ok(&[&["bench", "compare"], &files[..]].concat()).stdout;
    assert!(files.iter().all(|file| table.contains(file)), "files of one name are told apart: {table}");
}
