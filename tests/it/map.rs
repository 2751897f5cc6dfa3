//! `pcache map` on the real binary and the tiny models.

use std::time::{Duration, Instant};

use crate::common::{TINY, prose, tiny};
use crate::program::{Program, json};
use serde_json::Value;

/// A program with a state `s` of some 640 tokens.
fn program(model: &str) -> Program {
    let program = Program::new(&tiny(model));
    program.write("prompt.txt", &prose(120, 1));
    program.ok(&["build", "prompt.txt", "--name", "s"]);
    program
}

/// `count` records of different lengths.
fn records(count: usize) -> String {
    let record = |n: usize| format!("{{\"id\": {n}, \"text\": {:?}}}\n", prose(1 + n * 7 % 40, n as u64));
    (0..count).map(record).collect()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn answers_are_those_of_ask_for_every_kind_of_model_alone_and_together() {
    for model in TINY {
        let program = program(model);
        program.write("in.jsonl", &records(7));
        let map = ["map", "s", "--input", "in.jsonl", "--max-tokens", "9"];
        let alone = program.ok(&map).stdout;
        let answers = lines(&alone);
        assert_eq!(answers.len(), 7);
        for (n, answer) in answers.iter().enumerate() {
            assert_eq!(answer["id"], n, "{model}");
            let text = answer["text"].as_str().unwrap();
            let asked = json(&program.ok(&["ask", "s", text, "--max-tokens", "9", "--json"]));
            assert_eq!(answer["answer"], asked["answer"].as_str().unwrap().trim(), "{model}, record {n}");
            assert_eq!(answer["stop_reason"], asked["stop_reason"]);
            assert_eq!(asked["cache"]["status"], "hit");
        }
        // The tiny models' choices are far apart, so that rounding changes none of them.
        let together = program.ok(&[&map[..], &["--parallel", "3"]].concat()).stdout;
        assert_eq!(together, alone, "{model}");
        let exact = program.ok(&[&map[..], &["--parallel", "3", "--exact"]].concat()).stdout;
        assert_eq!(exact, alone, "{model}");
    }
}

/// Questions that are longer than a batch, while others are being answered.
#[test]
fn long_questions_go_through_several_batches_beside_answers() {
    for model in TINY {
        let program = program(model);
        let lengths = [1, 70, 2, 60, 65, 3];
        let record = |(n, length): (usize, &usize)| format!("{{\"text\": {:?}}}\n", prose(*length, n as u64));
        program.write("in.jsonl", &lengths.iter().enumerate().map(record).collect::<String>());
        let map = ["map", "s", "--input", "in.jsonl", "--max-tokens", "9"];
        let alone = program.ok(&map).stdout;
        let log = ["--parallel", "3", "--log", "log.jsonl"];
        assert_eq!(program.ok(&[&map[..], &log].concat()).stdout, alone, "{model}");
        let exact = ["--parallel", "3", "--exact"];
        assert_eq!(program.ok(&[&map[..], &exact].concat()).stdout, alone, "{model}");
        let log = lines(&std::fs::read_to_string(program.path("log.jsonl")).unwrap());
        let long = log.iter().filter(|e| e["question_tokens"].as_u64().is_some_and(|n| n > 256)).count();
        assert_eq!(long, 3, "{model}: the questions should be longer than a batch");
    }
}

#[test]
fn a_record_that_cannot_be_asked_is_an_error_in_its_place() {
    let program = program("llama");
    program.write_bytes(
        "in.jsonl",
        b"{\"text\": \"one\"}\nnot json\n{\"body\": 1}\n\xff\xfe\n{\"text\": \"\"}\n{\"text\": 5}\n",
    );
    let long = format!("{{\"text\": {:?}}}\n", prose(4000, 2));
    std::fs::OpenOptions::new()
        .append(true)
        .open(program.path("in.jsonl"))
        .and_then(|mut file| std::io::Write::write_all(&mut file, long.as_bytes()))
        .unwrap();
    for parallel in ["1", "3"] {
        let run = program.run(&["map", "s", "-i", "in.jsonl", "--max-tokens", "4", "--parallel", parallel]);
        assert_eq!(run.code, 1, "{}", run.stderr);
        assert!(run.stderr.contains("5 records could not be answered"), "{}", run.stderr);
        let answers = lines(&run.stdout);
        let errors: Vec<_> = answers.iter().map(|a| a["error"].as_str().unwrap_or("")).collect();
        assert_eq!((errors[0], errors[5], answers[0]["answer"].is_string()), ("", "", true));
        for (n, part) in [
            (1, "not JSON"),
            (2, "no field \"text\"; it has body"),
            (3, "not UTF-8"),
            (4, "empty"),
            (6, "the model's context"),
        ] {
            assert!(errors[n].contains(part), "{errors:?}");
            assert!(answers[n]["answer"].is_null());
        }
    }
}

#[test]
fn lines_columns_and_pipes() {
    let program = program("llama");
    let text = program.run_with(&["-q", "map", "s", "--max-tokens", "4", "--format", "text"], "one\ntwo\n");
    assert_eq!((text.code, text.stdout.lines().count()), (0, 2), "{}", text.stderr);
    assert!(!text.stdout.contains('{'));

    program.write("in.csv", "id,body,note\n1,\"a, b\",x\n2,c,\n3\n");
    let run =
        program.run(&["-q", "map", "s", "-i", "in.csv", "--template", "{body} ({id})", "--max-tokens", "4"]);
    assert_eq!(run.code, 1);
    let rows: Vec<_> = run.stdout.lines().collect();
    assert_eq!(rows[0], "id,body,note,answer,stop_reason,error");
    assert!(
        rows[1].starts_with("1,\"a, b\",x,") && rows[3].ends_with("\"it has 1 column, expected 3\""),
        "{rows:?}"
    );
    let run = program.run(&["map", "s", "-i", "in.csv", "--field", "text"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("there is no column \"text\"; there are id, body, note"), "{}", run.stderr);
    // What a name does not say can be said.
    program.write("in.dat", "a\tb\n1\t2\n");
    let tsv = ["map", "s", "-i", "in.dat", "--input-format", "tsv", "--field", "b", "--max-tokens", "3"];
    assert!(program.ok(&tsv).stdout.starts_with("a\tb\tanswer\tstop_reason\terror\n1\t2\t"));

    program.write("in.jsonl", &format!("{}oops\n", records(3)));
    let pipe = "$PCACHE -q map s -i in.jsonl --into first --max-tokens 4 \
                | $PCACHE -q map s --field first --into second --max-tokens 4";
    let run = program.script("sh", &["-c", pipe]);
    let answers = lines(&run.stdout);
    assert_eq!(answers.len(), 4, "{}", run.stderr);
    assert!(answers[..3].iter().all(|a| a["first"].is_string() && a["second"].is_string()));
    assert!(
        answers[3]["error"].as_str().unwrap().starts_with("it came without \"first\": not JSON"),
        "{}",
        run.stdout
    );
}

/// Returns the output of the uninterrupted run.
fn whole(program: &Program, name: &str, more: &[&str]) -> String {
    program.ok(&[&["map", "s", "-i", "in.jsonl", "--max-tokens", "16", "--output", name], more].concat());
    std::fs::read_to_string(program.path(name)).unwrap()
}

#[test]
fn a_killed_run_goes_on_where_it_stopped() {
    let program = program("qwen35");
    program.write("in.jsonl", &records(60));
    let expected = whole(&program, "whole.jsonl", &[]);
    for parallel in ["1", "4"] {
        let out = format!("out{parallel}.jsonl");
        let args =
            ["map", "s", "-i", "in.jsonl", "--max-tokens", "16", "--output", &out, "--parallel", parallel];
        let mut killed = 0;
        let finished = loop {
            let mut child = program.start(&args);
            let before = std::fs::read_to_string(program.path(&out)).map_or(0, |t| t.lines().count());
            let deadline = Instant::now() + Duration::from_secs(60);
            let ended = loop {
                let written = std::fs::read_to_string(program.path(&out)).map_or(0, |t| t.lines().count());
                if let Some(status) = child.try_wait().unwrap() {
                    break Some(status.success());
                }
                assert!(Instant::now() < deadline, "it hangs");
                if written >= before + 10 && killed < 3 {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    break None;
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            match ended {
                Some(success) => break success,
                None => killed += 1,
            }
            // What a loss of power may leave: half a line, of which the journal knows nothing.
            let text = std::fs::read_to_string(program.path(&out)).unwrap();
            std::fs::write(program.path(&out), format!("{text}{{\"id\": 9")).unwrap();
        };
        assert!(finished && killed > 0, "it was killed {killed} times");
        assert_eq!(std::fs::read_to_string(program.path(&out)).unwrap(), expected);
    }
}

/// Leaves `out.jsonl` as a run that was stopped after some records would.
fn interrupted(program: &Program) -> usize {
    program.write("in.jsonl", &records(40));
    let mut child =
        program.start(&["map", "s", "-i", "in.jsonl", "--max-tokens", "16", "--output", "out.jsonl"]);
    let count = || std::fs::read_to_string(program.path("out.jsonl")).map_or(0, |t| t.lines().count());
    while count() < 5 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!((5..40).contains(&count()), "{} records were answered before it was killed", count());
    count()
}

#[test]
fn what_is_answered_is_not_asked_again_and_not_mixed_with_another_run() {
    let program = program("qwen35");
    interrupted(&program);
    let map = ["map", "s", "-i", "in.jsonl", "--max-tokens", "16", "--output", "out.jsonl"];
    let other = program.run(&[&map[..], &["--temp", "1"]].concat());
    assert_eq!(other.code, 2);
    assert!(other.stderr.contains("with another state or other options"), "{}", other.stderr);
    let records_before = std::fs::read_to_string(program.path("in.jsonl")).unwrap();
    program.write("in.jsonl", &records_before.replacen("\"id\": 0", "\"id\": 100", 1));
    let changed = program.run(&map);
    assert_eq!(changed.code, 2);
    assert!(
        changed.stderr.contains("record 1 is not the one that out.jsonl has an answer to"),
        "{}",
        changed.stderr
    );
    program.write("in.jsonl", &records_before);
    let done = program.ok(&map);
    assert!(done.stderr.contains("done already; continuing"), "{}", done.stderr);
    assert!(done.stderr.contains("done before"), "{}", done.stderr);
    // Done is done: a script that gives the command again cannot know.
    let again = program.ok(&map);
    assert!(again.stderr.contains("40 records answered before, and no others came"), "{}", again.stderr);
    let first = std::fs::read_to_string(program.path("out.jsonl")).unwrap();
    program.ok(&[&map[..], &["--overwrite"]].concat());
    assert_eq!(std::fs::read_to_string(program.path("out.jsonl")).unwrap(), first);
    // Records that came since are answered behind the others; what was edited is not gone on with.
    program.write("in.jsonl", &format!("{records_before}{{\"id\": 40, \"text\": \"late\"}}\n"));
    program.ok(&map);
    let whole = std::fs::read_to_string(program.path("out.jsonl")).unwrap();
    assert!(whole.starts_with(&first) && whole.lines().count() == 41, "{whole}");
    // A line that somebody put behind the answers was thrown away.
    program.write("out.jsonl", &format!("{whole}{{\"id\": 99}}\n"));
    let added = program.run(&map);
    assert!(added.code == 2 && added.stderr.contains("there is more behind record 41"), "{}", added.stderr);
    program.write("out.jsonl", &whole.replacen("\"id\"", "\"ID\"", 1));
    assert_eq!(program.run(&map).code, 2);
    std::fs::remove_file(program.path("out.jsonl.progress")).unwrap();
    let unknown = program.run(&map);
    assert_eq!(unknown.code, 2);
    assert!(unknown.stderr.contains("--overwrite replaces it"), "{}", unknown.stderr);
}

#[test]
fn what_cannot_be_is_said_and_leaves_nothing() {
    let program = program("llama");
    program.write("in.jsonl", &records(2));
    let before = program.contents();
    let cases: [(&[&str], i32, &str); 10] = [
        (&["map", "t", "-i", "in.jsonl"], 3, "no state \"t\""),
        (&["map", "s", "-i", "gone.jsonl"], 3, "gone.jsonl"),
        (&["map", "s", "-i", "."], 1, "is a folder"),
        (&["map", "s", "-i", "in.jsonl", "--output", "gone/out.jsonl"], 1, "gone/out.jsonl"),
        (&["map", "s", "-i", "in.jsonl", "--output", "in.jsonl"], 2, "written at once"),
        (&["map", "s", "-i", "in.jsonl", "--output", "jsonl"], 2, "pass --format jsonl"),
        (&["map", "s", "-i", "in.jsonl", "--template", "{"], 2, "a lone {"),
        (&["map", "s", "-i", "in.jsonl", "--template", "no field"], 2, "names no field"),
        (&["map", "s", "-i", "in.jsonl", "--json-schema", "in.jsonl", "--output", "o.jsonl"], 2, "not JSON"),
        (&["ask", "s", "x", "--output", "o.jsonl"], 2, "--format FORMAT is the format"),
    ];
    for (args, code, text) in cases {
        let run = program.run(args);
        assert_eq!(run.code, code, "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(text), "{args:?}: {}", run.stderr);
        assert_eq!(run.stdout, "", "{args:?}");
    }
    assert!(!program.path("o.jsonl").exists());
    assert_eq!(program.contents(), before);
}

#[test]
fn ctrl_c_keeps_what_is_done() {
    let program = program("qwen35");
    program.write("in.jsonl", &records(60));
    let args = ["map", "s", "-i", "in.jsonl", "--max-tokens", "24", "--output", "out.jsonl"];
    let mut child = program.start(&args);
    let count = || std::fs::read_to_string(program.path("out.jsonl")).map_or(0, |t| t.lines().count());
    while count() < 3 && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let interrupt = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(interrupt, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the same command continues"), "{said}");
    let done = count();
    assert!((3..60).contains(&done));
    let run = program.ok(&args);
    assert!(run.stderr.contains(&format!("{done} records done already")), "{done}: {}", run.stderr);
    assert_eq!(count(), 60);
}

/// Two runs wrote into each other's lines, and one read the journal that it was writing without end.
#[test]
fn one_output_belongs_to_one_run() {
    let program = program("qwen35");
    program.write("in.jsonl", &records(60));
    let args = ["map", "s", "-i", "in.jsonl", "--max-tokens", "16", "--output", "out.jsonl"];
    let expected = whole(&program, "whole.jsonl", &[]);
    let mut first = program.start(&args);
    while !program.path("out.jsonl.progress").exists() && first.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let second = program.run(&[&args[..], &["--overwrite"]].concat());
    assert!(first.wait().unwrap().success());
    assert_eq!(second.code, 2, "{}", second.stderr);
    assert!(second.stderr.contains("another map is writing out.jsonl"), "{}", second.stderr);
    assert_eq!(std::fs::read_to_string(program.path("out.jsonl")).unwrap(), expected);

    program.write("o.jsonl.progress", &records(2));
    let run = program.run(&[
        "map",
        "s",
        "-i",
        "o.jsonl.progress",
        "--input-format",
        "jsonl",
        "--output",
        "o.jsonl",
    ]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("written at once"), "{}", run.stderr);
    let run = program.run(&["map", "s", "-i", "in.jsonl", "--output", "o.jsonl"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("it is no journal of pcache map"), "{}", run.stderr);
    assert_eq!(
        std::fs::read_to_string(program.path("o.jsonl.progress")).unwrap(),
        records(2),
        "somebody else's file"
    );
}

#[test]
fn records_come_out_as_they_went_in() {
    let program = program("llama");
    let record = r#"{"id":12345678901234567890123,"x":0.1000000000000000055511151231257827,"text":"a","error":"mine","n":[1,  2]}"#;
    program.write("in.jsonl", &format!("{record}\n"));
    let run = program.ok(&["map", "s", "-i", "in.jsonl", "--max-tokens", "3"]);
    assert!(run.stdout.starts_with(record.trim_end_matches('}')), "{}", run.stdout);
    program.write("in.csv", "id,text,id\n1,a,2\n");
    let run = program.ok(&["map", "s", "-i", "in.csv", "--max-tokens", "3", "--into", "said"]);
    assert!(run.stdout.starts_with("id,text,id,said,said_stop_reason,error\n1,a,2,"), "{}", run.stdout);
    for into in ["error", ""] {
        assert_eq!(program.run(&["map", "s", "-i", "in.csv", "--into", into]).code, 2);
    }
}

#[test]
fn json_that_was_cut_off_is_no_answer() {
    let program = program("llama");
    program.write(
        "schema.json",
        r#"{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}"#,
    );
    program.write("in.txt", "one\n");
    let run = program.run(&["map", "s", "-i", "in.txt", "--json-schema", "schema.json", "--max-tokens", "3"]);
    assert_eq!(run.code, 1);
    assert!(
        run.stdout.starts_with("error: its JSON was cut off after 3 tokens (max_tokens)"),
        "{}",
        run.stdout
    );
}

/// A record that is there was not answered before the next ones came.
#[test]
fn a_pipe_on_which_nothing_comes_keeps_no_answer_back() {
    let program = program("llama");
    for parallel in ["1", "4"] {
        let args = ["-q", "map", "s", "--max-tokens", "4", "--parallel", parallel];
        let mut child = program.start_with_input(&args);
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"one\n").unwrap();
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert!(line.ends_with('\n') && child.try_wait().unwrap().is_none());
        // Nor does it keep Ctrl-C from ending it.
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        drop(input);
    }
}

#[test]
fn a_device_is_written_without_a_journal() {
    let program = program("llama");
    program.write("in.txt", "one\n");
    program.ok(&["map", "s", "-i", "in.txt", "--max-tokens", "3", "--output", "/dev/null"]);
    assert!(!std::path::Path::new("/dev/null.progress").exists());
}

#[test]
fn json_lines_take_their_columns_from_the_first_record() {
    let program = program("llama");
    program.write(
        "in.jsonl",
        "{\"id\": 1, \"text\": \"a, b\"}\n{\"text\": \"c\"}\n{\"text\": \"d\", \"more\": 2}\n",
    );
    let run = program.run(&["-q", "map", "s", "-i", "in.jsonl", "--output", "out.csv", "--max-tokens", "3"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let rows = std::fs::read_to_string(program.path("out.csv")).unwrap();
    let rows: Vec<_> = rows.lines().collect();
    assert_eq!((rows.len(), rows[0]), (4, "id,text,answer,stop_reason,error"), "{rows:?}");
    assert!(rows[1].starts_with("1,\"a, b\",") && rows[2].starts_with(",c,"), "{rows:?}");
    assert!(
        rows[3].ends_with(
            "\"its field \"\"more\"\" is not in the first record, so it has no column; JSON Lines keep it\""
        ),
        "{rows:?}"
    );
    program.write("in.jsonl", "oops\n");
    let run = program.run(&["map", "s", "-i", "in.jsonl", "--output", "other.tsv"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("the columns would be the fields of the first record"), "{}", run.stderr);
    assert!(!program.path("other.tsv").exists());
}

/// An `answer` that a record came with was replaced without a word.
#[test]
fn what_records_came_with_is_not_replaced() {
    let program = program("llama");
    let map = |more: &[&str]| program.run(&[&["-q", "map", "s", "--max-tokens", "3"], more].concat());
    program.write("a.jsonl", "{\"text\": \"a\", \"answer\": \"mine\"}\n");
    program.write("a.csv", "text,stop_reason\na,mine\n");
    for input in ["a.jsonl", "a.csv"] {
        let run = map(&["-i", input]);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{input}");
        assert!(run.stderr.contains("already") && run.stderr.contains("--into NAME"), "{}", run.stderr);
        assert_eq!(map(&["-i", input, "--into", "said"]).code, 0);
    }
    let replaced = lines(&map(&["-i", "a.jsonl", "--replace"]).stdout);
    assert_ne!(replaced[0]["answer"], "mine");
    // Later records are errors in their places.
    program.write("b.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\", \"answer\": \"mine\"}\n");
    let run = map(&["-i", "b.jsonl"]);
    let answers = lines(&run.stdout);
    assert_eq!((run.code, &answers[1]["answer"]), (1, &"mine".into()), "{}", run.stdout);
    assert!(answers[1]["error"].as_str().unwrap().contains("already"));
}

#[test]
fn what_has_failed_can_be_asked_again() {
    let program = program("llama");
    // So long that its beginning is enough to see it.
    let long = "so ".repeat(100_000);
    program.write("in.jsonl", &format!("{{\"text\": \"a\"}}\n{{\"text\": {long:?}}}\n"));
    let run = program.run(&["-q", "map", "s", "-i", "in.jsonl", "--max-tokens", "3"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let failed = run.stdout.lines().nth(1).unwrap().replace(&long, "so so");
    assert!(failed.contains("\"error\":\"the question has more than "), "{failed}");
    let again = program.run_with(&["-q", "map", "s", "--max-tokens", "3"], &format!("{failed}\n"));
    assert_eq!(again.code, 0, "{}", again.stderr);
    let again = &lines(&again.stdout)[0];
    assert!(again["answer"].is_string() && again.get("error").is_none(), "{again}");
}

#[test]
fn a_limit_tries_the_first_records_and_the_rest_goes_on() {
    let program = program("llama");
    program.write("in.jsonl", &records(5));
    let map = |more: &[&str]| {
        let all = ["map", "s", "-i", "in.jsonl", "--max-tokens", "4", "--output", "out.jsonl"];
        program.run(&[&all[..], more].concat())
    };
    let first = map(&["--limit", "2"]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert!(first.stderr.contains("the same command without --limit continues"), "{}", first.stderr);
    let written = std::fs::read_to_string(program.path("out.jsonl")).unwrap();
    assert_eq!(lines(&written).len(), 2);
    assert_eq!(map(&["--limit", "1"]).code, 0, "fewer than are answered: nothing to do");
    let rest = map(&[]);
    assert!(rest.stderr.contains(", 2 done before"), "{}", rest.stderr);
    let whole = std::fs::read_to_string(program.path("out.jsonl")).unwrap();
    assert!(whole.starts_with(&written) && lines(&whole).len() == 5);
    let stdout = program.ok(&["-q", "map", "s", "-i", "in.jsonl", "--max-tokens", "4", "--limit", "5"]);
    assert_eq!(stdout.stdout, whole);
}

#[test]
fn arrays_other_delimiters_and_blank_lines() {
    let program = program("llama");
    let map = |more: &[&str]| program.run(&[&["-q", "map", "s", "--max-tokens", "3"], more].concat());
    program.write("in.json", "[\n  {\"text\": \"a\"},\n  {\"text\": \"b\"}\n]\n");
    assert_eq!(lines(&map(&["-i", "in.json"]).stdout).len(), 2);
    program.write("bad.json", "[{\"text\": \"a\"},");
    let run = map(&["-i", "bad.json"]);
    assert!(run.code == 1 && run.stderr.contains("bad.json is no JSON array"), "{}", run.stderr);

    program.write("in.csv", "id;text\n1;a, b\n");
    let run = map(&["-i", "in.csv"]);
    assert!(run.code == 2 && run.stderr.contains("--delimiter"), "{}", run.stderr);
    let run = map(&["-i", "in.csv", "--delimiter", ";"]);
    assert!(run.stdout.starts_with("id;text;answer;stop_reason;error\n1;a, b;"), "{}", run.stdout);
    let run = map(&["-i", "in.json", "--delimiter", ";"]);
    assert!(run.code == 2 && run.stderr.contains("delimiter is for CSV"), "{}", run.stderr);
    program.write("none.csv", "");
    let run = map(&["-i", "none.csv"]);
    assert!(run.code == 2 && run.stderr.contains("none.csv is empty: it needs a header"), "{}", run.stderr);

    program.write("in.txt", "one\n\ntwo\n");
    let run = map(&["-i", "in.txt"]);
    let answers: Vec<_> = run.stdout.lines().collect();
    assert_eq!((run.code, answers.len(), answers[1]), (0, 3, ""), "{}", run.stderr);
    let run = map(&["-i", "in.txt", "--output", "nowhere/out.txt"]);
    assert!(run.code == 1 && run.stderr.contains("there is no folder nowhere"), "{}", run.stderr);
}

/// Going on cut the file at a place that no longer was the end of a record.
#[test]
fn an_output_that_was_edited_is_not_gone_on_with() {
    let program = program("llama");
    program.write("in.jsonl", &records(4));
    let map = |more: &[&str]| {
        let all = ["map", "s", "-i", "in.jsonl", "--max-tokens", "4", "--output", "out.jsonl"];
        program.run(&[&all[..], more].concat())
    };
    assert_eq!(map(&["--limit", "3"]).code, 0);
    let written = std::fs::read_to_string(program.path("out.jsonl")).unwrap();
    for edited in [written.replace("\"id\":1,", "\"id\":111,"), written.replace("\"id\":1,", "\"i\":1,")] {
        program.write("out.jsonl", &edited);
        let run = map(&[]);
        assert_eq!(run.code, 2, "{}", run.stderr);
        assert!(run.stderr.contains("was changed since it was written: record 2"), "{}", run.stderr);
        assert_eq!(std::fs::read_to_string(program.path("out.jsonl")).unwrap(), edited, "left as it is");
    }
    // What was not written to its end when the power went has zeros there.
    let third = written.lines().take(2).map(|line| line.len() + 1).sum::<usize>();
    let mut torn = written.clone().into_bytes();
    torn[third..].fill(0);
    program.write_bytes("out.jsonl", &torn);
    let run = map(&[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("2 done before"), "{}", run.stderr);
    let whole = std::fs::read_to_string(program.path("out.jsonl")).unwrap();
    assert!(whole.starts_with(&written) && lines(&whole).len() == 4);
}

/// The input was emptied, and its answers were read as questions without an end.
#[test]
fn the_input_is_not_written_to() {
    let program = program("llama");
    let input = records(3);
    program.write("in.jsonl", &input);
    std::fs::hard_link(program.path("in.jsonl"), program.path("same.jsonl")).unwrap();
    for command in [
        "$PCACHE map s -i in.jsonl --output ./in.jsonl --overwrite",
        "$PCACHE map s -i in.jsonl --output same.jsonl --overwrite",
        "$PCACHE map s --output same.jsonl --overwrite < in.jsonl",
        "$PCACHE map s -i in.jsonl >> in.jsonl",
    ] {
        let run = program.script("timeout", &["60", "sh", "-c", command]);
        assert_eq!(run.code, 2, "{command}: {}", run.stderr);
        assert!(run.stderr.contains("would be read and written at once"), "{command}: {}", run.stderr);
        assert_eq!(std::fs::read_to_string(program.path("in.jsonl")).unwrap(), input, "{command}");
    }
    // A log goes on in no file but a log.
    let run = program.run(&["map", "s", "-i", "in.jsonl", "--output", "out.jsonl", "--log", "same.jsonl"]);
    assert!(run.code == 1 && run.stderr.contains("same.jsonl is there and holds no log"), "{}", run.stderr);
    assert_eq!(std::fs::read_to_string(program.path("in.jsonl")).unwrap(), input);
    let run = program.run(&["map", "s", "-i", "in.jsonl", "--output", "both.jsonl", "--log", "both.jsonl"]);
    assert!(run.code == 2 && run.stderr.contains("would be one file"), "{}", run.stderr);
    program.ok(&["ls", "--log", "log.jsonl"]);
    program.ok(&["ls", "--log", "log.jsonl"]);
}

/// Only what failed in the last part counted.
#[test]
fn what_failed_before_counts_when_a_run_goes_on() {
    let program = program("llama");
    program.write("in.jsonl", &format!("oops\n{}", records(2)));
    let map = ["map", "s", "-i", "in.jsonl", "--max-tokens", "3", "--output", "out.jsonl"];
    assert_eq!(program.run(&[&map[..], &["--limit", "1"]].concat()).code, 1);
    let rest = program.run(&map);
    assert_eq!(rest.code, 1, "{}", rest.stderr);
    assert!(rest.stderr.contains("1 record could not be answered"), "{}", rest.stderr);
}

/// With --replace a record that failed lost the answer that it came with.
#[test]
fn replacing_needs_an_answer() {
    let program = program("llama");
    program.write("in.csv", "text,answer,stop_reason,error,more\n,old,mine,e,x\nb,old,mine,,y\n");
    let run = program.run(&["-q", "map", "s", "-i", "in.csv", "--replace", "--max-tokens", "3"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let rows: Vec<_> = run.stdout.lines().collect();
    assert_eq!(rows[0], "text,answer,stop_reason,error,more", "columns stay in their places");
    assert_eq!(rows[1], ",old,mine,the question is empty; it came with the error: e,x");
    assert!(rows[2].starts_with("b,") && rows[2].ends_with(",,y") && !rows[2].contains("old"), "{rows:?}");
    let json = "{\"text\": \"\", \"answer\": \"old\"}\n";
    let run = program.run_with(&["-q", "map", "s", "--replace"], json);
    assert_eq!(lines(&run.stdout)[0]["answer"], "old");
}

#[test]
fn what_stdin_holds_is_seen_or_said() {
    let program = program("llama");
    let map = |more: &[&str], input: &str| {
        program.run_with(&[&["-q", "map", "s", "--max-tokens", "3"], more].concat(), input)
    };
    let array = "[\n  {\"text\": \"a\"},\n  {\"text\": \"b\"}\n]\n";
    assert_eq!(lines(&map(&[], array).stdout).len(), 2);
    let broken = map(&[], "[{\"text\": \"a\"},\n{\"text\": \"b\" \"y\": 2}]");
    assert!(broken.code == 1 && broken.stderr.contains("stdin is no JSON array"), "{}", broken.stderr);
    let first = map(&[], "oops\n{\"text\": \"b\"}\n");
    assert_eq!((first.code, lines(&first.stdout).len()), (1, 2), "{}", first.stderr);
    let columns = map(&["--field", "title"], "title,body\na,b\n");
    assert!(columns.code == 2 && columns.stderr.contains("--input-format"), "{}", columns.stderr);
    program.write("in.txt", "{\"text\": \"a\"}\n");
    let doubt = map(&["-i", "in.txt"], "");
    assert!(doubt.stderr.contains("looks like JSON"), "{}", doubt.stderr);
    let document = map(&["-i", "in.txt", "--output", "out.json"], "");
    assert!(document.code == 2 && document.stderr.contains("JSON Lines and no JSON"), "{}", document.stderr);
}

/// Whoever logs out of a terminal in which `nohup pcache map … &` runs found a few records the next morning.
#[test]
fn what_was_ignored_when_the_program_began_stays_ignored() {
    use rustix::process::{Pid, Signal, kill_process};
    use std::io::{BufRead, BufReader, Write};

    let program = program("llama");
    let mut child = program.start_in_the_background(&["-q", "map", "s", "--max-tokens", "4"]);
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut answer = |record: &[u8]| {
        input.write_all(record).unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "{line:?}");
    };
    answer(b"one\n");
    for signal in [Signal::HUP, Signal::INT] {
        kill_process(Pid::from_child(&child), signal).unwrap();
        answer(b"and another\n");
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143), "that one still ends it, in order");
}

/// A run that was begun with answers that may be others is not gone on with as an exact one; one after the other and exact are
/// the same.
#[test]
fn exact_answers_are_not_mixed_with_others() {
    let program = program("llama");
    program.write("in.jsonl", &records(4));
    let map = |more: &[&str]| {
        let fixed = ["map", "s", "-i", "in.jsonl", "--output", "out.jsonl", "--max-tokens", "4"];
        program.run(&[&fixed[..], more].concat())
    };
    assert_eq!(map(&["--parallel", "2", "--limit", "2"]).code, 0);
    let mixed = map(&["--parallel", "2", "--exact"]);
    assert_eq!(mixed.code, 2, "{}", mixed.stderr);
    assert_eq!(map(&["--limit", "2", "--overwrite"]).code, 0);
    let same = map(&["--parallel", "2", "--exact"]);
    assert!(same.code == 0 && same.stderr.contains("2 records done already"), "{}", same.stderr);
}
