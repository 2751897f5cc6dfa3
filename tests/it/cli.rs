//! The real binary, on the tiny models.

use crate::common::{TINY, prose, tiny};
use crate::program::{Program, Run, json};
use serde_json::Value;

/// A program with a store of its own, and a prompt of about 640 tokens for the tiny models.
fn program() -> Program {
    let program = Program::new(&tiny("llama"));
    program.write("prompt.txt", &prose(120, 1));
    program
}

#[test]
fn build_prints_the_key_and_nothing_else() {
    let program = program();
    let first = program.ok(&["build", "prompt.txt"]);
    assert_eq!(first.stdout.len(), 13, "{:?}", first.stdout);
    assert!(first.stdout.trim_end().bytes().all(|b| b.is_ascii_hexdigit()));
    assert!(first.stderr.contains("to cache 637 tokens"), "{}", first.stderr);
    assert!(first.stderr.contains("saved 637 tokens"), "{}", first.stderr);
    assert_eq!(program.ok(&["-q", "build", "prompt.txt"]).stderr, "");
}

#[test]
fn a_second_build_is_a_hit_without_the_model() {
    let program = program();
    let first = program.ok(&["build", "prompt.txt", "-vv"]);
    assert!(first.stderr.contains("llama_model_loader"), "the log shows when a model is loaded");
    let second = program.ok(&["build", "prompt.txt", "-vv"]);
    assert_eq!(first.stdout, second.stdout);
    assert!(second.stderr.contains("hit: 637 tokens are saved"), "{}", second.stderr);
    assert!(!second.stderr.contains("llama"), "a model was loaded: {}", second.stderr);
    let report = json(&program.ok(&["build", "prompt.txt", "--json"]));
    assert_eq!(report["cache"]["status"], "hit");
    assert_eq!(report["cache"]["evaluated_tokens"], 0);
    assert_eq!(report["segments"], serde_json::json!({"total": 3, "reused": 3, "written": 0}));
    assert_eq!(report["bytes_written"], 0);
}

#[test]
fn a_shared_prefix_is_evaluated_and_stored_once() {
    let program = program();
    program.write("longer.txt", &format!("{} and one more thing", prose(120, 1)));
    let both = program.ok(&["build", "prompt.txt", "longer.txt", "--json"]);
    let reports: Vec<Value> = both.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(reports[0]["cache"]["status"], "miss");
    assert_eq!(reports[1]["cache"]["status"], "partial");
    assert_eq!(reports[1]["cache"]["restored_tokens"], 512);
    assert_eq!(reports[1]["segments"], serde_json::json!({"total": 3, "reused": 2, "written": 1}));
    assert_eq!(program.segments().len(), 4);
    let listing = json(&program.ok(&["ls", "--json"]));
    let state = &listing["states"][0];
    assert!(state["unique_bytes"].as_u64() < state["bytes"].as_u64());
    assert_eq!(listing["objects"], 4);
    assert_eq!(listing["total_bytes"], program.stored_bytes(), "manifests and labels, too");
}

#[test]
fn the_key_does_not_depend_on_what_was_cached_or_on_where_or_how_fast() {
    let program = program();
    let key = program.ok(&["build", "prompt.txt"]).stdout;
    let other = Program::new(&tiny("llama"));
    other.write("renamed.txt", &prose(120, 1));
    other.write("prefix.txt", &prose(60, 1));
    other.ok(&["build", "prefix.txt"]);
    assert_eq!(other.ok(&["build", "renamed.txt", "--threads", "1"]).stdout, key);
    assert_ne!(other.ok(&["build", "renamed.txt", "--kv-type", "q8_0"]).stdout, key);
    assert_ne!(other.ok(&["build", "renamed.txt", "--raw"]).stdout, key);
}

