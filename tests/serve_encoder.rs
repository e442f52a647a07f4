//! Vectors and labels over HTTP: what each text gets is what the library gives it alone, whoever
//! asks beside it; a server may have a decoder, an encoder or both.

mod common;
mod http_server;

use std::sync::Arc;
use std::thread::scope;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{all_bert_linear, bert_adapter};
use http_server::{Server, asset, run};
use lowrank::adapter::{Adapter, AdapterSet, Bytes, Choice, SharedAdapter, Slot};
use lowrank::archive::{ArchiveFile, Buffer};
use lowrank::engine::{EncoderScheduler, Expected, RegistryOptions, Scheduler};
use lowrank::import::{BaseOptions, fresh_to_buffer};
use lowrank::model::bert::Bert;
use lowrank::runtime::{Encoder, EncoderLimits, Limits, Memory, Serial, encoder_need};
use lowrank::serve::{Models, Served, ServerOptions, open_registry};
use lowrank::text::Tokenizer;
use serde_json::{Value, json};

const CONTEXT: usize = 32;
const TEXTS: [&str; 4] = ["a boat", "two ducks on a lake", "rain", "nothing to see"];
const LABELS: [&str; 3] = ["bad", "so so", "good"];

/// An encoder with adapters: two of LoRA and DoRA, and one that classifies.
struct Parts {
    base: Arc<Buffer>,
    adapters: Vec<(&'static str, Arc<Buffer>)>,
}

fn parts() -> Parts {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.json");
    let config = json!({
        "model_type": "bert", "tokenizer": "bytes", "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": CONTEXT,
    });
    std::fs::write(&path, config.to_string()).unwrap();
    let base = Arc::new(fresh_to_buffer(&path, 5, &BaseOptions::default()).unwrap());
    let model = Bert::open(&base).unwrap();
    let sites = all_bert_linear(model.config());
    let adapter =
        |dora, labels: &[&str], seed| Arc::new(bert_adapter(&model, &sites, dora, labels, seed));
    let adapters = vec![
        ("plain", adapter(false, &[], 1)),
        ("dora", adapter(true, &[], 2)),
        ("mood", adapter(false, &LABELS, 3)),
    ];
    Parts { base, adapters }
}

impl Parts {
    fn scheduler(&self, most: usize) -> EncoderScheduler {
        let limits = |model: &Bert<'_>, executor: &dyn lowrank::runtime::Executor| EncoderLimits {
            batch: 3,
            tokens: 40,
            max_total_rank: 64,
            ..EncoderLimits::for_model(model, executor)
        };
        EncoderScheduler::start(self.base.clone(), Arc::new(Serial), most, limits).unwrap()
    }

    fn start(&self, decoder: bool, most: usize) -> Server {
        let tiny = Bytes::from(ArchiveFile::open(asset("tiny.lrk")).unwrap());
        let mut models = Models::default();
        let mut bases = vec![Bytes::from(Arc::clone(&self.base))];
        if decoder {
            let scheduler =
                Scheduler::start(tiny.clone(), Arc::new(Serial), 4, |model, executor| {
                    Limits::for_model(model, 64, executor)
                });
            let scheduler = scheduler.unwrap();
            models.decoder = Some(Served { name: "tiny".to_owned(), scheduler });
            bases.insert(0, tiny);
        }
        models.encoder = Some(Served { name: "enc".to_owned(), scheduler: self.scheduler(most) });
        let registry = open_registry(&bases, RegistryOptions::default()).unwrap();
        for (name, adapter) in &self.adapters {
            let adapter = SharedAdapter::open(adapter.clone()).unwrap();
            registry.insert(*name, adapter, Expected::Absent).unwrap();
        }
        if decoder {
            registry.load("pirate", asset("tiny-pirate.lrk"), Expected::Absent).unwrap();
        }
        run(models, registry, ServerOptions::default())
    }

