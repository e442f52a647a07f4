//! Us against transformers, PEFT and their tokenizers: ids, hidden states and probabilities of tiny
//! RoBERTa, XLM-R, CamemBERT and DistilBERT classifiers, bare and under adapters, within 1e-5 of the
//! largest value (`Precision::Exact`).

mod model_folder;

use lowrank::RootKind;
use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::Buffer;
use lowrank::export::export_peft;
use lowrank::import::{HuggingFaceBert, bert_to_buffer, import_peft};
use lowrank::model::bert::{Bert, Pooling};
use lowrank::runtime::{Encoder, EncoderLimits, Memory, Serial, encoder_need};
use lowrank::text::Tokenizer;
use model_folder::{Folder, Stored, exact, golden};
use safetensors::SafeTensors;
use serde_json::json;

const MODELS: [(&str, RootKind); 4] = [
    ("tiny-roberta", RootKind::ROBERTA),
    ("tiny-xlm-roberta", RootKind::ROBERTA),
    ("tiny-camembert", RootKind::ROBERTA),
    ("tiny-distilbert", RootKind::DISTILBERT),
];

fn import(directory: &std::path::Path) -> Result<Buffer, String> {
    let source = HuggingFaceBert::open(directory).map_err(|error| error.to_string())?;
    bert_to_buffer(&source, &exact(), &mut |_| {}).map_err(|error| error.to_string())
}

fn import_folder(folder: &Folder) -> Result<Buffer, String> {
    let place = tempfile::tempdir().unwrap();
    folder.write(place.path());
    import(place.path())
}

fn adapter(directory: &std::path::Path, base: &Bert<'_>) -> Result<Buffer, String> {
    let builder = import_peft(directory, base, &Default::default());
    let builder = builder.map_err(|error| error.to_string())?;
    assert_eq!(builder.notes, [""; 0]);
    Ok(builder.build(base).unwrap())
}

/// Hidden states and probabilities of one text.
fn outputs(model: Bert<'_>, adapter: &[u8], ids: &[u32]) -> (Vec<f32>, Vec<f32>) {
    let limits = EncoderLimits::new(40);
    let mut slots = [Slot::EMPTY];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, Adapter::verify(adapter).unwrap()).unwrap();
    let mut memory = Memory::new(encoder_need(model.config(), &limits));
    let mut encoder = Encoder::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    encoder.select(0, &set, &[Choice::slot(0)]).unwrap();
    encoder.encode(&[ids]).unwrap();
    let mut logits = [0.0; 3];
    encoder.classify(0, &mut logits).unwrap();
    let sum: f32 = logits.iter().map(|logit| logit.exp()).sum();
    (encoder.hidden(0).unwrap().to_vec(), logits.iter().map(|logit| logit.exp() / sum).collect())
}

fn assert_close(states: &SafeTensors<'_>, key: &str, ours: &[f32]) {
    let theirs = states.tensor(key).unwrap();
    let theirs: Vec<f32> =
        theirs.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(ours.len(), theirs.len(), "{key}");
    let largest = theirs.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    let worst = ours.iter().zip(&theirs).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(worst <= 1e-5 * largest, "{key}: off by {worst:e}, largest {largest}");
}

