//! `pcache eval`, `pcache tokens` and the full log, on the real binary and the tiny models.

use crate::common::{prose, tiny};
use crate::program::{Program, json};
use serde_json::Value;

const SUITE: &str = "
temperature = [0.0, 1.5]
trials = 2
max-tokens = 6
[[prompts]]
name = 'ship'
file = 'prompts/ship.txt'
[[prompts.questions]]
ask = 'Yes or no?'
also = ['No or yes?']
grammar = 'yes.gbnf'
checks = [{ contains = 'yes' }]
[[prompts.questions]]
ask = 'Anything?'
checks = [{ not-contains = 'zzzzzz' }]
[[prompts.questions]]
ask = 'Unchecked?'
";

fn program() -> Program {
    let program = Program::new(&tiny("llama"));
    program.write("suites/prompts/ship.txt", &prose(30, 1));
    program.write("suites/yes.gbnf", "root ::= \"yes\"");
    program.write("suites/suite.toml", SUITE);
    program
}

#[test]
fn a_suite_is_asked_checked_and_summed_up() {
    let program = program();
    let run = program.ok(&["eval", "suites/suite.toml", "--json"]);
    let results = json(&run);
    let outcomes = results["outcomes"].as_array().unwrap();
    // Two wordings and two single questions; at temperature 0 once, else with two seeds.
    assert_eq!(outcomes.len(), 4 * 3);
    let sum = &results["sums"][0];
    assert_eq!((&sum["prompt"], &sum["questions"]), (&"ship".into(), &3.into()));
    assert_eq!((&sum["answers"], &sum["passed"]), (&9.into(), &9.into()));
    let low = sum["interval"][0].as_f64().unwrap();
    assert!((low - 0.7008).abs() < 1e-3, "Wilson of 9 of 9: {low}");
    for outcome in outcomes {
        assert_eq!(outcome["error"], Value::Null);
        let stages: Vec<_> =
            outcome["timings"].as_array().unwrap().iter().map(|r| r["key"].clone()).collect();
        assert_eq!(stages, ["load_state", "eval_prompt", "main_sample"]);
    }
    // An answer of the suite is the answer of ask.
    let cold = outcomes.iter().find(|o| o["question"] == "Unchecked?" && o["temperature"] == 0.0).unwrap();
    let key = cold["key"].as_str().unwrap();
    let asked = json(&program.ok(&["ask", key, "Unchecked?", "--max-tokens", "6", "--json"]));
    assert_eq!(asked["answer"], cold["answer"]);
    let table = program.ok(&["eval", "suites/suite.toml"]).stdout;
    assert!(table.contains("9/9") && table.contains("100 %") && table.contains("70-100 %"), "{table}");
    assert_eq!(json(&program.ok(&["ls", "--json"]))["states"].as_array().unwrap().len(), 1, "built once");
}

#[test]
fn failures_end_with_1_and_are_told_to_ci() {
    let program = program();
    program.write("suites/bad.toml", &SUITE.replace("contains = 'yes'", "equals = '<no>'"));
    let run = program.run(&["eval", "suites/bad.toml"]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("6 of 9 checked answers failed"), "{}", run.stderr);
    assert!(
        run.stdout.contains("FAIL ship: Yes or no?") && run.stdout.contains("not: equals \"<no>\""),
        "{}",
        run.stdout
    );
    assert_eq!(program.run(&["eval", "suites/bad.toml", "--pass", "0.3"]).code, 0);
    let run = program.run(&["eval", "suites/bad.toml", "--format", "junit"]);
    assert_eq!(run.code, 1);
    let xml = &run.stdout;
    assert!(xml.starts_with("<?xml") && xml.trim_end().ends_with("</testsuites>"), "{xml}");
    assert_eq!(xml.matches("<failure").count(), 6, "{xml}");
    assert!(xml.contains("equals &quot;&lt;no&gt;&quot;"), "{xml}");
}

#[test]
fn answers_that_disagree_are_marked() {
    let program = program();
    let suite = "temperature = 3.0\ntrials = 8\nmax-tokens = 2\n[[prompts]]\nfile = 'prompts/ship.txt'\n\
                 [[prompts.questions]]\nask = 'Which?'\ngrammar = 'coin.gbnf'\n";
    program.write("suites/coin.toml", suite);
    program.write("suites/coin.gbnf", "root ::= \"a\" | \"b\"");
    let results = json(&program.ok(&["eval", "suites/coin.toml", "--json"]));
    let variants = results["inconsistent"][0]["variants"].as_array().unwrap();
    assert_eq!(variants.len(), 2, "{results}");
    assert_eq!(variants.iter().map(|v| v["given_by"].as_array().unwrap().len()).sum::<usize>(), 8);
    let text = program.ok(&["eval", "suites/coin.toml"]).stdout;
    assert!(text.contains("INCONSISTENT ship: Which? (2 variants)"), "{text}");
    assert_eq!(program.run(&["eval", "suites/coin.toml", "--strict"]).code, 1);
}

