//! Reports of users of such programs, tried on the program: each test tells one kind of it. `docs/reports.md` lists them.

use std::path::Path;

use crate::common::{TINY, full, tiny};
use crate::gguf;
use crate::program::{Program, Run, json};

fn program() -> Program {
    let program = Program::new(&tiny("llama"));
    program.write("p.txt", "Answer.");
    program.ok(&["build", "p.txt", "--name", "s"]);
    program
}

fn map(program: &Program, input: &str, more: &[&str]) -> Run {
    program.run(
        &[&["map", "s", "--input", input, "--max-tokens", "1", "--output-format", "jsonl"], more].concat(),
    )
}

fn lines(run: &Run) -> Vec<serde_json::Value> {
    run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A tiny model under another name, with other header entries.
fn model(program: &Program, name: &str, entries: &[(&str, gguf::Value)]) -> String {
    let changed = gguf::with(&std::fs::read(tiny("llama")).unwrap(), entries);
    program.write_bytes(name, &changed);
    program.path(name).display().to_string()
}

/// llama.cpp's regular expressions take stack for each character of a run.
#[test]
fn a_long_run_of_letters_is_tokenised_or_refused_and_never_ends_the_process() {
    let program = Program::new(&tiny("llama"));
    let tekken =
        model(&program, "tekken.gguf", &[("tokenizer.ggml.pre", gguf::Value::Text("tekken".into()))]);
    program.write("p.txt", "Answer.");
    program.ok(&["build", "p.txt", "--name", "s", "-m", &tekken]);
    for run in ["Q".repeat(40_000), " ".repeat(40_000), "=".repeat(40_000), "中".repeat(40_000)] {
        program
            .write("in.jsonl", &format!("{}\n{{\"text\": \"three\"}}\n", serde_json::json!({ "text": run })));
        let run = map(&program, "in.jsonl", &["-m", &tekken]);
        assert!([0, 1].contains(&run.code) && lines(&run).len() == 2, "{}", run.stderr);
        assert!(lines(&run)[1]["error"].is_null(), "{}", run.stdout);
    }
    program.write("long.txt", &"ab1_".repeat(100_000));
    let run = program.run(&["build", "long.txt", "-m", &tekken]);
    assert!(run.code == 1 && run.stderr.contains("context is 4,096"), "{} {}", run.code, run.stderr);
}

/// Any of these ended the process, some with a trace on stdout.
#[test]
fn a_model_that_cannot_be_used_is_refused_with_a_sentence() {
    let text = |text: &str| gguf::Value::Text(text.into());
    let cases = [
        ("general.architecture", text("t5"), "encoder-decoder"),
        ("general.architecture", text("bert"), "embedding"),
        ("general.type", text("mmproj"), "projector"),
        ("tokenizer.ggml.model", text("none"), "no vocabulary"),
        ("llama.context_length", gguf::Value::Number(u32::MAX), "context_length"),
        ("llama.block_count", gguf::Value::Number(600), "block_count"),
        // What the header does not show is found in another process.
        ("llama.expert_used_count", gguf::Value::Number(7), "llama.cpp gives up on it"),
    ];
    for (key, value, expected) in cases {
        let program = Program::new(&tiny("llama"));
        let path = model(&program, "m.gguf", &[(key, value)]);
        program.write("p.txt", "Answer.");
        let run = program.run(&["build", "--raw", "p.txt", "-m", &path]);
        assert!(run.code == 1 && run.stderr.contains(expected), "{key}: {} {}", run.code, run.stderr);
        assert_eq!((run.stdout.as_str(), program.manifests().len()), ("", 0), "{key}");
    }
}

/// Whatever the header says, the process ends with a sentence and no signal.
#[test]
fn no_number_in_a_header_ends_the_process() {
    let rounds = if full() { 400 } else { 12 };
    // A generator of the simplest kind (Knuth's MMIX constants), so that a failure comes again.
    let mut state: u64 = 26;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for name in TINY {
        let (file, program) = (std::fs::read(tiny(name)).unwrap(), Program::new(&tiny(name)));
        program.write("p.txt", "Answer.");
        let numbers = gguf::numbers(&file);
        for round in 0..rounds {
            let mut changed = file.clone();
            let (at, size) = numbers[random(numbers.len())];
            let value =
                [0, 1, 3, 7, 255, 513, 1 << 16, i64::from(i32::MAX), i64::from(u32::MAX), -1][random(10)];
            changed[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
            program.write_bytes("m.gguf", &changed);
            let path = program.path("m.gguf").display().to_string();
            let run = program.run(&["build", "--raw", "p.txt", "-m", &path]);
            assert!((0..=5).contains(&run.code), "{name}, round {round}, {value} at {at}: {run:?}");
        }
    }
}

#[test]
fn half_of_a_surrogate_pair_is_an_error_of_its_record() {
    let program = program();
    program
        .write("cut.jsonl", "{\"text\": \"two\\nlines \\ud83d\"}\n{\"text\": \"fine\"}\n{\"text\": 1e400}\n");
    let run = map(&program, "cut.jsonl", &[]);
    assert_eq!(run.code, 1);
    // No reader of JSON takes the first one, whose field is as it came.
    let answers: Vec<&str> = run.stdout.lines().collect();
    assert!(answers[0].contains("half of a surrogate pair") && answers.len() == 3, "{}", run.stdout);
    assert!(answers[1..].iter().all(|answer| !answer.contains("\"error\"")), "{}", run.stdout);
}

#[test]
fn a_constraint_that_constrains_nothing_is_an_error() {
    let program = program();
    let ask = |schema: &str| {
        program.write("s.json", schema);
        program.run(&["ask", "s", "x", "--json-schema", "s.json", "--max-tokens", "200"])
    };
    assert_eq!(ask("{\"dish\": {\"type\": \"string\"}}").code, 2);
    assert_eq!(ask("{\"type\": \"object\", \"requierd\": [\"a\"]}").code, 2);
    let wrapped = ask("{\"name\": \"n\", \"strict\": true, \"schema\": {\"enum\": [\"yes\"]}}");
    assert_eq!((wrapped.code, wrapped.stdout.trim()), (0, "\"yes\""), "{}", wrapped.stderr);
}

#[test]
fn a_byte_order_mark_is_no_text() {
    let program = program();
    program.write("marked.txt", "\u{feff}Answer.");
    let built = json(&program.ok(&["build", "marked.txt", "--json"]));
    assert_eq!(built["cache"]["status"], "hit", "the same prompt: {built}");
    let run =
        program.run_with(&["map", "s", "--max-tokens", "1"], "\u{feff}{\"text\": \"hello\", \"id\": 1}\n");
    assert_eq!(lines(&run)[0]["id"], 1, "{}", run.stdout);
    program.write("g.gbnf", "\u{feff}root ::= \"yes\"\n");
    assert_eq!(program.ok(&["ask", "s", "x", "--grammar", "g.gbnf"]).stdout.trim(), "yes");
}

/// Without the mark, spreadsheets read other letters.
#[test]
fn columns_come_out_with_the_mark_that_they_came_with() {
    let program = program();
    program.write("sheet.csv", "\u{feff}sep=;\nid;text\n1;über\n");
    let run = program.ok(&["map", "s", "--input", "sheet.csv", "--max-tokens", "1"]);
    assert!(run.stdout.starts_with("\u{feff}sep=;\nid;text;answer"), "{}", run.stdout);
    let piped = std::fs::read_to_string(program.path("sheet.csv")).unwrap();
    let run = program.run_with(&["map", "s", "--max-tokens", "1"], &piped);
    assert!(run.stdout.starts_with("\u{feff}sep=;\nid;text;answer"), "{}", run.stdout);
    program.write("plain.csv", "id,text\n1,a\n");
    let run = program.ok(&["map", "s", "--input", "plain.csv", "--max-tokens", "1"]);
    assert!(run.stdout.starts_with("id,text"), "{}", run.stdout);
}

#[test]
fn a_question_on_stdin_needs_a_state_first() {
    let program = program();
    let run = program.run_with(&["ask", "Who is the owner?"], "");
    assert!(run.code == 3 && run.stderr.contains("no state"), "{}", run.stderr);
    let run = program.run_with(&["ask", "s"], "");
    assert!(run.code == 2 && run.stderr.contains("on stdin is empty"), "{}", run.stderr);
}

#[test]
fn a_name_that_is_removed_takes_no_other_one_with_it() {
    let program = program();
    program.ok(&["build", "p.txt", "--name", "other", "--pin"]);
    let run = program.ok(&["rm", "s"]);
    assert!(run.stdout.contains("took the name s away") && run.stdout.contains("stays as other"), "{run:?}");
    assert_eq!(program.run(&["ask", "s", "x"]).code, 3);
    program.ok(&["ask", "other", "x", "--max-tokens", "1"]);
    assert_eq!(program.run(&["rm", "other"]).code, 2, "it is pinned");
    program.ok(&["build", "p.txt", "--name", "third"]);
    assert_eq!(program.run(&["rm", "other"]).code, 2, "the name is pinned");
    let both = program.ok(&["rm", "--force", "other", "third"]);
    assert!(both.stdout.contains("removed ") && program.manifests().is_empty(), "{both:?}");
}

#[test]
fn objects_over_several_lines_are_records() {
    let program = program();
    program.write("two.json", "{\n  \"text\": \"a\",\n  \"id\": 1\n}\n{\n  \"text\": \"b\"\n}\n");
    let run = map(&program, "two.json", &[]);
    assert_eq!(
        (run.code, lines(&run).len(), lines(&run)[0]["id"].clone()),
        (0, 2, 1.into()),
        "{}",
        run.stderr
    );
    program.write("cut.json", "{\n  \"text\": \"a\"\n}\n{\n  \"text\": ]\n}\n");
    let run = map(&program, "cut.json", &[]);
    assert_eq!((run.code, lines(&run).len()), (1, 2));
    assert!(lines(&run)[1]["error"].as_str().unwrap().contains("not JSON from here on"), "{}", run.stdout);
}

#[test]
fn a_line_that_names_the_separator_is_no_header() {
    let program = program();
    program.write("sheet.csv", "sep=;\nid;text\n1;a, b\n");
    let run = program.ok(&["map", "s", "--input", "sheet.csv", "--max-tokens", "1"]);
    assert!(run.stdout.starts_with("sep=;\nid;text;answer;stop_reason;error\n1;a, b;"), "{}", run.stdout);
    assert_eq!(map(&program, "sheet.csv", &["--delimiter", ";"]).code, 0);
}

/// Five of six records were lost in a real list.
#[test]
fn a_quotation_mark_in_tsv_is_text() {
    let program = program();
    program.write("list.tsv", "text\tid\n\"open\t1\nb\t2\n\"two\" words\t3\n");
    let run = map(&program, "list.tsv", &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let texts: Vec<_> = lines(&run).iter().map(|line| line["text"].as_str().unwrap().to_owned()).collect();
    assert_eq!(texts, ["\"open", "b", "\"two\" words"]);
    program.write("list.dat", "text\tid\na\t1\n");
    let run = program.ok(&["map", "s", "--input", "list.dat", "--max-tokens", "1"]);
    assert!(run.stderr.contains("has tabs as TSV does"), "{}", run.stderr);
}

#[test]
fn a_question_may_begin_with_a_dash_and_a_dash_alone_is_stdin() {
    let program = program();
    for question in ["- what is the soup?", "-5 + 3 = ?", "-5", "--- x"] {
        let run = program.ok(&["ask", "s", question, "--max-tokens", "1", "--json"]);
        assert_eq!(json(&run)["question"], question);
    }
    let run = program.run(&["ask", "s", "--maxtokens", "1"]);
    assert!(run.code == 2 && run.stderr.contains("'--max-tokens'"), "{}", run.stderr);
    let run = program.run_with(&["ask", "s", "-", "--max-tokens", "1", "--json"], "Is there soup?\n");
    assert_eq!(json(&run)["question"], "Is there soup?");
}

/// A sign that stands for a dash while arguments are read got into names of files.
#[test]
fn a_file_may_have_a_name_that_begins_with_a_dash() {
    let program = program();
    program.ok(&["ask", "s", "x", "--max-tokens", "1", "--log=- log"]);
    assert!(program.path("- log").is_file());
    program.write("- in.jsonl", "{\"text\": \"x\"}\n");
    program.ok(&["map", "s", "--input=- in.jsonl", "--max-tokens", "1"]);
    // As elsewhere: what begins with a dash is no value of an option that names a file.
    assert_eq!(program.run(&["ask", "s", "x", "--log", "- other"]).code, 2);
    assert!(!program.path("- other").exists() && !program.path("\u{fdd0}- other").exists());
    let run = program.run(&["ask", "- no such", "x"]);
    assert!(run.code == 3 && run.stderr.contains("\"- no such\""), "{}", run.stderr);
}

#[test]
fn a_stop_sequence_has_escapes() {
    let program = program();
    program.write("two.gbnf", "root ::= \"one\\ntwo\"\n");
    let ask = ["ask", "s", "x", "--grammar", "two.gbnf", "--stop", "\\n", "--json"];
    let answer = json(&program.ok(&ask));
    assert_eq!(
        (answer["answer"].as_str(), answer["stop_reason"].as_str()),
        (Some("one"), Some("stop_string"))
    );
}

#[test]
fn two_models_of_one_name_are_told_apart() {
    let program = Program::new(&tiny("llama"));
    for (folder, name) in [("q4", "llama"), ("q8", "gemma3")] {
        std::fs::create_dir(program.path(folder)).unwrap();
        std::fs::copy(tiny(name), program.path(&format!("{folder}/model.gguf"))).unwrap();
    }
    program.write(
        "suite.toml",
        "models = [\"q4/model.gguf\", \"q8/model.gguf\"]\n[[prompts]]\ntext = \"Hi\"\n[[prompts.questions]]\nask = \"x\"\n\
         checks = [{ not-contains = \"zzz\" }]\n",
    );
    let results = json(&program.run_without_model(&["eval", "suite.toml", "--json"]));
    let names = |list: &str| -> Vec<String> {
        let all = results[list].as_array().unwrap().iter();
        all.map(|one| one["model"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        (names("outcomes"), names("sums")),
        (vec!["q4/model".into(), "q8/model".into()], names("outcomes"))
    );
    let junit = program.run_without_model(&["eval", "suite.toml", "--format", "junit"]).stdout;
    let cases: Vec<&str> = junit.lines().filter(|line| line.contains("<testcase")).collect();
    assert_eq!(cases.len(), 2, "{junit}");
    assert_ne!(cases[0].split("time=").next(), cases[1].split("time=").next(), "{junit}");
    assert!(junit.lines().any(|line| line.contains("<testsuites") && line.contains("time=")), "{junit}");
}

#[test]
fn what_is_named_and_does_not_exist_is_exit_code_3() {
    let program = program();
    for args in [
        &["build", "nothing.txt"][..],
        &["map", "s", "--input", "nothing.jsonl"],
        &["ask", "s", "--questions", "nothing.txt"],
        &["ask", "s", "x", "--grammar", "nothing.gbnf"],
        &["eval", "nothing.toml"],
    ] {
        assert_eq!(program.run(args).code, 3, "{args:?}");
    }
}

#[cfg(unix)]
mod on_unix {
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use super::*;

    /// Answers went nowhere, and the exit code was 0.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_stdout_that_is_closed_is_noticed() {
        let program = program();
        let run = program.script("bash", &["-c", "\"$PCACHE\" ls >&-"]);
        assert!(run.code == 1 && run.stderr.contains("it is closed"), "{} {}", run.code, run.stderr);
        assert_eq!(program.script("bash", &["-c", "\"$PCACHE\" ls >/dev/null"]).code, 0);
    }

    /// To see whether a run was cut short, the output was opened for reading, which waits on a named pipe.
    #[test]
    fn a_named_pipe_takes_answers_and_gives_records_once() {
        let program = program();
        let pipe = |name: &str| {
            assert!(Command::new("mkfifo").arg(program.path(name)).status().unwrap().success());
        };
        pipe("out.jsonl");
        pipe("in");
        let reader =
            Command::new("cat").arg(program.path("out.jsonl")).stdout(Stdio::piped()).spawn().unwrap();
        let writer = program.path("in");
        let writer = std::thread::spawn(move || std::fs::write(writer, "x\ny\n").unwrap());
        let map = ["map", "s", "-i", "in", "--output", "out.jsonl", "--max-tokens", "1"];
        let mut child = program.start(&map);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while child.try_wait().unwrap().is_none() {
            assert!(std::time::Instant::now() < deadline, "it waits for ever");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        writer.join().unwrap();
        let read = reader.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(read.stdout).unwrap().lines().count(), 2);
    }

    /// A signal was heard, and nothing ended: the other end of the pipe was waited for.
    #[test]
    fn a_pipe_that_nobody_reads_can_be_stopped() {
        let program = program();
        assert!(Command::new("mkfifo").arg(program.path("out.jsonl")).status().unwrap().success());
        program.write("in.jsonl", "{\"text\": \"x\"}\n");
        let map = "\"$PCACHE\" map s --input in.jsonl --output out.jsonl & sleep 2; kill -TERM $!; wait $!";
        let run = program.script("timeout", &["20", "bash", "-c", map]);
        assert_eq!(run.code, 143, "{}", run.stderr);
        assert!(run.stderr.contains("waiting for a reader of out.jsonl"), "{}", run.stderr);
    }

    /// The answer was cut off, and the exit code was 0.
    #[test]
    fn a_chat_in_a_pipe_that_is_stopped_says_so() {
        let program = program();
        let chat =
            "(echo hello; sleep 3) | timeout --preserve-status -s INT 1 \"$PCACHE\" chat s --max-tokens 4000";
        let run = program.script("bash", &["-c", chat]);
        assert_eq!(run.code, 130, "{}", run.stderr);
    }

    #[test]
    fn a_folder_that_others_use_is_not_taken_from_them() {
        let program = program();
        let shared = program.path("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o1777)).unwrap();
        let run = program.run(&["build", "p.txt", "--cache-dir", "shared"]);
        assert!(run.code == 1 && run.stderr.contains("mode 1777"), "{}", run.stderr);
        assert_eq!(std::fs::metadata(&shared).unwrap().permissions().mode() & 0o7777, 0o1777);
        assert_eq!(std::fs::read_dir(Path::new(&shared)).unwrap().count(), 0);
    }
}

#[test]
fn a_raw_prompt_that_is_shown_is_the_one_that_was_built() {
    let program = program();
    program.write("r.txt", "no newline at the end");
    let first = program.ok(&["-q", "build", "--raw", "r.txt"]).stdout;
    let shown = program.ok(&["show", first.trim(), "--prompt"]).stdout;
    program.write("again.txt", &shown);
    assert_eq!(program.ok(&["-q", "build", "--raw", "again.txt"]).stdout, first);
}

/// A variable that is set to 0 removed every state.
#[test]
fn a_budget_of_nothing_in_the_environment_is_none() {
    let program = program();
    let run = program.run_with_env(&["gc"], &[("PCACHE_MAX_SIZE", "0")]);
    assert_eq!((run.code, program.manifests().len()), (0, 1), "{}", run.stderr);
    assert_eq!(program.run(&["build", "p.txt", "--max-size", "0"]).code, 2);
}

/// What a file that cannot be used says about itself, a terminal obeyed.
#[test]
fn nothing_from_a_file_is_a_control_sequence() {
    let program = Program::new(&tiny("llama"));
    program.write("p.txt", "Answer.");
    program.write("raises.jinja", "{{ raise_exception('no \u{1b}[5mway') }}");
    let run = program.run(&["build", "p.txt", "--template", "raises.jinja"]);
    assert!(run.code == 1 && run.stderr.contains("way") && !run.stderr.contains('\u{1b}'), "{}", run.stderr);
}

/// llama.cpp takes the largest seed as a wish for a random one.
#[test]
fn every_seed_gives_the_same_answers_again() {
    let program = program();
    program.write("in.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\"}\n");
    let hot = ["--temp", "3", "--top-k", "0", "--min-p", "0", "--top-p", "1", "--seed", "4294967295"];
    let args = [&["map", "s", "--input", "in.jsonl", "--max-tokens", "12"][..], &hot].concat();
    assert_eq!(program.ok(&args).stdout, program.ok(&args).stdout);
}

#[test]
fn a_pattern_that_is_refused_says_why() {
    let program = program();
    program.write("s.json", "{\"type\": \"string\", \"pattern\": \"^(?=.*@)[^@]+$\"}");
    let run = program.run(&["ask", "s", "x", "--json-schema", "s.json"]);
    assert!(run.code == 2 && run.stderr.contains("look-around"), "{} {}", run.code, run.stderr);
}

/// Two prompts were one, of which nothing was left.
#[test]
fn text_that_the_vocabulary_cannot_spell_is_told() {
    let program = program();
    program.write("cjk.txt", "漢字");
    let run = program.ok(&["build", "cjk.txt"]);
    assert!(run.stderr.contains("cannot spell 2 letters of cjk.txt"), "{}", run.stderr);
    assert!(!program.ok(&["build", "p.txt"]).stderr.contains("spell"));
}

/// A path may have in its name what a terminal obeys.
#[cfg(unix)]
#[test]
fn a_name_of_a_file_is_shown_harmlessly() {
    let program = program();
    let name = "esc\u{1b}[31mred.txt";
    program.write(name, "Answer.");
    for command in ["explain", "tokens"] {
        assert!(!program.ok(&[command, name]).stdout.contains('\u{1b}'), "{command}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn help_that_nobody_can_read_is_a_failure() {
    let program = program();
    for argument in ["--help", "--version"] {
        let run = program.script("bash", &["-c", &format!("\"$PCACHE\" {argument} >/dev/full")]);
        assert_eq!(run.code, 1, "{argument}");
    }
}

/// Models of the Hugging Face cache are links to files that are named by a hash.
#[cfg(unix)]
#[test]
fn a_model_is_shown_by_the_name_that_it_was_given() {
    let program = Program::new(&tiny("llama"));
    let blob = "b544313bba8bfa46dbe3325ecae229cca6b96fff4bf8c43bb7daff83da9e5ca5";
    std::fs::copy(tiny("llama"), program.path(blob)).unwrap();
    std::os::unix::fs::symlink(blob, program.path("soup.gguf")).unwrap();
    program.write("p.txt", "Answer.");
    program.ok(&["build", "p.txt", "--name", "s", "-m", "soup.gguf"]);
    assert_eq!(json(&program.ok(&["ls", "--json"]))["states"][0]["model"], "soup.gguf");
}
