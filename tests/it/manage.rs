//! The commands that look after what is saved, on the real binary and the tiny models.

use crate::common::{prose, tiny};
use crate::program::{Program, Run, json};
use serde_json::Value;

fn program() -> Program {
    Program::with_two_states()
}

fn names(program: &Program) -> Vec<String> {
    let listing = json(&program.ok(&["ls", "--json", "--sort", "name"]));
    listing["states"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["name"].as_str().unwrap_or("-").to_owned())
        .collect()
}

#[test]
fn show_tells_everything_about_a_state() {
    let program = program();
    program.ok(&["ask", "long", "Hm?", "--max-tokens", "1"]);
    let shown = json(&program.ok(&["show", "long", "--json"]));
    assert_eq!(shown["tokens"], 637);
    assert_eq!(shown["prompt"], "long.txt");
    assert_eq!(shown["hits"], 1);
    assert_eq!(shown["saved_s"], shown["build_s"]);
    assert_eq!(shown["parameters"]["kv_type"], "f16");
    let segments = shown["segments"].as_array().unwrap();
    let shared: Vec<bool> = segments.iter().map(|s| s["shared"].as_bool().unwrap()).collect();
    assert_eq!(shared, [true, true, false]);
    assert_eq!(segments.iter().map(|s| s["tokens"].as_u64().unwrap()).sum::<u64>(), 637);
    let listed = json(&program.ok(&["ls", "--json"]))["states"][0].clone();
    assert_eq!((&shown["bytes"], &shown["unique_bytes"]), (&listed["bytes"], &listed["unique_bytes"]));
    assert_eq!(shown["shares_with"][0]["name"], "other");
    assert_eq!(shown["shares_with"][0]["segments"], 2);

    let text = program.ok(&["show", "long"]).stdout;
    for part in ["name        long", "long.txt (chat template)", "637 in 3 segments", "in 1 hit", "with"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.lines().all(|l| l == l.trim_end()), "{text}");
    assert_eq!(program.run(&["show", "lon"]).code, 3);
    assert!(program.run(&["show", "lnog"]).stderr.contains("did you mean long?"));
}

#[test]
fn rm_frees_what_is_a_states_own() {
    let program = program();
    let own = json(&program.ok(&["show", "long", "--json"]))["unique_bytes"].clone();
    let before = program.contents();
    let planned = json(&program.ok(&["rm", "long", "--dry-run", "--json"]));
    assert_eq!(planned["freed_bytes"], own);
    assert_eq!(program.contents(), before, "a dry run changes nothing");
    // One unknown name, and nothing is removed.
    assert_eq!(program.run(&["rm", "long", "nobody"]).code, 3);
    assert_eq!(program.contents(), before);
    let objects = program.objects().len();
    assert!(program.ok(&["rm", "long"]).stdout.starts_with("removed "));
    assert_eq!(program.objects().len(), objects - 1, "its last segment");
    assert!(program.ok(&["ask", "other", "Hm?", "--max-tokens", "1"]).stderr.contains("hit"));
    assert_eq!(program.run(&["ask", "long", "Hm?"]).code, 3);
    program.ok(&["rm", "other"]);
    assert_eq!(program.stored_bytes(), 0);
}

#[test]
fn pinned_states_stay_until_they_are_unpinned() {
    let program = program();
    program.ok(&["pin", "long", "other"]);
    assert!(program.ok(&["ls"]).stdout.contains("long*"));
    let refused = program.run(&["rm", "long"]);
    assert_eq!((refused.code, refused.stderr.contains("--force")), (2, true), "{}", refused.stderr);
    program.ok(&["gc", "--keep", "0", "--max-size", "0"]);
    assert_eq!(names(&program), ["long", "other"]);
    program.ok(&["unpin", "long"]);
    program.ok(&["gc", "--keep", "0"]);
    assert_eq!(names(&program), ["other"]);
    program.ok(&["rm", "other", "--force"]);

    program.ok(&["build", "long.txt", "--pin"]);
    program.ok(&["gc", "--keep", "0"]);
    assert_eq!(names(&program), ["-"]);
}

#[test]
fn a_state_lives_as_long_as_it_was_told() {
    let program = program();
    program.write("brief.txt", &prose(40, 3));
    program.ok(&["build", "brief.txt", "--ttl", "1h", "--name", "brief"]);
    let expires =
        |program: &Program| json(&program.ok(&["show", "brief", "--json"]))["expires"].as_i64().unwrap();
    let created = json(&program.ok(&["show", "brief", "--json"]))["created"].as_i64().unwrap();
    // The time is told from before the build on.
    assert!((3540..3660).contains(&(expires(&program) - created)));
    program.ok(&["gc"]);
    assert_eq!(names(&program), ["brief", "long", "other"]);
    program.sql("UPDATE names SET expires = 1000 WHERE name = 'brief'");
    // Building it again starts anew.
    program.ok(&["build", "brief.txt", "--ttl", "2h"]);
    assert!(expires(&program) > created + 3600);
    program.sql("UPDATE names SET expires = 1000 WHERE name = 'brief'");
    program.sql("UPDATE states SET expires = 1000 WHERE expires IS NOT NULL");
    let gone = json(&program.ok(&["gc", "--json"]));
    assert_eq!(gone["evicted"][0]["reason"], "expired");
    assert_eq!(names(&program), ["long", "other"]);
    assert_eq!(program.run(&["build", "brief.txt", "--ttl", "soon"]).code, 2);
}

