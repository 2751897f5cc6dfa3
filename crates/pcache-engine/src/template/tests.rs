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

fn chat(source: &str) -> Chat<'_> {
    Chat { source, bos: "<s>", eos: "</s>", roles: &[Role::System], arguments: &[], date: None }
}

fn gaps_of(source: &str) -> Vec<String> {
    frame(&chat(source)).unwrap().texts_around
}

#[test]
fn chatml_has_a_turn_for_the_prompt_and_one_for_the_question() {
    let expected =
        ["<|im_start|>system\n", "<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"];
    for source in [CHATML, SMOLLM2, QWEN25, QWEN3] {
        assert_eq!(gaps_of(source), expected);
        assert!(!frame(&chat(source)).unwrap().trims_prompt);
    }
}

#[test]
fn a_prompt_said_by_the_user_gets_the_default_system_message() {
    let user = frame(&Chat { roles: &[Role::User], ..chat(SMOLLM2) }).unwrap();
    assert!(
        user.texts_around[0].contains("named SmolLM") && user.texts_around[0].ends_with("<|im_start|>user\n"),
        "{user:?}"
    );
    assert_eq!(user.texts_around[1..], ["\n\n", "<|im_end|>\n<|im_start|>assistant\n"]);
    let qwen = frame(&Chat { roles: &[Role::User], ..chat(QWEN25) }).unwrap();
    assert!(qwen.texts_around[0].contains("You are Qwen"), "{qwen:?}");
}

#[test]
fn a_system_message_of_its_own_stands_before_the_prompt() {
    let frame = frame(&Chat { roles: &[Role::System, Role::User], ..chat(CHATML) }).unwrap();
    let expected = [
        "<|im_start|>system\n",
        "<|im_end|>\n<|im_start|>user\n",
        "\n\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    ];
    assert_eq!(frame.texts_around, expected);
}

#[test]
fn gemma_folds_the_prompt_into_the_first_turn() {
    let expected = ["<s><start_of_turn>user\n", "\n\n", "<end_of_turn>\n<start_of_turn>model\n"];
    assert_eq!(gaps_of(GEMMA), expected);
}

#[test]
fn mistral_has_no_system_role() {
    assert_eq!(gaps_of(MISTRAL), ["<s>[INST] ", "\n\n", " [/INST]"]);
    let system = frame(&Chat { roles: &[Role::System, Role::User], ..chat(MISTRAL) }).unwrap();
    assert_eq!(system.texts_around, ["<s>[INST] ", "\n\n", "\n\n", " [/INST]"]);
}

#[test]
fn llama_3_writes_the_date_which_can_be_fixed() {
    let today = frame(&chat(LLAMA3)).unwrap();
    assert!(today.dated && today.trims_prompt);
    let date = Some(jiff::civil::date(2024, 12, 5));
    let fixed = frame(&Chat { date, ..chat(LLAMA3) }).unwrap();
    assert!(!fixed.dated);
    assert_eq!(
        fixed.texts_around,
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
    let frame = frame(&Chat { arguments: &arguments, ..chat(QWEN3) }).unwrap();
    assert_eq!(frame.texts_around[2], "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
}

#[test]
fn without_a_system_role_the_prompt_is_folded_into_the_first_turn() {
    let source = "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}\
        {{ raise_exception('System role not supported') }}{% endif %}[INST] {{ m.content.strip() }} [/INST]{% endfor %}";
    let frame = frame(&chat(source)).unwrap();
    assert_eq!(frame.texts_around, ["<s>[INST] ", "\n\n", " [/INST]"]);
    assert!(frame.trims_prompt);
}

#[test]
fn tags_for_training_are_left_out() {
    let source =
        "{%- for m in messages %}{{ m.content }}|  {%- generation -%}  x{% endgeneration %}{%- endfor %}";
    assert_eq!(gaps_of(source), ["", "|x", "|x"]);
}

#[test]
fn a_template_that_cannot_be_used_says_why() {
    let error = |source: &str| frame(&chat(source)).unwrap_err().to_string();
    assert!(error("{{ raise_exception('no') }}").contains("no"));
    assert!(error("{% if %}").contains("fails"));
    assert!(error("nothing").contains("prompt"));
    assert!(error("{{ messages[0].content }}{{ messages[0].content }}").contains("exactly once"));
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
    assert!(error(endless).contains("fails"));
    // The date's format is the template's, and may be nonsense.
    assert!(error("{{ strftime_now('%!') }}").contains("fails"));
}
