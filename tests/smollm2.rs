//! The main job on the real model. Needs the GGUF of SmolLM2-135M-Instruct, named by
//! `LOWRANK_SMOLLM2` (`examples/quickstart.sh` fetches it); without it every test says that it was
//! skipped.

use std::path::{Path, PathBuf};

use lowrank::adapter::{Adapter, AdapterSet, Choice, Slot};
use lowrank::archive::Buffer;
use lowrank::import::{BaseOptions, Gguf, base_to_buffer, import_peft};
use lowrank::kernel::Precision;
use lowrank::model::llama::Llama;
use lowrank::quant::Format;
use lowrank::runtime::{KvFormat, Limits, Memory, Sampler, Session, Threads, need};
use lowrank::text::{Message, Tokenizer};
use lowrank::train::data::{DataOptions, Dataset, Task};
use lowrank::train::evaluate;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn gguf() -> Option<PathBuf> {
    let path = std::env::var_os("LOWRANK_SMOLLM2").map(PathBuf::from);
    if path.is_none() {
        eprintln!(
            "SKIPPED: LOWRANK_SMOLLM2 does not name the GGUF of SmolLM2-135M-Instruct (examples/quickstart.sh fetches it)"
        );
    }
    path
}

fn import(gguf: &Path, weights: Format, embedding: Format) -> Buffer {
    let options = BaseOptions { weights, embedding, ..BaseOptions::default() };
    base_to_buffer(&Gguf::open(gguf).unwrap(), &options, &mut |_| {}).unwrap()
}

fn json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&std::fs::read(root().join(path)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Exact on two threads with f32 keys and values.
fn with_session<T>(
    model: Llama<'_>,
    adapter: Option<&Buffer>,
    use_it: impl FnOnce(&mut Session<'_, '_>) -> T,
) -> T {
    with_kv(model, KvFormat::F32, adapter, use_it)
}

/// The same with keys and values in any format.
fn with_kv<T>(
    model: Llama<'_>,
    kv_format: KvFormat,
    adapter: Option<&Buffer>,
    use_it: impl FnOnce(&mut Session<'_, '_>) -> T,
) -> T {
    let limits = Limits { kv_format, threads: 2, batch: 8, prefill_chunk: 64, ..Limits::new(512) };
    let threads = Threads::new(2).unwrap();
    let mut slots = [Slot::EMPTY];
    let mut set = AdapterSet::new(&mut slots, &model);
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &threads).unwrap();
    if let Some(archive) = adapter {
        set.attach(0, Adapter::open(archive).unwrap()).unwrap();
        session.select(0, &set, &[Choice::slot(0)]).unwrap();
    }
    use_it(&mut session)
}

/// Non-overlapping windows, the first token of each not scored, every scored token of equal weight.
fn perplexity(
    model: Llama<'_>,
    kv_format: KvFormat,
    adapter: Option<&Buffer>,
    texts: &[Vec<u32>],
) -> f64 {
    let (mut nll, mut scored) = (0.0, 0usize);
    with_kv(model, kv_format, adapter, |session| {
        for window in
            texts.iter().flat_map(|text| text.chunks(512)).filter(|window| window.len() > 1)
        {
            session.reset(0).unwrap();
            let see = |i: usize, logits: &[f32]| {
                let Some(&next) = window.get(i + 1) else { return };
                let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let total: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
                nll += total.ln() - f64::from(logits[next as usize] - most);
                scored += 1;
            };
            session.score(0, window, see).unwrap();
        }
    });
    (nll / scored as f64).exp()
}

#[test]
fn greedy_continuations_equal_those_of_transformers() {
    let Some(gguf) = gguf() else { return };
    let archive = import(&gguf, Format::F32, Format::F32);
    let model = Llama::open(&archive).unwrap();
    for case in json("tests/golden/smollm2/greedy.json").as_array().unwrap() {
        let (prompt, expected) = (ids(&case["prompt_ids"]), ids(&case["continuation_ids"]));
        let text = Tokenizer::new(&model).unwrap();
        assert_eq!(text.encode(case["prompt"].as_str().unwrap(), true).unwrap(), prompt);
        let written = with_session(model, None, |session| {
            session.prefill(0, &prompt).unwrap();
            let next = |_| {
                let token = session.sample(0, &mut Sampler::greedy()).unwrap();
                session.step(&[(0, token)]).unwrap();
                token
            };
            (0..expected.len()).map(next).collect::<Vec<_>>()
        });
        assert_eq!(written, expected, "{}", case["prompt"]);
    }
}

