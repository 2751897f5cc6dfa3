//! `pcache chat` and `pcache extend` on the real binary and the tiny models.

use crate::common::{TINY, prose, tiny};
use crate::program::{Program, Run, json};
use serde_json::Value;

fn program(model: &str) -> Program {
    let program = Program::new(&tiny(model));
    program.write("prompt.txt", &prose(120, 1));
    program.ok(&["build", "prompt.txt", "--name", "s"]);
    program
}

fn chat(program: &Program, args: &[&str], input: &str) -> Run {
    let run = program.run_with(&[&["chat", "--max-tokens", "8", "--json"], args].concat(), input);
    assert_eq!(run.code, 0, "{}", run.stderr);
    run
}

fn reports(run: &Run) -> Vec<Value> {
    run.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn a_conversation_goes_on_from_what_is_in_the_session_and_again_from_what_was_saved() {
    for model in TINY {
        let program = program(model);
        let run = chat(&program, &["s"], "one\ntwo\n/save talk\nthree\n");
        let said = reports(&run);
        assert_eq!(said.len(), 3, "{model}: {}", run.stderr);
        let asked = json(&program.ok(&["ask", "s", "one", "--max-tokens", "8", "--json"]));
        assert_eq!(said[0]["answer"], asked["answer"], "{model}: the first answer is that of ask");
        let restored = |n: usize| said[n]["cache"]["restored_tokens"].as_u64().unwrap();
        let evaluated = |n: usize| said[n]["cache"]["evaluated_tokens"].as_u64().unwrap();
        // Nothing is evaluated twice: what a message finds is all that was there before it, but for the last token.
        assert!(restored(1) + 1 >= restored(0) + evaluated(0) + said[0]["answer_tokens"].as_u64().unwrap());
        assert!(evaluated(1) < 60 && evaluated(2) < 60, "{model}: {}", run.stdout);

        let resumed = reports(&chat(&program, &["--resume", "talk"], "three\n"));
        let state = json(&program.ok(&["show", "talk", "--json"]));
        assert_eq!(resumed[0]["cache"]["restored_tokens"], state["tokens"], "{model}");
        assert_eq!(resumed[0]["cache"]["status"], "hit");
        assert!(resumed[0]["cache"]["evaluated_tokens"].as_u64().unwrap() < 60);
        // The saved conversation is a state like any other: ask and resume give one answer, and it has the logits of a
        // prompt that was evaluated in one go.
        let asked = json(&program.ok(&["ask", "talk", "three", "--max-tokens", "8", "--json"]));
        assert_eq!(asked["answer"], resumed[0]["answer"], "{model}");
        let verified = json(&program.ok(&["verify", "talk", "--logits", "--json"]));
        assert_eq!(verified["states"][0]["max_logit_difference"], 0.0, "{model}");
    }
}

#[test]
fn another_answer_comes_from_the_same_place() {
    for model in TINY {
        let program = program(model);
        let hot = ["s", "--temp", "2", "--top-k", "0", "--min-p", "0", "--top-p", "1"];
        let said = reports(&chat(&program, &hot, "one\ntwo\n/retry\n/retry\n"));
        let of = |field: &str, n: usize| said[n]["cache"][field].clone();
        assert_eq!(said.len(), 4);
        for n in [2, 3] {
            assert_eq!(said[n]["question"], "two");
            assert_eq!(of("restored_tokens", n), of("restored_tokens", 2), "{model}");
            // Token by token or from the copy: the session holds the same, so the message costs the same.
            let total =
                |n| of("restored_tokens", n).as_u64().unwrap() + of("evaluated_tokens", n).as_u64().unwrap();
            assert_eq!(total(n), total(1), "{model}");
        }
        let seeds: Vec<_> = said.iter().map(|r| r["seed"].as_u64().unwrap()).collect();
        assert_eq!(seeds, [0, 0, 1, 2]);
        assert_ne!(said[2]["answer"], said[3]["answer"], "{model}: another seed, another answer");
        // With the seed of the second answer from the beginning, the whole run is the same again.
        assert_eq!(
            reports(&chat(&program, &hot, "one\ntwo\n/retry\n/retry\n"))[3]["answer"],
            said[3]["answer"]
        );
    }
}

#[test]
fn messages_are_dropped_and_the_conversation_begins_anew() {
    let program = program("llama");
    let run = chat(&program, &["s"], "one\ntwo\n/drop\n/stats\n/reset\none\n");
    assert!(run.stderr.contains("1 message forgotten, 1 left"), "{}", run.stderr);
    assert!(run.stderr.contains("1 message since"), "{}", run.stderr);
    let said = reports(&run);
    assert_eq!(said[0]["answer"], said[2]["answer"]);
    assert_eq!(said[2]["cache"]["restored_tokens"], said[0]["cache"]["restored_tokens"]);
}

#[test]
fn a_full_context_is_told_with_what_can_be_done() {
    let program = program("llama");
    let long = prose(250, 3).replace('\n', " ");
    let input = format!("{long}\n{long}\n{long}\n{long}\n{long}\n{long}\n");
    let run = program.run_with(&["chat", "s", "--max-tokens", "8"], &input);
    assert_eq!(run.code, 1);
    for part in ["the context is full", "/drop", "/reset", "/save NAME"] {
        assert!(run.stderr.contains(part), "{part}: {}", run.stderr);
    }
    assert!(!run.stdout.is_empty(), "what fitted was answered");
}

#[test]
fn what_makes_no_sense_in_a_conversation_is_said() {
    let program = program("llama");
    for (input, text) in [
        ("/foo\n", "unknown command /foo"),
        ("/save\n", "/save needs a name"),
        ("/save a b\n", "the name \"a b\""),
        ("/save x\n", "there is nothing to save"),
        ("/retry\n", "nothing was said yet"),
        ("/drop x\n", "takes a number"),
    ] {
        let run = program.run_with(&["chat", "s", "--max-tokens", "4"], input);
        assert_eq!(run.code, 2, "{input}: {}", run.stderr);
        assert!(run.stderr.contains(text), "{input}: {}", run.stderr);
    }
    assert_eq!(program.run(&["chat"]).code, 2);
    assert_eq!(program.run(&["chat", "--resume", "gone"]).code, 3);
    // A message may begin with a slash, and go on in the next line.
    let said = reports(&chat(&program, &["s"], "//etc\\\nand more\n"));
    assert_eq!(said[0]["question"], "/etc\nand more");
    program.write("other.jinja", "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}<bot>");
    program.ok(&["build", "prompt.txt", "--name", "other", "--template", "other.jinja"]);
    // The state knows its template.
    assert_eq!(chat(&program, &["other"], "a\nb\n").stdout.lines().count(), 2);
    let run = program.run_with(&["chat", "s", "--template", "other.jinja"], "hello\n");
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("pass the same --template"), "{}", run.stderr);
    program.ok(&["build", "prompt.txt", "--name", "raw", "--raw", "--question-format", "Q: {question}\\nA:"]);
    assert_eq!(chat(&program, &["raw", "--stop", "\nQ:"], "a\nb\n/save r2\n").stdout.lines().count(), 2);
    assert!(program.ok(&["show", "r2", "--prompt", "--all"]).stdout.contains("A:"));
}