#[test]
fn ids_states_and_probabilities_are_those_of_transformers() {
    for (name, kind) in MODELS {
        let directory = golden(name);
        let archive = import(&directory).unwrap();
        let model = Bert::verify(&archive).unwrap();
        assert_eq!((model.header().root, model.config().context), (kind, 40), "{name}");
        let facts: serde_json::Value =
            serde_json::from_slice(&std::fs::read(directory.join("tokens.json")).unwrap()).unwrap();
        let bytes = std::fs::read(directory.join("states.safetensors")).unwrap();
        let states = SafeTensors::deserialize(&bytes).unwrap();
        let tokenizer = Tokenizer::for_encoder(&model).unwrap();
        let head = adapter(&directory, &model).unwrap();
        let opened = Adapter::verify(&head).unwrap();
        let labels: Vec<_> = opened.classifier().unwrap().labels().collect();
        assert_eq!((opened.targets().len(), labels), (0, vec!["dull", "fair", "fine"]));
        let variants = ["lora", "dora"].map(|variant| {
            let archive = adapter(&directory.join("adapters").join(variant), &model).unwrap();
            (variant, archive)
        });
        for (i, text) in facts["texts"].as_array().unwrap().iter().enumerate() {
            let theirs: Vec<u32> = serde_json::from_value(facts["sequences"][i].clone()).unwrap();
            let (ids, cut) = tokenizer.encode_text(text.as_str().unwrap(), 40).unwrap();
            assert_eq!((&ids, cut), (&theirs, 0), "{name}: {text}");
            let (hidden, probabilities) = outputs(model, &head, &ids);
            assert_close(&states, &format!("base.hidden.{i}"), &hidden);
            assert_close(&states, &format!("base.probabilities.{i}"), &probabilities);
            for (variant, archive) in &variants {
                let (hidden, probabilities) = outputs(model, archive, &ids);
                if i == 0 {
                    assert_close(&states, &format!("{variant}.hidden.0"), &hidden);
                }
                assert_close(&states, &format!("{variant}.probabilities.{i}"), &probabilities);
            }
        }
    }
}

/// The special tokens around two texts, by the tokenizer that the archive holds; the class is that
/// of the model's type where the folder names none.
#[test]
fn pairs_are_framed_as_transformers_frames_them() {
    for (name, _) in MODELS {
        let mut folder = Folder::golden(name);
        let bytes = std::fs::read(golden(name).join("tokenizer.json")).unwrap();
        folder.files.insert("tokenizer.json".into(), bytes);
        let archive = import_folder(&folder).unwrap();
        let model = Bert::open(&archive).unwrap();
        let bytes = std::fs::read(golden(name).join("tokens.json")).unwrap();
        let facts: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let tokenizer = tokenizers::Tokenizer::from_bytes(model.tokenizer_json()).unwrap();
        let [first, second] = [0, 1].map(|i| facts["texts"][i].as_str().unwrap().to_owned());
        let pair = tokenizer.encode((first, second), true).unwrap();
        assert_eq!(json!(pair.get_ids()), facts["pair"], "{name}");
    }
}

#[test]
fn adapters_go_back_to_peft_and_return_the_same() {
    for (name, _) in MODELS {
        let archive = import(&golden(name)).unwrap();
        let model = Bert::open(&archive).unwrap();
        for variant in ["lora", "dora"] {
            let theirs = golden(name).join("adapters").join(variant);
            let first = adapter(&theirs, &model).unwrap();
            let place = tempfile::tempdir().unwrap();
            export_peft(&Adapter::open(&first).unwrap(), &model, place.path()).unwrap();
            let again = adapter(place.path(), &model).unwrap();
            let fingerprint = |bytes: &[u8]| Adapter::verify(bytes).unwrap().fingerprint();
            assert_eq!(fingerprint(&first), fingerprint(&again), "{name} {variant}");
            // PEFT's own file has the same tensors under the same names.
            let tensors = |folder: &std::path::Path| {
                let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
                let tensors = SafeTensors::deserialize(&bytes).unwrap();
                let mut all: Vec<_> = tensors
                    .tensors()
                    .into_iter()
                    .map(|(name, t)| (name, t.shape().to_vec(), t.data().to_vec()))
                    .collect();
                all.sort();
                all
            };
            assert!(tensors(place.path()) == tensors(&theirs), "{name} {variant}");
        }
    }
}