#[test]
fn a_name_can_be_changed_and_taken_away() {
    let program = program();
    program.ok(&["rename", "long", "short"]);
    assert_eq!(names(&program), ["other", "short"]);
    program.ok(&["rename", "short", "short"]);
    for (name, part) in [("abcdef12", "looks like a key"), ("a b", "letters"), ("", "letters")] {
        let run = program.run(&["rename", "short", name]);
        assert_eq!((run.code, run.stderr.contains(part)), (2, true), "{name:?}: {}", run.stderr);
    }
    program.ok(&["rename", "short", "--clear"]);
    assert_eq!(names(&program), ["other", "-"]);
    assert!(program.ok(&["ls"]).stdout.contains("(long.txt)"), "without a name the prompt file is shown");
}

#[test]
fn verify_finds_what_is_damaged_and_repairs_it() {
    let program = program();
    let statuses = |run: &Run| -> Vec<(String, String)> {
        let states = json(run)["states"].as_array().unwrap().clone();
        let text = |s: &Value, field: &str| s[field].as_str().unwrap().to_owned();
        let mut found: Vec<_> = states.iter().map(|s| (text(s, "name"), text(s, "status"))).collect();
        found.sort();
        found
    };
    let expect =
        |long: &str, other: &str| vec![("long".to_owned(), long.to_owned()), ("other".into(), other.into())];
    let verify = |extra: &[&str]| program.run(&[&["verify", "--json"], extra].concat());
    assert_eq!(statuses(&verify(&[])), expect("ok", "ok"));

    let own =
        json(&program.ok(&["show", "long", "--json"]))["segments"][2]["object"].as_str().unwrap().to_owned();
    let object = |id: &str| program.store().join(format!("objects/v1/{}/{id}.safetensors", &id[..2]));
    let flip = |path: &std::path::Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    flip(&object(&own));
    let found = verify(&[]);
    assert_eq!((found.code, statuses(&found)), (4, expect("corrupt", "ok")));
    assert!(found.stderr.contains("1 state is damaged; pcache verify --repair"), "{}", found.stderr);
    assert_eq!(verify(&["other"]).code, 0);
    let repaired = verify(&["--repair"]);
    assert_eq!((repaired.code, statuses(&repaired)), (0, expect("healed", "ok")), "{}", repaired.stderr);

    std::fs::remove_file(object(&own)).unwrap();
    assert_eq!(statuses(&verify(&["--all"])), expect("missing", "ok"));
    // A segment of both: evaluated once, and both are whole again.
    let shared =
        json(&program.ok(&["show", "long", "--json"]))["segments"][0]["object"].as_str().unwrap().to_owned();
    flip(&object(&shared));
    assert_eq!(statuses(&verify(&[])), expect("corrupt", "corrupt"));
    let repaired = verify(&["--repair", "--logits"]);
    assert_eq!(statuses(&repaired), expect("healed", "healed"), "{}", repaired.stderr);
    for state in json(&repaired)["states"].as_array().unwrap() {
        assert_eq!(state["max_logit_difference"], 0.0);
    }
    // Manifests and labels, too.
    for file in [&program.manifests()[0], &program.labels()[0]] {
        flip(file);
        assert_eq!(verify(&[]).code, 4);
        assert_eq!(verify(&["--repair"]).code, 0);
        assert_eq!(statuses(&verify(&[])), expect("ok", "ok"));
    }
    // And rows.
    program.sql("UPDATE states SET pending_text = 'x' || pending_text");
    assert_eq!(statuses(&verify(&[])), expect("corrupt", "corrupt"));
    let repaired = verify(&["--repair"]);
    assert_eq!((repaired.code, statuses(&repaired)), (0, expect("healed", "healed")), "{}", repaired.stderr);
    assert!(program.ok(&["ask", "long", "Hm?", "--max-tokens", "1", "--require-hit"]).stderr.contains("hit"));
}

#[test]
fn a_lost_index_comes_back_with_names_and_pins() {
    let program = program();
    program.ok(&["pin", "other"]);
    let key = |name: &str| json(&program.ok(&["show", name, "--json"]))["key"].clone();
    let expected = (key("long"), key("other"));
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(program.store().join(format!("index.sqlite{end}")));
    }
    let lost = program.run(&["ask", "long", "Hm?"]);
    assert_eq!((lost.code, lost.stderr.contains("verify --repair")), (3, true), "{}", lost.stderr);
    let verified = program.run(&["verify"]);
    assert_eq!((verified.code, verified.stderr.contains("2 states on disk are not in the index")), (4, true));
    assert!(program.ok(&["ls"]).stderr.contains("verify --repair"), "ls writes nothing, but says so");
    let repaired = program.ok(&["verify", "--repair"]);
    assert!(repaired.stderr.contains("2 states, 4 segments"), "{}", repaired.stderr);
    assert_eq!((key("long"), key("other")), expected);
    assert!(program.ok(&["ls"]).stdout.contains("other*"));
    assert!(program.ok(&["ask", "long", "Hm?", "--max-tokens", "1", "--require-hit"]).stderr.contains("hit"));
    // The same prompt is found without evaluating, and even without loading the model.
    let built = json(&program.ok(&["build", "long.txt", "--json"]));
    assert_eq!(built["cache"]["status"], "hit");
}