#[test]
fn an_extended_state_is_that_of_the_joined_files() {
    for model in TINY {
        let program = program(model);
        program.write("today.txt", "## Today\nsoup\n");
        let report = json(&program.ok(&["extend", "s", "today.txt", "--json"]));
        program.write("joined.txt", &format!("{}\n## Today\nsoup\n", prose(120, 1).trim_end()));
        let joined = json(&program.ok(&["build", "joined.txt", "--json"]));
        assert_eq!(report["key"], joined["key"], "{model}");
        assert_eq!(joined["cache"]["status"], "hit", "{model}");
        let reused = if ["lfm2", "mamba2", "qwen35"].contains(&model) { 0 } else { 512 };
        assert_eq!(report["cache"]["restored_tokens"], reused, "{model}: evaluated from where they part");
        let prompt = program.ok(&["show", report["key"].as_str().unwrap(), "--prompt"]).stdout;
        assert!(prompt.ends_with("## Today\nsoup\n"), "{prompt}");

        // Tomorrow's version takes the place of today's, from the base or from the extended state.
        program.write("tomorrow.txt", "cake\n");
        let mark = ["tomorrow.txt", "--replace-from", "## Today", "--json"];
        let key = report["key"].as_str().unwrap();
        let replaced = json(&program.ok(&[&["extend", key], &mark[..]].concat()));
        program.write("joined.txt", &format!("{}\n## Today\ncake\n", prose(120, 1).trim_end()));
        assert_eq!(replaced["key"], json(&program.ok(&["build", "joined.txt", "--json"]))["key"], "{model}");
        let again = json(&program.ok(&[
            "extend",
            replaced["key"].as_str().unwrap(),
            "tomorrow.txt",
            "--replace-from",
            "## Today",
            "--json",
        ]));
        assert_eq!((&again["key"], &again["cache"]["status"]), (&replaced["key"], &"hit".into()));
    }
}