#[test]
fn text_is_that_of_llama_cpp_and_transformers() {
    let Some(gguf) = gguf() else { return };
    let archive = import(&gguf, Format::Nf4, Format::Int8);
    let tokenizer = Tokenizer::new(&Llama::open(&archive).unwrap()).unwrap();
    let lines = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(root().join("tests/golden/smollm2").join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for (line, expected) in lines("lines.jsonl").iter().zip(lines("ids.jsonl")) {
        let (text, expected) = (line["text"].as_str().unwrap(), ids(&expected["ids"]));
        assert_eq!(tokenizer.encode(text, true).unwrap(), expected, "{text:?}");
        // Token by token gives the same text.
        let mut stream = tokenizer.stream();
        let mut streamed = String::new();
        for &id in &expected {
            let piece = stream.push(id).unwrap();
            streamed += &piece;
        }
        streamed += &stream.finish();
        assert_eq!(streamed, tokenizer.decode(&expected, false).unwrap(), "{text:?}");
    }
    for case in json("tests/golden/smollm2/chat.json")["conversations"].as_array().unwrap() {
        let message =
            |m: &Value| Message::new(m["role"].as_str().unwrap(), m["content"].as_str().unwrap());
        let messages: Vec<_> = case["messages"].as_array().unwrap().iter().map(message).collect();
        let rendered = tokenizer.render_chat(&messages, true).unwrap();
        assert_eq!(rendered, case["text"].as_str().unwrap());
        assert_eq!(tokenizer.encode_prompt(&rendered).unwrap(), ids(&case["ids"]));
    }
}

#[test]
fn perplexity_is_that_of_transformers_and_of_bitsandbytes() {
    let Some(gguf) = gguf() else { return };
    let golden = json("tests/golden/smollm2/perplexity.json");
    let text = std::fs::read_to_string(root().join("tests/golden/smollm2/text.txt")).unwrap();
    let measure = |weights, embedding| {
        let archive = import(&gguf, weights, embedding);
        let model = Llama::open(&archive).unwrap();
        let tokens = Tokenizer::new(&model).unwrap().encode(&text, false).unwrap();
        assert_eq!(tokens.len() as u64, golden["tokens"].as_u64().unwrap());
        perplexity(model, KvFormat::F32, None, &[tokens])
    };
    let exact = measure(Format::F32, Format::F32);
    let nf4 = measure(Format::Nf4, Format::F32);
    let default = measure(Format::Nf4, Format::Int8);
    let theirs = golden["perplexity"].as_f64().unwrap();
    let bitsandbytes = json("tests/golden/smollm2/nf4.json")["perplexity"].as_f64().unwrap();
    println!(
        "perplexity: f32 {exact:.4} (transformers {theirs:.4}), nf4 {nf4:.4} (bitsandbytes {bitsandbytes:.4}), int8 embedding {default:.4}"
    );
    assert!((exact / theirs - 1.0).abs() < 1e-4);
    assert!((nf4 / bitsandbytes - 1.0).abs() < 1e-4);
    assert!((default / nf4 - 1.0).abs() < 5e-3);
}

#[test]
fn keys_and_values_in_fewer_bits_cost_little_perplexity() {
    let Some(gguf) = gguf() else { return };
    let archive = import(&gguf, Format::Nf4, Format::Int8);
    let model = Llama::open(&archive).unwrap();
    let text = std::fs::read_to_string(root().join("tests/golden/smollm2/text.txt")).unwrap();
    let tokens = Tokenizer::new(&model).unwrap().encode(&text, false).unwrap();
    let [f32, f16, int8] = [KvFormat::F32, KvFormat::F16, KvFormat::Int8]
        .map(|kv| perplexity(model, kv, None, std::slice::from_ref(&tokens)));
    println!("perplexity with keys and values in f32 {f32:.4}, f16 {f16:.4}, int8 {int8:.4}");
    assert!((f16 / f32 - 1.0).abs() < 5e-4);
    assert!((int8 / f32 - 1.0).abs() < 5e-3);
}

#[test]
fn each_style_adapter_is_best_at_its_own_style() {
    let Some(gguf) = gguf() else { return };
    let archive = import(&gguf, Format::Nf4, Format::Int8);
    let model = Llama::open(&archive).unwrap();
    let tokenizer = Tokenizer::new(&model).unwrap();
    let styles: Vec<PathBuf> = {
        let entries = std::fs::read_dir(root().join("examples/style")).unwrap();
        let mut folders: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.join("adapter_config.json").exists())
            .collect();
        folders.sort();
        folders
    };
    assert_eq!(styles.len(), 2);
    let adapters: Vec<Buffer> = styles
        .iter()
        .map(|folder| {
            import_peft(folder, &model, &Default::default()).unwrap().build(&model).unwrap()
        })
        .collect();
    let threads = Threads::new(2).unwrap();
    for (own, folder) in styles.iter().enumerate() {
        // Of the answers, as the adapters were trained.
        let options = DataOptions { completions_only: true, ..DataOptions::default() };
        let data = Dataset::open(
            folder.with_extension("held-out.jsonl"),
            Task::LanguageModel,
            Some(&tokenizer),
            options,
        )
        .unwrap();
        let perplexity = |adapters: &[(&[u8], f32)]| {
            evaluate(model, adapters, &data, Precision::Exact, &threads, &mut |_, _| {})
                .unwrap()
                .perplexity
        };
        let base = perplexity(&[]);
        let adapted: Vec<f64> =
            adapters.iter().map(|adapter| perplexity(&[(adapter, 1.0)])).collect();
        println!(
            "{}: base {base:.3}, own adapter {:.3}, other {:.3}",
            folder.display(),
            adapted[own],
            adapted[1 - own]
        );
        assert!(adapted[own] < base && adapted[own] < adapted[1 - own]);
    }
}