/// `ls` makes a new index where the old one was lost, and the build after it once took that for a store with nothing in it:
/// the name and the pin were gone, and gc took the state.
#[test]
fn a_look_at_a_store_whose_index_was_lost_loses_nothing() {
    let program = program();
    program.ok(&["pin", "long"]);
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(program.store().join(format!("index.sqlite{end}")));
    }
    program.ok(&["ls"]);
    let built = program.ok(&["build", "long.txt"]);
    assert!(built.stderr.contains("hit: 637"), "{}", built.stderr);
    program.ok(&["gc", "--keep", "0"]);
    assert_eq!(names(&program), ["long"]);
}

/// A build that opened the index before it was replaced once wrote its state into the file that nobody reads any more.
#[test]
fn a_build_notices_that_the_index_was_replaced() {
    let program = program();
    let mut build = program.start_with_input(&["build", "-", "--name", "late"]);
    // It has opened the index and reads the prompt.
    std::thread::sleep(std::time::Duration::from_millis(300));
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(program.store().join(format!("index.sqlite{end}")));
    }
    program.ok(&["verify", "--repair"]);
    std::io::Write::write_all(&mut build.stdin.take().unwrap(), b"A prompt that came late.").unwrap();
    let output = build.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => assert!(names(&program).contains(&"late".to_owned()), "{told}"),
        code => assert_eq!((code, told.contains("run it again")), (Some(1), true), "{told}"),
    }
    program.write("late.txt", "A prompt that came late.");
    program.ok(&["build", "late.txt", "--name", "late"]);
    assert_eq!(names(&program), ["late", "long", "other"]);
}

/// The folders that the last state leaves behind were once taken for objects that the index had lost.
#[test]
fn a_store_that_was_emptied_is_not_called_lost() {
    let program = program();
    program.ok(&["rm", "long", "other"]);
    let listed = program.ok(&["ls"]);
    assert!(listed.stderr.contains("pcache build makes one"), "{}", listed.stderr);
    let asked = program.run(&["ask", "long", "Hm?"]);
    assert!(!asked.stderr.contains("verify --repair"), "{}", asked.stderr);
}

/// A build once called a state intact whose description was gone, and with the index the state went, too.
#[test]
fn a_lost_manifest_is_written_again_by_whoever_uses_the_state() {
    for command in [&["build", "long.txt"][..], &["ask", "long", "Hm?", "--max-tokens", "1"]] {
        let program = program();
        for path in program.manifests() {
            std::fs::remove_file(path).unwrap();
        }
        program.ok(command);
        program.ok(&["verify", "long"]);
        assert_eq!(program.run(&["verify", "other"]).code, 4);
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(program.store().join(format!("index.sqlite{end}")));
        }
        program.ok(&["verify", "--repair"]);
        assert_eq!(names(&program), ["long"], "{command:?}");
    }
}

/// A state that was pinned while `rm` waited for a build was once removed all the same.
#[test]
fn a_state_that_is_pinned_while_rm_waits_stays() {
    let program = program();
    let building = std::fs::File::open(program.store().join("lock")).unwrap();
    building.lock_shared().unwrap();
    let rm = program.start_until(&["rm", "long"], "waiting");
    program.ok(&["pin", "long"]);
    building.unlock().unwrap();
    let run = rm.finish();
    assert_eq!((run.code, run.stderr.contains("pinned")), (2, true), "{}", run.stderr);
    assert_eq!(names(&program), ["long", "other"]);
}

/// A state that was removed while a build of it waited was once called a hit, because another one still had all of its
/// segments; the key that was printed did not exist.
#[test]
fn a_state_that_is_removed_while_its_build_waits_is_built_again() {
    let program = Program::new(&tiny("llama"));
    program.write("p.txt", &prose(60, 1));
    let build = |format: &str| -> Vec<String> {
        ["build", "p.txt", "--raw", "--question-format", format].map(str::to_owned).to_vec()
    };
    let (a, b) = (build("Q: {question} A"), build("Q: {question} B"));
    let run = |args: &[String]| program.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let key = run(&a).stdout;
    assert_ne!(run(&b).stdout, key);
    let collecting = std::fs::File::open(program.store().join("lock")).unwrap();
    collecting.lock().unwrap();
    let waiting = program.start_until(&a.iter().map(String::as_str).collect::<Vec<_>>(), "waiting");
    program.sql(&format!(
        "DELETE FROM states WHERE key = x'{}'",
        json(&run(&["show".into(), key.trim().into(), "--json".into()]))["key"].as_str().unwrap()
    ));
    collecting.unlock().unwrap();
    let again = waiting.finish();
    assert_eq!((again.code, &again.stdout), (0, &key), "{}", again.stderr);
    program.ok(&["ask", key.trim(), "Hm?", "--max-tokens", "1", "--require-hit"]);
}

/// gc once removed the file by which a builder keeps others from evaluating the same.
#[test]
fn gc_leaves_the_turn_of_a_builder_that_waits() {
    let program = program();
    let turn = program.store().join("tmp/build-0123456789abcdef");
    std::fs::write(&turn, "").unwrap();
    let held = std::fs::File::open(&turn).unwrap();
    held.lock().unwrap();
    program.ok(&["gc"]);
    assert!(turn.exists());
    held.unlock().unwrap();
    program.ok(&["gc"]);
    assert!(!turn.exists());
}

