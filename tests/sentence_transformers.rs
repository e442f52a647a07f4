//! A sentence-transformers folder gives the vectors of sentence-transformers: its modules, pooling,
//! prompts and lengths are honoured, or refused by name.

mod model_folder;

use std::fs;

use lowrank::import::{HuggingFaceBert, bert_to_buffer};
use lowrank::model::bert::{Bert, Pooling};
use lowrank::text::Tokenizer;
use model_folder::{Folder, Stored, exact, golden};
use serde_json::{Value, json};

/// A folder with the modules `kinds`, in folders of their own.
fn folder(kinds: &[&str], pooling: Value) -> Folder {
    let mut folder = Folder::golden("tiny-bert");
    let mut modules =
        vec![json!({ "type": "sentence_transformers.models.Transformer", "path": "" })];
    modules.extend(kinds.iter().map(
        |kind| json!({ "type": format!("sentence_transformers.models.{kind}"), "path": kind }),
    ));
    put(&mut folder, "modules.json", Value::from(modules));
    put(&mut folder, "Pooling/config.json", pooling);
    folder
}

fn put(folder: &mut Folder, file: &str, value: Value) {
    folder.files.insert(file.into(), value.to_string().into_bytes());
}

/// (pooling, normalized, longest text), or the refusal.
fn import(folder: &Folder) -> Result<(Pooling, bool, usize), String> {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("Pooling")).unwrap();
    folder.write(place.path());
    let say = |error: lowrank::file::FileError| error.to_string();
    let source = HuggingFaceBert::open(place.path()).map_err(say)?;
    let archive = bert_to_buffer(&source, &exact(), &mut |_| {}).map_err(say)?;
    let model = Bert::open(&archive).unwrap();
    Ok((model.config().pooling, model.config().normalize, model.max_length()))
}

fn refused(folder: &Folder, parts: &[&str]) {
    let error = import(folder).expect_err(parts[0]);
    for part in parts {
        assert!(error.contains(part) && !error.contains('\n'), "\"{part}\" is not in: {error}");
    }
}

