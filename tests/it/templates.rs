//! Text that the model reads of a prompt, a question and a conversation in chat templates of all kinds.

use crate::common::{smollm2, tiny};
use crate::program::{Program, json};

/// A program with a template of the fixtures, and a prompt.
fn program(template: &str, prompt: &str) -> Program {
    let program = Program::new(&tiny("llama"));
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/templates");
    program.write("t.jinja", &std::fs::read_to_string(format!("{folder}/{template}.jinja")).unwrap());
    program.write("prompt.txt", prompt);
    program
}

/// The texts of the state, and of what an ask evaluates behind it.
fn read(program: &Program, question: &str) -> (String, String) {
    let args = ["tokens", "prompt.txt", "--template", "t.jinja", "--question", question, "--list", "--json"];
    let report = json(&program.ok(&args));
    let text = |list: &str| {
        let tokens = report[list].as_array().unwrap().iter();
        tokens.map(|token| token["text"].as_str().unwrap()).collect::<String>()
    };
    (text("list"), text("question"))
}

#[test]
fn a_question_is_stripped_where_the_template_strips_messages() {
    let program = program("strips", " Hi \n");
    let (state, question) = read(&program, "Soup? \n");
    assert_eq!(state, "<system>Hi</system><user>");
    assert_eq!(question, "Soup?</user><assistant>");
    // This template strips the user's words at their end alone.
    assert_eq!(read(&program, " Soup?").1, " Soup?</user><assistant>");
}

#[test]
fn words_that_the_template_looks_for_are_found() {
    let program = program("switch", "Be brief. /no_think\n");
    let (state, question) = read(&program, "Soup?");
    assert!(state.contains("Reasoning: off\nBe brief.<|im_end|>"), "{state}");
    assert!(question.ends_with("<|im_start|>assistant\n<think></think>"), "{question}");
    // What the state was rendered with is known to those that go on from it.
    program.ok(&["build", "prompt.txt", "--template", "t.jinja", "--name", "s"]);
    let asked = program.run_with(&["ask", "s", "Soup?", "--max-tokens", "1"], "");
    assert_eq!((asked.code, asked.stderr.contains("warning")), (0, false), "{}", asked.stderr);
    let spoken = program.run_with(&["chat", "s", "--max-tokens", "1"], "One?\nTwo?\n");
    assert_eq!(spoken.code, 0, "{}", spoken.stderr);
    let switched = program.run_with(&["chat", "s", "--max-tokens", "1"], "One? /think\n");
    assert!(
        switched.code == 0 && switched.stderr.contains("looks into this question"),
        "{}",
        switched.stderr
    );
    // A question that switches back comes too late for what stands in the state.
    let late = program.run_with(&["ask", "s", "Soup? /think", "--max-tokens", "1"], "");
    assert!(late.code == 0 && late.stderr.contains("looks into this question"), "{}", late.stderr);
}

#[test]
fn a_template_for_parts_of_messages_is_given_parts() {
    let (state, question) = read(&program("parts", "Hi"), "Soup?");
    assert_eq!(state + &question, "System: Hi\nUser: Soup?\nAssistant:");
}

#[test]
fn line_ends_of_a_template_do_not_reach_the_model() {
    let (state, question) = read(&program("windows", "a\r\nb"), "c\r\n");
    assert_eq!(state, "<|system|>\na\r\nb\n<|user|>\n");
    assert_eq!(question, "c\r\n\n<|assistant|>");
}

/// The system message stands before the last message of the user in this template: a mark of it reached the model.
#[test]
fn a_conversation_never_says_what_stands_for_a_text() {
    let program = program("last_turn", "You sell soup.");
    program.ok(&["build", "prompt.txt", "--template", "t.jinja", "--name", "shop"]);
    let said = program.run_with(&["chat", "shop", "--max-tokens", "2"], "One?\nTwo?\n/save talk\n");
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert!(said.stderr.contains("moves the system message"), "{}", said.stderr);
    let talk = program.ok(&["show", "talk", "--prompt", "--all"]).stdout;
    assert!(
        talk.contains("[INST]You sell soup.\n\nOne?[/INST]") && talk.contains("[INST]Two?[/INST]"),
        "{talk}"
    );
    assert!(!talk.to_lowercase().contains("pcache-"), "{talk}");
}

#[test]
fn a_conversation_keeps_template_arguments_and_date_of_its_state() {
    let program = Program::new(&tiny("llama"));
    program.write("prompt.txt", "Hi");
    program.write(
        "t.jinja",
        "{% for m in messages %}[{{ m.role }} {{ strftime_now('%Y-%m-%d') }} {{ mood }}] {{ m.content }}\n{% endfor %}[assistant]\n",
    );
    let build = ["build", "prompt.txt", "--template", "t.jinja", "--date", "2026-01-31", "--name", "a"];
    program.ok(&[&build[..], &["--template-arg", "mood=\"calm\""]].concat());
    let said = program.run_with(&["chat", "a", "--max-tokens", "2"], "One?\nTwo?\n/save talk\n");
    assert_eq!(said.code, 0, "{}", said.stderr);
    let said = program.run_with(&["chat", "--resume", "talk", "--max-tokens", "2"], "Three?\n/save talk\n");
    assert_eq!(said.code, 0, "{}", said.stderr);
    let talk = program.ok(&["show", "talk", "--prompt", "--all"]).stdout;
    for message in
        ["[user 2026-01-31 calm] One?", "[user 2026-01-31 calm] Two?", "[user 2026-01-31 calm] Three?"]
    {
        assert!(talk.contains(message), "{talk}");
    }
    // Another template than that of the state is said, and refused where it shows.
    program.write("other.jinja", "{% for m in messages %}{{ m.content }}|{% endfor %}");
    let other = program.run_with(&["chat", "a", "--template", "other.jinja"], "One?\n");
    assert!(other.code != 0 && other.stderr.contains("another template"), "{}", other.stderr);
}

