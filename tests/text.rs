//! The tokenizer: special tokens, streaming without half characters, chat templates, and clear
//! errors.

mod common;
mod text_base;

use common::Numbers;
use lowrank::archive::schema;
use lowrank::model::llama::Llama;
use lowrank::text::{Message, Tokenizer};
use lowrank::train::data::{DataOptions, Dataset, IGNORE, Inputs, Targets, Task};
use serde_json::json;
use text_base::base_with;

/// A byte-level tokenizer without merges: 256 tokens for the bytes, then `<s>` (256) and `</s>`
/// (257).
fn tokenizer() -> Vec<u8> {
    let printable = |byte: u32| {
        (0x21..=0x7e).contains(&byte)
            || (0xa1..=0xac).contains(&byte)
            || (0xae..=0xff).contains(&byte)
    };
    let mut others = 0x100..;
    let mut vocab = serde_json::Map::new();
    for byte in 0..256 {
        let shown = if printable(byte) { byte } else { others.next().unwrap() };
        vocab.insert(char::from_u32(shown).unwrap().to_string(), byte.into());
    }
    let special = |id: u32, content: &str| json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let whole = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(256, "<s>"), special(257, "</s>")],
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    });
    serde_json::to_vec(&whole).unwrap()
}

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}
    {% if m.role == 'system' %}
        {{ raise_exception('no system messages') }}
    {% endif %}
[{{ m.role.upper() }}] {{ m.content.strip() }}
{% endfor %}{% if add_generation_prompt %}[ASSISTANT]{% endif %}";

fn opened(template: &str, add_bos: bool) -> Tokenizer {
    let tokenizer = tokenizer();
    let text = schema::Text {
        tokenizer: &tokenizer,
        chat_template: template,
        bos: Some(256),
        add_bos,
        stop: &[257],
    };
    Tokenizer::new(&Llama::open(&base_with(text, 258)).unwrap()).unwrap()
}

#[test]
fn special_tokens_and_the_rule_about_bos() {
    let (plain, leading) = (opened("", false), opened("", true));
    assert_eq!(plain.encode("a</s>", true).unwrap(), [97, 257]);
    assert_eq!(plain.encode("a</s>", false).unwrap(), [97, 60, 47, 115, 62]);
    assert_eq!(plain.encode_prompt("a").unwrap(), [97]);
    assert_eq!(leading.encode_prompt("a").unwrap(), [256, 97]);
    assert_eq!(leading.encode_prompt("<s>a").unwrap(), [256, 97], "not twice");
    assert_eq!(leading.encode("a", true).unwrap(), [97]);
    assert_eq!(
        (plain.decode(&[97, 257], true).unwrap(), plain.decode(&[97, 257], false).unwrap()),
        ("a</s>".into(), "a".into())
    );
    assert!(plain.is_stop(257) && !plain.is_stop(97));
}

#[test]
fn conversations_become_training_data_as_the_template_renders_them() {
    let (tokenizer, directory) = (opened(TEMPLATE, true), tempfile::tempdir().unwrap());
    let path = directory.path().join("chat.jsonl");
    std::fs::write(&path, r#"{"messages": [{"role": "user", "content": " hi"}, {"role": "assistant", "content": "yes</s>"}]}"#).unwrap();
    let options = DataOptions { completions_only: true, ..DataOptions::default() };
    let dataset = Dataset::open(&path, Task::LanguageModel, Some(&tokenizer), options).unwrap();
    let batch = dataset.batch(&[0]).unwrap();
    let mut ids = vec![256];
    ids.extend(b"[USER] hi\n[ASSISTANT] yes".map(u32::from));
    ids.push(257);
    ids.push(u32::from(b'\n'));
    let scored = ids.len() - " yes$\n".len()..ids.len() - 1;
    let next: Vec<u32> =
        (1..=ids.len()).map(|i| if scored.contains(&i) { ids[i] } else { IGNORE }).collect();
    assert_eq!((batch.inputs, batch.targets), (Inputs::Tokens(ids), Targets::Next(next)));
}

#[test]
fn a_stream_never_prints_half_a_character_and_loses_nothing() {
    let tokenizer = opened("", false);
    for text in ["plain", "naïve €5 日本語 👩‍🚀🇩🇪", "a\u{301}\u{200d} b", "\u{fffd} itself", ""]
    {
        let ids = tokenizer.encode(text, true).unwrap();
        let mut stream = tokenizer.stream();
        let mut whole = String::new();
        for (i, &id) in ids.iter().enumerate() {
            let piece = stream.push(id).unwrap();
            whole += &piece;
            let bytes = &text.as_bytes()[..=i];
            if std::str::from_utf8(bytes).is_ok() && !text.contains('\u{fffd}') {
                assert_eq!(whole.as_bytes(), bytes, "a finished character must be printed at once");
            }
            assert!(text.starts_with(&whole), "{whole:?} is not the beginning of {text:?}");
        }
        whole += &stream.finish();
        assert_eq!(whole, text);
    }
}

/// The text of `ids`, token by token.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.stream();
    let pieces: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces + &stream.finish()
}

