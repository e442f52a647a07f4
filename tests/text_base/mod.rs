//! A small base whose tokenizer and chat template a test chooses, and a tokenizer to change.
#![allow(dead_code, reason = "every test binary uses its own part")]

use lowrank::archive::{Buffer, schema, to_buffer};
use lowrank::model::llama::Config;
use lowrank::quant::{Format, OwnedMatrix};
use serde_json::{Value, json};

use crate::common::CONFIG;

const VOCAB: usize = 400;

/// A base with these parts of text, without a first token or stop tokens.
pub fn base(tokenizer: &[u8], template: &str) -> Buffer {
    base_with(
        schema::Text { tokenizer, chat_template: template, bos: None, add_bos: false, stop: &[] },
        VOCAB,
    )
}

/// A base with this tokenizer and this many tokens; its weights do not matter.
pub fn base_with(text: schema::Text<'_>, vocab: usize) -> Buffer {
    let config = Config {
        vocab,
        dim: 8,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 8,
        hidden: 8,
        ..CONFIG
    };
    let square = OwnedMatrix::quantize(Format::F32, 64, 8, 8, &[0.0; 64]).unwrap();
    let table = OwnedMatrix::quantize(Format::F32, 64, vocab, 8, &vec![0.0; vocab * 8]).unwrap();
    let linear = schema::Linear { weight: square.view().into(), bias: &[] };
    let norm = &[1.0; 8];
    let layer = lowrank::model::llama::schema::LlamaLayer {
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
    let root = lowrank::model::llama::schema::Llama {
        name: "",
        config: config.to_schema(),
        text,
        embedding: table.view().into(),
        layers: &[layer],
        norm,
        head: None,
    };
    to_buffer(&root, 1).unwrap()
}

/// A small tokenizer with `change` made to it.
pub fn tokenizer(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let mut whole = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": { "a": 0, "b": 1, "c": 2, "ab": 3, "##b": 4, "a##b": 5 },
            "merges": ["a b"],
        },
    });
    change(&mut whole);
    whole.to_string().into_bytes()
}