/// A base without pooler takes PEFT's adapters, which bring one, and not the checkpoint's head.
#[test]
fn an_adapter_brings_the_pooler_that_a_base_lacks() {
    for (name, _) in MODELS {
        let mut folder = Folder::golden(name);
        folder.config["architectures"] = json!(["SomethingModel"]);
        folder.tensors = std::mem::take(&mut folder.tensors)
            .into_iter()
            .filter(|(name, _)| !name.starts_with("classifier") && !name.starts_with("pre_"))
            .map(|(name, tensor)| (name.split_once('.').unwrap().1.to_owned(), tensor))
            .collect();
        let archive = import_folder(&folder).unwrap();
        let model = Bert::verify(&archive).unwrap();
        assert!(model.pooler().is_none() && model.classifier_pooling() == Pooling::Mean);
        let lora = adapter(&golden(name).join("adapters/lora"), &model).unwrap();
        let full = import(&golden(name)).unwrap();
        let full = Bert::open(&full).unwrap();
        let on_full = adapter(&golden(name).join("adapters/lora"), &full).unwrap();
        let ids = [1, 9, 12, 3, 30];
        assert_eq!(outputs(model, &lora, &ids), outputs(full, &on_full, &ids), "{name}");
        let refused = adapter(&golden(name), &model).unwrap_err();
        assert!(refused.contains("no pooler"), "{refused}");
        // Its own pooler leaves the pooling of the base alone.
        let limits = EncoderLimits::new(8);
        let mut memory = Memory::new(encoder_need(model.config(), &limits));
        let mut encoder = Encoder::new(model, &limits, memory.as_mut(), &Serial).unwrap();
        encoder.encode(&[&ids]).unwrap();
        assert!(encoder.pooled(0, Pooling::Pooler).is_err());
    }
}

#[test]
fn parts_of_pretraining_are_left_out_and_names_of_the_bare_model_are_known() {
    for (name, head) in
        [("tiny-roberta", "lm_head.bias"), ("tiny-distilbert", "vocab_projector.bias")]
    {
        let plain = import(&golden(name)).unwrap();
        let mut folder = Folder::golden(name);
        folder.tensors.insert(head.into(), Stored::f32(&[128], &[0.5; 128]));
        folder.files.insert(
            "tokenizer.json".into(),
            std::fs::read(golden(name).join("tokenizer.json")).unwrap(),
        );
        let fingerprint = |bytes: &[u8]| Bert::verify(bytes).unwrap().fingerprint();
        assert_eq!(fingerprint(&import_folder(&folder).unwrap()), fingerprint(&plain), "{name}");
    }
}

/// What transformers does not look at, or reads under another name.
#[test]
fn what_transformers_ignores_changes_nothing() {
    let changes: [(&str, Change); 6] = [
        ("tiny-distilbert", |f| f.config["layer_norm_eps"] = json!(0.01)),
        ("tiny-distilbert", |f| {
            let fields = f.config.as_object_mut().unwrap();
            for (name, alias) in [
                ("dim", "hidden_size"),
                ("n_heads", "num_attention_heads"),
                ("n_layers", "num_hidden_layers"),
            ] {
                let value = fields.remove(name).unwrap();
                fields.insert(alias.into(), value);
            }
        }),
        ("tiny-distilbert", |f| f.config["num_attention_heads"] = json!(4)),
        // RobertaForSequenceClassification has no pooler but its head's; older checkpoints keep one.
        ("tiny-roberta", |f| {
            for part in ["weight", "bias"] {
                one(f, &format!("roberta.pooler.dense.{part}"));
            }
        }),
        ("tiny-roberta", |f| drop(f.config.as_object_mut().unwrap().remove("id2label"))),
        ("tiny-roberta", |f| f.config["architectures"] = json!(["RobertaModel"])),
    ];
    for (index, (name, change)) in changes.into_iter().enumerate() {
        let mut folder = Folder::golden(name);
        folder.files.insert(
            "tokenizer.json".into(),
            std::fs::read(golden(name).join("tokenizer.json")).unwrap(),
        );
        let plain = import_folder(&folder).unwrap();
        change(&mut folder);
        let changed = import_folder(&folder).unwrap();
        let fingerprint = |bytes: &[u8]| Bert::verify(bytes).unwrap().fingerprint();
        assert_eq!(fingerprint(&changed), fingerprint(&plain), "change {index} of {name}");
    }
}

