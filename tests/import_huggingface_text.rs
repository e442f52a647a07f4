//! The tokenizer of a Hugging Face folder: what is put in front, what ends a turn and which
//! template counts, as transformers 5 decides it; and damaged files, refused by name.

mod model_folder;

use lowrank::import::BaseOptions;
use lowrank::model::llama::Llama;
use model_folder::{Folder, exact};
use serde_json::{Value, json};

/// A tokenizer of the letters a to z behind `<s>`, `</s>` and `<|im_end|>` (ids 0 to 2).
fn tokenizer(post_processor: Value) -> Value {
    let special = ["<s>", "</s>", "<|im_end|>"];
    let flags = json!({ "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    let added = |(id, content): (u32, &str)| {
        let mut token = flags.clone();
        (token["id"], token["content"]) = (id.into(), content.into());
        token
    };
    let letters = ('a'..='z').map(String::from);
    let texts = special.map(str::to_owned).into_iter().chain(letters);
    let vocab: serde_json::Map<String, Value> =
        (0..).zip(texts).map(|(id, text): (u32, _)| (text, id.into())).collect();
    json!({
        "version": "1.0", "added_tokens": (0..).zip(special).map(added).collect::<Vec<_>>(), "post_processor": post_processor,
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    })
}

/// A post-processor that puts `before` in front of a text and `after` behind it.
fn template(before: &[&str], after: &[&str]) -> Value {
    let special = |text: &&str| json!({ "SpecialToken": { "id": text, "type_id": 0 } });
    let sequence = |name: &str| json!({ "Sequence": { "id": name, "type_id": 0 } });
    let single: Vec<Value> = before
        .iter()
        .map(special)
        .chain([sequence("A")])
        .chain(after.iter().map(special))
        .collect();
    let tokens = [("<s>", 0), ("</s>", 1)]
        .map(|(text, id)| (text.to_owned(), json!({ "id": text, "ids": [id], "tokens": [text] })));
    let tokens = serde_json::Map::from_iter(tokens);
    json!({ "type": "TemplateProcessing", "single": single, "pair": [sequence("A"), sequence("B")], "special_tokens": tokens })
}

fn put(folder: &mut Folder, file: &str, value: Value) {
    folder.files.insert(file.into(), value.to_string().into_bytes());
}

/// tiny-llama with a tokenizer and its settings; the configuration ends turns with token 40.
fn folder(post_processor: Value, settings: Value) -> Folder {
    let mut folder = Folder::golden("tiny-llama");
    put(&mut folder, "tokenizer.json", tokenizer(post_processor));
    put(&mut folder, "tokenizer_config.json", settings);
    (folder.config["bos_token_id"], folder.config["eos_token_id"]) = (Value::Null, json!(40));
    folder
}

/// (BOS, stop tokens, chat template) of the imported base.
fn text(folder: &Folder) -> (Option<u32>, Vec<u32>, String) {
    let archive = folder.import(&exact()).unwrap();
    let model = Llama::open(&archive).unwrap();
    assert_eq!(model.tokenizer_json(), folder.files["tokenizer.json"]);
    (model.bos(), model.stop_tokens().collect(), model.chat_template().to_owned())
}

#[test]
fn the_post_processor_says_what_is_put_in_front() {
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let sequence =
        json!({ "type": "Sequence", "processors": [byte_level, template(&["<s>"], &[])] });
    // transformers 5 does not ask `add_bos_token` where there is a tokenizer.json.
    for settings in [
        json!({}),
        json!({ "add_bos_token": false }),
        json!({ "add_bos_token": true, "bos_token": "<s>" }),
    ] {
        let leading = |post: &Value| {
            let archive = folder(post.clone(), settings.clone()).import(&exact()).unwrap();
            Llama::open(&archive).unwrap().leading_bos()
        };
        assert_eq!(leading(&template(&["<s>"], &[])), Some(0), "{settings}");
        assert_eq!(leading(&sequence), Some(0), "{settings}");
        assert_eq!(leading(&template(&[], &[])), None, "{settings}");
        assert_eq!(leading(&byte_level), None, "{settings}");
        assert_eq!(leading(&Value::Null), None, "{settings}");
    }
}

#[test]
fn special_tokens_and_templates_come_from_where_transformers_looks() {
    let mut folder = folder(
        Value::Null,
        json!({ "bos_token": { "content": "<s>" }, "eos_token": "</s>", "chat_template": "settings" }),
    );
    // The tokenizer's own end token first (a template's `eos_token`), then the configuration's,
    // then what ends a turn by its name.
    assert_eq!(text(&folder), (Some(0), vec![1, 40, 2], "settings".into()));
    put(&mut folder, "generation_config.json", json!({ "eos_token_id": [50, 1, 51] }));
    assert_eq!(text(&folder).1, [1, 50, 51, 2]);
    put(&mut folder, "generation_config.json", json!({ "temperature": 0.5 }));
    assert_eq!(text(&folder).1, [1, 40, 2]);
    folder.files.insert("chat_template.jinja".into(), b"file".to_vec());
    assert_eq!(text(&folder).2, "file");
    folder.files.remove("chat_template.jinja");
    // A null denies the configuration's token; the older file of special tokens counts for what the
    // settings leave out.
    let named =
        json!([{ "name": "tool_use", "template": "t" }, { "name": "default", "template": "d" }]);
    put(&mut folder, "tokenizer_config.json", json!({ "bos_token": null, "chat_template": named }));
    put(&mut folder, "special_tokens_map.json", json!({ "eos_token": "</s>" }));
    folder.config["bos_token_id"] = json!(7);
    assert_eq!(text(&folder), (None, vec![1, 40, 2], "d".into()));
    put(&mut folder, "tokenizer_config.json", json!({}));
    assert_eq!(text(&folder).0, Some(7));
    // A token that only the tokenizer knows ends no turn.
    let mut larger = tokenizer(Value::Null);
    (larger["added_tokens"][2]["id"], larger["model"]["vocab"]["<|im_end|>"]) =
        (json!(2000), json!(2000));
    put(&mut folder, "tokenizer.json", larger);
    assert_eq!(text(&folder).1, [1, 40]);
}

#[test]
fn damaged_text_borders_are_refused_by_name() {
    let strict = BaseOptions { allow_missing_tokenizer: false, ..exact() };
    let good = || folder(Value::Null, json!({}));
    let with = |file: &str, value: Value, parts: &[&str]| {
        let mut folder = good();
        put(&mut folder, file, value);
        folder.refused(&strict, &[&[file], parts].concat());
    };
    good().import(&strict).unwrap();
    with("tokenizer.json", json!({}), &["model: ", "not a tokenizer", "an object was expected"]);
    with("tokenizer.json", json!([]), &["a JSON object was expected"]);
    with(
        "tokenizer.json",
        tokenizer(template(&["<s>"], &["</s>"])),
        &["post_processor", "a token behind every text"],
    );
    with(
        "tokenizer.json",
        tokenizer(template(&["<s>", "</s>"], &[])),
        &["post_processor", "more than one token in front"],
    );
    let bert = json!({ "type": "BertProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0] });
    with("tokenizer.json", tokenizer(bert), &["post_processor", "BertProcessing"]);
    with("tokenizer_config.json", json!([]), &["a JSON object was expected"]);
    with("tokenizer_config.json", json!({ "chat_template": 3 }), &["chat_template", "3"]);
    with(
        "tokenizer_config.json",
        json!({ "chat_template": [] }),
        &["chat_template", "\"default\""],
    );
    with("generation_config.json", json!({ "eos_token_id": "two" }), &["eos_token_id", "\"two\""]);
    let mut folder = good();
    folder.config["bos_token_id"] = json!(-1);
    folder.refused(&strict, &["config.json", "bos_token_id", "-1"]);
    folder.config["bos_token_id"] = Value::Null;
    folder.files.remove("tokenizer.json");
    folder.refused(&strict, &["without a tokenizer"]);
}
