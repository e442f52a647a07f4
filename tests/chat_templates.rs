//! A chat template renders as in transformers: Python's methods of strings, lists and dictionaries,
//! Jinja's filters, and variables given from outside. Reference: `tests/golden/chat/methods.json`.

mod common;
mod text_base;

use lowrank::archive::schema;
use lowrank::model::llama::Llama;
use lowrank::text::{Message, TemplateVariables, Tokenizer};
use serde_json::{Value, json};
use text_base::base_with;

/// A tokenizer with this template; its tokens do not matter.
fn tokenizer(template: &str) -> Tokenizer {
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [], "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": { "<s>": 0, "</s>": 1 }, "merges": [],
        },
    });
    let tokenizer = tokenizer.to_string();
    let text = schema::Text {
        tokenizer: tokenizer.as_bytes(),
        chat_template: template,
        bos: Some(0),
        add_bos: false,
        stop: &[1],
    };
    Tokenizer::new(&Llama::open(&base_with(text, 2)).unwrap()).unwrap()
}

fn variables(pairs: &[(&str, &str)]) -> TemplateVariables {
    let mut variables = TemplateVariables::new();
    pairs.iter().for_each(|(name, value)| variables.set(name, value).unwrap());
    variables
}

#[test]
fn every_expression_renders_as_in_transformers() {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat/methods.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let messages: Vec<_> = golden["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| Message::new(m["role"].as_str().unwrap(), m["content"].as_str().unwrap()))
        .collect();
    let mut given = TemplateVariables::new();
    for (name, value) in golden["variables"].as_object().unwrap() {
        given.set(name, &value.to_string()).unwrap();
    }
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 200);
    let mut wrong = Vec::new();
    for case in cases {
        let tokenizer = tokenizer(case["template"].as_str().unwrap());
        let rendered = tokenizer.render_chat_with(&messages, true, &given);
        let expected = case["text"].as_str().unwrap();
        if rendered.as_deref() != Ok(expected) {
            wrong.push(format!("{}: {rendered:?}, expected {expected:?}", case["name"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn variables_are_json_or_else_text_and_go_before_special_tokens() {
    let show = |template: &str, pairs: &[(&str, &str)]| {
        tokenizer(template)
            .with_template_variables(variables(pairs))
            .render_chat(&[], false)
            .unwrap()
    };
    let thinks = "{{ 'off' if enable_thinking is false else 'on' }}";
    assert_eq!(show(thinks, &[]), "on");
    assert_eq!(show(thinks, &[("enable_thinking", "false")]), "off");
    assert_eq!(show(thinks, &[("enable_thinking", "false"), ("enable_thinking", "true")]), "on");
    assert_eq!(show("{{ effort }}", &[("effort", "very high")]), "very high");
    assert_eq!(show("{{ effort }}", &[("effort", "\"3\"")]), "3");
    assert_eq!(show("{{ n + 1 }}", &[("n", "3")]), "4");
    assert_eq!(show("{{ bos_token }}{{ eos_token }}", &[("bos_token", "<b>")]), "<b></s>");
    assert_eq!(show("{{ tools is none }}", &[]), "True");
    assert_eq!(show("{{ tools[0].name }}", &[("tools", r#"[{"name": "f"}]"#)]), "f");
}

#[test]
fn variables_of_the_conversation_and_names_that_are_none_are_refused() {
    let refused = |name: &str| TemplateVariables::new().set(name, "1").unwrap_err().to_string();
    assert!(refused("messages").contains("messages"));
    assert!(refused("add_generation_prompt").contains("add_generation_prompt"));
    for name in ["", "a b", "1a", "a-b"] {
        assert!(refused(name).contains("no name"), "{name}");
    }
}

#[test]
fn what_python_refuses_is_refused_with_one_sentence() {
    for (expression, words) in [
        ("'a'.split('')", "empty"),
        ("'a'.partition('')", "empty"),
        ("'a'.index('b')", "not found"),
        ("'a'.rindex('b')", "not found"),
        ("'a'.ljust(3, 'xy')", "one character"),
        ("'-'.join([1])", "no string"),
        ("'a'.nothing()", "unknown method"),
        ("[1].append(2)", "unknown method"),
        ("{}.update({'a': 1})", "unknown method"),
        ("'a'.upper(1)", "too many"),
        ("'a'.split(wrong=1)", "wrong"),
        ("'a'.zfill(10 ** 12)", "too wide"),
        ("'a'.center(10 ** 12)", "too wide"),
        ("'\\t'.expandtabs(10 ** 12)", "too wide"),
        ("'a'|center(10 ** 12)", "center"),
        ("'%s' % 'a'", "% operator"),
        ("'{!r}'.format('a')", "'!'"),
    ] {
        let error = tokenizer(&format!("{{{{ {expression} }}}}")).render_chat(&[], false);
        let error = error.expect_err(expression).to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{expression}: {error}");
    }
}