    /// What the library says of a text alone: its vector, and its labels if there are some.
    fn alone(&self, adapter: Option<&str>, text: &str) -> (Vec<f32>, Vec<f32>) {
        let model = Bert::open(&self.base).unwrap();
        let ids = Tokenizer::for_encoder(&model).unwrap().encode_text(text, CONTEXT).unwrap().0;
        let limits = EncoderLimits::new(CONTEXT);
        let mut memory = Memory::new(encoder_need(model.config(), &limits));
        let mut encoder = Encoder::new(model, &limits, memory.as_mut(), &Serial).unwrap();
        let mut slots = [Slot::EMPTY];
        let mut set = AdapterSet::new(&mut slots, &model);
        if let Some(name) = adapter {
            let found = self.adapters.iter().find(|(known, _)| *known == name).unwrap();
            set.attach(0, Adapter::open(&found.1).unwrap()).unwrap();
            encoder.select(0, &set, &[Choice::slot(0)]).unwrap();
        }
        encoder.encode(&[&ids]).unwrap();
        let vector = encoder.embedding(0).unwrap().to_vec();
        let Ok(classifier) = encoder.classifier(0) else { return (vector, Vec::new()) };
        let mut logits = vec![0.0; classifier.len()];
        encoder.classify(0, &mut logits).unwrap();
        let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        let labels = logits.iter().map(|&logit| (f64::from(logit).exp() / total) as f32);
        (vector, labels.collect())
    }
}

fn floats(value: &Value) -> Vec<f32> {
    let number = |value: &Value| value.as_f64().unwrap() as f32;
    value.as_array().unwrap().iter().map(number).collect()
}

#[test]
fn every_text_gets_what_it_gets_alone() {
    let parts = parts();
    let server = parts.start(false, 64);
    let models = [("enc", None), ("plain", Some("plain")), ("dora", Some("dora"))];
    scope(|scope| {
        for client in 0..6 {
            let (parts, server) = (&parts, &server);
            scope.spawn(move || {
                for round in 0..4 {
                    let (model, adapter) = models[(client + round) % models.len()];
                    let texts: Vec<&str> =
                        TEXTS.into_iter().cycle().skip(client).take(1 + 3 * round).collect();
                    let body = json!({ "model": model, "input": texts });
                    let (status, said) = server.post("/v1/embeddings", &body);
                    assert_eq!(status, 200, "{said}");
                    let rows = said["data"].as_array().unwrap();
                    assert_eq!(rows.len(), texts.len());
                    for ((index, row), text) in rows.iter().enumerate().zip(texts) {
                        assert_eq!(row["index"], index);
                        let expected = parts.alone(adapter, text).0;
                        assert_eq!(floats(&row["embedding"]), expected, "{model}: {text}");
                    }
                }
            });
        }
    });
    let body = json!({ "input": TEXTS[0], "encoding_format": "base64" });
    let (_, said) = server.post("/v1/embeddings", &body);
    let bytes = STANDARD.decode(said["data"][0]["embedding"].as_str().unwrap()).unwrap();
    let vector: Vec<f32> =
        bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    assert_eq!(vector, parts.alone(None, TEXTS[0]).0);
    let (_, tokens) = server.post("/tokenize", &json!({ "prompt": TEXTS[0] }));
    assert_eq!(said["usage"]["total_tokens"], tokens["count"]);
    let (_, by_ids) = server.post("/v1/embeddings", &json!({ "input": tokens["tokens"] }));
    assert_eq!(floats(&by_ids["data"][0]["embedding"]), vector);
    server.finish();
}