#[test]
fn a_stream_is_the_whole_decoded_whatever_the_bytes() {
    let tokenizer = opened("", false);
    let cases: [&[u32]; 6] = [
        &[0xff, 0xfe, 0xfd, 97, 0xe2, 0x82],
        // A character behind more garbage than a character is long, and behind special tokens.
        &[0xff, 0xff, 0xff, 0xff, 0xe2, 0x82, 0xac],
        &[256, 256, 256, 256, 256, 256, 0xe2, 0x82, 0xac],
        &[0xf0, 0x9f, 257, 0x98, 0x80],
        &[0xe2, 0x82, 0xe2, 0x82, 0xac, 0xc3],
        &[999, 97],
    ];
    for ids in cases {
        let bytes: Vec<u8> = ids.iter().filter_map(|&id| u8::try_from(id).ok()).collect();
        let expected = String::from_utf8_lossy(&bytes);
        assert_eq!(
            (streamed(&tokenizer, ids), tokenizer.decode(ids, false).unwrap()),
            (expected.to_string(), expected.to_string()),
            "{ids:?}"
        );
    }
    let mut numbers = Numbers::new(1);
    for _ in 0..200 {
        // Mostly beginnings and continuations of characters.
        let ids: Vec<u32> =
            (0..12).map(|_| ((numbers.next() + 1.0) * 64.0) as u32 + 0x80).collect();
        assert_eq!(streamed(&tokenizer, &ids), tokenizer.decode(&ids, false).unwrap(), "{ids:x?}");
    }
}

#[test]
fn sentencepiece_bytes_and_spaces_stream_exactly() {
    let vocab: serde_json::Map<String, serde_json::Value> =
        ["<unk>", "<s>", "</s>", "<0xE2>", "<0x82>", "<0xAC>", "<0x0A>", "▁", "▁a", "b", "a"]
            .iter()
            .zip(0..)
            .map(|(token, id)| ((*token).to_owned(), id.into()))
            .collect();
    let special = |id: u32, content: &str| json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "pre_tokenizer": null, "post_processor": null,
        "added_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" }, { "type": "Replace", "pattern": { "String": " " }, "content": "▁" } ] },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " }, { "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] },
        "model": { "type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab, "merges": [["▁", "a"]] },
    });
    let tokenizer = serde_json::to_vec(&tokenizer).unwrap();
    let text = schema::Text {
        tokenizer: &tokenizer,
        bos: Some(1),
        add_bos: true,
        stop: &[2],
        ..Default::default()
    };
    let tokenizer = Tokenizer::new(&Llama::open(&base_with(text, 11)).unwrap()).unwrap();
    let ids = tokenizer.encode_prompt("a a€\nb").unwrap();
    assert_eq!(ids, [1, 8, 8, 3, 4, 5, 6, 9]);
    assert_eq!(
        (streamed(&tokenizer, &ids), tokenizer.decode(&ids, false).unwrap()),
        ("a a€\nb".into(), "a a€\nb".into())
    );
    let mut stream = tokenizer.stream();
    let pieces: Vec<String> = [8, 3, 4, 5, 8].iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(pieces, ["a", "", "", "€", " a"]);
    assert_eq!(streamed(&tokenizer, &[8, 3, 4, 9]), "a\u{fffd}b");
}