#[test]
fn the_model_can_make_up_questions() {
    let program = program();
    let results =
        json(&program.ok(&["eval", "suites/suite.toml", "--generate", "2", "--temp", "0", "--json"]));
    let outcomes = results["outcomes"].as_array().unwrap();
    let of = |kind: &str| outcomes.iter().filter(|o| o["kind"] == kind).count();
    assert_eq!(of("suite"), 4);
    // Random weights make up nonsense, but in the shape of questions.
    assert!(of("generated") >= 1, "{results}");
    for outcome in outcomes.iter().filter(|o| o["kind"] == "implication") {
        assert!(["Yes", "No"].contains(&outcome["answer"].as_str().unwrap()), "{outcome}");
    }
    assert_eq!(results["sums"][0]["answers"], 3, "what the model made up is not counted");
}

#[test]
fn several_models_are_asked_in_turn() {
    let program = program();
    let models = format!("models = [{:?}, {:?}]\n", tiny("llama"), tiny("gemma3"));
    program.write("suites/two.toml", &format!("{models}{SUITE}"));
    let results = json(&program.ok(&["eval", "suites/two.toml", "--temp", "0", "--json"]));
    let models: Vec<_> = results["sums"].as_array().unwrap().iter().map(|s| s["model"].clone()).collect();
    assert_eq!(models, ["tiny-llama", "tiny-gemma3"]);
    let one = json(&program.ok(&[
        "eval",
        "suites/two.toml",
        "--temp",
        "0",
        "--json",
        "-m",
        tiny("mamba2").to_str().unwrap(),
    ]));
    assert_eq!(one["sums"].as_array().unwrap().len(), 1, "-m comes before what the suite says");
}

#[test]
fn a_suite_that_is_wrong_is_told_before_anything_is_evaluated() {
    let program = program();
    for (from, to, text) in [
        ("trials", "trails", "did you mean `trials`?"),
        ("contains = 'yes'", "regex = '('", "regex"),
        ("prompts/ship.txt", "prompts/gone.txt", "gone.txt"),
        ("yes.gbnf", "gone.gbnf", "gone.gbnf"),
        ("[[prompts.questions]]", "[[prompts.question]]", "did you mean `questions`?"),
        ("'Yes or no?'", "''", "a question is empty"),
    ] {
        program.write("suites/wrong.toml", &SUITE.replace(from, to));
        let run = program.run(&["eval", "suites/wrong.toml"]);
        assert!([1, 2, 3].contains(&run.code), "{to}: {}", run.stderr);
        assert!(run.stderr.contains(text), "{to}: {}", run.stderr);
    }
    let run = program.run(&["eval", "suites/suite.toml", "--prompt", "boat"]);
    assert!(run.stderr.contains("it has ship"), "{}", run.stderr);
    assert!(!program.store().exists(), "nothing was built");
    // A question that does not fit is that question's failure.
    program
        .write("suites/long.toml", &SUITE.replace("Anything?", &prose(4000, 2).replace(['\n', '\''], " ")));
    let run = program.run(&["eval", "suites/long.toml", "--json"]);
    assert_eq!(run.code, 1);
    assert_eq!(
        json(&run)["outcomes"].as_array().unwrap().iter().filter(|o| !o["error"].is_null()).count(),
        3
    );
}