#[test]
fn a_raw_prompt_is_extended_as_it_is() {
    let program = program("llama");
    program.write("raw.txt", "once upon a time\n");
    program.write("more.txt", "there was a ship\n");
    program.write("joined.txt", "once upon a time\nthere was a ship\n");
    let framing = ["--raw", "--question-format", "Q: {question}\\nA:"];
    program.ok(&[&["build", "raw.txt", "--name", "raw"], &framing[..]].concat());
    let extended = json(&program.ok(&["extend", "raw", "more.txt", "--json"]));
    let joined = json(&program.ok(&[&["build", "joined.txt", "--json"], &framing[..]].concat()));
    assert_eq!(extended["key"], joined["key"]);
}

#[test]
fn a_name_goes_over_to_the_new_state() {
    let program = program("llama");
    program.write("today.txt", "soup");
    let old = json(&program.ok(&["show", "s", "--json"]))["key"].clone();
    let run = program.ok(&["extend", "s", "today.txt", "--name", "s", "--pin", "--ttl", "2d"]);
    assert!(run.stderr.contains("s is now"), "{}", run.stderr);
    let new = json(&program.ok(&["show", "s", "--json"]));
    assert_ne!(new["key"], old);
    assert_eq!(new["pinned"], true);
    let listed = json(&program.ok(&["ls", "--json"]));
    assert_eq!(listed["states"].as_array().unwrap().len(), 2, "the old one stays");
    // The same again changes nothing; a name that somebody else has goes over, and that is said.
    program.ok(&["extend", old.as_str().unwrap(), "today.txt", "--name", "s"]);
    program.write("other.txt", "something else");
    program.ok(&["build", "other.txt", "--name", "other"]);
    let run = program.ok(&["extend", old.as_str().unwrap(), "today.txt", "--name", "other"]);
    assert!(run.stderr.contains("other is now"), "{}", run.stderr);
    assert_eq!(json(&program.ok(&["show", "other", "--json"]))["key"], new["key"]);
    // Names survive the loss of the index: the labels say the same.
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(program.store().join(format!("index.sqlite{end}")));
    }
    program.ok(&["verify", "--repair"]);
    assert_eq!(json(&program.ok(&["show", "s", "--json"]))["key"], new["key"]);
}

#[test]
fn what_cannot_be_extended_is_said() {
    let program = program("llama");
    program.write("today.txt", "soup");
    program.write("empty.txt", "\n");
    program.write("twice.txt", "-\na\n-\nb");
    program.ok(&["build", "twice.txt", "--name", "twice"]);
    program.write("marked.txt", "menu\n## Today\nsoup");
    program.ok(&["build", "marked.txt", "--name", "marked"]);
    chat(&program, &["s"], "one\n/save talk\n");
    for (args, code, text) in [
        (&["extend", "gone", "today.txt"][..], 3, "no state"),
        (&["extend", "s", "gone.txt"], 3, "gone.txt"),
        (&["extend", "s", "soup of the day"], 3, "UPDATE is a file; to add a text itself"),
        (&["extend", "marked", "today.txt", "--replace-from", "today"], 2, "did you mean \"## Today\"?"),
        (&["extend", "s", "empty.txt"], 1, "nothing to add"),
        (
            &["extend", "s", "today.txt", "--replace-from", "## Today"],
            2,
            "no line of the prompt is \"## Today\"",
        ),
        (&["extend", "twice", "today.txt", "--replace-from", "-"], 2, "2 lines of the prompt"),
        (&["extend", "talk", "today.txt"], 1, "it is a conversation"),
        (&["extend", "s", "today.txt", "--kv-type", "q8_0"], 2, "was built with --kv-type f16"),
        (&["extend", "s", "today.txt", "--name", "a b"], 2, "the name"),
    ] {
        let run = program.run(args);
        assert_eq!(run.code, code, "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(text), "{args:?}: {}", run.stderr);
    }
}

/// SIGTERM only stopped the answer, of which there was none.
#[test]
fn a_conversation_that_waits_for_a_message_ends_with_a_signal() {
    let program = program("llama");
    let mut child = program.start_with_input(&["chat", "s", "--max-tokens", "4"]);
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"hello\n").unwrap();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut String::new()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    drop(input);
}