/// RoBERTa, XLM-R and CamemBERT count no position at the token that fills batches up.
#[test]
fn texts_with_a_pad_and_pads_that_texts_have_are_refused() {
    for (name, kind) in MODELS {
        let archive = import(&golden(name)).unwrap();
        let tokenizer = Tokenizer::for_encoder(&Bert::open(&archive).unwrap()).unwrap();
        let pad = if kind == RootKind::ROBERTA { "<pad>" } else { "[PAD]" };
        let encoded = tokenizer.encode_text(&format!("a {pad} film"), 40);
        if kind == RootKind::ROBERTA {
            let error = encoded.unwrap_err().to_string();
            assert!(error.contains(pad) && error.contains("take it out"), "{error}");
        } else {
            assert!(encoded.is_ok(), "{name} counts every token");
        }
        assert!(tokenizer.encode_text("a film", 40).is_ok());
    }
    let mut folder = Folder::golden("tiny-roberta");
    let tokenizer = std::fs::read(golden("tiny-roberta").join("tokenizer.json")).unwrap();
    folder.files.insert("tokenizer.json".into(), tokenizer);
    folder.config["pad_token_id"] = json!(0);
    folder.config["max_position_embeddings"] = json!(42);
    let error = import_folder(&folder).unwrap_err();
    assert!(error.contains("pad_token_id") && error.contains("<s>"), "{error}");
}

type Change = fn(&mut Folder);

fn one(folder: &mut Folder, name: &str) {
    folder.tensors.insert(name.into(), Stored::f32(&[1], &[1.0]));
}

#[test]
fn what_would_change_the_model_is_refused_by_name() {
    let changes: [(&str, &str, Change); 14] = [
        ("tiny-roberta", "more than 101 were expected", |f| f.config["pad_token_id"] = json!(100)),
        ("tiny-roberta", "more than 42 were expected", |f| f.config["pad_token_id"] = json!(41)),
        ("tiny-roberta", "pad_token_id", |f| f.config["pad_token_id"] = json!(u64::MAX)),
        ("tiny-roberta", "max_position_embeddings", |f| {
            f.config["max_position_embeddings"] = json!(2)
        }),
        ("tiny-roberta", "embeddings.position_embeddings.weight", |f| {
            f.config["max_position_embeddings"] = json!(41)
        }),
        ("tiny-roberta", "encoder.layer.1.output.dense.bias: the tensor is missing", |f| {
            drop(f.tensors.remove("roberta.encoder.layer.1.output.dense.bias"))
        }),
        ("tiny-roberta", "classifier.weight: is no part", |f| one(f, "classifier.weight")),
        ("tiny-roberta", "qa_outputs.bias: is no part", |f| one(f, "qa_outputs.bias")),
        ("tiny-roberta", "layer_norm_eps: 0: a number above 0", |f| {
            f.config["layer_norm_eps"] = json!(0.0)
        }),
        ("tiny-roberta", "num_attention_heads: 5: a divisor of hidden_size, 32", |f| {
            f.config["num_attention_heads"] = json!(5)
        }),
        ("tiny-distilbert", "num_attention_heads: 8: n_heads is 4", |f| {
            f.config["num_attention_heads"] = json!(8)
        }),
        ("tiny-distilbert", "classifier: this classifier reads the output of a pooler", |f| {
            drop(f.tensors.remove("pre_classifier.weight"))
        }),
        ("tiny-distilbert", "DistilBertForMultipleChoice", |f| {
            f.config["architectures"] = json!(["DistilBertForMultipleChoice"])
        }),
        ("tiny-distilbert", "n_heads", |f| {
            drop(f.config.as_object_mut().unwrap().remove("n_heads"))
        }),
    ];
    for (name, part, change) in changes {
        let mut folder = Folder::golden(name);
        change(&mut folder);
        let error = import_folder(&folder).expect_err(part);
        assert!(error.contains(part) && !error.contains('\n'), "\"{part}\" is not in: {error}");
    }
    // transformers' default is 1, which these models have.
    let mut folder = Folder::golden("tiny-roberta");
    folder.config.as_object_mut().unwrap().remove("pad_token_id");
    assert_eq!(Bert::open(&import_folder(&folder).unwrap()).unwrap().config().context, 40);
}