#[test]
fn tokens_are_those_of_the_state() {
    let program = Program::new(&tiny("llama"));
    program.write("prompt.txt", &prose(120, 1));
    let report = json(&program.ok(&["tokens", "prompt.txt", "--list", "--question", "What?", "--json"]));
    assert!(!program.store().exists(), "nothing is made");
    let built = json(&program.ok(&["build", "prompt.txt", "--name", "s", "--json"]));
    assert_eq!((&report["key"], &report["tokens"]), (&built["key"], &built["tokens"]));
    let list = report["list"].as_array().unwrap();
    assert_eq!(list.len() as u64, built["tokens"].as_u64().unwrap());
    let own: String =
        list.iter().filter(|t| t["from"] == "prompt").map(|t| t["text"].as_str().unwrap()).collect();
    assert!(prose(120, 1).trim_end().starts_with(own.trim_end_matches(['<', '|'])), "{own}");
    let segments = report["segments"].as_array().unwrap();
    assert_eq!(segments.iter().map(|s| s["tokens"].as_u64().unwrap()).collect::<Vec<_>>(), [256, 256, 125]);
    // What an ask evaluates behind the state.
    let asked = json(&program.ok(&["ask", "s", "What?", "--max-tokens", "1", "--json"]));
    assert_eq!(asked["cache"]["evaluated_tokens"], report["question"].as_array().unwrap().len());
    let text = program.ok(&["tokens", "prompt.txt", "--list"]).stdout;
    assert_eq!(text.matches("--- segment ends ---").count(), 2, "{text}");
}

#[test]
fn the_log_holds_what_the_tables_show() {
    let program = Program::new(&tiny("llama"));
    program.write("prompt.txt", &prose(120, 1));
    let log = ["--log", "log.jsonl"];
    let built = json(&program.ok(&[&["build", "prompt.txt", "--name", "s", "--json"], &log[..]].concat()));
    let asked =
        json(&program.ok(&[&["ask", "s", "What?", "--max-tokens", "3", "--json"], &log[..]].concat()));
    assert_eq!(program.run(&[&["show", "gone"], &log[..]].concat()).code, 3);
    let text = std::fs::read_to_string(program.path("log.jsonl")).unwrap();
    let events: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let named = |name: &str| events.iter().filter(move |e| e["event"] == name).collect::<Vec<_>>();
    assert_eq!((named("start").len(), named("end").len()), (3, 3), "each run begins and ends");
    assert!(named("start").iter().all(|e| e["schema"] == 1));
    assert_eq!(named("start")[1]["arguments"][1], "ask");
    let codes: Vec<_> = named("end").iter().map(|e| e["exit_code"].clone()).collect();
    assert_eq!(codes, [0, 0, 3]);
    assert!(named("error")[0]["message"].as_str().unwrap().contains("no state"));
    // Each stage stands there when it is over, with the figures of the report that follows.
    let rows = |report: &Value| report["timings"].as_array().unwrap().clone();
    let stages: Vec<Value> = named("stage")
        .into_iter()
        .map(|e| serde_json::json!({"key": e["key"], "time_s": e["time_s"], "num_tokens": e["num_tokens"], "tps": e["tps"]}))
        .collect();
    assert_eq!(stages, [rows(&built), rows(&asked)].concat());
    assert_eq!(named("build")[0]["cache"], built["cache"]);
    assert_eq!(named("answer")[0]["answer"], asked["answer"]);
    let times: Vec<f64> = events.iter().map(|e| e["t"].as_f64().unwrap()).collect();
    assert!(times.iter().all(|t| *t >= 0.0));
    let run = program.run(&["ls", "--log", "gone/log.jsonl"]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("gone/log.jsonl"), "{}", run.stderr);
}

#[test]
fn what_was_answered_before_an_error_is_shown_and_a_share_is_exact() {
    let program = program();
    let five = |n: usize| {
        format!(
            "[[prompts.questions]]\nask = 'q{n}'\ngrammar = 'yes.gbnf'\nchecks = [{{ contains = '{}' }}]\n",
            if n == 0 { "no" } else { "yes" }
        )
    };
    let suite: String =
        "[[prompts]]\nfile = 'prompts/ship.txt'\n".to_owned() + &(0..5).map(five).collect::<String>();
    program.write("suites/five.toml", &suite);
    assert_eq!(program.run(&["eval", "suites/five.toml", "--pass", "0.8"]).code, 0, "4 of 5 are 0.8");
    assert_eq!(program.run(&["eval", "suites/five.toml", "--pass", "0.81"]).code, 1);
    program.write("suites/long.txt", &prose(4000, 2));
    program.write(
        "suites/late.toml",
        &format!("{suite}[[prompts]]\nfile = 'long.txt'\n[[prompts.questions]]\nask = 'x'\n"),
    );
    let run = program.run(&["eval", "suites/late.toml"]);
    assert_eq!(run.code, 1);
    assert!(
        run.stdout.contains("4/5") && run.stderr.contains("shorten the prompt"),
        "{} {}",
        run.stdout,
        run.stderr
    );
}