/// One state that cannot be mended, because its model is gone, once kept all others from being repaired.
#[test]
fn a_state_without_its_model_keeps_no_other_from_being_repaired() {
    let program = program();
    program.write("qwen.txt", &prose(20, 3));
    std::fs::copy(tiny("qwen35"), program.path("qwen.gguf")).unwrap();
    program.ok(&["build", "qwen.txt", "-m", "qwen.gguf", "--name", "qwen"]);
    std::fs::remove_file(program.path("qwen.gguf")).unwrap();
    for segment in program.segments() {
        std::fs::write(segment, "damaged").unwrap();
    }
    let repaired = program.run(&["verify", "--repair"]);
    assert_eq!(repaired.code, 4, "{}", repaired.stderr);
    let line = repaired.stdout.lines().find(|l| l.contains("qwen")).unwrap();
    assert!(line.contains("corrupt") && line.contains("cannot be repaired"), "{line}");
    assert_eq!(
        repaired.stdout.lines().filter(|line| line.starts_with("repaired ")).count(),
        2,
        "{}",
        repaired.stdout
    );
    program.ok(&["ask", "long", "Hm?", "--max-tokens", "1", "--require-hit"]);
}

/// A pipe in the place of SQLite's journal once made every command hang; a link in the place of a turn's file made a file
/// elsewhere.
#[cfg(unix)]
#[test]
fn pipes_and_links_in_the_stores_own_places_do_no_harm() {
    let program = program();
    let journal = program.store().join("index.sqlite-journal");
    assert!(std::process::Command::new("mkfifo").arg(&journal).status().unwrap().success());
    let run = program.run(&["ls"]);
    assert_eq!((run.code, run.stderr.contains("index.sqlite-journal")), (1, true), "{}", run.stderr);
    std::fs::remove_file(&journal).unwrap();

    let objects = program.segments();
    let elsewhere = program.path("elsewhere");
    let folder = objects[0].parent().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    std::fs::write(folder, "a file where a folder should be").unwrap();
    program.ok(&["verify", "--repair"]);
    assert!(folder.is_dir());
    program.ok(&["gc"]);
    assert_eq!(std::fs::read_dir(program.store().join("tmp")).unwrap().count(), 0);
    assert!(!elsewhere.exists());
}

/// A build after the index was lost once evaluated everything again, and `rm` then left the older record, which gc
/// brought back as a state without segments.
#[test]
fn a_build_finds_what_a_lost_index_knew_and_what_is_removed_stays_removed() {
    let program = program();
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(program.store().join(format!("index.sqlite{end}")));
    }
    let built = program.ok(&["build", "long.txt"]);
    assert!(
        built.stderr.contains("the index was lost") && built.stderr.contains("hit: 637"),
        "{}",
        built.stderr
    );
    assert_eq!(names(&program), ["long", "other"]);
    program.ok(&["rm", "long", "other"]);
    assert_eq!(program.stored_bytes(), 0);

    // A description that was left over is of no use without its segments.
    program.ok(&["build", "long.txt", "--name", "long"]);
    let left = [program.manifests().remove(0), program.labels().remove(0)];
    let copies = left.clone().map(|path| std::fs::read(path).unwrap());
    program.ok(&["rm", "long"]);
    for (path, copy) in left.iter().zip(copies) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, copy).unwrap();
    }
    program.ok(&["gc"]);
    assert_eq!((names(&program), program.stored_bytes()), (vec![], 0));
}

#[test]
fn rm_of_several_says_beforehand_what_it_frees() {
    let program = program();
    let planned = json(&program.ok(&["rm", "long", "other", "--dry-run", "--json"]));
    assert_eq!(planned["freed_bytes"], program.stored_bytes());
    let done = json(&program.ok(&["rm", "long", "other", "--json"]));
    assert_eq!((&planned["freed_bytes"], &planned["removed"]), (&done["freed_bytes"], &done["removed"]));
}

/// A hit under a budget that is too small once evicted the state whose key was just printed; later all the others, which
/// did not help either.
#[test]
fn what_was_just_built_or_found_is_not_evicted() {
    let program = program();
    let run = program.ok(&["build", "long.txt", "--max-size", "100KiB"]);
    assert!(run.stderr.contains("hit") && run.stderr.contains("cannot get under 100 KiB"), "{}", run.stderr);
    assert_eq!(names(&program), ["long", "other"]);
    program.sql("UPDATE names SET expires = 1000");
    program.ok(&["build", "long.txt", "--max-size", "100KiB"]);
    assert_eq!(json(&program.ok(&["show", "long", "--json"]))["expires"], Value::Null, "it is wanted again");
}

#[test]
fn explain_does_not_call_damage_a_hit() {
    let program = program();
    let own =
        json(&program.ok(&["show", "long", "--json"]))["segments"][2]["object"].as_str().unwrap().to_owned();
    std::fs::write(program.store().join(format!("objects/v1/{}/{own}.safetensors", &own[..2])), "x").unwrap();
    let text = program.ok(&["explain", "long.txt"]).stdout;
    assert!(text.contains("partial: 512 of 637") && text.contains("is damaged"), "{text}");
    let framing = program.ok(&["explain", "--user", "other.txt"]).stdout;
    assert!(framing.contains("prompt chat template (here chat template, as the user's)"), "{framing}");
    let raw = program.ok(&["explain", "--raw", "--kv-type", "q4_0", "long.txt"]).stdout;
    assert!(raw.contains("nothing saved begins alike"), "{raw}");
}