#[test]
fn a_prompt_comes_from_stdin_and_a_state_has_a_name() {
    let program = program();
    let key = program.ok(&["build", "prompt.txt"]).stdout;
    let run = program.run_with(&["build", "-", "--name", "baker"], &prose(120, 1));
    assert_eq!((run.code, run.stdout.as_str()), (0, key.as_str()));
    assert!(program.ok(&["ask", "baker", "Is it warm?"]).stderr.contains("hit: 637 tokens restored"));

    program.write("other.txt", &prose(30, 2));
    let moved = program.ok(&["build", "other.txt", "--name", "baker"]);
    assert_ne!(moved.stdout, key);
    assert!(moved.stderr.contains("baker") && moved.stderr.contains(&key[..12]), "{}", moved.stderr);
    assert!(
        program.ok(&["ask", key.trim(), "Is it warm?"]).stderr.contains("hit"),
        "without a name it stays"
    );
    assert_eq!(program.run(&["build", "other.txt", "--name", "abcdef"]).code, 2);
    assert_eq!(program.run(&["build", "other.txt", "prompt.txt", "--name", "x"]).code, 2);
    assert_eq!(json(&program.ok(&["ls", "--json"]))["states"].as_array().unwrap().len(), 2);
}

#[test]
fn every_kind_of_model_answers_the_same_with_and_without_the_cache() {
    for name in TINY {
        for kv_type in ["f16", "q8_0", "q4_0"] {
            let program = Program::new(&tiny(name));
            program.write("prompt.txt", &prose(120, 1));
            let key = program.ok(&["build", "prompt.txt", "--kv-type", kv_type]).stdout;
            let ask = |extra: &[&str]| {
                let args = [&["ask", key.trim(), "Is it warm?", "--max-tokens", "24", "--json"], extra];
                json(&program.ok(&args.concat()))
            };
            let (hit, cold) = (ask(&["--require-hit"]), ask(&["--no-cache"]));
            assert_eq!(hit["answer"], cold["answer"], "{name} {kv_type}");
            assert_eq!(hit["cache"]["status"], "hit", "{name} {kv_type}");
            assert_eq!(hit["cache"]["restored_tokens"], 637);
            assert_eq!(hit["cache"]["evaluated_tokens"], 24);
            assert_eq!(cold["cache"]["restored_tokens"], 0);
            assert_eq!(cold["cache"]["evaluated_tokens"], 637 + 24);
        }
    }
}

#[test]
fn each_question_starts_from_the_same_state() {
    let program = program();
    let key = program.ok(&["build", "prompt.txt"]).stdout;
    let key = key.trim();
    let alone = json(&program.ok(&["ask", key, "And cheese?", "--max-tokens", "20", "--json"]));
    let lines = program.ok(&["ask", key, "Is it warm?", "And cheese?", "--max-tokens", "20", "--json"]);
    let last: Value = serde_json::from_str(lines.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["answer"], alone["answer"]);
    assert_eq!(last["cache"], alone["cache"]);

    program.write("questions.txt", "Is it warm?\n\nAnd cheese?\n");
    let file = program.ok(&["ask", key, "--questions", "questions.txt", "--max-tokens", "20", "--json"]);
    let answers = |run: &Run| -> Vec<Value> {
        run.stdout.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["answer"].clone()).collect()
    };
    assert_eq!(answers(&file), answers(&lines));
    let stdin = program.run_with(&["ask", key, "--max-tokens", "20", "--json"], "And cheese?\n");
    assert_eq!(json(&stdin)["answer"], alone["answer"]);
}

#[test]
fn trials_are_labelled_and_a_seed_repeats_itself() {
    let program = program();
    let key = program.ok(&["build", "prompt.txt"]).stdout;
    let ask = |extra: &[&str]| {
        program.ok(&[&["ask", key.trim(), "Hm?", "--max-tokens", "16", "--temp", "1.5"], extra].concat())
    };
    let three = ask(&["--trials", "3", "--seed", "7", "--json"]);
    let reports: Vec<Value> = three.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(reports.iter().map(|r| r["seed"].as_u64().unwrap()).collect::<Vec<_>>(), [7, 8, 9]);
    assert_ne!(reports[0]["answer"], reports[1]["answer"]);
    assert_eq!(json(&ask(&["--seed", "8", "--json"]))["answer"], reports[1]["answer"]);
    let text = ask(&["--trials", "2", "--seed", "7"]).stdout;
    assert!(text.contains("## Hm?") && text.contains("### trial 2, seed 8"), "{text}");
}

