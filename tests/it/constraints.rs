//! Answers that follow a grammar or a JSON schema, on the tiny models: whose own choice would never be one.

use crate::common::{TINY, prose, tiny};
use crate::program::{Program, json};
use serde_json::Value;

const SCHEMA: &str = r#"{"type": "object", "additionalProperties": false, "required": ["kind", "ok", "n"], "properties": {
    "kind": {"enum": ["soup", "cake"]}, "ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 1, "maximum": 20}}}"#;

fn program(model: &str) -> Program {
    let program = Program::new(&tiny(model));
    program.write("prompt.txt", &prose(30, 1));
    program.ok(&["build", "prompt.txt", "--name", "s"]);
    program.write("schema.json", SCHEMA);
    program.write("yes.gbnf", "# yes or no\nroot ::= \"yes\" | \"no\" [!?]{2}\n");
    program
}

fn is_valid(answer: &Value) -> bool {
    let n = answer["n"].as_i64().unwrap_or(0);
    ["soup", "cake"].contains(&answer["kind"].as_str().unwrap_or(""))
        && answer["ok"].is_boolean()
        && (1..=20).contains(&n)
        && answer.as_object().is_some_and(|fields| fields.len() == 3)
}

#[test]
fn every_answer_has_its_shape() {
    for model in TINY {
        let program = program(model);
        for temp in ["0", "1.5"] {
            let ask = [
                "ask",
                "s",
                "Which?",
                "And?",
                "--temp",
                temp,
                "--trials",
                "3",
                "--json",
                "--max-tokens",
                "80",
            ];
            let run = program.ok(&[&ask[..], &["--json-schema", "schema.json"]].concat());
            for line in run.stdout.lines() {
                let report: Value = serde_json::from_str(line).unwrap();
                assert!(is_valid(&report["answer"]), "{model}: {line}");
                assert_eq!(report["stop_reason"], "eos");
            }
            let run = program.ok(&[&ask[..], &["--grammar", "yes.gbnf"]].concat());
            for line in run.stdout.lines() {
                let report: Value = serde_json::from_str(line).unwrap();
                let answer = report["answer"].as_str().unwrap();
                assert!(["yes", "no!!", "no??", "no!?", "no?!"].contains(&answer), "{model}: {answer:?}");
            }
        }
        program.write("in.txt", "one\ntwo\nthree\n");
        for parallel in ["1", "2"] {
            let map = ["map", "s", "-i", "in.txt", "--json-schema", "schema.json", "--format", "jsonl"];
            let run = program.ok(&[&map[..], &["--parallel", parallel, "--max-tokens", "80"]].concat());
            let answers: Vec<Value> = run.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
            assert_eq!(answers.len(), 3);
            // A value, so that the next stage need not parse it once more.
            assert!(answers.iter().all(|a| is_valid(&a["answer"])), "{model}: {}", run.stdout);
        }
    }
}

#[test]
fn what_cannot_be_kept_is_refused_before_anything_is_answered() {
    let program = program("llama");
    program.write("in.txt", "one\n");
    for (name, content, code, text) in [
        ("a.json", "{\"type\": \"strin\"}", 2, "held to the JSON schema"),
        ("a.json", "{\"not\": {\"type\": \"string\"}}", 2, "not"),
        ("a.json", "{\"$ref\": \"http://127.0.0.1/x\"}", 2, "held to the JSON schema"),
        ("a.json", "{", 2, "not JSON"),
        ("a.json", "17", 2, "held to the JSON schema"),
    ] {
        program.write(name, content);
        let run = program.run(&["map", "s", "-i", "in.txt", "--json-schema", name, "--output", "out.txt"]);
        assert_eq!(run.code, code, "{content}: {}", run.stderr);
        assert!(run.stderr.contains(text), "{content}: {}", run.stderr);
        assert!(!program.path("out.txt").exists());
    }
    program.write("a.gbnf", "root ::= word\nword := \"a\"\n");
    let run = program.run(&["ask", "s", "x", "--grammar", "a.gbnf"]);
    assert_eq!((run.code, run.stdout.as_str()), (2, ""));
    assert!(run.stderr.contains("a.gbnf: line 2 of the grammar: expected ::="), "{}", run.stderr);
    assert_eq!(program.run(&["ask", "s", "x", "--grammar", "gone.gbnf"]).code, 3);
    assert_eq!(program.run(&["ask", "s", "x", "--grammar", "a", "--json-schema", "b"]).code, 2);
}

#[test]
fn a_grammar_that_runs_out_of_tokens_says_so() {
    let program = program("llama");
    program.write("long.gbnf", "root ::= [a-z]+ \"END\"\n");
    let run = program.ok(&["ask", "s", "x", "--grammar", "long.gbnf", "--max-tokens", "5", "--json"]);
    let report = json(&run);
    assert_eq!(report["stop_reason"], "max_tokens");
    assert!(report["answer"].as_str().unwrap().bytes().all(|b| b.is_ascii_lowercase()));
}

/// Whatever leads an answer, it was never looked at in the end: this schema was refused, because the library that leads takes
/// the bound for a value that is allowed.
#[test]
fn an_answer_is_checked_against_its_schema() {
    let program = program("llama");
    program.write("number.json", r#"{"type": "number", "exclusiveMinimum": 5, "maximum": 5.5}"#);
    let ask = ["ask", "s", "Is it?", "--json-schema", "number.json", "--max-tokens", "40"];
    let broken = program.run(&ask);
    assert_eq!(broken.code, 1, "{}{}", broken.stdout, broken.stderr);
    assert!(broken.stderr.contains("does not keep its JSON schema"), "{}", broken.stderr);
    let kept = program.ok(&[&ask[..], &["--temp", "1"]].concat());
    let number: f64 = kept.stdout.trim().parse().unwrap();
    assert!(number > 5.0 && number <= 5.5, "{number}");
    program.write("in.txt", "Is it?\n");
    // Half of a number is a number, too.
    program.write("large.json", r#"{"type": "integer", "minimum": 1000, "maximum": 9999}"#);
    let map = ["map", "s", "-i", "in.txt", "--json-schema", "large.json", "--format", "jsonl"];
    let cut = program.run(&[&map[..], &["--max-tokens", "2"]].concat());
    let record: Value = serde_json::from_str(&cut.stdout).unwrap();
    assert_eq!((cut.code, &record["answer"]), (1, &Value::Null), "{record}");
    for parallel in ["1", "2"] {
        let map = ["map", "s", "-i", "in.txt", "--json-schema", "number.json", "--format", "jsonl"];
        let run = program.run(&[&map[..], &["--parallel", parallel]].concat());
        let record: Value = serde_json::from_str(&run.stdout).unwrap();
        assert!(record["error"].as_str().unwrap().contains("JSON schema"), "{record}");
        assert_eq!((run.code, &record["answer"]), (1, &Value::Null), "{record}");
    }
}
