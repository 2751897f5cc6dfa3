//! Parameters of states: adapters, rotary embeddings, templates. On the real binary and the tiny models.

use crate::common::{prose, tiny};
use crate::program::{Program, Run, json};

fn program() -> Program {
    let program = Program::new(&tiny("llama"));
    program.write("prompt.txt", &prose(120, 1));
    program
}

fn key(run: &Run) -> String {
    run.stdout.trim().to_owned()
}

#[test]
fn a_state_is_asked_with_the_adapter_it_was_built_with() {
    let program = program();
    crate::gguf::write_adapter(&program.path("lora.gguf"), 1);
    crate::gguf::write_adapter(&program.path("other.gguf"), 2);
    let plain = key(&program.ok(&["build", "prompt.txt"]));
    let adapted = key(&program.ok(&["build", "prompt.txt", "--lora", "lora.gguf"]));
    let weaker = key(&program.ok(&["build", "prompt.txt", "--lora", "lora.gguf=0.5"]));
    let other = key(&program.ok(&["build", "prompt.txt", "--lora", "other.gguf"]));
    let distinct: std::collections::HashSet<_> = [&plain, &adapted, &weaker, &other].into_iter().collect();
    assert_eq!(distinct.len(), 4, "each is a state of its own");
    // Not only the keys differ.
    assert_eq!(program.segments().len(), 12);
    assert_eq!(key(&program.ok(&["build", "prompt.txt", "--lora", "lora.gguf=1"])), adapted);

    let ask = |key: &str, extra: &[&str]| {
        program.run(&[&["ask", key, "Is it warm?", "--max-tokens", "24", "--json"], extra].concat())
    };
    let (hit, cold) = (ask(&weaker, &["--require-hit"]), ask(&weaker, &["--no-cache"]));
    assert_eq!(json(&hit)["answer"], json(&cold)["answer"], "{} {}", hit.stderr, cold.stderr);
    let exact = program.ok(&["verify", &weaker, "--logits", "--json"]);
    assert_eq!(json(&exact)["states"][0]["max_logit_difference"], 0.0);

    let refused = ask(&weaker, &["--lora", "lora.gguf"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("--lora") && refused.stderr.contains("*0.5, not"), "{}", refused.stderr);
    assert!(ask(&plain, &["--lora", "lora.gguf"]).stderr.contains("built with --lora -, not"));
    std::fs::rename(program.path("lora.gguf"), program.path("moved.gguf")).unwrap();
    let moved = ask(&weaker, &[]);
    assert_eq!(moved.code, 1);
    assert!(moved.stderr.contains("pass --lora FILE=0.5"), "{}", moved.stderr);
    assert_eq!(ask(&weaker, &["--lora", "moved.gguf=0.5"]).code, 0);
    assert_eq!(ask(&weaker, &[]).code, 0, "where it lies now is remembered");
}

#[test]
fn an_adapter_is_no_model_and_a_model_no_adapter() {
    let program = program();
    crate::gguf::write_adapter(&program.path("lora.gguf"), 1);
    let run = program.run(&["-m", "lora.gguf", "build", "prompt.txt"]);
    assert!((run.code, run.stderr.contains("pass it with --lora")) == (1, true), "{}", run.stderr);
    let model = tiny("llama");
    let run = program.run(&["build", "prompt.txt", "--lora", model.to_str().unwrap()]);
    assert!((run.code, run.stderr.contains("is not a LoRA adapter")) == (1, true), "{}", run.stderr);
    // Made for another architecture.
    let gemma = tiny("gemma3");
    let run = program.run(&["-m", gemma.to_str().unwrap(), "build", "prompt.txt", "--lora", "lora.gguf"]);
    assert!((run.code, run.stderr.contains("lora.gguf")) == (1, true), "{}", run.stderr);
}

#[test]
fn rotary_overrides_and_attention_are_part_of_the_key_and_kept() {
    let program = program();
    let variants: &[&[&str]] = &[
        &[],
        &["--rope-freq-base", "500000"],
        &["--rope-freq-scale", "0.5"],
        &["--rope-scaling", "yarn", "--rope-freq-scale", "0.25", "--yarn-orig-ctx", "2048"],
        &["--flash-attn", "on"],
        &["--kv-type", "q8_0"],
    ];
    let mut keys = Vec::new();
    for flags in variants {
        let key = key(&program.ok(&[&["build", "prompt.txt"], *flags].concat()));
        let verified = json(&program.ok(&["verify", &key, "--logits", "--json"]));
        assert_eq!(verified["states"][0]["max_logit_difference"], 0.0, "{flags:?}");
        keys.push(key);
    }
    let distinct: std::collections::HashSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
    assert_eq!(
        key(&program.ok(&["build", "prompt.txt", "--flash-attn", "off"])),
        keys[0],
        "the same as auto"
    );
    assert_eq!(key(&program.ok(&["build", "prompt.txt", "--flash-attn", "auto"])), keys[0]);

    let run = program.run(&["ask", &keys[1], "Hm?", "--rope-freq-base", "10000"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("--rope-freq-base 500000, not 10000"), "{}", run.stderr);
    assert_eq!(
        program.ok(&["ask", &keys[1], "Hm?", "--rope-freq-base", "500000", "--max-tokens", "1"]).code,
        0
    );
    let run = program.run(&["build", "prompt.txt", "--kv-type", "q4_0", "--flash-attn", "off"]);
    assert!((run.code, run.stderr.contains("needs flash attention")) == (2, true), "{}", run.stderr);
    // A stretched embedding has room for more than the model was trained for.
    program.write("long.txt", &prose(900, 1));
    assert_eq!(program.run(&["build", "long.txt"]).code, 1);
    program.ok(&["build", "long.txt", "--rope-scaling", "linear", "--rope-freq-scale", "0.5"]);
}

/// llama.cpp takes the set of factors by the size of the context, which is sized to the job: without a fixed choice in
/// the key, a state of the short set was once restored into a context with the long one.
#[test]
fn a_model_with_two_sets_of_rotary_factors_keeps_to_one() {
    let program = program();
    let model = program.path("two-sets.gguf");
    crate::gguf::write_with_rope_factors(&tiny("llama"), &model, 1536);
    let model = model.to_str().unwrap();
    program.write("longer.txt", &prose(240, 1));
    let mut first_states = Vec::new();
    for (prompt, factors) in [("prompt.txt", "short"), ("longer.txt", "long")] {
        let key = key(&program.ok(&["-m", model, "build", prompt]));
        let shown = json(&program.ok(&["show", &key, "--json"]));
        assert_eq!(shown["parameters"]["rope_factors"], factors, "{prompt}");
        first_states.push(raw_state(&program, shown["segments"][0]["object"].as_str().unwrap()));
        for tokens in ["4", "1200"] {
            let ask = |extra: &[&str]| {
                json(&program.ok(&[&["ask", &key, "Hm?", "--max-tokens", tokens, "--json"], extra].concat()))
            };
            let (hit, cold) = (ask(&["--require-hit"]), ask(&["--no-cache"]));
            assert_eq!(hit["answer"], cold["answer"], "{prompt} {tokens}");
            assert_eq!(hit["stop_reason"], cold["stop_reason"]);
        }
        let verified = json(&program.ok(&["verify", &key, "--logits", "--json"]));
        assert_eq!(verified["states"][0]["max_logit_difference"], 0.0);
    }
    // Both prompts begin with the same tokens, so the factors make the difference.
    assert_ne!(first_states[0], first_states[1]);
}

/// The bytes of the state in an object.
fn raw_state(program: &Program, object: &str) -> Vec<u8> {
    let path = program.store().join(format!("objects/v1/{}/{object}.safetensors", &object[..2]));
    let bytes = std::fs::read(path).unwrap();
    let state = pcache_format::object::decode(&bytes).unwrap().state;
    bytes[state].to_vec()
}

#[test]
fn a_prompt_can_be_put_before_the_model_in_other_ways() {
    let program = program();
    program.write("t.jinja", "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[bot] ");
    program.write(
        "dated.jinja",
        "{{ strftime_now('%Y-%m-%d') }} {% for m in messages %}{{ m.content }}\n{% endfor %}",
    );
    program.write("bad.jinja", "{{ raise_exception('I will not') }}");
    program.write("short.txt", "Be brief.");
    program.write("system.txt", "You are kind.");
    let all = |flags: &[&str]| {
        let key = key(&program.ok(&[&["build", "short.txt"], flags].concat()));
        program.ok(&["show", &key, "--prompt", "--all"]).stdout
    };
    assert_eq!(all(&["--template", "t.jinja"]), "[system] Be brief.\n[user] \n");
    assert_eq!(all(&["--template", "t.jinja", "--user"]), "[user] Be brief.\n\n\n");
    let expected = "[system] You are kind.\n[user] Be brief.\n\n\n";
    assert_eq!(all(&["--template", "t.jinja", "--system", "You are kind."]), expected);
    assert_eq!(all(&["--template", "t.jinja", "--system", "@system.txt"]), expected);
    assert_eq!(all(&["--raw"]), "Be brief.", "as it is");
    assert_eq!(all(&["--raw", "--question-format", "\\nQ: {question}\\nA:"]), "Be brief.\nQ: ");
    let fixed = all(&["--template", "dated.jinja", "--date", "2024-02-29"]);
    assert!(fixed.starts_with("2024-02-29 Be brief."), "{fixed}");

    let dated = program.ok(&["build", "short.txt", "--template", "dated.jinja"]);
    assert!(dated.stderr.contains("--date") && dated.stderr.contains("another key"), "{}", dated.stderr);
    let fails = program.run(&["build", "short.txt", "--template", "bad.jinja"]);
    assert!((fails.code, fails.stderr.contains("I will not")) == (1, true), "{}", fails.stderr);
    assert_eq!(program.run(&["build", "short.txt", "--raw", "--user"]).code, 2);
    assert_eq!(program.run(&["build", "short.txt", "--question-format", "Q"]).code, 2);
}

/// Text behind a question in its format is not answered but part of what the model reads.
#[test]
fn a_question_format_surrounds_each_question() {
    let program = program();
    let built =
        program.ok(&["build", "prompt.txt", "--raw", "--question-format", "\\nQ: {question}\\nA:", "--json"]);
    let built = json(&built);
    let key = built["key"].as_str().unwrap();
    let shown = json(&program.ok(&["show", key, "--json"]));
    assert_eq!(shown["suffix"], "\nA:");
    let plain = json(&program.ok(&["build", "prompt.txt", "--raw", "--json"]));
    let evaluated = |key: &str, question: &str| {
        let run = program.ok(&["ask", key, question, "--max-tokens", "1", "--json"]);
        json(&run)["cache"]["evaluated_tokens"].as_u64().unwrap()
    };
    // The tiny vocabulary has a token a byte: the format costs "\nA:" behind, what stands before is in the state.
    let plain_key = plain["key"].as_str().unwrap();
    assert_eq!(
        evaluated(key, "Warm?"),
        evaluated(plain_key, "Warm?\nA:") - plain_carried(&program, plain_key) + plain_carried(&program, key)
    );
}

fn plain_carried(program: &Program, key: &str) -> u64 {
    json(&program.ok(&["show", key, "--json"]))["carried"].as_str().unwrap().len() as u64
}
