//! Us against transformers and PEFT: hidden states, pooled vectors and logits of a tiny encoder
//! with every kind of adapter, within 1e-5 of the largest value (`Precision::Exact`).

mod model_folder;

use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::Buffer;
use lowrank::export::export_peft;
use lowrank::import::{BaseOptions, HuggingFaceBert, bert_to_buffer, import_peft};
use lowrank::model::bert::{Bert, Pooling};
use lowrank::runtime::{Encoder, EncoderLimits, Executor, Memory, Serial, Threads, encoder_need};
use model_folder::{Folder, exact, golden};
use safetensors::SafeTensors;
use serde_json::json;

fn import(folder: &Folder) -> Result<Buffer, String> {
    let place = tempfile::tempdir().unwrap();
    folder.write(place.path());
    let source = HuggingFaceBert::open(place.path()).map_err(|error| error.to_string())?;
    bert_to_buffer(&source, &exact(), &mut |_| {}).map_err(|error| error.to_string())
}

fn peft(name: &str, base: &Bert<'_>) -> Buffer {
    import_peft(golden(&format!("tiny-bert/adapters/{name}")), base, &Default::default())
        .unwrap()
        .build(base)
        .unwrap()
}

struct Golden {
    bytes: Vec<u8>,
    sequences: Vec<Vec<u32>>,
    types: Vec<Vec<u32>>,
}

impl Golden {
    fn read() -> Self {
        let tokens: serde_json::Value =
            serde_json::from_slice(&std::fs::read(golden("tiny-bert/tokens.json")).unwrap())
                .unwrap();
        let ids = |key: &str| serde_json::from_value(tokens[key].clone()).unwrap();
        let bytes = std::fs::read(golden("tiny-bert/states.safetensors")).unwrap();
        Self { bytes, sequences: ids("sequences"), types: ids("types") }
    }

    fn tensor(&self, key: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        tensors
            .tensor(key)
            .unwrap()
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    fn assert_close(&self, key: &str, ours: &[f32]) {
        let theirs = self.tensor(key);
        assert_eq!(ours.len(), theirs.len(), "{key}");
        let largest = theirs.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let worst = ours.iter().zip(&theirs).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(worst <= 1e-5 * largest, "{key}: off by {worst:e}, largest {largest}");
    }

    /// All texts in one batch, under one adapter or none.
    fn check(&self, name: &str, model: Bert<'_>, adapter: Option<&Buffer>, texts: usize) {
        let threads = Threads::new(2).unwrap();
        for (threads, executor) in [(1, &Serial as &dyn Executor), (2, &threads)] {
            let limits =
                EncoderLimits { batch: texts, tokens: 40, threads, ..EncoderLimits::new(40) };
            let mut slots = [Slot::EMPTY];
            let mut set = AdapterSet::new(&mut slots, &model);
            let mut memory = Memory::new(encoder_need(model.config(), &limits));
            let mut encoder = Encoder::new(model, &limits, memory.as_mut(), executor).unwrap();
            if let Some(archive) = adapter {
                set.attach(0, Adapter::verify(archive).unwrap()).unwrap();
                (0..texts).for_each(|sequence| {
                    encoder.select(sequence, &set, &[Choice::slot(0)]).unwrap()
                });
            }
            let both = [&self.sequences, &self.types]
                .map(|lists| lists[..texts].iter().map(Vec::as_slice).collect::<Vec<_>>());
            encoder.encode_with_types(&both[0], &both[1]).unwrap();
            for i in 0..texts {
                if name == "classifier" {
                    let mut logits = [0.0; 3];
                    encoder.classify(i, &mut logits).unwrap();
                    self.assert_close(&format!("classifier.logits.{i}"), &logits);
                    continue;
                }
                let hidden = encoder.hidden(i).unwrap().to_vec();
                self.assert_close(&format!("{name}.hidden.{i}"), &hidden);
                self.assert_close(
                    &format!("{name}.mean.{i}"),
                    encoder.pooled(i, Pooling::Mean).unwrap(),
                );
                self.assert_close(
                    &format!("{name}.pooler.{i}"),
                    encoder.pooled(i, Pooling::Pooler).unwrap(),
                );
                assert_eq!(encoder.pooled(i, Pooling::Cls).unwrap(), &hidden[..model.config().dim]);
            }
        }
    }
}

#[test]
fn states_and_vectors_under_every_kind_of_adapter() {
    let golden = Golden::read();
    let archive = import(&Folder::golden("tiny-bert")).unwrap();
    let model = Bert::verify(&archive).unwrap();
    golden.check("base", model, None, 4);
    for name in ["lora", "dora", "embedding", "classifier"] {
        golden.check(name, model, Some(&peft(name, &model)), 4);
    }
    let classifier = peft("classifier", &model);
    let labels: Vec<_> =
        Adapter::open(&classifier).unwrap().classifier().unwrap().labels().collect();
    assert_eq!(labels, ["LABEL_0", "LABEL_1", "LABEL_2"]);
}

#[test]
fn other_activations() {
    let golden = Golden::read();
    for activation in ["gelu_new", "relu"] {
        let mut folder = Folder::golden("tiny-bert");
        folder.config["hidden_act"] = json!(activation);
        golden.check(activation, Bert::open(&import(&folder).unwrap()).unwrap(), None, 1);
    }
}

#[test]
fn the_same_model_from_a_task_checkpoint_and_under_old_names() {
    let folder = Folder::golden("tiny-bert");
    let plain = Bert::open(&import(&folder).unwrap()).unwrap().fingerprint();
    let mut renamed = folder.clone();
    renamed.tensors = std::mem::take(&mut renamed.tensors)
        .into_iter()
        .map(|(name, tensor)| {
            (
                format!(
                    "bert.{}",
                    name.replace("LayerNorm.weight", "LayerNorm.gamma")
                        .replace("LayerNorm.bias", "LayerNorm.beta")
                ),
                tensor,
            )
        })
        .collect();
    renamed
        .tensors
        .insert("cls.predictions.bias".into(), model_folder::Stored::f32(&[96], &[0.5; 96]));
    assert_eq!(Bert::open(&import(&renamed).unwrap()).unwrap().fingerprint(), plain);

    let mut bare = folder.clone();
    bare.tensors.retain(|name, _| !name.starts_with("pooler."));
    let archive = import(&bare).unwrap();
    let model = Bert::open(&archive).unwrap();
    assert!(
        model.pooler().is_none()
            && model.fingerprint() != plain
            && model.classifier_pooling() == Pooling::Mean
    );
    let refused = import_peft(golden("tiny-bert/adapters/classifier"), &model, &Default::default())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("pooler"), "{refused}");
}

