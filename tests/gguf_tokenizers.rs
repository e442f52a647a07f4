//! The tokenizer of a GGUF file gives the ids of llama.cpp: SentencePiece, WordPiece, and byte-level
//! BPE with every pre-tokenizer; numbers per block and biases are read. Reference:
//! `tests/golden/gguf-text/`.

mod gguf_file;

use std::fs;
use std::path::Path;

use gguf_file::{File, smallest};
use lowrank::import::{Source, Tensor};
use serde_json::Value;
use tokenizers::Tokenizer;

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn numbers(value: &Value) -> Vec<i32> {
    value.as_array().unwrap().iter().map(|n| n.as_i64().unwrap() as i32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap() as f32).collect()
}

fn tokenizer(file: &File) -> Tokenizer {
    Tokenizer::from_bytes(&file.open().unwrap().text().unwrap().tokenizer).unwrap()
}

fn refusal(file: &File) -> String {
    file.open().unwrap().text().unwrap_err().to_string()
}

/// Every text has the ids that the reference lists, special tokens parsed.
fn same_ids(what: &str, tokenizer: &Tokenizer, frame: bool, texts: &Value, ids: &Value) {
    let (texts, ids) = (strings(texts), ids.as_array().unwrap());
    assert!(texts.len() > 40 && texts.len() == ids.len());
    for (text, ids) in texts.iter().zip(ids) {
        let found = tokenizer.encode(*text, frame).unwrap();
        let found: Vec<i32> = found.get_ids().iter().map(|&id| id as i32).collect();
        assert_eq!(found, numbers(ids), "{what}: {text:?}");
    }
}

/// The vocabulary of `sentencepiece.json`.
fn sentencepiece(golden: &Value) -> File {
    let mut file = smallest(&strings(&golden["tokens"]));
    file.text("tokenizer.ggml.model", "llama")
        .without("tokenizer.ggml.pre")
        .without("tokenizer.ggml.merges")
        .floats("tokenizer.ggml.scores", &floats(&golden["scores"]))
        .numbers("tokenizer.ggml.token_type", &numbers(&golden["types"]));
    file
}

#[test]
fn sentencepiece_gives_the_ids_of_llama_cpp_with_and_without_a_space_in_front() {
    let golden = golden("gguf-text/sentencepiece.json");
    let mut file = sentencepiece(&golden);
    same_ids("prefix", &tokenizer(&file), false, &golden["texts"], &golden["ids"]);
    file.flag("tokenizer.ggml.add_space_prefix", false);
    let ids = &golden["ids_without_prefix"];
    same_ids("no prefix", &tokenizer(&file), false, &golden["texts"], ids);
}

#[test]
fn sentencepiece_decodes_what_it_encoded() {
    let golden = golden("gguf-text/sentencepiece.json");
    let tokenizer = tokenizer(&sentencepiece(&golden));
    for text in ["Hello there", " two  spaces", "🙂é日", "a\nb"] {
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(ids.get_ids(), true).unwrap(), text);
    }
}

#[test]
fn sentencepiece_puts_a_beginning_in_front_unless_told_not_to() {
    let mut file = sentencepiece(&golden("gguf-text/sentencepiece.json"));
    let text = |file: &File| file.open().unwrap().text().unwrap();
    let (bos, add_bos, stop) = (text(&file).bos, text(&file).add_bos, text(&file).stop);
    assert_eq!((bos, add_bos, stop), (Some(1), true, vec![2]));
    file.flag("tokenizer.ggml.add_bos_token", false).number("tokenizer.ggml.eos_token_id", 4);
    assert!(!text(&file).add_bos);
    assert_eq!(text(&file).stop, [4, 2], "</s> ends a turn by its name");
}

#[test]
fn extra_white_space_goes_where_the_file_says_so() {
    let mut file = sentencepiece(&golden("gguf-text/sentencepiece.json"));
    file.flag("tokenizer.ggml.remove_extra_whitespaces", true);
    let tokenizer = tokenizer(&file);
    let ids = |text: &str| tokenizer.encode(text, false).unwrap().get_ids().to_vec();
    assert_eq!(ids("  two   words "), ids("two words"));
}

