//! First words of new users: a file in a key's place, words of other programs, formats and files, errors for scripts.
use super::common::{prose, tiny};
use super::program::{Program, json};

fn program() -> Program {
    let program = Program::new(&tiny("llama"));
    program.write("menu.txt", &prose(60, 1));
    program
}

#[test]
fn a_prompt_file_in_the_place_of_a_key_is_built_once() {
    let program = program();
    let ask =
        |args: &[&str]| json(&program.ok(&[&["ask", "menu.txt", "Hm?", "-n", "2", "--json"], args].concat()));
    let built = ask(&[]);
    // What was evaluated a moment ago was not restored.
    assert_eq!((&built["cache"]["status"], &built["cache"]["restored_tokens"]), (&"miss".into(), &0.into()));
    assert!(built["cache"]["evaluated_tokens"].as_u64() > Some(60), "{built}");
    let again = ask(&["--require-hit"]);
    assert_eq!(again["cache"]["status"], "hit");
    assert_eq!(again["answer"], built["answer"]);
    let by_option = program.ok(&["ask", "--prompt", "menu.txt", "Hm?", "-n", "2", "--json"]);
    assert_eq!(json(&by_option)["key"], built["key"]);
    assert_eq!(json(&program.ok(&["ls", "--json"]))["states"].as_array().unwrap().len(), 1);

    // Saved with another model, it is found without asking which model is meant.
    let other = program.run_without_model(&["ask", "menu.txt", "Hm?", "-n", "2", "--json"]);
    assert_eq!(json(&other)["key"], built["key"], "{}", other.stderr);

    program.write("menu.txt", &prose(60, 2));
    program.ok(&["rename", built["key"].as_str().unwrap(), "menu"]);
    let old = program.ok(&["ask", "menu", "Hm?", "-n", "1"]);
    assert!(old.stderr.contains("another text") && old.stderr.contains("--name menu"), "{}", old.stderr);
}

#[test]
fn a_prompt_file_is_not_built_where_that_was_forbidden() {
    let program = program();
    for option in ["--require-hit", "--no-cache"] {
        let run = program.run(&["ask", "menu.txt", "Hm?", option]);
        assert_eq!(run.code, 3, "{}", run.stderr);
        assert!(run.stderr.contains("menu.txt is not saved"), "{}", run.stderr);
    }
    let run = program.run_with(&["map", "menu.txt", "--require-hit"], "Hm?\n");
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(!program.path("store/index.sqlite").exists(), "nothing was built");
    for (text, expected) in [("gone.txt", "no state and no file"), ("./.", "no state and a folder")] {
        let run = program.run(&["ask", text, "Hm?"]);
        assert!(run.code == 3 && run.stderr.contains(expected), "{}", run.stderr);
    }
}

#[test]
fn errors_have_kinds_for_scripts() {
    let program = program();
    program.ok(&["build", "menu.txt", "--name", "menu"]);
    for (args, kind, code) in [
        (&["ask", "menx", "Hm?"][..], "not_found", 3),
        (&["-m", "gone.gguf", "build", "menu.txt"], "model", 5),
        (&["ask", "menu", "Hm?", "--temp", "-1"], "refused", 2),
        (&["ask", "menu", "Hm?", "-ngl", "3"], "refused", 2),
        (&["build", "gone.txt"], "not_found", 3),
    ] {
        let run = program.run(&[args, &["--json"]].concat());
        let error: serde_json::Value =
            serde_json::from_str(&run.stderr).unwrap_or_else(|e| panic!("{e}: {}", run.stderr));
        assert_eq!((&error["error"]["kind"], run.code), (&kind.into(), code), "{}", run.stderr);
        assert!(!error["error"]["message"].as_str().unwrap().contains('\n'), "{}", run.stderr);
        assert_eq!(run.stdout, "");
    }
}