/// A suite's prompts take the same options as those of `build`.
#[test]
fn a_suite_says_template_arguments_and_date() {
    let program = program("qwen3", "Hi");
    program.write(
        "suite.toml",
        "[[prompts]]\nfile = \"prompt.txt\"\ntemplate = \"t.jinja\"\ntemplate-args = { enable_thinking = false }\n\
         date = \"2026-01-31\"\n[[prompts.questions]]\nask = \"Soup?\"\n",
    );
    program.ok(&["eval", "suite.toml"]);
    let args = ["build", "prompt.txt", "--template", "t.jinja", "--date", "2026-01-31"];
    let built =
        json(&program.ok(&[&args[..], &["--template-arg", "enable_thinking=false", "--json"]].concat()));
    assert_eq!(built["cache"]["status"], "hit", "{built}");
}

/// On a real vocabulary, the tokens of state and question are those of the reference's text, read with its control tokens.
#[test]
fn tokens_are_those_of_the_whole_text() {
    let program = Program::new(&smollm2());
    for (prompt, question) in
        [("You sell soup.", "Soup?"), ("Über\r\n\n  naïve 中文 ", " 3 < 4? "), ("a\n", "<b>")]
    {
        program.write("prompt.txt", prompt);
        let chat = ["tokens", "prompt.txt", "--question", question, "--list", "--json"];
        let chat = json(&program.ok(&chat));
        let ids = |report: &serde_json::Value, list: &str| {
            let tokens = report[list].as_array().unwrap().iter();
            tokens.map(|token| token["id"].as_i64().unwrap()).collect::<Vec<_>>()
        };
        let text = format!(
            "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
            prompt.trim_end_matches(['\n', '\r'])
        );
        program.write("whole.txt", &text);
        let whole = ["tokens", "whole.txt", "--raw", "--question", "", "--list", "--json"];
        let whole = json(&program.ok(&whole));
        let both = |report| [ids(report, "list"), ids(report, "question")].concat();
        assert_eq!(both(&chat), both(&whole), "{prompt:?} {question:?}");
    }
}

/// Who built the same prompt with another template changed how the questions of a state were rendered.
#[test]
fn a_state_keeps_the_template_that_it_was_built_with() {
    let program = Program::new(&tiny("llama"));
    program.write("prompt.txt", "Hi");
    let template = |question: &str| {
        format!("{{% for m in messages %}}<{{{{ m.role }}}}>{{{{ m.content{question} }}}}{{% endfor %}}<a>")
    };
    program.write("plain.jinja", &template(""));
    program.write("strips.jinja", &template(" | replace('!', '')"));
    program.ok(&["build", "prompt.txt", "--template", "plain.jinja", "--name", "plain"]);
    let evaluated = || {
        let run = program.ok(&["ask", "plain", "Soup!!!", "--max-tokens", "1", "--json"]);
        json(&run)["cache"]["evaluated_tokens"].as_u64().unwrap()
    };
    let before = evaluated();
    let other = program.ok(&["build", "prompt.txt", "--template", "strips.jinja", "--name", "other"]);
    assert!(other.stderr.contains("was built before in another way"), "{}", other.stderr);
    assert_eq!(evaluated(), before);
}

/// On a real vocabulary: entities that a template resolves are no control tokens of a user's.
#[test]
fn what_a_template_makes_of_a_text_is_text() {
    let program = Program::new(&smollm2());
    program.write("t.jinja", "{% for m in messages %}<|im_start|>{{ m.content|replace('&lt;','<')|replace('&gt;','>') }}{% endfor %}<|im_end|>");
    program.write("prompt.txt", "hi &lt;|im_end|&gt; x");
    let question = "q &lt;|im_end|&gt;";
    let args = ["tokens", "prompt.txt", "--template", "t.jinja", "--question", question, "--list", "--json"];
    let report = json(&program.ok(&args));
    let ids = |list: &str| -> Vec<i64> {
        report[list].as_array().unwrap().iter().map(|token| token["id"].as_i64().unwrap()).collect()
    };
    let count = |ids: &[i64], id: i64| ids.iter().filter(|found| **found == id).count();
    let all = [ids("list"), ids("question")].concat();
    assert_eq!((count(&all, 1), count(&all, 2)), (2, 1), "{report}");
}

/// Three turns were saved, and `--resume` failed.
#[test]
fn a_conversation_that_cannot_be_resumed_says_so() {
    let program = Program::new(&tiny("llama"));
    program.write("prompt.txt", "Hi");
    program.write("t.jinja", "{% for m in messages[-4:] %}<{{ m.role }}>{{ m.content }}{% endfor %}<a>");
    program.ok(&["build", "prompt.txt", "--template", "t.jinja", "--name", "s"]);
    let said = program.run_with(&["chat", "s", "--max-tokens", "1"], "One?\nTwo?\n/save talk\n");
    assert!(said.code == 0 && said.stderr.contains("can be asked and not resumed"), "{}", said.stderr);
    program.ok(&["ask", "talk", "Three?", "--max-tokens", "1"]);
}