#[test]
fn labels_are_those_of_the_adapters_classifier() {
    let parts = parts();
    let server = parts.start(true, 64);
    let (status, said) = server.post("/classify", &json!({ "model": "mood", "input": TEXTS }));
    assert_eq!(status, 200, "{said}");
    assert_eq!(said["labels"], json!(LABELS));
    for (row, text) in said["data"].as_array().unwrap().iter().zip(TEXTS) {
        let (found, expected) = (floats(&row["probs"]), parts.alone(Some("mood"), text).1);
        assert_eq!((found.len(), &row["num_classes"]), (3, &json!(3)));
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{text}");
        let best = (0..3).max_by(|&a, &b| found[a].total_cmp(&found[b])).unwrap();
        assert_eq!(row["label"], LABELS[best]);
    }
    for model in ["plain", "enc"] {
        let (status, said) = server.post("/classify", &json!({ "model": model, "input": "a" }));
        assert_eq!((status, &said["error"]["param"]), (400, &json!("model")), "{said}");
    }
    // Each base has its own adapters, and says whose they are.
    let (_, cards) = server.get("/v1/models");
    let parent = |name: &str| {
        let card = cards["data"].as_array().unwrap().iter().find(|card| card["id"] == name);
        card.unwrap()["parent"].clone()
    };
    assert_eq!([parent("tiny"), parent("enc")], [Value::Null, Value::Null]);
    assert_eq!([parent("pirate"), parent("mood")], [json!("tiny"), json!("enc")]);
    let ask = |path: &str, model: &str| {
        let body = json!({ "model": model, "input": "a", "prompt": "a" });
        let field = if path == "/v1/embeddings" { "prompt" } else { "input" };
        let mut body = body.as_object().unwrap().clone();
        body.remove(field);
        server.post(path, &Value::Object(body))
    };
    assert_eq!(ask("/v1/completions", "pirate").0, 200);
    assert_eq!(ask("/v1/embeddings", "plain").0, 200);
    for (path, model) in [
        ("/v1/completions", "plain"),
        ("/v1/completions", "enc"),
        ("/v1/embeddings", "pirate"),
        ("/v1/embeddings", "tiny"),
    ] {
        let (status, said) = ask(path, model);
        assert!(matches!(status, 400 | 404), "{path} {model}: {status} {said}");
    }
    server.finish();
}

#[test]
fn what_is_wrong_with_texts_is_said() {
    let parts = parts();
    let server = parts.start(false, 1);
    let long = "x".repeat(3 * CONTEXT);
    let error = |body: Value| {
        let (status, said) = server.post("/v1/embeddings", &body);
        (status, said["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    let refused = |code: &str| (400, code.to_owned());
    assert_eq!(error(json!({ "input": ["a", long] })), refused("context_length_exceeded"));
    assert_eq!(error(json!({ "input": "y".repeat(5000) })), refused("context_length_exceeded"));
    for (body, code) in [
        (json!({}), "invalid_value"),
        (json!({ "input": [] }), "invalid_value"),
        (json!({ "input": [[]] }), "invalid_value"),
        (json!({ "input": [[1_000_000]] }), "invalid_value"),
        (json!({ "input": vec!["a"; 2049] }), "invalid_value"),
        (json!({ "input": "a", "encoding_format": "hex" }), "invalid_value"),
        (json!({ "input": "a", "dimensions": 5 }), "unsupported_parameter"),
        (json!({ "input": "a", "truncate_prompt_tokens": 0 }), "invalid_value"),
        (json!({ "input": vec![1; CONTEXT + 1] }), "context_length_exceeded"),
    ] {
        assert_eq!(error(body.clone()), refused(code), "{body}");
    }
    let body = json!({ "input": long, "truncate_prompt_tokens": -1 });
    let (status, said) = server.post("/v1/embeddings", &body);
    assert_eq!((status, &said["usage"]["prompt_tokens"]), (200, &json!(CONTEXT)));
    assert_eq!(floats(&said["data"][0]["embedding"]), parts.alone(None, &long).0);
    assert_eq!(server.post("/v1/completions", &json!({ "prompt": "a" })).0, 404);
    assert_eq!(server.post("/v1/embeddings", &json!({ "input": "a" })).0, 200);
    let (_, metrics) = server.get("/metrics");
    assert!(metrics.as_str().unwrap().contains("running{model_name=\"enc\"} 0"), "{metrics}");
    server.finish();
}
