use super::shape::Strip;
use super::*;

/// Templates written after the published chat formats of well-known models (not their own files). Each puts the
/// question where the model expects it; the tests say where the state ends.
macro_rules! template {
    ($name:literal) => {
        include_str!(concat!("../../../../tests/fixtures/templates/", $name, ".jinja"))
    };
}

const CHATML: &str = template!("chatml");
/// A system message of its own where none is given.
const SMOLLM2: &str = template!("smollm2");
/// A branch for tools, a default system message.
const QWEN25: &str = template!("qwen25");
/// The system message becomes the beginning of the user's; turns must alternate; contents are trimmed.
const GEMMA: &str = template!("gemma");
/// `[INST]` and no system role.
const MISTRAL: &str = template!("mistral");
/// Headers, trimmed contents, the date in the system message.
const LLAMA3: &str = template!("llama3");
/// A control token for each role and one for the end.
const PHI3: &str = template!("phi3");
/// An empty thinking block where thinking is switched off, and Python's string methods.
const QWEN3: &str = template!("qwen3");

const VARIABLES: Variables<'_> = Variables { bos: "<s>", eos: "</s>", arguments: &[], date: None };

fn compiled(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, VARIABLES).unwrap()
}

/// Shape of messages of these authors, and a question behind them.
fn shape(source: &str, roles: &[Role]) -> Shape {
    Shape::new(&compiled(source), roles).unwrap()
}

fn gaps_of(source: &str) -> Vec<String> {
    shape(source, &[Role::System]).gaps
}

const BOTH: Strip = Strip { left: true, right: true };

#[test]
fn chatml_has_a_turn_for_the_prompt_and_one_for_the_question() {
    let expected =
        ["<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"];
    for source in [CHATML, SMOLLM2, QWEN25, QWEN3] {
        assert_eq!(gaps_of(source), expected);
        assert_eq!(shape(source, &[Role::System]).strips, [Strip::default(); 2]);
    }
}

#[test]
fn a_prompt_said_by_the_user_gets_the_default_system_message() {
    let user = shape(SMOLLM2, &[Role::User]).gaps;
    assert!(user[0].contains("named SmolLM") && user[0].ends_with("<|im_start|>user\n"), "{user:?}");
    assert_eq!(user[1..], ["\n\n", "<|im_end|>\n<|im_start|>assistant\n"]);
    let qwen = shape(QWEN25, &[Role::User]).gaps;
    assert!(qwen[0].contains("You are Qwen"), "{qwen:?}");
}