#[test]
fn explain_says_where_prompts_part() {
    let program = Program::new(&tiny("llama"));
    program.write("a.txt", "The first line.\nThe second line.\nTires cost 20 euros.\nThe end.\n");
    program.write("b.txt", "The first line.\nThe second line.\nTires cost 25 euros.\nThe end.\n");
    program.write("c.txt", "The first line.\nThe second line.\nTires cost 20 euros.\nThe end.\nP.S.\n");
    let nothing = json(&program.ok(&["explain", "a.txt", "--json"]));
    assert_eq!((&nothing["status"], &nothing["saved_tokens"]), (&"miss".into(), &0.into()));
    assert!(!program.store().exists(), "explaining writes nothing");
    let key = json(&program.ok(&["build", "a.txt", "--json"]))["key"].clone();
    assert_eq!(key, nothing["key"], "the key was known before");

    let hit = json(&program.ok(&["explain", "a.txt", "--json"]));
    assert_eq!((&hit["status"], &hit["saved_segments"]), (&"hit".into(), &1.into()));
    let before = program.contents();
    let parts = json(&program.ok(&["explain", "b.txt", "--json"]));
    let parting = &parts["nearest"]["parting"];
    assert_eq!(parts["nearest"]["key"], key);
    assert_eq!(parting["line"], 3);
    assert_eq!(parting["saved_line"], "Tires cost 20 euros.");
    assert_eq!(parting["line_here"], "Tires cost 25 euros.");
    assert_eq!((&parting["saved_token"], &parting["token_here"]), (&"0".into(), &"5".into()));
    let text = program.ok(&["explain", "b.txt"]).stdout;
    assert!(
        text.contains("- Tires cost 20") && text.contains("+ Tires cost 25") && text.contains("in line 3"),
        "{text}"
    );
    assert_eq!(json(&program.ok(&["explain", "c.txt", "--json"]))["nearest"]["parting"]["line"], 5);
    let other = program.ok(&["explain", "a.txt", "--kv-type", "q8_0"]).stdout;
    assert!(other.contains("kv_type f16 (here q8_0)"), "{other}");
    let gemma = tiny("gemma3");
    let model = program.ok(&["-m", gemma.to_str().unwrap(), "explain", "a.txt"]).stdout;
    assert!(model.contains("model tiny-llama.gguf (here"), "{model}");
    assert_eq!(program.contents(), before, "nothing was changed");
    let verbose = program.ok(&["build", "b.txt", "-v"]);
    assert!(verbose.stderr.contains("+ Tires cost 25"), "{}", verbose.stderr);
}