#[test]
fn a_prompt_is_never_cut_or_filled_up() {
    let mut trained: serde_json::Value = serde_json::from_slice(&tokenizer()).unwrap();
    trained["truncation"] =
        json!({ "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 });
    trained["padding"] = json!({ "strategy": { "Fixed": 16 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "a" });
    let trained = serde_json::to_vec(&trained).unwrap();
    let text = schema::Text { tokenizer: &trained, ..Default::default() };
    let tokenizer = Tokenizer::new(&Llama::open(&base_with(text, 258)).unwrap()).unwrap();
    assert_eq!(tokenizer.encode("abcdefgh", true).unwrap().len(), 8);
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat/templates.json");
    let cases: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for case in cases.as_array().unwrap() {
        let message = |m: &serde_json::Value| {
            Message::new(m["role"].as_str().unwrap(), m["content"].as_str().unwrap())
        };
        let messages: Vec<_> = case["messages"].as_array().unwrap().iter().map(message).collect();
        let rendered = opened(case["template"].as_str().unwrap(), false)
            .render_chat(&messages, case["add_generation_prompt"] == true);
        assert_eq!(rendered.unwrap(), case["text"].as_str().unwrap(), "{}", case["name"]);
    }
    // The date depends on the day; its form does not.
    let date = opened("{{ strftime_now('%Y-%m-%d') }}", false).render_chat(&[], false).unwrap();
    assert!(date.len() == 10 && date.bytes().filter(u8::is_ascii_digit).count() == 8, "{date}");
    assert!(
        opened("{{ strftime_now('%!') }}", false)
            .render_chat(&[], false)
            .unwrap_err()
            .to_string()
            .contains("strftime_now")
    );
}

#[test]
fn chat_templates_render_as_in_transformers_and_fail_with_one_sentence() {
    let chat = opened(TEMPLATE, false);
    let messages = [Message::new("user", " hi "), Message::new("assistant", "yes")];
    assert_eq!(
        chat.render_chat(&messages, true).unwrap(),
        "<s>[USER] hi\n[ASSISTANT] yes\n[ASSISTANT]"
    );
    let error = chat.render_chat(&[Message::new("system", "x")], true).unwrap_err().to_string();
    assert!(error.contains("no system messages"), "{error}");
    let error =
        opened("{% for x in %}", false).render_chat(&messages, true).unwrap_err().to_string();
    assert!(error.starts_with("the chat template cannot be rendered"), "{error}");
    let endless =
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    assert!(
        opened(endless, false).render_chat(&messages, true).is_err(),
        "an endless template stops"
    );
    let error = opened("", false).render_chat(&messages, true).unwrap_err().to_string();
    assert!(error.contains("no chat template"), "{error}");
}

#[test]
fn a_missing_or_broken_tokenizer_is_one_clear_error() {
    let open = |text, vocab| {
        Tokenizer::new(&Llama::open(&base_with(text, vocab)).unwrap()).unwrap_err().to_string()
    };
    assert!(open(schema::Text::default(), 8).contains("has no tokenizer"));
    assert!(
        open(schema::Text { tokenizer: b"{\"version\": 1}", ..Default::default() }, 8)
            .contains("cannot be read")
    );
    // Tokens that the model does not have are an error where they occur, not before.
    let tokenizer = tokenizer();
    let archive = base_with(schema::Text { tokenizer: &tokenizer, ..Default::default() }, 200);
    let tokenizer = Tokenizer::new(&Llama::open(&archive).unwrap()).unwrap();
    assert_eq!(tokenizer.encode("a", true).unwrap(), [97]);
    let error = tokenizer.encode("a</s>", true).unwrap_err().to_string();
    assert!(error.contains("\"</s>\" with id 257") && error.contains("199"), "{error}");
}