#[test]
fn a_system_message_of_its_own_stands_before_the_prompt() {
    let expected = [
        "<|im_start|>system\n",
        "<|im_end|>\n<|im_start|>user\n",
        "\n\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    ];
    assert_eq!(shape(CHATML, &[Role::System, Role::User]).gaps, expected);
}

#[test]
fn gemma_folds_the_prompt_into_the_first_turn() {
    let expected = ["<s><start_of_turn>user\n", "\n\n", "<end_of_turn>\n<start_of_turn>model\n"];
    assert_eq!(gaps_of(GEMMA), expected);
}

#[test]
fn mistral_has_no_system_role() {
    assert_eq!(gaps_of(MISTRAL), ["<s>[INST] ", "\n\n", " [/INST]"]);
    let system = shape(MISTRAL, &[Role::System, Role::User]).gaps;
    assert_eq!(system, ["<s>[INST] ", "\n\n", "\n\n", " [/INST]"]);
}

#[test]
fn llama_3_writes_the_date_which_can_be_fixed() {
    assert_eq!(shape(LLAMA3, &[Role::System]).strips, [BOTH; 2]);
    let date = Some(jiff::civil::date(2024, 12, 5));
    let dated = ChatTemplate::new(LLAMA3, Variables { date, ..VARIABLES }).unwrap();
    let shape = Shape::new(&dated, &[Role::System]).unwrap();
    assert!(dated.asked_for_date());
    assert_eq!(
        shape.gaps,
        [
            "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 05 Dec 2024\n\n",
            "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        ]
    );
}

#[test]
fn phi_3_ends_each_turn_with_the_same_token() {
    assert_eq!(gaps_of(PHI3), ["<|system|>\n", "<|end|>\n<|user|>\n", "<|end|>\n<|assistant|>\n"]);
}

#[test]
fn a_thinking_block_is_rendered_as_the_arguments_say() {
    let arguments = [("enable_thinking".to_owned(), serde_json::Value::Bool(false))];
    let template = ChatTemplate::new(QWEN3, Variables { arguments: &arguments, ..VARIABLES }).unwrap();
    let shape = Shape::new(&template, &[Role::System]).unwrap();
    assert_eq!(shape.gaps[2], "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
}

#[test]
fn without_a_system_role_the_prompt_is_folded_into_the_first_turn() {
    let source = "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}\
        {{ raise_exception('System role not supported') }}{% endif %}[INST] {{ m.content.strip() }} [/INST]{% endfor %}";
    let shape = shape(source, &[Role::System]);
    assert_eq!(shape.gaps, ["<s>[INST] ", "\n\n", " [/INST]"]);
    // The two share a message, of which only the ends are stripped.
    assert_eq!(shape.strips, [Strip { left: true, right: false }, Strip { left: false, right: true }]);
}

#[test]
fn tags_for_training_are_left_out() {
    let source =
        "{%- for m in messages %}{{ m.content }}|  {%- generation -%}  x{% endgeneration %}{%- endfor %}";
    assert_eq!(gaps_of(source), ["", "|x", "|x"]);
}

#[test]
fn a_template_that_cannot_be_used_says_why() {
    let error = |source: &str| {
        let shape = ChatTemplate::new(source, VARIABLES).and_then(|t| Shape::new(&t, &[Role::System]));
        shape.unwrap_err().to_string()
    };
    assert!(error("{{ raise_exception('no') }}").contains("no"));
    assert!(error("{% if %}").contains("fails"));
    assert!(error("nothing").contains("prompt"));
    assert!(error("{{ messages[0].content }}{{ messages[0].content }}").contains("exactly once"));
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
    assert!(error(endless).contains("fails"));
    // The date's format is the template's, and may be nonsense.
    assert!(error("{{ strftime_now('%!') }}").contains("fails"));
}

/// Templates of models that see pictures go through a message's parts, and show nothing of a plain text.
#[test]
fn a_template_that_wants_parts_gets_parts() {
    let gaps = gaps_of(template!("parts"));
    assert_eq!(gaps, ["System: ", "\nUser: ", "\nAssistant:"]);
}

/// A mark that the template changes is not found, and the list of parts that it was given instead stood in the prompt.
#[test]
fn a_template_that_changes_every_text_is_refused() {
    for filter in ["capitalize", "upper", "string | reverse"] {
        let source = format!("{{% for m in messages %}}[{{{{ m.content | {filter} }}}}]{{% endfor %}}");
        let shape = Shape::new(&compiled(&source), &[Role::System]);
        assert!(matches!(shape, Err(TemplateError::LeavesOut(_))), "{filter}: {shape:?}");
    }
}

#[test]
fn each_side_of_each_message_is_looked_at() {
    let strips = shape(template!("strips"), &[Role::System, Role::User, Role::Assistant]).strips;
    let (left, right) = (Strip { left: true, right: false }, Strip { left: false, right: true });
    assert_eq!(strips, [BOTH, right, left, right]);
    assert_eq!(BOTH.apply(" a "), "a");
    assert_eq!((left.apply(" a "), right.apply(" a ")), ("a ", " a"));
}

#[test]
fn line_ends_of_a_template_are_newlines() {
    assert_eq!(gaps_of(template!("windows")), ["<|system|>\n", "\n<|user|>\n", "\n<|assistant|>"]);
}

/// The system message is in another place with each turn: a conversation cannot go on behind it.
#[test]
fn a_mark_between_two_messages_is_seen() {
    let roles = [Role::System, Role::User, Role::Assistant];
    let error = Shape::new(&compiled(template!("last_turn")), &roles).unwrap_err();
    assert!(matches!(error, TemplateError::Displaces(_)), "{error}");
    let gaps = shape(template!("last_turn"), &roles[1..]).gaps;
    assert_eq!(gaps, ["<s>[INST]", "[/INST]", "</s>[INST]", "[/INST]"]);
}

/// Where the reference gives none and the template only asks whether there is such a thing, it fails in the reference.
#[test]
fn a_template_without_tools_says_nothing_of_them() {
    let source = |guard: &str| {
        format!(
            "{{% if {guard} %}}Tools:{{% for t in tools %}}{{{{ t }}}}{{% endfor %}}{{% endif %}}{{{{ messages[0].content }}}}"
        )
    };
    for guard in [
        "tools is not none",
        "tools is defined",
        "tools",
        "tools is iterable and tools | length > 0",
        "tools is defined and tools is not none",
        "not tools is none",
    ] {
        let text = compiled(&source(guard)).render(&[Message { role: Role::User, text: "Hi".into() }]);
        assert_eq!(text.unwrap(), "Hi", "{guard}");
    }
    let arguments = [("tools".to_owned(), serde_json::json!(["look"]))];
    let with = ChatTemplate::new(&source("tools"), Variables { arguments: &arguments, ..VARIABLES }).unwrap();
    assert_eq!(with.render(&[Message { role: Role::User, text: "Hi".into() }]).unwrap(), "Tools:lookHi");
}

#[test]
fn json_is_written_as_python_writes_it() {
    let json = |filter: &str| {
        let source = format!("{{{{ {{'b': [1, 'é<\"', none], 'a': {{}}}} | {filter} }}}}");
        compiled(&source).render(&[]).unwrap()
    };
    assert_eq!(json("tojson"), r#"{"b": [1, "é<\"", null], "a": {}}"#);
    assert_eq!(json("tojson(ensure_ascii=true)"), r#"{"b": [1, "\u00e9<\"", null], "a": {}}"#);
    assert_eq!(json("tojson(sort_keys=true, separators=(',', ':'))"), r#"{"a":{},"b":[1,"é<\"",null]}"#);
    assert_eq!(json("tojson(indent=1)"), "{\n \"b\": [\n  1,\n  \"é<\\\"\",\n  null\n ],\n \"a\": {}\n}");
}