#[test]
fn each_sampling_option_does_what_it_says() {
    let program = program();
    let key = program.ok(&["build", "prompt.txt"]).stdout;
    let ask = |extra: &[&str]| {
        json(&program.ok(&[&["ask", key.trim(), "Hm?", "--max-tokens", "12", "--json"], extra].concat()))["answer"]
            .clone()
    };
    let greedy = ask(&[]);
    let hot = ["--temp", "2", "--seed", "5", "--top-k", "0", "--top-p", "1", "--min-p", "0"];
    assert_ne!(ask(&hot), greedy);
    // Each of these leaves only the likeliest token to choose from.
    for narrow in [["--top-k", "1"], ["--top-p", "0"], ["--min-p", "1"]] {
        assert_eq!(ask(&[&["--temp", "2", "--seed", "5"][..], &narrow].concat()), greedy, "{narrow:?}");
    }
    assert_eq!(ask(&["--temp", "1e-45"]), greedy, "a temperature this small once gave noise");
    let repeats = |answer: &Value| {
        let text: Vec<char> = answer.as_str().unwrap().chars().collect();
        text.len() - text.iter().collect::<std::collections::HashSet<_>>().len()
    };
    assert!(repeats(&ask(&["--repeat-penalty", "50"])) < repeats(&greedy), "{greedy}");
}

#[test]
fn an_answer_says_why_it_ended() {
    let program = program();
    let key = program.ok(&["build", "prompt.txt"]).stdout;
    let ask = |extra: &[&str]| json(&program.ok(&[&["ask", key.trim(), "Hm?", "--json"], extra].concat()));
    let free = ask(&["--max-tokens", "12"]);
    assert_eq!(free["stop_reason"], "max_tokens");
    assert_eq!(free["answer_tokens"], 12);
    let answer = free["answer"].as_str().unwrap();
    let stop: String = answer.chars().skip(4).take(2).collect();
    let stopped = ask(&["--max-tokens", "12", "--stop", &stop]);
    assert_eq!(stopped["stop_reason"], "stop_string");
    assert_eq!(stopped["answer"].as_str().unwrap(), answer.split(&stop).next().unwrap());
    let long = ask(&["--max-tokens", "5000"]);
    let reason = long["stop_reason"].as_str().unwrap();
    assert!(["eos", "context_full"].contains(&reason), "{reason}");
}

#[test]
fn the_timing_table_has_the_rows_of_its_command() {
    let program = program();
    let build = program.ok(&["build", "prompt.txt", "--stats"]);
    for row in ["key          time         num_tokens   tps", "reset", "eval_time", "save_state"] {
        assert!(build.stderr.contains(row), "{row}: {}", build.stderr);
    }
    let ask = program.ok(&["ask", build.stdout.trim(), "Hm?", "--max-tokens", "4", "--stats"]);
    for row in ["model_load", "context", "verify_state", "load_state", "eval_prompt", "main_sample"] {
        assert!(ask.stderr.contains(row), "{row}: {}", ask.stderr);
    }
}

#[test]
fn events_stream_as_they_happen() {
    let program = program();
    let events =
        |run: &Run| -> Vec<Value> { run.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect() };
    let build = events(&program.ok(&["build", "prompt.txt", "--format", "jsonl"]));
    assert_eq!(build.iter().filter(|e| e["event"] == "progress").count(), 3);
    let key = build.last().unwrap()["key"].as_str().unwrap().to_owned();
    let ask =
        events(&program.ok(&["ask", &key, "Hm?", "--max-tokens", "8", "--temp", "1", "--format", "jsonl"]));
    let streamed: String =
        ask.iter().filter(|e| e["event"] == "text").map(|e| e["text"].as_str().unwrap()).collect();
    assert_eq!(ask.last().unwrap()["answer"], streamed.as_str());
}