#[test]
fn a_budget_is_kept_and_what_never_fits_is_refused_first() {
    let program = Program::new(&tiny("llama"));
    for seed in 1..5 {
        program.write(&format!("{seed}.txt"), &prose(100, seed));
    }
    program.ok(&["build", "1.txt", "--name", "s1"]);
    program.set_last_used("s1", 90);
    // Two states fit, three do not.
    let limit = program.total_bytes() * 5 / 2;
    let budget = limit.to_string();
    for seed in 2..5i64 {
        program.ok(&["build", &format!("{seed}.txt"), "--name", &format!("s{seed}"), "--max-size", &budget]);
        assert!(program.total_bytes() <= limit, "{} after {seed}", program.total_bytes());
        program.set_last_used(&format!("s{seed}"), 100 - 10 * seed);
    }
    assert_eq!(names(&program), ["s3", "s4"]);
    let before = program.contents();
    let refused = program.run(&["build", "1.txt", "--max-size", "200KiB"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("nothing was evaluated"), "{}", refused.stderr);
    assert_eq!(program.contents(), before);
    // What is pinned counts against it.
    program.ok(&["pin", "s3", "s4"]);
    assert_eq!(program.run(&["build", "1.txt", "--max-size", &budget]).code, 1);
    program.ok(&["unpin", "s3"]);
    let told = program.ok(&["build", "1.txt", "--max-size", &budget, "--name", "s1"]);
    assert!(told.stderr.contains("evicted") && told.stderr.contains("s3"), "{}", told.stderr);
    assert_eq!(names(&program), ["s1", "s4"]);
    // The environment gives the same budget, to gc as well.
    program.write("5.txt", &prose(100, 5));
    let run = program.run_with_env(&["build", "5.txt"], &[("PCACHE_MAX_SIZE", &budget)]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(program.total_bytes() <= limit);
    program.ok(&["build", "2.txt"]);
    program.run_with_env(&["gc"], &[("PCACHE_MAX_SIZE", &budget)]);
    assert!(program.total_bytes() <= limit);
}

/// A prefix that the build is about to use is not thrown away to make room for the rest.
#[test]
fn making_room_leaves_the_prefix_alone() {
    let program = program();
    program.ok(&["rm", "other"]);
    // The state of `long` has to go, and its first two segments have to stay.
    let budget = (program.total_bytes() + 250 * 1024).to_string();
    let built = json(&program.ok(&["build", "other.txt", "--max-size", &budget, "--json"]));
    assert_eq!(built["cache"]["restored_tokens"], 512);
    assert_eq!(built["segments"]["reused"], 2);
    let listing = json(&program.ok(&["ls", "--json"]));
    assert_eq!(listing["states"].as_array().unwrap().len(), 1);
}

#[test]
fn the_config_file_gives_defaults() {
    let program = Program::new(&tiny("llama"));
    program.write("prompt.txt", &prose(40, 1));
    program.write(
        "home/.config/pcache/config.toml",
        "max-size = '100MiB'\n[build]\nkv-type = 'q8_0'\n[ask]\nmax-tokens = 3\n",
    );
    let key = program.ok(&["build", "prompt.txt"]).stdout;
    assert_eq!(json(&program.ok(&["show", key.trim(), "--json"]))["parameters"]["kv_type"], "q8_0");
    assert_eq!(json(&program.ok(&["ask", key.trim(), "Hm?", "--json"]))["answer_tokens"], 3);
    assert_eq!(
        json(&program.ok(&["ask", key.trim(), "Hm?", "--max-tokens", "2", "--json"]))["answer_tokens"],
        2
    );

    let settings = json(&program.ok(&["config", "--json"]));
    let setting = |name: &str| {
        let all = settings["settings"].as_array().unwrap();
        all.iter().find(|s| s["name"] == name).unwrap_or_else(|| panic!("{name}")).clone()
    };
    assert_eq!(setting("build.kv-type")["value"], "q8_0");
    assert!(setting("build.kv-type")["source"].as_str().unwrap().ends_with("config.toml"));
    assert_eq!(setting("ask.temp")["source"], "default");
    assert_eq!(setting("model")["source"], "PCACHE_MODEL");
    assert!(program.ok(&["config"]).stdout.contains("ask.max-tokens"));

    for (text, part) in
        [("thread = 1", "no setting \"thread\""), ("threads = 'x'", "threads = x"), ("=", "not TOML")]
    {
        program.write("home/.config/pcache/config.toml", text);
        let run = program.run(&["ls"]);
        assert_eq!((run.code, run.stderr.contains(part)), (2, true), "{text}: {}", run.stderr);
        assert!(run.stderr.contains("config.toml"), "{}", run.stderr);
    }
    program.write("home/.config/pcache/config.toml", "cache-dir = '~/other store'");
    let elsewhere = program.run_with_env(&["build", "prompt.txt"], &[("PCACHE_DIR", "")]);
    assert_eq!(elsewhere.code, 0, "{}", elsewhere.stderr);
    assert!(program.path("home/other store/index.sqlite").is_file());
    let help = program.run_with_env(&["ls", "--help"], &[("PCACHE_CONFIG", "nowhere.toml")]);
    assert_eq!((help.code, help.stdout.contains("Examples")), (0, true), "{}", help.stderr);
    let missing = program.run_with_env(&["ls"], &[("PCACHE_CONFIG", "nowhere.toml")]);
    assert_eq!((missing.code, missing.stderr.contains("nowhere.toml")), (2, true), "{}", missing.stderr);
}

#[test]
fn models_of_other_programs_are_found_by_name() {
    let program = Program::new(&tiny("llama"));
    program.write("prompt.txt", &prose(40, 1));
    let copy = |model: &str, to: &str| program.write_bytes(to, &std::fs::read(tiny(model)).unwrap());
    let hex = "0123456789abcdef".repeat(4);
    copy("gemma3", &format!("home/.ollama/models/blobs/sha256-{hex}"));
    let layer =
        format!(r#"{{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:{hex}","size":1}}"#);
    program.write(
        "home/.ollama/models/manifests/registry.ollama.ai/library/tiny/1b",
        &format!(r#"{{"layers":[{layer}]}}"#),
    );
    copy("mamba2", "home/.lmstudio/models/someone/tiny-GGUF/tiny-mamba.gguf");
    copy("llama", "home/.cache/huggingface/hub/models--someone--Llama-GGUF/snapshots/abc/llama-q.gguf");
    program.write("home/.cache/llama.cpp/broken.gguf", "GGUF");

    let listed = json(&program.ok(&["models", "--json"]));
    let models = listed["models"].as_array().unwrap();
    let of =
        |name: &str| models.iter().find(|m| m["name"] == name).unwrap_or_else(|| panic!("{name}: {listed}"));
    assert_eq!(
        (&of("tiny:1b")["architecture"], &of("tiny:1b")["place"]),
        (&"gemma3".into(), &"Ollama".into())
    );
    assert_eq!(
        (&of("tiny-mamba")["architecture"], &of("tiny-mamba")["place"]),
        (&"mamba2".into(), &"LM Studio".into())
    );
    assert_eq!(of("llama-q")["context"], 4096);
    assert!(of("broken")["problem"].as_str().unwrap().contains("ends within its header"));
    let table = program.ok(&["models", "tiny"]).stdout;
    assert!(
        table.contains("tiny:1b") && table.contains("tiny-mamba") && !table.contains("llama-q"),
        "{table}"
    );

    for name in ["tiny:1b", "Tiny-Mamba", "llama-q", "someone/Llama-GGUF/llama-q"] {
        program.ok(&["-m", name, "build", "prompt.txt"]);
    }
    let several = program.run(&["-m", "tiny", "build", "prompt.txt"]);
    assert_eq!((several.code, several.stderr.contains("tiny:1b")), (2, true), "{}", several.stderr);
    let broken = program.run(&["-m", "broken", "build", "prompt.txt"]);
    assert!(
        (broken.code, broken.stderr.contains("ends within its header")) == (1, true),
        "{}",
        broken.stderr
    );
    assert_eq!(program.run(&["-m", "nothing", "build", "prompt.txt"]).code, 5);
}

#[test]
fn completions_know_keys_and_names() {
    let program = program();
    for shell in ["bash", "zsh", "fish"] {
        let script = program.ok(&["completions", shell]).stdout;
        assert!(script.contains("pcache") && script.contains("PCACHE_COMPLETE"), "{shell}: {script}");
    }
    let complete = |words: &[&str]| {
        let index = (words.len() - 1).to_string();
        let env =
            [("PCACHE_COMPLETE", "bash"), ("_CLAP_COMPLETE_INDEX", index.as_str()), ("_CLAP_IFS", "\n")];
        program.run_with_env(&[&["--"], words].concat(), &env).stdout
    };
    assert_eq!(complete(&["pcache", "ask", "lo"]), "long");
    assert_eq!(complete(&["pcache", "rm", "ot"]), "other");
    let key = json(&program.ok(&["show", "long", "--json"]))["key"].as_str().unwrap()[..12].to_owned();
    assert_eq!(complete(&["pcache", "verify", &key[..3]]), key);
    assert!(complete(&["pcache", "ver"]).contains("verify"));
}

#[test]
fn man_pages_are_printed_and_written() {
    let program = program();
    let main = program.ok(&["man"]).stdout;
    assert!(main.contains(".TH pcache") && main.contains(".SH EXAMPLES\n.nf\nA first session:"), "{main}");
    program.ok(&["man", "pages"]);
    for page in ["pcache.1", "pcache-ask.1", "pcache-verify.1"] {
        assert!(program.path("pages").join(page).is_file(), "{page}");
    }
}

#[test]
fn bad_input_is_named_and_leaves_the_store_as_it_was() {
    let program = program();
    let before = program.contents();
    let model = std::fs::read(tiny("llama")).unwrap();
    program.write_bytes("half.gguf", &model[..model.len() / 2]);
    program.write_bytes("header.gguf", &model[..1000]);
    program.write("foreign/thesis.tex", "");
    let readonly = program.path("readonly");
    std::fs::create_dir(&readonly).unwrap();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["-m", "half.gguf", "build", "long.txt"], 1, "half.gguf"),
        (&["-m", "header.gguf", "build", "long.txt"], 1, "ends within its header"),
        (&["show", "nobody"], 3, "nobody"),
        (&["show", "abcdef"], 3, "abcdef"),
        (&["rm", "nobody"], 3, "nobody"),
        (&["pin", "nobody"], 3, "nobody"),
        (&["rename", "nobody", "x"], 3, "nobody"),
        (&["verify", "nobody"], 3, "nobody"),
        (&["rm"], 2, "KEY"),
        (&["rename", "long"], 2, "NAME"),
        (&["build", "long.txt", "--max-size", "lots"], 2, "expected a size"),
        (&["build", "long.txt", "--date", "yesterday"], 2, "expected a date"),
        (&["build", "long.txt", "--template-arg", "x"], 2, "NAME=VALUE"),
        (&["build", "long.txt", "--lora", "nowhere.gguf"], 3, "nowhere.gguf"),
        (&["build", "long.txt", "--template", "nowhere.jinja"], 3, "nowhere.jinja"),
        (&["build", "long.txt", "--rope-freq-base", "-1"], 2, "above 0"),
        (&["build", "long.txt", "--rope-freq-scale", "1e-30"], 2, "0.001"),
        (&["explain", "nowhere.txt"], 3, "nowhere.txt"),
        (&["--cache-dir", "foreign", "ls"], 1, "thesis.tex"),
        (&["--cache-dir", "foreign", "build", "long.txt"], 1, "thesis.tex"),
        (&["completions", "tcsh"], 2, "tcsh"),
    ];
    for (args, code, text) in cases {
        let run = program.run(args);
        assert_eq!(run.code, *code, "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(text), "{args:?}: {}", run.stderr);
        assert!(!run.stderr.contains("panicked"), "{args:?}: {}", run.stderr);
        assert_eq!(run.stdout, "", "{args:?}");
    }
    assert_eq!(program.contents(), before);
}

#[test]
fn an_ambiguous_key_lists_what_it_may_mean() {
    let program = program();
    program.sql("UPDATE states SET key = CAST(x'abcdef' || substr(key, 4) AS BLOB)");
    let run = program.run(&["show", "abcdef"]);
    assert_eq!((run.code, run.stderr.contains("begins several keys")), (2, true), "{}", run.stderr);
}

/// Lookups that must stay quick with many states use an index and do not search.
#[test]
fn lookups_use_an_index() {
    let program = program();
    let db = rusqlite::Connection::open(program.store().join("index.sqlite")).unwrap();
    for query in [
        "SELECT state FROM names WHERE name = 'x'",
        "SELECT name FROM names WHERE state = 1",
        "SELECT id FROM states WHERE key BETWEEN x'00' AND x'ff' AND tombstone = 0",
        "SELECT key FROM states WHERE prompt = x'00'",
        "SELECT max(last_use) + 1 FROM states",
        "SELECT id FROM segments WHERE chain = x'00'",
        "SELECT state FROM state_segments WHERE segment = 1",
    ] {
        let plan: String = db
            .prepare(&format!("EXPLAIN QUERY PLAN {query}"))
            .unwrap()
            .query_map([], |row| row.get::<_, String>(3))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(plan.contains("SEARCH") && !plan.contains("SCAN"), "{query}: {plan}");
    }
}

/// Two builds of one prompt once evaluated it twice.
#[test]
fn of_two_builds_of_a_prompt_one_evaluates_and_the_other_waits() {
    let program = Program::new(&tiny("llama"));
    program.write("prompt.txt", &prose(600, 1));
    let builds: Vec<_> =
        (0..3).map(|_| program.start(&["build", "prompt.txt", "--json", "--threads", "1"])).collect();
    let reports: Vec<Value> = builds
        .into_iter()
        .map(|build| {
            let output = build.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            serde_json::from_slice(&output.stdout).unwrap()
        })
        .collect();
    let mut evaluated: Vec<u64> =
        reports.iter().map(|r| r["cache"]["evaluated_tokens"].as_u64().unwrap()).collect();
    evaluated.sort_unstable();
    assert_eq!(evaluated[..2], [0, 0], "{reports:?}");
    assert_eq!(reports.iter().filter(|r| r["cache"]["status"] == "hit").count(), 2);
    let left = std::fs::read_dir(program.store().join("tmp")).unwrap().count();
    assert_eq!(left, 0, "no lock file stays");
}

/// A folder in an object's place once made every build evaluate anew and fail to save.
#[test]
fn a_folder_in_an_objects_place_is_moved_away() {
    let program = program();
    let object = program.segments().remove(0);
    std::fs::remove_file(&object).unwrap();
    std::fs::create_dir(&object).unwrap();
    std::fs::write(object.join("note"), "hello").unwrap();
    let healed = program.ok(&["verify", "--repair"]);
    assert!(healed.stdout.contains("repaired"), "{}", healed.stdout);
    assert!(program.ok(&["verify"]).stderr.contains("all intact"));
    let total = program.total_bytes();
    let gone = json(&program.ok(&["gc", "--json"]));
    assert_eq!(gone["folder"]["freed_staging_bytes"], 5);
    assert!(program.total_bytes() < total);
    assert_eq!(std::fs::read_dir(program.store().join("tmp")).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn links_inside_the_store_are_not_followed() {
    use std::os::unix::fs::symlink;
    let program = program();
    let elsewhere = program.path("elsewhere");
    // An object that is a link to its own content elsewhere: a miss, and healed by a file.
    let object = program.segments().remove(0);
    std::fs::rename(&object, &elsewhere).unwrap();
    symlink(&elsewhere, &object).unwrap();
    assert_eq!(program.run(&["verify"]).code, 4);
    program.ok(&["verify", "--repair"]);
    assert!(std::fs::symlink_metadata(&object).unwrap().is_file());
    // The folder of an object.
    let folder = object.parent().unwrap().to_owned();
    let moved = program.path("moved");
    std::fs::rename(&folder, &moved).unwrap();
    symlink(&moved, &folder).unwrap();
    assert_eq!(program.run(&["verify"]).code, 4);
    program.ok(&["gc", "--keep", "0"]);
    assert!(std::fs::read_dir(&moved).unwrap().count() > 0, "gc reached through a link");
    std::fs::remove_file(&folder).unwrap();
    // The store's own places.
    for name in ["objects", "tmp", "index.sqlite", "lock"] {
        let (place, away) = (program.store().join(name), program.path("away"));
        std::fs::rename(&place, &away).unwrap();
        symlink(&away, &place).unwrap();
        for command in [&["ls"][..], &["gc"], &["build", "long.txt"]] {
            let run = program.run(command);
            assert_eq!((run.code, run.stderr.contains("is a link")), (1, true), "{name}: {}", run.stderr);
        }
        std::fs::remove_file(&place).unwrap();
        std::fs::rename(&away, &place).unwrap();
    }
    // The store itself may be reached by a link.
    let link = program.path("link");
    symlink(program.store(), &link).unwrap();
    program.ok(&["--cache-dir", link.to_str().unwrap(), "build", "long.txt"]);
}

#[test]
fn a_state_is_stored_in_another_codec_and_stays_the_same() {
    let program = program();
    let ask = || {
        let run = program.ok(&["ask", "long", "Is it warm?", "--max-tokens", "8", "--json", "--require-hit"]);
        json(&run)["answer"].clone()
    };
    let codecs = || -> Vec<String> {
        let shown = json(&program.ok(&["show", "long", "--json"]));
        let segments = shown["segments"].as_array().unwrap();
        segments.iter().map(|s| s["codec"].as_str().unwrap().to_owned()).collect()
    };
    let (expected, raw) = (ask(), program.total_bytes());
    let before = program.objects();
    assert_eq!(codecs(), ["raw"; 3]);

    let recoded = json(&program.ok(&["recode", "long", "--codec", "zstd", "--json"]))["states"][0].clone();
    assert_eq!((&recoded["segments"], &recoded["recoded"]), (&3.into(), &3.into()));
    assert!(recoded["bytes_after"].as_u64() < recoded["bytes_before"].as_u64());
    assert_eq!((codecs(), ask()), (vec!["zstd".to_owned(); 3], expected.clone()));
    assert!(program.total_bytes() < raw, "the raw objects are gone");
    // What the other state shares with it is recoded with it.
    let other = program.ok(&["ask", "other", "Hm?", "--max-tokens", "1", "--require-hit"]);
    assert!(other.stderr.contains("hit"));
    let nothing = program.ok(&["recode", "long", "--codec", "zstd:9"]);
    assert!(nothing.stdout.contains("stays as it is"), "{}", nothing.stdout);
    assert!(program.ok(&["verify", "--logits"]).stdout.contains("bit-identical"));
    assert_eq!(json(&program.ok(&["gc", "--json"]))["freed_bytes"], 0, "nothing was left over");
    // A build of the same prompt is a hit, whatever codec it asks for; and what is new is stored in it.
    assert!(program.ok(&["build", "long.txt"]).stderr.contains("hit"));

    program.ok(&["recode", "--all", "--codec", "raw"]);
    assert_eq!((program.objects(), ask()), (before, expected), "and back to the very same files");

    let segment = program.segments().remove(0);
    std::fs::write(&segment, "damaged").unwrap();
    let refused = program.run(&["recode", "--all", "--codec", "zstd"]);
    assert_eq!((refused.code, refused.stderr.contains("verify --repair")), (4, true), "{}", refused.stderr);
    assert_eq!(program.run(&["recode", "nobody", "--codec", "zstd"]).code, 3);
    assert_eq!(program.run(&["recode", "long"]).code, 2);
}