#[test]
fn control_tokens_and_bytes_are_never_made_of_text() {
    let tokens = ["<unk>", "<s>", "</s>", "<", "s", ">", "s>", "<s"];
    let mut file = smallest(&tokens);
    file.text("tokenizer.ggml.model", "llama")
        .floats("tokenizer.ggml.scores", &[0., 0., 0., -1., -2., -3., -4., -5.])
        .numbers("tokenizer.ggml.token_type", &[2, 3, 3, 1, 1, 1, 1, 1])
        .flag("tokenizer.ggml.add_space_prefix", false);
    let mut tokenizer = tokenizer(&file);
    let ids = |t: &Tokenizer, text: &str| t.encode(text, false).unwrap().get_ids().to_vec();
    assert_eq!(ids(&tokenizer, "<s>"), [1]);
    assert_eq!(ids(&tokenizer, "<q>q"), [3, 0, 5, 0], "no bytes: the unknown token");
    tokenizer.set_encode_special_tokens(true);
    assert_eq!(ids(&tokenizer, "<s>"), [3, 6]);
}

#[test]
fn equal_scores_join_the_leftmost_or_are_refused() {
    let file = |tokens: &[&str], scores: &[f32]| {
        let mut file = smallest(tokens);
        file.text("tokenizer.ggml.model", "llama")
            .floats("tokenizer.ggml.scores", scores)
            .flag("tokenizer.ggml.add_space_prefix", false);
        file
    };
    // In "abc" both could be joined; ab stands to the left, bc has the smaller id.
    let tied = file(&["<unk>", "a", "b", "c", "bc", "ab"], &[0., 0., 0., 0., -1., -1.]);
    assert_eq!(tokenizer(&tied).encode("abc", false).unwrap().get_ids(), [5, 3]);
    // A run is made from its left end.
    let run = file(&["<unk>", "a", "aa", "aaa"], &[0., -1., -1., -1.]);
    assert_eq!(tokenizer(&run).encode("aaaaa", false).unwrap().get_ids(), [3, 2]);
    // Which of ab and ba comes first depends on the text.
    let error = refusal(&file(&["<unk>", "a", "b", "ab", "ba"], &[0., 0., 0., -1., -1.]));
    assert!(error.contains("tokenizer.ggml.scores") && error.contains("-1"), "{error}");
}

#[test]
fn sentencepiece_that_lacks_something_is_refused_by_name() {
    let whole = sentencepiece(&golden("gguf-text/sentencepiece.json"));
    type Change = fn(&mut File);
    let cases: [(Change, &[&str]); 5] = [
        (
            |f| {
                f.without("tokenizer.ggml.scores");
            },
            &["tokenizer.ggml.scores", "missing"],
        ),
        (
            |f| {
                f.floats("tokenizer.ggml.scores", &[1.]);
            },
            &["1 scores for 1200 tokens"],
        ),
        (
            |f| {
                f.floats("tokenizer.ggml.scores", &[f32::NAN; 1200]);
            },
            &["tokenizer.ggml.scores", "token 0", "NaN"],
        ),
        (
            |f| {
                f.text("tokenizer.ggml.scores", "x");
            },
            &["tokenizer.ggml.scores", "a string"],
        ),
        (
            |f| {
                f.flag("tokenizer.ggml.add_eos_token", true);
            },
            &["add_eos_token"],
        ),
    ];
    for (change, words) in cases {
        let mut file = whole.clone();
        change(&mut file);
        let error = refusal(&file);
        assert!(words.iter().all(|word| error.contains(word)), "{error}, expected {words:?}");
    }
    let mut file = smallest(&["<unk>", "<0x00>", "<0x01>"]);
    file.text("tokenizer.ggml.model", "llama").floats("tokenizer.ggml.scores", &[0.; 3]);
    assert!(refusal(&file).contains("2 of the 256"), "{}", refusal(&file));
}

/// The vocabulary of `wordpiece.json`.
fn wordpiece(golden: &Value) -> File {
    let mut file = smallest(&strings(&golden["tokens"]));
    file.text("tokenizer.ggml.model", "bert")
        .numbers("tokenizer.ggml.token_type", &numbers(&golden["types"]));
    let keys = ["bos_token_id", "seperator_token_id", "unknown_token_id"];
    for (key, id) in keys.iter().zip(numbers(&golden["special"])) {
        file.number(&format!("tokenizer.ggml.{key}"), id as u32);
    }
    file
}

#[test]
fn wordpiece_gives_the_ids_of_transformers_in_its_frame() {
    let golden = golden("gguf-text/wordpiece.json");
    let tokenizer = tokenizer(&wordpiece(&golden));
    same_ids("framed", &tokenizer, true, &golden["texts"], &golden["ids"]);
    let (texts, same) = (strings(&golden["texts"]).len(), numbers(&golden["llama_cpp"]).len());
    assert!(same * 10 > texts * 9, "llama.cpp agrees with {same} of {texts}");
}