#[test]
fn damage_is_healed_and_told_or_refused_under_require_hit() {
    let program = program();
    let key = program.ok(&["build", "prompt.txt"]).stdout;
    let key = key.trim();
    let ask = |extra: &[&str]| {
        program.run(&[&["ask", key, "Is it warm?", "--max-tokens", "16", "--json"], extra].concat())
    };
    let good = json(&ask(&[]));
    let damage: [&dyn Fn(&std::path::Path); 3] = [
        &|path| {
            let mut bytes = std::fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            std::fs::write(path, bytes).unwrap();
        },
        &|path| std::fs::remove_file(path).unwrap(),
        &|path| std::fs::write(path, b"").unwrap(),
    ];
    for damage in damage {
        let path = program.segments().remove(0);
        damage(&path);
        let refused = ask(&["--require-hit"]);
        assert_eq!((refused.code, refused.stdout.as_str()), (3, ""), "{}", refused.stderr);
        let healed = ask(&[]);
        assert_eq!(healed.code, 0);
        assert!(healed.stderr.contains("evaluated and saved again"), "{}", healed.stderr);
        let report = json(&healed);
        assert_eq!(report["answer"], good["answer"]);
        assert_ne!(report["cache"]["status"], "hit");
        assert!(report["cache"]["reason"].as_str().unwrap().contains("object"));
        assert_eq!(json(&ask(&["--require-hit"]))["cache"]["status"], "hit");
    }
    let path = program.segments().remove(0);
    std::fs::write(&path, b"x").unwrap();
    let rebuilt = program.ok(&["build", "prompt.txt", "--json"]);
    assert!(rebuilt.stderr.contains("damaged"), "{}", rebuilt.stderr);
    assert_eq!(json(&ask(&["--require-hit"]))["answer"], good["answer"]);
}

/// A row that was changed behind pcache's back once stayed damaged for ever: builds called it a hit.
#[test]
fn damaged_rows_of_the_index_are_told_and_built_again() {
    let damages = [
        ("UPDATE states SET pending_text = 'x' || pending_text", 0),
        ("UPDATE prompt_formats SET suffix = 'x' || suffix", 0),
        ("UPDATE segments SET parent = zeroblob(32)", 0),
        ("UPDATE segments SET first = first + 1", 0),
        ("UPDATE segments SET file_bytes = file_bytes + 1", 0),
    ];
    for (sql, code) in damages {
        let program = program();
        let key = program.ok(&["build", "prompt.txt"]).stdout;
        let ask = |extra: &[&str]| {
            program.run(&[&["ask", key.trim(), "Hm?", "--max-tokens", "4", "--json"], extra].concat())
        };
        let good = json(&ask(&[]))["answer"].clone();
        program.sql(sql);
        assert_eq!(ask(&[]).code, code, "{sql}");
        assert_eq!(program.ok(&["build", "prompt.txt"]).stdout, key, "{sql}");
        let healed = ask(&["--require-hit"]);
        assert_eq!((healed.code, &json(&healed)["answer"]), (0, &good), "{sql}: {}", healed.stderr);
    }
    // Two rows that name each other's objects once made every build fail.
    let program = program();
    let key = program.ok(&["build", "prompt.txt"]).stdout;
    let objects = program.segments();
    let name = |n: usize| objects[n].file_stem().unwrap().display().to_string();
    let rename = |from: &str, to: &str| {
        program.sql(&format!("UPDATE segments SET object = x'{to}' WHERE object = x'{from}'"));
    };
    let nobody = "00".repeat(32);
    rename(&name(0), &nobody);
    rename(&name(1), &name(0));
    rename(&nobody, &name(1));
    let ask = program.run(&["ask", key.trim(), "Hm?", "--max-tokens", "2"]);
    assert_eq!(ask.code, 0, "{}", ask.stderr);

    // Numbers that no table should hold.
    for sql in ["UPDATE segments SET first = -1", "UPDATE states SET revision = -5"] {
        let program = self::program();
        let key = program.ok(&["build", "prompt.txt", "--name", "menu"]).stdout;
        program.sql(sql);
        let damaged = program.run(&["verify"]);
        assert_eq!(
            (damaged.code, damaged.stderr.contains("verify --repair")),
            (4, true),
            "{sql}: {}",
            damaged.stderr
        );
        program.ok(&["verify", "--repair"]);
        let hit = program.ok(&["ask", "menu", "Hm?", "--max-tokens", "1", "--require-hit"]);
        assert!(hit.stderr.contains("hit"), "{key}");
    }
    let program = self::program();
    let key = program.ok(&["build", "prompt.txt"]).stdout;
    program.sql("UPDATE params SET text = 'garbage'");
    let run = program.run(&["ask", key.trim(), "Hm?"]);
    assert_eq!((run.code, run.stderr.contains("verify --repair")), (4, true), "{}", run.stderr);
    std::fs::write(program.store().join("index.sqlite"), "no database").unwrap();
    assert_eq!(program.run(&["ls"]).code, 4);
    // What the message advises works.
    let repaired = program.ok(&["verify", "--repair"]);
    assert!(repaired.stderr.contains("1 state, 3 segments"), "{}", repaired.stderr);
    assert!(program.ok(&["build", "prompt.txt"]).stderr.contains("hit: 637 tokens"));
    assert!(program.ok(&["gc"]).stdout.contains("1 staging file"), "the damaged index goes with the next gc");
}

