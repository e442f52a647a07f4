//! A Hugging Face folder gives the token ids of transformers' `AutoTokenizer`, whatever class reads
//! it and whatever its files say beside tokenizer.json, or it is refused by name.
//!
//! The table is tests/golden/tokenizer-options (classes × options × model types), made by
//! tests/golden/make_tokenizer_options.py.

mod model_folder;

use std::fs;

use lowrank::import::{BaseOptions, HuggingFace, HuggingFaceBert, base_to_buffer, bert_to_buffer};
use lowrank::model::bert::Bert;
use lowrank::model::llama::Llama;
use lowrank::text::Tokenizer;
use model_folder::{Folder, Stored, exact, golden};
use serde_json::{Value, json};

/// More than any tokenizer of the table knows.
const VOCAB: usize = 420;

fn table(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(golden("tokenizer-options").join(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn put(folder: &mut Folder, file: &str, value: &Value) {
    folder.files.insert(file.into(), value.to_string().into_bytes());
}

/// A model of this type with a vocabulary of `vocab` tokens.
fn model(kind: &str, vocab: usize) -> Folder {
    let (name, tables) = match kind {
        "bert" => ("tiny-bert", &["embeddings.word_embeddings.weight"][..]),
        "llama" => ("tiny-llama", &["model.embed_tokens.weight", "lm_head.weight"][..]),
        "qwen2" => ("tiny-variants/qwen2", &["model.embed_tokens.weight", "lm_head.weight"][..]),
        _ => ("tiny-variants/qwen3", &["model.embed_tokens.weight", "lm_head.weight"][..]),
    };
    let mut folder = Folder::golden(name);
    let dim = folder.config["hidden_size"].as_u64().unwrap() as usize;
    folder.config["vocab_size"] = vocab.into();
    for key in ["bos_token_id", "eos_token_id"] {
        folder.config[key] = Value::Null;
    }
    for name in tables {
        if let Some(tensor) = folder.tensors.get_mut(*name) {
            *tensor = Stored::f32(&[vocab, dim], &vec![0.5; vocab * dim]);
        }
    }
    folder
}

/// The folder of a case.
fn folder(case: &Value) -> Folder {
    let mut folder = model(case["model"].as_str().unwrap(), VOCAB);
    for (key, value) in case["config"].as_object().unwrap() {
        folder.config[key.as_str()] = value.clone();
    }
    let name = format!("tokenizer-options/{}.json", case["tokenizer"].as_str().unwrap());
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(golden(&name)).unwrap()).unwrap();
    for (key, value) in case["patch"].as_object().unwrap() {
        tokenizer[key.as_str()] = value.clone();
    }
    put(&mut folder, "tokenizer.json", &tokenizer);
    for (name, value) in case["files"].as_object().unwrap() {
        put(&mut folder, name, value);
    }
    folder
}

/// The tokenizer of an imported folder.
fn tokenizer(folder: &Folder, options: &BaseOptions) -> Result<Tokenizer, String> {
    let place = tempfile::tempdir().unwrap();
    folder.write(place.path());
    let say = |error: lowrank::file::FileError| error.to_string();
    let tokenizer = if folder.config["model_type"] == "bert" {
        let source = HuggingFaceBert::open(place.path()).map_err(say)?;
        let archive = bert_to_buffer(&source, options, &mut |_| {}).map_err(say)?;
        Tokenizer::for_encoder(&Bert::open(&archive).unwrap())
    } else {
        let source = HuggingFace::open(place.path()).map_err(say)?;
        let archive = base_to_buffer(&source, options, &mut |_| {}).map_err(say)?;
        Tokenizer::new(&Llama::open(&archive).unwrap())
    };
    Ok(tokenizer.unwrap())
}

#[test]
fn ids_are_those_of_transformers_or_the_key_is_refused() {
    let (cases, ids, texts) = (table("cases.jsonl"), table("ids.jsonl"), &table("texts.json")[0]);
    assert!(cases.len() > 400);
    let mut wrong = Vec::new();
    for case in cases {
        let folder = folder(&case);
        let tokenizer = tokenizer(&folder, &exact());
        if let Some(key) = case["refused"].as_str() {
            let error = tokenizer.map(drop).expect_err(key);
            let is_named = error.contains(key) && error.contains("--without-tokenizer");
            assert!(is_named && !error.contains('\n'), "{case}: {error}");
            let skip = BaseOptions { without_tokenizer: true, ..exact() };
            let place = tempfile::tempdir().unwrap();
            folder.write(place.path());
            if case["model"] == "bert" {
                let source = HuggingFaceBert::open(place.path()).unwrap();
                bert_to_buffer(&source, &skip, &mut |_| {}).unwrap();
            } else {
                model_folder::import(place.path(), &skip).unwrap();
            }
            continue;
        }
        let tokenizer = tokenizer.unwrap_or_else(|error| panic!("{case}: {error}"));
        let expected = &ids[case["ids"].as_u64().unwrap() as usize];
        for (text, expected) in texts.as_array().unwrap().iter().zip(expected.as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let found = match case["cut"].as_u64() {
                Some(most) => tokenizer.encode_text(text, most as usize).unwrap().0,
                None => tokenizer.encode_for_model(text).unwrap(),
            };
            if json!(found) != *expected {
                wrong.push(format!("{case}\n  {text:?}: {found:?}, not {expected}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of them:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(12)].join("\n")
    );
}

/// A decoder with the byte-level tokenizer of the table and `settings`.
fn decoder(settings: Value, vocab: usize) -> Folder {
    let mut folder = model("llama", vocab);
    let tokenizer = fs::read(golden("tokenizer-options/byte_level.json")).unwrap();
    folder.files.insert("tokenizer.json".into(), tokenizer);
    put(&mut folder, "tokenizer_config.json", &settings);
    folder
}

#[test]
fn a_tokenizer_that_nothing_changes_goes_into_the_archive_as_it_is() {
    let folder = decoder(json!({ "tokenizer_class": "PreTrainedTokenizerFast" }), VOCAB);
    let archive = folder.import(&exact()).unwrap();
    let model = Llama::open(&archive).unwrap();
    assert_eq!(model.tokenizer_json(), folder.files["tokenizer.json"]);
}

#[test]
fn tokens_that_the_model_does_not_have_are_refused_where_they_occur() {
    // The tokenizer knows 268 tokens; the model has rows for those before `<tool>`.
    let settings = json!({ "tokenizer_class": "PreTrainedTokenizerFast", "additional_special_tokens": ["<tool>"] });
    let whole = tokenizer(&decoder(settings.clone(), VOCAB), &exact()).unwrap();
    let id = whole.encode("<tool>", true).unwrap()[0];
    let tokenizer = tokenizer(&decoder(settings, id as usize), &exact()).unwrap();
    assert_eq!(tokenizer.encode("the <s>", true), whole.encode("the <s>", true));
    for refused in [
        tokenizer.encode("a <tool>", true),
        tokenizer.encode_prompt("a <tool>"),
        tokenizer.encode_for_model("a <tool>"),
        tokenizer.encode_text("a <tool>", 9).map(|(ids, _)| ids),
    ] {
        let error = refused.unwrap_err().to_string();
        for part in ["\"<tool>\"", &format!("id {id}"), &format!("ends at {}", id - 1)] {
            assert!(error.contains(part), "\"{part}\" is not in: {error}");
        }
    }
}

#[test]
fn an_end_token_that_the_model_does_not_have_ends_nothing_unless_a_template_writes_it() {
    let settings = |template: &str| json!({ "eos_token": "<end>", "chat_template": template });
    let folder = decoder(settings("{{ bos_token }}"), 268);
    let archive = folder.import(&exact()).unwrap();
    let stop: Vec<u32> = Llama::open(&archive).unwrap().stop_tokens().collect();
    assert!(stop.iter().all(|&id| id < 268), "{stop:?}");
    let error = decoder(settings("{{ eos_token }}"), 268).import(&exact()).unwrap_err();
    assert!(error.contains("special tokens") && error.contains("--without-tokenizer"), "{error}");
}

#[test]
fn without_a_tokenizer_nothing_of_it_is_read() {
    let skip = BaseOptions { without_tokenizer: true, ..BaseOptions::default() };
    let mut folder = decoder(json!({ "split_special_tokens": true }), VOCAB);
    folder.files.insert("tokenizer.json".into(), b"not JSON".to_vec());
    folder.config["eos_token_id"] = json!([7, 5000]);
    let error = folder.import(&exact()).unwrap_err();
    assert!(error.contains("--without-tokenizer"), "{error}");
    let archive = folder.import(&skip).unwrap();
    let model = Llama::open(&archive).unwrap();
    assert!(model.tokenizer_json().is_empty() && model.chat_template().is_empty());
    // What the configuration says needs no tokenizer.
    assert_eq!(model.stop_tokens().collect::<Vec<_>>(), [7]);
}