#[test]
fn wordpiece_keeps_case_and_accents_where_the_file_says_so() {
    let mut file = smallest(&["[UNK]", "[CLS]", "[SEP]", "▁Ab", "▁ab", "▁é", "▁e"]);
    file.text("tokenizer.ggml.model", "bert")
        .numbers("tokenizer.ggml.token_type", &[3, 3, 3, 1, 1, 1, 1])
        .number("tokenizer.ggml.cls_token_id", 1)
        .number("tokenizer.ggml.seperator_token_id", 2)
        .number("tokenizer.ggml.unknown_token_id", 0);
    let ids = |file: &File| tokenizer(file).encode("Ab é", true).unwrap().get_ids().to_vec();
    assert_eq!(ids(&file), [1, 4, 6, 2]);
    file.flag("tokenizer.ggml.normalizer.lowercase", false);
    assert_eq!(ids(&file), [1, 3, 5, 2]);
    file.flag("tokenizer.ggml.normalizer.strip_accents", true);
    assert_eq!(ids(&file), [1, 3, 6, 2]);
    file.without("tokenizer.ggml.seperator_token_id");
    assert!(refusal(&file).contains("seperator_token_id"), "{}", refusal(&file));
    let mut twice = smallest(&["[UNK]", "[CLS]", "[SEP]", "▁##a", "a"]);
    twice
        .text("tokenizer.ggml.model", "bert")
        .number("tokenizer.ggml.bos_token_id", 1)
        .number("tokenizer.ggml.seperator_token_id", 2)
        .number("tokenizer.ggml.unknown_token_id", 0);
    assert!(refusal(&twice).contains("tokens 3 and 4"), "{}", refusal(&twice));
}

#[test]
fn the_other_pre_tokenizers_cut_where_llama_cpp_does() {
    let (vocabulary, golden) =
        (golden("pretokenizers/vocabulary.json"), golden("gguf-text/pretokenizers.json"));
    let mut file = smallest(&strings(&vocabulary["tokens"]));
    file.texts("tokenizer.ggml.merges", &strings(&vocabulary["merges"]))
        .number("tokenizer.ggml.bos_token_id", 0);
    let names = golden["ids"].as_object().unwrap();
    assert_eq!(names.len(), 17);
    for (name, ids) in names {
        file.text("tokenizer.ggml.pre", name);
        same_ids(name, &tokenizer(&file), false, &golden["texts"], ids);
    }
}

#[test]
fn a_file_without_a_pre_tokenizer_gets_the_default_one() {
    let mut file = smallest(&["a", "b", "ab"]);
    let json = |file: &File| file.open().unwrap().text().unwrap().tokenizer;
    file.text("tokenizer.ggml.pre", "default");
    let default = json(&file);
    assert_eq!(json(file.without("tokenizer.ggml.pre")), default);
}

#[test]
fn arrays_of_equal_numbers_are_one_number() {
    let mut file = smallest(&["a", "b"]);
    let one = file.open().unwrap().config().unwrap();
    file.numbers("llama.attention.head_count", &[1])
        .numbers("llama.attention.head_count_kv", &[1])
        .numbers("llama.feed_forward_length", &[4]);
    assert_eq!(file.open().unwrap().config().unwrap(), one);
}

#[test]
fn biases_behind_attention_and_in_the_feed_forward_part_are_read() {
    let mut file = smallest(&["a", "b"]);
    let names = [
        ("attn_output", "self_attn.o_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ];
    for (i, (name, _)) in names.iter().enumerate() {
        let values = [i as f32, 1., 2., 3.].iter().flat_map(|v| v.to_le_bytes()).collect();
        file.tensors.push((format!("blk.0.{name}.bias"), vec![4], 0, values));
    }
    let source = file.open().unwrap();
    for (i, (_, name)) in names.iter().enumerate() {
        let name = format!("model.layers.0.{name}.bias");
        let expected = Tensor::Dense { shape: vec![4], values: vec![i as f32, 1., 2., 3.] };
        assert_eq!(source.tensor(&name).unwrap(), Some(expected), "{name}");
    }
}

#[test]
fn special_tokens_of_phi_3_take_the_space_behind_them() {
    let mut file = smallest(&["<s>", "<|end|>", "Ġ", "a"]);
    file.numbers("tokenizer.ggml.token_type", &[3, 3, 1, 1]);
    let ids =
        |file: &File| tokenizer(file).encode("<|end|> a<s> a", false).unwrap().get_ids().to_vec();
    assert_eq!(ids(&file), [1, 2, 3, 0, 2, 3]);
    file.text("general.name", "Phi-3 mini");
    assert_eq!(ids(&file), [1, 3, 0, 2, 3]);
}