/// Uses within one second were once ordered by key, and gc took the state that was just asked.
#[test]
fn the_last_used_state_stays_however_quickly_the_others_were_built() {
    let program = program();
    program.write("2.txt", &prose(40, 2));
    program.write("3.txt", &prose(40, 3));
    for (i, file) in ["prompt.txt", "2.txt", "3.txt"].into_iter().enumerate() {
        program.ok(&["build", file, "--name", &format!("state-{i}")]);
    }
    for name in ["state-1", "state-2", "state-0"] {
        program.ok(&["ask", name, "Hm?", "--max-tokens", "1"]);
    }
    program.sql("UPDATE states SET last_used = 1000");
    program.ok(&["gc", "--keep", "1"]);
    assert_eq!(json(&program.ok(&["ls", "--json"]))["states"][0]["name"], "state-0");
}

/// llama.cpp's log once unwound into C when stderr was gone.
#[test]
fn a_stderr_that_is_gone_is_not_an_abort() {
    let program = program();
    let run = program.run_with_closed_stderr(&["build", "prompt.txt", "-vv"]);
    assert_eq!((run.code, run.stdout.len()), (0, 13));
}

#[test]
fn a_copy_of_the_model_that_is_still_there_is_found() {
    let program = program();
    let (a, b) = (program.path("a.gguf"), program.path("b.gguf"));
    std::fs::copy(tiny("llama"), &a).unwrap();
    std::fs::copy(tiny("llama"), &b).unwrap();
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    let key = program.ok(&["-m", a, "build", "prompt.txt"]).stdout;
    program.ok(&["-m", b, "build", "prompt.txt"]);
    std::fs::write(b, "junk that is no model").unwrap();
    // The environment's model is the right one, whatever lies where it was last seen.
    program.ok(&["ask", key.trim(), "Hm?", "--max-tokens", "1"]);
    program.ok(&["-m", a, "build", "prompt.txt"]);
    assert_eq!(program.run_without_model(&["ask", key.trim(), "Hm?", "--max-tokens", "1"]).code, 0);
}

#[test]
fn several_prompts_are_read_before_the_first_is_evaluated() {
    let program = program();
    let run = program.run(&["build", "prompt.txt", "nowhere.txt"]);
    assert_eq!((run.code, run.stdout.as_str()), (3, ""));
    assert!(run.stderr.contains("nowhere.txt"));
    program.write("b.txt", &prose(30, 2));
    let both = program.ok(&["build", "prompt.txt", "b.txt"]);
    assert!(both.stderr.contains("b.txt: saved"), "{}", both.stderr);
}

