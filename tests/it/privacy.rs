//! Texts of users stay in the store and in the answers: no error, warning or log says a word of it without `-v`.

use crate::common::{prose, tiny};
use crate::program::{Program, Run};

/// Words that are in the prompt and in the question and nowhere else.
const PROMPT: &str = "zebrafinch";
const QUESTION: &str = "quokkaherd";

fn program() -> Program {
    let program = Program::new(&tiny("llama"));
    program.write("prompt.txt", &format!("{PROMPT} {} {PROMPT}", prose(100, 1)));
    program.write("other.txt", &format!("{PROMPT} {} {PROMPT}!", prose(100, 1)));
    program.write("empty.txt", " \n");
    program.write("endless.txt", &format!("{PROMPT} ").repeat(5000));
    program.write_bytes("binary.txt", &[PROMPT.as_bytes(), b"\xff\xfe", PROMPT.as_bytes()].concat());
    program.write("questions.txt", &format!("{QUESTION}\n{QUESTION}?\n"));
    program.write("broken.jinja", "{{ messages[0].content + 1 }}{{ raise_exception(messages[0].content) }}");
    program.write("silent.jinja", "nothing");
    program
}

/// Nothing of it on stderr; on stdout only where it is the answer's own report.
fn assert_silent(run: &Run, what: &[&str]) {
    let reports_it = what[0] == "ask" && run.code == 0;
    for word in [PROMPT, QUESTION] {
        assert!(!run.stderr.contains(word), "{what:?} says on stderr: {}", run.stderr);
        assert!(reports_it || !run.stdout.contains(word), "{what:?} says on stdout: {}", run.stdout);
    }
}

#[test]
fn no_message_holds_a_word_of_a_prompt_or_a_question() {
    let program = program();
    let q = format!("Is a {QUESTION} warm?");
    let runs: &[(&[&str], i32)] = &[
        (&["build", "prompt.txt", "--name", "one"], 0),
        (&["build", "prompt.txt", "--json"], 0),
        (&["build", "other.txt", "--format", "jsonl"], 0),
        (&["build", "empty.txt"], 1),
        (&["build", "endless.txt"], 1),
        (&["build", "binary.txt"], 1),
        (&["build", "prompt.txt", "--template", "broken.jinja"], 1),
        (&["build", "prompt.txt", "--template", "silent.jinja"], 1),
        (&["build", "prompt.txt", "--raw", "--max-size", "1k"], 1),
        (&["build", "other.txt", "--name", "one"], 0),
        (&["ask", "one", &q, "--max-tokens", "2"], 0),
        (&["ask", "one", &q, "--max-tokens", "2", "--json"], 0),
        (&["ask", "one", &q, "--max-tokens", "100000000"], 0),
        (&["ask", "one", "--questions", "questions.txt", "--max-tokens", "1"], 0),
        (&["ask", "nobody", &q], 3),
        (&["ask", "one", &q, "-m", "prompt.txt"], 1),
        (&["ls"], 0),
        (&["ls", "--json"], 0),
        (&["show", "one"], 0),
        (&["verify"], 0),
        (&["verify", "--logits"], 0),
        (&["gc"], 0),
        (&["models"], 0),
    ];
    for (args, code) in runs {
        let run = program.run(args);
        assert_eq!(run.code, *code, "{args:?}: {}", run.stderr);
        assert_silent(&run, args);
    }
}

#[test]
fn nor_does_what_is_said_of_damage() {
    let program = program();
    program.ok(&["build", "prompt.txt", "--name", "one"]);
    for segment in program.segments() {
        let mut bytes = std::fs::read(&segment).unwrap();
        let at = bytes.len() - 5;
        bytes[at] ^= 1;
        std::fs::write(&segment, bytes).unwrap();
        for args in [
            &["verify"][..],
            &["ask", "one", QUESTION, "--require-hit"],
            &["ask", "one", QUESTION, "--max-tokens", "1"],
        ] {
            assert_silent(&program.run(args), args);
        }
    }
    for sql in ["UPDATE states SET pending_text = 'x' || pending_text", "UPDATE params SET text = 'garbage'"]
    {
        program.sql(sql);
        for args in [&["verify"][..], &["ask", "one", QUESTION], &["verify", "--repair"], &["gc"]] {
            assert_silent(&program.run(args), args);
        }
        program.ok(&["build", "prompt.txt"]);
    }
}