#[test]
fn a_conversation_can_be_saved_again_and_its_name_goes_over() {
    let program = program("llama");
    let run = chat(&program, &["s"], "one\n/save talk\ntwo\n/save talk\n");
    assert_eq!(run.stderr.matches("as talk").count(), 2, "{}", run.stderr);
    let listed = json(&program.ok(&["ls", "--json"]));
    assert_eq!(listed["states"].as_array().unwrap().len(), 3);
    let resumed = reports(&chat(&program, &["--resume", "talk"], "three\n"));
    let tokens = json(&program.ok(&["show", "talk", "--json"]))["tokens"].as_u64().unwrap();
    assert_eq!(resumed[0]["cache"]["restored_tokens"], tokens);
}

/// The name that was resumed was refused: only names that the same run had saved went over.
#[test]
fn a_resumed_conversation_is_saved_under_its_name() {
    let program = program("llama");
    chat(&program, &["s"], "one\n/save talk\n");
    let run =
        program.run_with(&["chat", "--resume", "talk", "--max-tokens", "4"], "two\n/save talk\n/save s\n");
    assert!(run.stderr.contains("as talk"), "{}", run.stderr);
    assert!(run.stderr.contains("s is now"), "{}", run.stderr);
    assert_eq!(run.code, 0);
    let key = |name: &str| json(&program.ok(&["show", name, "--json"]))["key"].clone();
    assert_eq!(key("s"), key("talk"), "one state with both names");
}

/// From the second day on the name stayed with the first day's version.
#[test]
fn a_name_goes_over_from_yesterdays_extension_of_the_same_base() {
    let program = program("llama");
    program.write("base.txt", "Menu.\n## Today\nold\n");
    program.ok(&["build", "base.txt", "--name", "base"]);
    let extend = |text: &str, name: &str| {
        let args = ["extend", "base", "-", "--replace-from", "## Today", "--name", name];
        program.run_with(&args, text)
    };
    let mut before = String::new();
    for day in 1..4 {
        let run = extend(&format!("soup {day}\n"), "daily");
        assert_eq!(run.code, 0, "{}", run.stderr);
        let key = json(&program.ok(&["show", "daily", "--json"]))["key"].as_str().unwrap().to_owned();
        assert!(key.starts_with(run.stdout.trim()));
        assert_eq!(run.stderr.contains("daily is now"), day > 1, "{}", run.stderr);
        assert_ne!(std::mem::replace(&mut before, key.clone()), key);
    }
    // Building its whole text again is a hit, and does not make another prompt of it.
    let whole = program.ok(&["show", "daily", "--prompt"]).stdout;
    program.write("whole.txt", whole.trim_end_matches('\n'));
    let built = program.ok(&["build", "whole.txt"]);
    assert!(before.starts_with(built.stdout.trim()), "{}", built.stderr);
    let run = extend("soup 5\n", "daily");
    assert_eq!(run.code, 0, "{}", run.stderr);
    // One that is there already has both.
    assert_eq!(extend("soup 5\n", "menu").code, 0);
    let shown = json(&program.ok(&["show", "daily", "--json"]));
    let names: Vec<_> =
        shown["names"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["daily", "menu"]);
}

/// One byte that is no text ended the conversation, and what was not saved was lost; so did a slip in a command.
#[test]
fn a_conversation_goes_on_after_a_slip() {
    let program = program("llama");
    program.write_bytes("talk.txt", b"one\ncaf\xe9\n/reset\n/retry\n/nope\ntwo\n/save talk\n/quit now\n");
    let run = program.script("sh", &["-c", "$PCACHE chat s --max-tokens 4 < talk.txt"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    for said in [
        "is not UTF-8 text",
        "nothing was said yet",
        "unknown command /nope",
        "as talk",
        "/quit takes nothing",
    ] {
        assert!(run.stderr.contains(said), "{said}: {}", run.stderr);
    }
    assert!(
        run.stderr
            .trim_end()
            .ends_with("not everything was done: the message is not UTF-8 text; nothing was asked")
    );
    let run = program.run_with(&["chat", "--resume", "talk"], "/retry\n/drop\n");
    assert!(run.stderr.contains("was said before /save is part of the state"), "{}", run.stderr);
    assert_eq!(run.code, 2);
}

/// SIGTERM only stopped the answer, and the program went on.
#[test]
fn a_signal_during_an_answer_ends_the_conversation() {
    use rustix::process::{Pid, Signal, kill_process};

    let program = program("llama");
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)] {
        let mut child = program.start_with_input(&["chat", "s", "--max-tokens", "100000"]);
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"hello\n").unwrap();
        let mut output = child.stdout.take().unwrap();
        std::io::Read::read_exact(&mut output, &mut [0]).unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let rest = std::thread::spawn(move || std::io::Read::read_to_end(&mut output, &mut Vec::new()));
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal:?}");
        rest.join().unwrap().unwrap();
    }
}