#[test]
fn every_pooling_is_honoured_or_refused() {
    let pooled = |pooling: Value| import(&folder(&["Pooling"], pooling));
    let mean = Ok((Pooling::Mean, false, 40));
    let cls = Ok((Pooling::Cls, false, 40));
    for pooling in [
        json!({}),
        json!({ "pooling_mode": "mean" }),
        json!({ "pooling_mode": ["mean"], "include_prompt": false }),
        json!({ "pooling_mode_mean_tokens": true, "pooling_mode_cls_token": false }),
        // sentence-transformers falls back to the mean where all are off, and asks the new key first.
        json!({ "pooling_mode_mean_tokens": false }),
        json!({ "pooling_mode": "mean", "pooling_mode_cls_token": true }),
    ] {
        assert_eq!(pooled(pooling.clone()), mean, "{pooling}");
    }
    for pooling in [json!({ "pooling_mode": "cls" }), json!({ "pooling_mode_cls_token": true })] {
        assert_eq!(pooled(pooling.clone()), cls, "{pooling}");
    }
    for mode in ["max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", "median"] {
        let pooling = json!({ "pooling_mode": mode });
        refused(&folder(&["Pooling"], pooling), &["pooling_mode", mode, "config.json"]);
    }
    for key in ["max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"] {
        let key = format!("pooling_mode_{key}");
        refused(&folder(&["Pooling"], json!({ key.as_str(): true })), &[&key]);
    }
    let two = json!({ "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true });
    refused(&folder(&["Pooling"], two), &["pooling_mode_mean_tokens", "side by side"]);
    refused(&folder(&["Pooling"], json!({ "pooling_mode": ["cls", "max"] })), &["side by side"]);
}

#[test]
fn modules_are_honoured_or_refused() {
    let with = |kinds: &[&str]| folder(kinds, json!({ "pooling_mode": "cls" }));
    assert_eq!(import(&with(&["Pooling", "Normalize"])), Ok((Pooling::Cls, true, 40)));
    assert_eq!(import(&with(&["Pooling", "Dropout"])), Ok((Pooling::Cls, false, 40)));
    // There is no vector yet that could be normalized.
    assert_eq!(import(&with(&["Normalize", "Pooling"])), Ok((Pooling::Cls, false, 40)));
    for kind in ["Dense", "LayerNorm", "CNN", "WeightedLayerPooling", "StaticEmbedding"] {
        refused(&with(&["Pooling", kind]), &[kind, "modules.json"]);
    }
    refused(&with(&["Pooling", "Pooling"]), &["Pooling", "modules.json"]);
    refused(&with(&[]), &["there is no Pooling"]);
    let mut own = with(&["Pooling"]);
    let modules = json!([{ "type": "custom.Transformer", "path": "" }]);
    put(&mut own, "modules.json", modules);
    refused(&own, &["custom.Transformer"]);
}

#[test]
fn prompts_and_cut_vectors_are_refused_where_they_act() {
    let plain = json!({ "pooling_mode": "mean" });
    let with = |settings: Value| {
        let mut folder = folder(&["Pooling"], plain.clone());
        put(&mut folder, "config_sentence_transformers.json", settings);
        folder
    };
    let prompts = json!({ "query": "find: ", "document": "" });
    for harmless in [
        json!({ "prompts": prompts, "default_prompt_name": null, "truncate_dim": null }),
        json!({ "prompts": prompts, "default_prompt_name": "document" }),
        json!({ "default_prompt_name": "query" }),
        json!({ "truncate_dim": 48, "similarity_fn_name": "dot", "__version__": {} }),
    ] {
        assert_eq!(import(&with(harmless.clone())), Ok((Pooling::Mean, false, 40)), "{harmless}");
    }
    let query = json!({ "prompts": prompts, "default_prompt_name": "query" });
    refused(&with(query), &["default_prompt_name", "\"query\"", "\"find: \""]);
    refused(
        &with(json!({ "default_prompt_name": "title" })),
        &["default_prompt_name", "\"title\""],
    );
    refused(&with(json!({ "truncate_dim": 16 })), &["truncate_dim", "16", "48"]);
    refused(&with(json!({ "model_type": "CrossEncoder" })), &["model_type", "CrossEncoder"]);
    // Prompts that somebody may ask for would have to be kept out of the mean.
    let mut folder = with(json!({ "prompts": prompts }));
    put(&mut folder, "Pooling/config.json", json!({ "include_prompt": false }));
    refused(&folder, &["include_prompt"]);
}

#[test]
fn the_settings_of_the_transformer_module_are_honoured_or_refused() {
    let with = |file: &str, settings: Value| {
        let mut folder = folder(&["Pooling"], json!({}));
        put(&mut folder, file, settings);
        folder
    };
    let own = |settings: Value| with("sentence_bert_config.json", settings);
    let length = |folder: &Folder| import(folder).unwrap().2;
    assert_eq!(length(&own(json!({ "max_seq_length": 30 }))), 30);
    assert_eq!(length(&own(json!({ "max_seq_length": null }))), 40);
    assert_eq!(length(&with("sentence_roberta_config.json", json!({ "max_seq_length": 20 }))), 20);
    assert_eq!(length(&with("tokenizer_config.json", json!({ "model_max_length": 25 }))), 25);
    assert_eq!(length(&with("tokenizer_config.json", json!({ "max_len": 24 }))), 24);
    assert_eq!(length(&with("tokenizer_config.json", json!({ "model_max_length": 1e30 }))), 40);
    let new = json!({
        "transformer_task": "feature-extraction", "module_output_name": "token_embeddings",
        "modality_config": { "text": { "method": "forward", "method_output_name": "last_hidden_state" } },
        "model_args": { "torch_dtype": "float16" }, "unpad_inputs": true,
    });
    assert_eq!(length(&own(new)), 40);
    for (key, value) in [
        ("transformer_task", json!("fill-mask")),
        ("module_output_name", json!("sentence_embedding")),
        ("processing_kwargs", json!({ "text": { "padding": "max_length" } })),
        ("query_length", json!(32)),
        ("tokenizer_args", json!({ "do_lower_case": false })),
        ("config_args", json!({ "hidden_act": "relu" })),
        ("do_lower_case", json!("yes")),
    ] {
        let mut folder = own(json!({ key: value }));
        tokenizer(&mut folder);
        refused(&folder, &["sentence_bert_config.json", key]);
    }
}

/// Gives the folder a tokenizer that keeps capital letters.
fn tokenizer(folder: &mut Folder) {
    let bytes = fs::read(golden("tokenizer-options/wordpiece.json")).unwrap();
    folder.files.insert("tokenizer.json".into(), bytes);
    put(folder, "tokenizer_config.json", json!({ "do_lower_case": false }));
    let dim = folder.config["hidden_size"].as_u64().unwrap() as usize;
    folder.config["vocab_size"] = json!(420);
    let values = vec![0.5; 420 * dim];
    folder
        .tensors
        .insert("embeddings.word_embeddings.weight".into(), Stored::f32(&[420, dim], &values));
}

#[test]
fn texts_are_lowered_where_sentence_transformers_is_told_to() {
    let ids = |settings: Value, text: &str| {
        let mut folder = Folder::golden("tiny-bert");
        tokenizer(&mut folder);
        put(&mut folder, "sentence_bert_config.json", settings);
        let place = tempfile::tempdir().unwrap();
        folder.write(place.path());
        let source = HuggingFaceBert::open(place.path()).unwrap();
        let archive = bert_to_buffer(&source, &exact(), &mut |_| {}).unwrap();
        Tokenizer::for_encoder(&Bert::open(&archive).unwrap())
            .unwrap()
            .encode_for_model(text)
            .unwrap()
    };
    let (on, off) = (json!({ "do_lower_case": true }), json!({ "do_lower_case": false }));
    assert_ne!(ids(off.clone(), "Hello É"), ids(off.clone(), "hello é"));
    assert_eq!(ids(on.clone(), "Hello É"), ids(off.clone(), "hello é"));
    // Special tokens are found before texts are lowered.
    assert_eq!(ids(on, "Hello [SEP]"), ids(off, "hello [SEP]"));
}