#[test]
fn a_checkpoint_that_classifies_is_a_base_and_the_adapter_of_its_classifier() {
    let plain = import(&Folder::golden("tiny-bert")).unwrap();
    let plain = Bert::open(&plain).unwrap();
    let mut folder = Folder::golden("tiny-bert");
    folder.config["architectures"] = json!(["BertForSequenceClassification"]);
    folder.config["id2label"] = json!({ "0": "no", "1": "yes" });
    folder.tensors = std::mem::take(&mut folder.tensors)
        .into_iter()
        .map(|(name, tensor)| (format!("bert.{name}"), tensor))
        .collect();
    let weight: Vec<f32> = (0..96).map(|i| i as f32 / 48.0 - 1.0).collect();
    folder.tensors.insert("classifier.weight".into(), model_folder::Stored::f32(&[2, 48], &weight));
    folder.tensors.insert("classifier.bias".into(), model_folder::Stored::f32(&[2], &[0.5, -0.5]));
    let archive = import(&folder).unwrap();
    assert_eq!(Bert::open(&archive).unwrap().fingerprint(), plain.fingerprint());
    let place = tempfile::tempdir().unwrap();
    folder.write(place.path());
    let head = import_peft(place.path(), &plain, &Default::default()).unwrap();
    let classifier = head.classifier.as_ref().unwrap();
    assert_eq!((&classifier.weight, &classifier.bias[..]), (&weight, &[0.5, -0.5][..]));
    assert_eq!(classifier.labels, ["no", "yes"]);
    assert!(head.pooler.is_none() && head.targets.is_empty());
    folder.config["architectures"] = json!(["BertForTokenClassification"]);
    let error = import(&folder).unwrap_err();
    assert!(error.contains("BertForTokenClassification"), "{error}");
}