#[test]
fn a_file_is_named_by_output_and_a_format_by_format() {
    let program = program();
    program.ok(&["build", "menu.txt", "--name", "menu"]);
    program.write(
        "suite.toml",
        "[[prompts]]\nfile = \"menu.txt\"\n[[prompts.questions]]\nask = \"Hm?\"\nmax-tokens = 2\nchecks = [{ not-contains = \"zebra\" }]\n",
    );
    program.write("kept.xml", "precious");
    // Nothing is written where nothing can be asked, and never over the suite.
    assert_eq!(program.run(&["eval", "suite.toml", "-m", "menu.txt", "-o", "kept.xml"]).code, 1);
    assert_eq!(std::fs::read_to_string(program.path("kept.xml")).unwrap(), "precious");
    assert_eq!(program.run(&["eval", "suite.toml", "-o", "suite.toml"]).code, 2);
    let run = program.ok(&["eval", "suite.toml", "--format", "junit", "-o", "kept.xml"]);
    assert_eq!(run.stdout, "");
    assert!(std::fs::read_to_string(program.path("kept.xml")).unwrap().contains("<testsuites"));
    for args in
        [&["ls", "--output", "json"][..], &["ls", "--format", "junit"], &["map", "menu", "-o", "json"]]
    {
        let run = program.run(args);
        assert!(run.code == 2 && run.stderr.contains("--format"), "{args:?}: {}", run.stderr);
    }
}

#[test]
fn states_are_listed_for_scripts_explained_by_name_and_removed_at_once() {
    let program = program();
    program.write("other.txt", &prose(60, 3));
    let menu = program.ok(&["build", "menu.txt", "--name", "menu", "--pin"]).stdout;
    let other = program.ok(&["build", "other.txt", "--name", "other"]).stdout;
    assert_eq!(program.ok(&["ls", "-q", "--sort", "name"]).stdout, format!("{menu}{other}"));
    let explained = json(&program.ok(&["explain", "menu", "--json"]));
    assert_eq!((&explained["status"], &explained["name"]), (&"hit".into(), &"menu".into()));
    assert_eq!(program.run(&["explain", "manu"]).code, 3);
    program.ok(&["rm", "--all", "--dry-run"]);
    program.ok(&["rm", "--all"]);
    assert_eq!(program.ok(&["ls", "-q"]).stdout, menu, "a pinned state stays");
    program.ok(&["rm", "--all", "--force"]);
    assert_eq!(program.ok(&["ls", "-q"]).stdout, "");
}

#[test]
fn fields_of_answers_become_columns_that_are_checked() {
    let program = program();
    program.ok(&["build", "menu.txt", "--name", "menu"]);
    let schema = r#"{"type": "object", "properties": {"a": {"enum": [1, 2]}, "b": {"type": "boolean"}},
        "required": ["a", "b"], "additionalProperties": false}"#;
    program.write("schema.json", schema);
    program.write("in.csv", "id,text\n7,Hm?\n");
    let map = |columns: &str| {
        let args = ["map", "menu", "-i", "in.csv", "--json-schema", "schema.json", "--columns", columns];
        program.run(&[&args[..], &["--max-tokens", "80"]].concat())
    };
    let run = map("b,a");
    assert_eq!(run.code, 0, "{}", run.stderr);
    let rows: Vec<Vec<&str>> = run.stdout.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows[0], ["id", "text", "b", "a", "stop_reason", "error"]);
    assert!(["true", "false"].contains(&rows[1][2]) && ["1", "2"].contains(&rows[1][3]), "{rows:?}");
    for (columns, expected) in [
        ("a,c", "no property \"c\""),
        ("a,a", "named twice"),
        ("", "needs a name"),
        ("stop_reason", "why an answer ended"),
    ] {
        let run = map(columns);
        assert!(run.code == 2 && run.stderr.contains(expected), "{columns}: {}", run.stderr);
    }
    // Half of an object is no answer, to a question as to a record.
    let cut = program.run(&["ask", "menu", "Hm?", "--json-schema", "schema.json", "-n", "2", "--json"]);
    assert_eq!((cut.code, &json(&cut)["answer"]), (1, &serde_json::Value::Null), "{}", cut.stderr);
}
