//! The text border: special tokens, streaming without half characters, chat templates, and clear errors.

mod common;

use common::CONFIG;
use lowrank::archive::{Buffer, schema, to_buffer};
use lowrank::model::llama::{Config, Llama};
use lowrank::quant::{Format, OwnedMatrix};
use lowrank::text::{Message, TextBorder};
use serde_json::json;

/// A byte-level tokenizer without merges: 256 tokens for the bytes, then `<s>` (256) and `</s>` (257).
fn tokenizer() -> Vec<u8> {
    let printable = |byte: u32| (0x21..=0x7e).contains(&byte) || (0xa1..=0xac).contains(&byte) || (0xae..=0xff).contains(&byte);
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

/// A base with a text border; its weights do not matter.
fn base(text: schema::Text<'_>, vocab: usize) -> Buffer {
    let config = Config { vocab, dim: 8, layers: 1, heads: 1, kv_heads: 1, head_dim: 8, hidden: 8, ..CONFIG };
    let square = OwnedMatrix::quantize(Format::F32, 64, 8, 8, &[0.0; 64]).unwrap();
    let table = OwnedMatrix::quantize(Format::F32, 64, vocab, 8, &vec![0.0; vocab * 8]).unwrap();
    let linear = schema::Linear { weight: square.view().into(), bias: &[] };
    let norm = &[1.0; 8];
    let layer = schema::LlamaLayer {
        attention_norm: norm,
        q: linear,
        k: linear,
        v: linear,
        o: linear,
        q_norm: &[],
        k_norm: &[],
        feed_forward_norm: norm,
        gate: linear,
        up: linear,
        down: linear,
    };
    let root =
        schema::Llama { name: "", config: config.to_schema(), text, embedding: table.view().into(), layers: &[layer], norm, head: None };
    to_buffer(&root, 1).unwrap()
}

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}
    {% if m.role == 'system' %}
        {{ raise_exception('no system messages') }}
    {% endif %}
[{{ m.role.upper() }}] {{ m.content.strip() }}
{% endfor %}{% if add_generation_prompt %}[ASSISTANT]{% endif %}";

fn border(template: &str, add_bos: bool) -> TextBorder {
    let tokenizer = tokenizer();
    let text = schema::Text { tokenizer: &tokenizer, chat_template: template, bos: Some(256), add_bos, stop: &[257] };
    TextBorder::new(&Llama::open(&base(text, 258)).unwrap()).unwrap()
}

#[test]
fn special_tokens_and_the_rule_about_bos() {
    let (plain, leading) = (border("", false), border("", true));
    assert_eq!(plain.encode("a</s>", true).unwrap(), [97, 257]);
    assert_eq!(plain.encode("a</s>", false).unwrap(), [97, 60, 47, 115, 62]);
    assert_eq!(plain.encode_prompt("a").unwrap(), [97]);
    assert_eq!(leading.encode_prompt("a").unwrap(), [256, 97]);
    assert_eq!(leading.encode_prompt("<s>a").unwrap(), [256, 97], "not twice");
    assert_eq!(leading.encode("a", true).unwrap(), [97]);
    assert_eq!((plain.decode(&[97, 257], true).unwrap(), plain.decode(&[97, 257], false).unwrap()), ("a</s>".into(), "a".into()));
    assert!(plain.is_stop(257) && !plain.is_stop(97));
}

#[test]
fn a_stream_never_prints_half_a_character_and_loses_nothing() {
    let border = border("", false);
    for text in ["plain", "naïve €5 日本語 👩‍🚀🇩🇪", "a\u{301}\u{200d} b", "\u{fffd} itself", ""] {
        let ids = border.encode(text, true).unwrap();
        let mut stream = border.stream();
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
        whole += &stream.finish().unwrap();
        assert_eq!(whole, text);
    }
    // Bytes that are no character are shown as such, late but not never.
    let mut stream = border.stream();
    let mut whole: String = [0xff, 0xfe, 0xfd, 97, 0xe2, 0x82].iter().map(|&id| stream.push(id).unwrap()).collect();
    whole += &stream.finish().unwrap();
    assert_eq!(whole, border.decode(&[0xff, 0xfe, 0xfd, 97, 0xe2, 0x82], false).unwrap());
}

#[test]
fn chat_templates_render_as_in_transformers_and_fail_with_one_sentence() {
    let chat = border(TEMPLATE, false);
    let messages = [Message::new("user", " hi "), Message::new("assistant", "yes")];
    assert_eq!(chat.render_chat(&messages, true).unwrap(), "<s>[USER] hi\n[ASSISTANT] yes\n[ASSISTANT]");
    let error = chat.render_chat(&[Message::new("system", "x")], true).unwrap_err().to_string();
    assert!(error.contains("no system messages"), "{error}");
    let error = border("{% for x in %}", false).render_chat(&messages, true).unwrap_err().to_string();
    assert!(error.starts_with("the chat template cannot be rendered"), "{error}");
    let endless = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
    assert!(border(endless, false).render_chat(&messages, true).is_err(), "an endless template stops");
    let error = border("", false).render_chat(&messages, true).unwrap_err().to_string();
    assert!(error.contains("no chat template"), "{error}");
}

#[test]
fn a_missing_or_broken_tokenizer_is_one_clear_error() {
    let open = |text, vocab| TextBorder::new(&Llama::open(&base(text, vocab)).unwrap()).unwrap_err().to_string();
    assert!(open(schema::Text::default(), 8).contains("has no tokenizer"));
    assert!(open(schema::Text { tokenizer: b"{\"version\": 1}", ..Default::default() }, 8).contains("cannot be read"));
    let tokenizer = tokenizer();
    let error = open(schema::Text { tokenizer: &tokenizer, ..Default::default() }, 200);
    assert!(error.contains("257") && error.contains("200"), "{error}");
}