#[test]
fn ls_shows_a_table_and_writes_nothing() {
    let program = program();
    let empty = program.ok(&["ls"]);
    assert_eq!(empty.stdout, "");
    assert!(empty.stderr.contains("no states"));
    assert!(!program.store().exists());

    program.write("b.txt", &prose(60, 2));
    program.ok(&["build", "prompt.txt", "--name", "long"]);
    program.ok(&["build", "b.txt"]);
    let table = program.ok(&["ls", "--sort", "tokens"]).stdout;
    let lines: Vec<&str> = table.lines().collect();
    for column in ["KEY", "NAME", "MODEL", "TOKENS", "SIZE", "OWN", "AGE", "USED", "HITS"] {
        assert!(lines[0].contains(column), "{table}");
    }
    assert!(lines[1].contains("long") && lines[1].contains("tiny-llama") && lines[1].contains("637"));
    assert!(lines.iter().all(|l| l.trim_end().chars().count() <= 80), "{table}");
    assert_eq!(program.ok(&["ls", "--model", "gemma"]).stdout, "");
    assert_eq!(program.ok(&["ls", "--model", "LLAMA"]).stdout.lines().count(), 3);
}

#[test]
fn gc_plans_and_does_the_same_and_accounts_for_every_byte() {
    let program = program();
    for seed in 2..5 {
        let name = format!("{seed}.txt");
        program.write(&name, &prose(100, seed));
        program.ok(&["build", &name, "--name", &format!("state-{seed}")]);
        program.set_last_used(&format!("state-{seed}"), 100 - 10 * seed as i64);
    }
    std::fs::write(program.store().join("tmp/123-left-behind"), [0; 1000]).unwrap();
    let total = program.total_bytes();
    let plan = json(&program.ok(&["gc", "--max-age", "65d", "--dry-run", "--json"]));
    assert_eq!(program.total_bytes(), total, "a dry run changes nothing");
    assert_eq!(plan["dry_run"], true);
    let reasons: Vec<&str> =
        plan["evicted"].as_array().unwrap().iter().map(|e| e["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["unused for 80 days", "unused for 70 days"]);
    assert_eq!(
        plan["freed_bytes"].as_u64().unwrap() + plan["kept_bytes"].as_u64().unwrap(),
        total,
        "every byte stays or goes"
    );

    let text = program.ok(&["gc", "--max-age", "65d"]).stdout;
    assert!(
        text.contains("evicted") && text.contains("state-2") && text.contains("1 staging file"),
        "{text}"
    );
    let after = json(&program.ok(&["gc", "--json"]));
    assert_eq!(after["kept_bytes"], program.total_bytes());
    assert_eq!(after["freed_bytes"], 0);
    assert!(program.ok(&["ask", "state-4", "Hm?", "--max-tokens", "2"]).stderr.contains("hit"));
    assert_eq!(program.run(&["ask", "state-2", "Hm?"]).code, 3);
}

#[test]
fn gc_keeps_a_size_and_a_number() {
    let program = program();
    for seed in 2..6 {
        let name = format!("{seed}.txt");
        program.write(&name, &prose(100, seed));
        program.ok(&["build", &name, "--name", &format!("state-{seed}")]);
        program.set_last_used(&format!("state-{seed}"), 100 - 10 * seed as i64);
    }
    let names = || -> Vec<String> {
        let listing = json(&program.ok(&["ls", "--json"]));
        listing["states"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().into()).collect()
    };
    program.ok(&["gc", "--keep", "3"]);
    assert_eq!(names(), ["state-5", "state-4", "state-3"]);
    let size = program.total_bytes() - 1;
    program.ok(&["gc", "--max-size", &size.to_string()]);
    assert_eq!(names(), ["state-5", "state-4"]);
    assert!(program.total_bytes() <= size);
    program.ok(&["gc", "--max-size", "0"]);
    assert_eq!(names(), [] as [&str; 0]);
    assert_eq!(program.objects(), []);
}

#[test]
fn errors_name_the_thing_and_have_their_codes() {
    let program = program();
    let key = program.ok(&["build", "prompt.txt"]).stdout;
    let key = key.trim();
    program.write("empty.txt", " \n");
    program.write_bytes("latin1.txt", b"caf\xe9");
    program.write("long.txt", &prose(900, 1));
    program.write("not.gguf", "GGUX rather long");
    program.write("truncated.gguf", "GGUF");
    let question = "a".repeat(4000);
    let cases: &[(&[&str], i32, &str)] = &[
        (&["build", "nowhere.txt"], 3, "nowhere.txt"),
        (&["build", "empty.txt"], 1, "empty.txt is empty"),
        (&["build", "latin1.txt"], 1, "from position 3 on"),
        (&["build", "long.txt"], 1, "4,096"),
        (&["build"], 2, "PROMPT"),
        (&["-m", "nowhere.gguf", "build", "prompt.txt"], 5, "nowhere.gguf"),
        (&["-m", "not.gguf", "build", "prompt.txt"], 1, "not a GGUF file"),
        (&["-m", "truncated.gguf", "build", "prompt.txt"], 1, "truncated.gguf"),
        (&["-m", ".", "build", "prompt.txt"], 5, "is a folder"),
        (&["ask", "abcdef", "Hm?"], 3, "no state \"abcdef\""),
        (&["ask", key, "Hm?", "--gpu-layers", "3"], 2, "without GPU support"),
        (&["build", "prompt.txt", "--gpu-layers", "3"], 2, "without GPU support"),
        (&["ask", key, ""], 2, "a question is empty"),
        (&["ask", key, &question], 1, "has room for"),
        (&["ask", key, "Hm?", "--temp", "-1"], 2, "--temp"),
        (&["gc", "--max-size", "many"], 2, "expected a size"),
        (&["gc", "--max-age", "old"], 2, "--max-age"),
        (&["--cache-dir", "/proc/nowhere", "build", "prompt.txt"], 1, "/proc/nowhere"),
    ];
    for (args, code, text) in cases {
        // There a GPU is always built in.
        if cfg!(target_os = "macos") && text.contains("GPU") {
            continue;
        }
        let run = program.run(args);
        assert_eq!(run.code, *code, "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(text), "{args:?}: {}", run.stderr);
        assert!(!run.stderr.contains("panicked"), "{args:?}: {}", run.stderr);
        assert_eq!(run.stdout, "", "{args:?}");
    }
    assert!(program.ok(&["ask", key, "Hm?", "--max-tokens", "2"]).stderr.contains("hit"));
}

#[test]
fn a_model_that_moved_or_changed_is_named() {
    let program = program();
    let copy = program.path("copy.gguf");
    std::fs::copy(tiny("llama"), &copy).unwrap();
    let copy = copy.to_str().unwrap();
    let key = program.ok(&["-m", copy, "build", "prompt.txt"]).stdout;
    let ask = |extra: &[&str]| {
        program.run_without_model(&[&["ask", key.trim(), "Hm?", "--max-tokens", "2"], extra].concat())
    };
    assert_eq!(ask(&[]).code, 0, "the state knows its model");
    std::fs::copy(tiny("gemma3"), copy).unwrap();
    let changed = ask(&[]);
    assert_eq!(changed.code, 5);
    assert!(
        changed.stderr.contains("copy.gguf") && changed.stderr.contains("has changed"),
        "{}",
        changed.stderr
    );
    std::fs::remove_file(copy).unwrap();
    assert!(ask(&[]).stderr.contains("no longer exists"));
    let other = ask(&["-m", tiny("gemma3").to_str().unwrap()]);
    assert!(other.stderr.contains("but") && other.stderr.contains("tiny-gemma3.gguf"), "{}", other.stderr);
    assert_eq!(ask(&["-m", tiny("llama").to_str().unwrap()]).code, 0, "same content, another path");
}

#[test]
fn without_a_named_model_the_only_one_in_the_folder_is_used() {
    let program = program();
    let none = program.run_without_model(&["build", "prompt.txt"]);
    assert_eq!(none.code, 5);
    assert!(none.stderr.contains("no model"), "{}", none.stderr);
    let folder = program.path("home/.cache/pcache/models");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(tiny("llama"), folder.join("one.gguf")).unwrap();
    assert_eq!(program.run_without_model(&["build", "prompt.txt"]).code, 0);
    std::fs::copy(tiny("gemma3"), folder.join("two.gguf")).unwrap();
    let several = program.run_without_model(&["build", "prompt.txt"]);
    assert!(several.stderr.contains("  one\n  two"), "{}", several.stderr);
    assert_eq!(program.run_without_model(&["-m", "two", "build", "prompt.txt"]).code, 0);
}

#[test]
fn a_reader_that_goes_away_is_not_an_error() {
    let program = program();
    program.ok(&["build", "prompt.txt"]);
    let run = program.run_with_closed_stdout(&["ls"]);
    assert_eq!((run.code, run.stderr.contains("panicked")), (0, false), "{}", run.stderr);
}

#[test]
fn help_has_examples() {
    let program = program();
    for command in ["build", "ask", "ls", "gc"] {
        let help = program.ok(&[command, "--help"]).stdout;
        assert!(help.contains("Examples:"), "{command}: {help}");
        assert!(help.contains(&format!("  pcache {command}")), "{command}: {help}");
    }
}

/// Under a loader that is called with it, the program once started the loader again, with its own arguments.
#[cfg(target_os = "linux")]
#[test]
fn a_loader_that_is_called_with_the_program_starts_it() {
    let program = env!("CARGO_BIN_EXE_pcache");
    let tool = std::process::Command::new("readelf").args(["-l", program]).output();
    let text = tool.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
    let loader = text.split("interpreter: ").nth(1).and_then(|rest| rest.split(']').next());
    let Some(loader) = loader else {
        panic!("readelf, which comes with the compiler, names no loader: {text}")
    };
    let out = std::process::Command::new(loader)
        .args([program, "build", "/nonexistent", "-m", tiny("llama").to_str().unwrap()])
        .env_remove("GOMP_SPINCOUNT")
        .env_remove("OMP_WAIT_POLICY")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(told.starts_with("pcache: ") && told.contains("/nonexistent"), "{told}");
}

/// Two programs at once waited for each other's spinning threads. The library reads its environment when it is loaded, so
/// the program starts itself again: with its arguments, its stdin and its exit code.
#[cfg(target_os = "linux")]
#[test]
fn waiting_threads_sleep_soon_unless_the_user_says_otherwise() {
    use std::io::{BufRead, BufReader, Write};

    let program = Program::new(&tiny("llama"));
    program.write("prompt.txt", "Soup.");
    program.ok(&["build", "prompt.txt", "--name", "s"]);
    for (env, expected) in [
        (None, Some("GOMP_SPINCOUNT=1000")),
        (Some(("GOMP_SPINCOUNT", "7")), Some("GOMP_SPINCOUNT=7")),
        (Some(("OMP_WAIT_POLICY", "active")), None),
    ] {
        let args = ["chat", "s", "--max-tokens", "2"];
        let mut child = program.start_as_users_do(&args, env.as_slice());
        let mut input = child.stdin.take().unwrap();
        input.write_all(b"hello\n").unwrap();
        let mut answer = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut answer).unwrap();
        assert!(!answer.trim().is_empty());
        let environment = std::fs::read(format!("/proc/{}/environ", child.id())).unwrap();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let found = environment.split('\0').find(|variable| variable.starts_with("GOMP_SPINCOUNT="));
        assert_eq!(found, expected, "{env:?}");
        // It was called `exe` in lists of processes.
        let name = std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap();
        assert_eq!(name.trim(), "pcache");
        input.write_all(b"/no\n").unwrap();
        drop(input);
        assert_eq!(child.wait().unwrap().code(), Some(2));
    }
}