#[test]
fn heads_that_do_not_fit_are_refused_by_name() {
    let archive = import(&golden("tiny-distilbert")).unwrap();
    let model = Bert::open(&archive).unwrap();
    let changes: [(&str, Change); 9] = [
        ("transformer.layer.0.attention.q_lin.weight: [1, 2]", |f| {
            f.tensor("distilbert.transformer.layer.0.attention.q_lin.weight").put(34, 9.0)
        }),
        ("num_labels: a classifier of one label", |f| {
            f.config.as_object_mut().unwrap().remove("id2label");
            f.config["num_labels"] = json!(1);
        }),
        ("no classifier of texts", |f| f.config["architectures"] = json!(["DistilBertModel"])),
        ("problem_type", |f| f.config["problem_type"] = json!("multi_label_classification")),
        ("id2label", |f| f.config["id2label"] = json!({ "0": "score" })),
        ("the configuration asks for [2", |f| f.config["id2label"] = json!({ "0": "a", "1": "b" })),
        ("classifier.bias: the tensor is missing", |f| drop(f.tensors.remove("classifier.bias"))),
        ("no classifier of texts", |f| {
            f.tensors.retain(|name, _| !name.starts_with("classifier."));
        }),
        ("pre_classifier.weight: [0, 3]", |f| f.tensor("pre_classifier.weight").put(3, 9.0)),
    ];
    for (part, change) in changes {
        let mut folder = Folder::golden("tiny-distilbert");
        change(&mut folder);
        let place = tempfile::tempdir().unwrap();
        folder.write(place.path());
        let error = adapter(place.path(), &model).expect_err(part);
        assert!(error.contains(part) && !error.contains('\n'), "\"{part}\" is not in: {error}");
    }
    let error = adapter(&golden("tiny-roberta"), &model).unwrap_err();
    assert!(error.contains("a DistilBERT base of another model"), "{error}");
}

#[test]
fn peft_classifiers_of_anything_but_texts_with_one_label_of_several_are_refused() {
    let archive = import(&golden("tiny-roberta")).unwrap();
    let model = Bert::open(&archive).unwrap();
    let source = golden("tiny-roberta").join("adapters/lora");
    let read = |name: &str| std::fs::read(source.join(name)).unwrap();
    let import = |config: &serde_json::Value, beside: Option<&str>| {
        let folder = tempfile::tempdir().unwrap();
        let put =
            |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
        put("adapter_model.safetensors", &read("adapter_model.safetensors"));
        put("adapter_config.json", config.to_string().as_bytes());
        beside.iter().for_each(|text| put("config.json", text.as_bytes()));
        import_peft(folder.path(), &model, &Default::default())
    };
    let config: serde_json::Value = serde_json::from_slice(&read("adapter_config.json")).unwrap();
    let mut tokens = config.clone();
    tokens["task_type"] = json!("TOKEN_CLS");
    let error = import(&tokens, None).unwrap_err().to_string();
    assert!(error.contains("task_type") && error.contains("SEQ_CLS"), "{error}");
    let beside = r#"{"problem_type": "multi_label_classification"}"#;
    let error = import(&config, Some(beside)).unwrap_err().to_string();
    assert!(error.contains("multi_label_classification"), "{error}");
    // Full names, as PEFT writes them for all-linear, have the prefix of task models.
    let mut full = config.clone();
    let of_layer = |layer: usize| {
        ["query", "key", "value"]
            .map(|part| format!("roberta.encoder.layer.{layer}.attention.self.{part}"))
    };
    let mut names: Vec<String> = (0..2).flat_map(of_layer).collect();
    names.push("classifier.dense".to_owned());
    full["target_modules"] = json!(names);
    let notes = import(&full, None).unwrap().notes;
    assert!(!notes.iter().any(|note| note.contains("does not have")), "{notes:?}");
}