#[test]
fn what_sentence_transformers_says_is_kept() {
    let mut folder = Folder::golden("tiny-bert");
    let modules = json!([
        { "type": "sentence_transformers.models.Transformer", "path": "" },
        { "type": "sentence_transformers.models.Pooling", "path": "" },
        { "type": "sentence_transformers.models.Normalize", "path": "2_Normalize" },
    ]);
    folder.config["pooling_mode_cls_token"] = json!(true);
    folder.files.insert("modules.json".into(), modules.to_string().into_bytes());
    folder.files.insert(
        "sentence_bert_config.json".into(),
        br#"{"max_seq_length": 30, "do_lower_case": false}"#.to_vec(),
    );
    let archive = import(&folder).unwrap();
    let model = Bert::open(&archive).unwrap();
    assert_eq!(
        (model.config().pooling, model.config().normalize, model.max_length()),
        (Pooling::Cls, true, 30)
    );

    for (modules, part) in [
        (
            json!([{ "type": "sentence_transformers.models.Dense", "path": "2_Dense" }]),
            "models.Dense",
        ),
        (
            json!([{ "type": "sentence_transformers.models.Transformer", "path": "0_Transformer" }]),
            "0_Transformer",
        ),
        (json!({}), "a list of modules"),
    ] {
        folder.files.insert("modules.json".into(), modules.to_string().into_bytes());
        let error = import(&folder).unwrap_err();
        assert!(error.contains(part) && error.contains("modules.json"), "{error}");
    }
}

#[test]
fn what_would_change_the_model_is_refused_by_name() {
    type Change = fn(&mut Folder);
    let changes: [(&str, Change); 12] = [
        ("hidden_act", |f| f.config["hidden_act"] = json!("mish")),
        ("position_embedding_type", |f| {
            f.config["position_embedding_type"] = json!("relative_key")
        }),
        ("is_decoder", |f| f.config["is_decoder"] = json!(true)),
        ("model_type", |f| f.config["model_type"] = json!("albert")),
        ("a divisor of hidden_size, 48", |f| f.config["num_attention_heads"] = json!(5)),
        ("layer_norm_eps", |f| f.config["layer_norm_eps"] = json!("small")),
        ("encoder.layer.1.output.dense.bias: the tensor is missing", |f| {
            drop(f.tensors.remove("encoder.layer.1.output.dense.bias"))
        }),
        ("embeddings.LayerNorm.weight: the tensor is missing", |f| {
            drop(f.tensors.remove("embeddings.LayerNorm.weight"))
        }),
        ("shape [40, 48]", |f| f.config["max_position_embeddings"] = json!(41)),
        ("encoder.extra", |f| {
            drop(f.tensors.insert("encoder.extra".into(), model_folder::Stored::f32(&[1], &[1.0])))
        }),
        ("qa_outputs.weight", |f| {
            drop(
                f.tensors
                    .insert("qa_outputs.weight".into(), model_folder::Stored::f32(&[1], &[1.0])),
            )
        }),
        ("value 3 is NaN", |f| f.tensor("pooler.dense.bias").put(3, f32::NAN)),
    ];
    for (part, change) in changes {
        let mut folder = Folder::golden("tiny-bert");
        change(&mut folder);
        let error = import(&folder).expect_err(part);
        assert!(error.contains(part) && !error.contains('\n'), "\"{part}\" is not in: {error}");
    }
    let place = tempfile::tempdir().unwrap();
    Folder::golden("tiny-bert").write(place.path());
    let source = HuggingFaceBert::open(place.path()).unwrap();
    let error =
        bert_to_buffer(&source, &BaseOptions::default(), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
}

#[test]
fn adapters_go_back_to_peft_and_return_the_same() {
    let archive = import(&Folder::golden("tiny-bert")).unwrap();
    let model = Bert::open(&archive).unwrap();
    for name in ["lora", "dora", "embedding", "classifier"] {
        let first = peft(name, &model);
        let place = tempfile::tempdir().unwrap();
        export_peft(&Adapter::open(&first).unwrap(), &model, place.path()).unwrap();
        let again =
            import_peft(place.path(), &model, &Default::default()).unwrap().build(&model).unwrap();
        assert_eq!(
            Adapter::open(&again).unwrap().fingerprint(),
            Adapter::open(&first).unwrap().fingerprint(),
            "{name}"
        );
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
        assert!(
            tensors(place.path()) == tensors(&golden(&format!("tiny-bert/adapters/{name}"))),
            "{name}"
        );
        let config: serde_json::Value = serde_json::from_slice(
            &std::fs::read(place.path().join("adapter_config.json")).unwrap(),
        )
        .unwrap();
        let mut modules: Vec<String> =
            serde_json::from_value(config["target_modules"].clone()).unwrap();
        modules.sort();
        let expected: &[&str] = match name {
            "classifier" => &["query", "value"],
            "embedding" => &["query", "word_embeddings"],
            _ => &["dense", "key", "query", "value"],
        };
        assert_eq!(
            (modules, config["task_type"] == "SEQ_CLS"),
            (expected.iter().map(|&name| name.to_owned()).collect(), name == "classifier")
        );
    }
}
