//! IA3: what PEFT computes with it we compute, alone, weighted, several on one row and beside LoRA and
//! DoRA in a batch; and what is no IA3 of a base is refused by name.

mod common;
mod peft_folder;

use common::{CONFIG, Numbers, all_linear, any_adapter, mlp};
use lowrank::Error;
use lowrank::adapter::{
    Adapter, AdapterBuilder, AdapterSet, Base, Choice, Numbers as Factor, Place, Scaled, Slot,
    TargetParts,
};
use lowrank::archive::{Buffer, schema, to_buffer};
use lowrank::import::{HuggingFaceBert, bert_to_buffer, import_peft};
use lowrank::model::bert::{Bert, Pooling};
use lowrank::model::llama::{Llama, Site};
use lowrank::model::mlp::{Activation, Mlp};
use lowrank::quant::Format;
use lowrank::runtime::{
    Encoder, EncoderLimits, Executor, KvFormat, Limits, Memory, Predictor, PredictorLimits, Serial,
    Session, Threads, encoder_need, need, predictor_need,
};
use lowrank::train::data::{Batch, IGNORE, Inputs, Targets as Wanted};
use lowrank::train::{Method, Options, Part, TargetModules, Trainer};
use peft_folder::{Folder, base, golden};
use safetensors::SafeTensors;
use serde_json::{Value, json};

const QWEN2: &str = "tiny-variants/qwen2";

fn peft(path: &str, base: &dyn Base) -> Buffer {
    import_peft(golden(path), base, &Default::default()).unwrap().build(base).unwrap()
}

fn expected(file: &str, key: &str) -> Vec<f32> {
    let bytes = std::fs::read(golden(file)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let data = tensors.tensor(key).unwrap().data().to_vec();
    data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn tokens(folder: &str, key: &str) -> Vec<Vec<u32>> {
    let bytes = std::fs::read(golden(&format!("{folder}/tokens.json"))).unwrap();
    let json: Value = serde_json::from_slice(&bytes).unwrap();
    serde_json::from_value(json[key].clone()).unwrap()
}

/// How far the two are apart, as a share of the largest number.
fn distance(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    ours.iter().zip(theirs).fold(0.0f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

fn exact(context: usize) -> Limits {
    Limits { kv_format: KvFormat::F32, prefill_chunk: 32, ..Limits::new(context) }
}

/// The logits of `tokens` under adapters with weights.
fn logits(
    model: Llama<'_>,
    adapters: &[(&Buffer, f32)],
    tokens: &[u32],
    limits: &Limits,
    executor: &dyn Executor,
) -> Vec<f32> {
    let mut slots = [Slot::EMPTY; 2];
    let mut set = AdapterSet::new(&mut slots, &model);
    let opened = adapters.iter().map(|(archive, w)| (Adapter::verify(archive).unwrap(), *w));
    let choices = set.attach_all(opened).unwrap();
    let mut memory = Memory::new(need(model.config(), limits));
    let mut session = Session::new(model, limits, memory.as_mut(), executor).unwrap();
    session.select(0, &set, &choices).unwrap();
    let mut logits = Vec::new();
    session.score(0, tokens, |_, row| logits.extend_from_slice(row)).unwrap();
    logits
}

/// Keys, queries and values have biases; the inputs of `o_proj` and `down_proj` are scaled.
#[test]
fn decoders_compute_what_peft_computes() {
    let archive = base(QWEN2, Format::F32, Format::F32);
    let model = Llama::open(&archive).unwrap();
    let [usual, all] =
        ["ia3", "ia3-all"].map(|name| peft(&format!("{QWEN2}/adapters/{name}"), &model));
    let tokens = &tokens(QWEN2, "sequences")[0];
    let threads = Threads::new(2).unwrap();
    let exact = exact(128);
    let ways = [
        (exact, &Serial as &dyn Executor),
        (Limits { prefill_chunk: 1, ..exact }, &Serial),
        (Limits { prefill_chunk: 3, batch: 2, threads: 2, ..exact }, &threads),
    ];
    let variants: [(&str, &[(&Buffer, f32)]); 4] = [
        ("ia3", &[(&usual, 1.0)]),
        ("ia3-all", &[(&all, 1.0)]),
        ("two", &[(&usual, 1.0), (&all, 1.0)]),
        ("half", &[(&usual, 0.5)]),
    ];
    for (limits, executor) in ways {
        for (name, adapters) in variants {
            let theirs = expected(&format!("{QWEN2}/ia3.safetensors"), &format!("{name}.0"));
            let ours = logits(model, adapters, tokens, &limits, executor);
            let distance = distance(&ours, &theirs);
            assert!(distance <= 1e-5, "{name}: {distance:e}");
        }
        // Switched off it is not there, to the bit.
        let alone = logits(model, &[], tokens, &limits, executor);
        assert_eq!(logits(model, &[(&all, 0.0)], tokens, &limits, executor), alone);
    }
}

/// An int8 cache holds values without their bias, which is added behind attention: as it is scaled.
#[test]
fn an_int8_cache_scales_the_bias_of_values() {
    let archive = base(QWEN2, Format::F32, Format::F32);
    let model = Llama::open(&archive).unwrap();
    let usual = peft(&format!("{QWEN2}/adapters/ia3"), &model);
    let tokens = &tokens(QWEN2, "sequences")[0];
    let int8 = Limits { kv_format: KvFormat::Int8, ..exact(128) };
    for adapters in [&[][..], &[(&usual, 1.0)], &[(&usual, -2.0)]] {
        let [close, whole] =
            [int8, exact(128)].map(|limits| logits(model, adapters, tokens, &limits, &Serial));
        let distance = distance(&close, &whole);
        assert!(distance < 0.02, "{distance:e}");
    }
}

#[test]
fn encoders_compute_what_peft_computes() {
    let place = golden("tiny-bert");
    let options = lowrank::import::BaseOptions {
        weights: Format::F32,
        embedding: Format::F32,
        allow_missing_tokenizer: true,
        ..Default::default()
    };
    let source = HuggingFaceBert::open(&place).unwrap();
    let archive = bert_to_buffer(&source, &options, &mut |_| {}).unwrap();
    let model = Bert::open(&archive).unwrap();
    let [ids, types] = ["sequences", "types"].map(|key| tokens("tiny-bert", key));
    let [ids, types] =
        [&ids, &types].map(|lists| lists.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let threads = Threads::new(2).unwrap();
    for (threads, executor) in [(1, &Serial as &dyn Executor), (2, &threads)] {
        let limits = EncoderLimits { batch: 4, tokens: 40, threads, ..EncoderLimits::new(40) };
        for name in ["ia3", "ia3-classifier"] {
            let adapter = peft(&format!("tiny-bert/adapters/{name}"), &model);
            let mut slots = [Slot::EMPTY];
            let mut set = AdapterSet::new(&mut slots, &model);
            set.attach(0, Adapter::verify(&adapter).unwrap()).unwrap();
            let mut memory = Memory::new(encoder_need(model.config(), &limits));
            let mut encoder = Encoder::new(model, &limits, memory.as_mut(), executor).unwrap();
            (0..4).for_each(|text| encoder.select(text, &set, &[Choice::slot(0)]).unwrap());
            encoder.encode_with_types(&ids, &types).unwrap();
            for text in 0..4 {
                let close = |key: &str, ours: &[f32]| {
                    let theirs = expected("tiny-bert/ia3.safetensors", key);
                    let distance = distance(ours, &theirs);
                    assert!(distance <= 1e-5, "{key}: {distance:e}");
                };
                if name == "ia3-classifier" {
                    let mut logits = [0.0; 3];
                    encoder.classify(text, &mut logits).unwrap();
                    close(&format!("{name}.logits.{text}"), &logits);
                } else {
                    close(&format!("{name}.hidden.{text}"), encoder.hidden(text).unwrap());
                    let pooled = encoder.pooled(text, Pooling::Pooler).unwrap();
                    close(&format!("{name}.pooler.{text}"), pooled);
                }
            }
        }
    }
}

/// A random IA3 of `sites`.
fn random(base: &dyn Base, sites: &[(u32, Scaled)], seed: u64) -> AdapterBuilder {
    let mut numbers = Numbers::new(seed);
    let mut builder = AdapterBuilder::new("random", "ia3");
    for &(site, side) in sites {
        let (outputs, inputs, _) = base.site(site).unwrap();
        let len = if side == Scaled::Input { inputs } else { outputs };
        let l = numbers.vec(len, 0.8).iter().map(|v| 1.0 + v).collect();
        builder.targets.insert(Place(site), TargetParts::scaling(side, l));
    }
    builder
}

/// Every kind of choice side by side, in one step: each row is what it is alone, to the bit.
#[test]
fn rows_of_a_mixed_batch_are_what_they_are_alone() {
    let archive = common::base(&CONFIG, Format::Nf4, Format::Int8, 1);
    let model = Llama::open(&archive).unwrap();
    let linear: Vec<u32> = all_linear(&CONFIG).iter().map(|site| site.number(2)).collect();
    let usual: Vec<(u32, Scaled)> = (0..2)
        .flat_map(|i| {
            let [k, v, down] = [Site::K(i), Site::V(i), Site::Down(i)].map(|s| s.number(2));
            [(k, Scaled::Output), (v, Scaled::Output), (down, Scaled::Input)]
        })
        .collect();
    let every: Vec<(u32, Scaled)> = linear.iter().map(|&site| (site, Scaled::Output)).collect();
    let archives = [
        random(&model, &usual, 3).build(&model).unwrap(),
        random(&model, &every, 4).build(&model).unwrap(),
        any_adapter(&model, &linear, false, &[], 5),
        any_adapter(&model, &linear, true, &[], 6),
    ];
    let mut slots = [Slot::EMPTY; 4];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach_all(archives.iter().map(|archive| (Adapter::open(archive).unwrap(), 1.0))).unwrap();
    let choices: [&[Choice]; 8] = [
        &[],
        &[Choice::slot(0)],
        &[Choice::slot(2)],
        &[Choice::slot(1), Choice { weight: -0.5, ..Choice::slot(0) }],
        &[Choice::slot(3)],
        &[Choice::slot(0), Choice::slot(3), Choice { weight: 0.25, ..Choice::slot(2) }],
        &[Choice { weight: 0.5, ..Choice::slot(1) }],
        &[Choice::slot(2), Choice::slot(1)],
    ];
    let threads = Threads::new(2).unwrap();
    let limits = Limits { batch: 8, max_active: 3, max_total_rank: 6, ..exact(16) };
    for (threads, executor) in [(1, &Serial as &dyn Executor), (2, &threads)] {
        let limits = Limits { threads, ..limits };
        // All rows, those of `chosen` under their adapters, the others under none.
        let run = |chosen: &[usize]| -> Vec<Vec<f32>> {
            let mut memory = Memory::new(need(model.config(), &limits));
            let mut session = Session::new(model, &limits, memory.as_mut(), executor).unwrap();
            for row in 0..8 {
                let choices = if chosen.contains(&row) { choices[row] } else { &[] };
                session.select(row, &set, choices).unwrap();
                session.prefill(row, &[3, 14, 15, row as u32]).unwrap();
            }
            session.step(&[0, 1, 2, 3, 4, 5, 6, 7].map(|row| (row, 9))).unwrap();
            (0..8).map(|row| session.logits(row).unwrap().to_vec()).collect()
        };
        let (all, bare) = (run(&[0, 1, 2, 3, 4, 5, 6, 7]), run(&[]));
        for (row, logits) in all.iter().enumerate() {
            assert_eq!(&run(&[row])[row], logits, "row {row}, {threads} threads");
            assert_eq!(row == 0, *logits == bare[row], "row {row}");
        }
    }
}

/// `l ⊙ (W x + b + w s B A x)` against f64, over weights of both adapters.
#[test]
fn outputs_are_scaled_behind_bias_and_factors() {
    let archive = mlp(37, &[29], Activation::Relu, Format::F32, false, 3);
    let model = Mlp::open(&archive).unwrap();
    let scale = random(&model, &[(0, Scaled::Output)], 7);
    let l = scale.targets[&Place(0)].magnitude.clone();
    let (scale, lora) = (scale.build(&model).unwrap(), any_adapter(&model, &[0], false, &[], 8));
    let low = Adapter::open(&lora).unwrap().target(0).unwrap();
    let x = Numbers::new(9).vec(37, 1.0);
    let layer = model.layer(0);
    for (w, v) in [(1.0f32, 1.0f32), (0.3, -1.5), (-2.0, 0.0), (0.0, 0.7)] {
        let limits =
            PredictorLimits { max_active: 2, max_total_rank: 3, ..PredictorLimits::new(1) };
        let mut memory = Memory::new(predictor_need(model.config(), &limits));
        let mut predictor = Predictor::new(model, &limits, memory.as_mut(), &Serial).unwrap();
        let mut slots = [Slot::EMPTY; 2];
        let mut set = AdapterSet::new(&mut slots, &model);
        let both = [(&scale, w), (&lora, v)].map(|(a, w)| (Adapter::open(a).unwrap(), w));
        let choices = set.attach_all(both).unwrap();
        predictor.select(0, &set, &choices).unwrap();
        predictor.infer(&x).unwrap();
        for (row, found) in predictor.outputs(0).unwrap().iter().enumerate() {
            let mut weights = vec![0.0; 37];
            layer.weight.read(row, 0, &mut weights);
            let dot = |a: &dyn Fn(usize) -> f64| -> f64 {
                (0..37).map(|col| a(col) * f64::from(x[col])).sum()
            };
            let up: f64 = (0..low.rank)
                .map(|r| f64::from(low.b.get(r, row)) * dot(&|col| f64::from(low.a.get(r, col))))
                .sum();
            let y = dot(&|col| f64::from(weights[col]))
                + f64::from(layer.bias.get(row).copied().unwrap_or(0.0))
                + f64::from(v) * f64::from(low.scale(low.rank)) * up;
            let expected = y * (f64::from(w) * f64::from(l[row]) + 1.0 - f64::from(w));
            assert!(
                (f64::from(*found) - expected).abs() <= 1e-5 * (1.0 + expected.abs()),
                "w {w}, v {v}, row {row}: {found} for {expected}"
            );
        }
    }
}

#[test]
fn it_has_no_rank() {
    let archive = base(QWEN2, Format::F32, Format::F32);
    let model = Llama::open(&archive).unwrap();
    let archive = peft(&format!("{QWEN2}/adapters/ia3"), &model);
    let adapter = Adapter::verify(&archive).unwrap();
    assert_eq!((adapter.max_rank(), adapter.is_dora(), adapter.is_ia3()), (0, false, true));
    assert_eq!(adapter.method(), "ia3");
    let sides: Vec<_> = adapter.targets().map(|t| (t.rank, t.gain.len(), t.scaled)).collect();
    let (output, input) = ((0, 0, Some(Scaled::Output)), (0, 0, Some(Scaled::Input)));
    assert_eq!(sides, [output, output, input]);

    let mut slots = [Slot::EMPTY];
    let mut set = AdapterSet::new(&mut slots, &model);
    set.attach(0, adapter).unwrap();
    let limits = Limits { max_total_rank: 0, ..Limits::new(8) };
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    let at_rank = Choice { rank: Some(4), ..Choice::slot(0) };
    let error = session.select(0, &set, &[at_rank]).unwrap_err();
    assert_eq!(error, Error::RankFixed { asked: 4, rank: 0 });
    session.select(0, &set, &[Choice::slot(0)]).unwrap();
    session.prefill(0, &[3, 4]).unwrap();
}

/// A target of the archive as a hostile file may have it.
fn hostile(model: &Llama<'_>, site: u32, change: impl Fn(&mut schema::Target<'_>)) -> Buffer {
    let floats = [f32::NAN; 256].map(|_| 1.5);
    let (rows, cols, _) = model.site(site).unwrap();
    let factor = schema::Factor { format: 0, values: &[], scales: &[] };
    let mut target = schema::Target {
        site,
        kind: 2,
        scaling: 0,
        rank: 0,
        inputs: cols as u32,
        outputs: rows as u32,
        alpha: 1.0,
        a: factor,
        b: factor,
        bias: &[],
        magnitude: &floats[..rows],
        gain: &[],
    };
    change(&mut target);
    let mut index = vec![0; model.sites() as usize];
    index[site as usize] = 1;
    let root = schema::Adapter {
        base: model.fingerprint().0,
        base_root: 0x0001_0001,
        name: "hostile",
        method: "ia3",
        facts: "",
        index: &index,
        targets: &[target],
        replaced: &[],
        classifier: None,
    };
    to_buffer(&root, 1).unwrap()
}

#[test]
fn hostile_targets_are_refused() {
    let archive = common::base(&CONFIG, Format::F32, Format::F32, 1);
    let model = Llama::open(&archive).unwrap();
    let [k, down] = [Site::K(0), Site::Down(0)].map(|site| site.number(2));
    static ONES: [f32; 256] = [1.0; 256];
    static BYTES: [u8; 64] = [0; 64];
    static NAN: [f32; 32] = [f32::NAN; 32];
    let error = |site, change: fn(&mut schema::Target<'_>)| {
        let archive = hostile(&model, site, change);
        let mut slots = [Slot::EMPTY];
        let mut set = AdapterSet::new(&mut slots, &model);
        Adapter::open(&archive).and_then(|adapter| set.attach(0, adapter)).err()
    };
    assert_eq!(error(k, |_| ()), None);
    let input = |t: &mut schema::Target<'_>| (t.kind, t.magnitude) = (3, &ONES[..100]);
    assert_eq!(error(down, input), None);
    let length = |have, need| Some(Error::PayloadLength { site: k, have, need });
    assert_eq!(error(k, |t| t.magnitude = &ONES[..16]), length(64, 128));
    assert_eq!(error(k, |t| t.magnitude = &[]), length(0, 128));
    assert_eq!(error(k, |t| t.gain = &ONES[..32]), length(0, 128));
    assert_eq!(error(k, |t| (t.gain, t.magnitude) = (&ONES[..32], &[])), length(0, 128));
    assert_eq!(error(k, |t| t.bias = &ONES[..32]), length(0, 128));
    assert_eq!(error(k, |t| t.a.values = &BYTES), length(64, 0));
    assert_eq!(error(k, |t| t.b.values = &BYTES), length(64, 0));
    assert_eq!(error(k, |t| t.magnitude = &NAN), Some(Error::NotFinite { site: k, index: 0 }));
    let unknown = |layout, block| Some(Error::Format { site: k, format: 0, layout, block });
    assert_eq!(error(k, |t| t.kind = 4), unknown(4, 0));
    assert_eq!(error(k, |t| t.scaling = 2), unknown(2, 2));
    assert_eq!(error(k, |t| t.rank = 1), unknown(2, 0));
    // A shape of its own: the layer's counts.
    let shape = |t: &mut schema::Target<'_>| (t.outputs, t.magnitude) = (16, &ONES[..16]);
    assert!(matches!(error(k, shape), Some(Error::Shape { .. })));
    // Keys, queries and values read the same inputs.
    let shared = |t: &mut schema::Target<'_>| (t.kind, t.magnitude) = (3, &ONES[..64]);
    assert_eq!(error(k, shared), Some(Error::InputScaling { site: k }));
    let sentence = Error::InputScaling { site: k }.to_string();
    assert!(sentence.contains("tensor 1") && sentence.contains("outputs"), "{sentence}");
}

#[test]
fn a_builder_refuses_what_an_archive_cannot_hold() {
    let archive = common::base(&CONFIG, Format::F32, Format::F32, 1);
    let model = Llama::open(&archive).unwrap();
    let [k, embedding] = [Site::K(0), Site::Embedding].map(|site| site.number(2));
    let build = |site: u32, parts: TargetParts| {
        let mut builder = AdapterBuilder::new("a", "ia3");
        builder.targets.insert(Place(site), parts);
        builder.build(&model).err()
    };
    let scaling = |side, len| TargetParts::scaling(side, vec![1.5; len]);
    assert_eq!(build(k, scaling(Scaled::Output, 32)), None);
    let length = |have, need| Some(Error::PayloadLength { site: k, have, need });
    assert_eq!(build(k, scaling(Scaled::Output, 31)), length(124, 128));
    assert_eq!(build(k, scaling(Scaled::Output, 0)), length(0, 128));
    assert_eq!(build(k, scaling(Scaled::Input, 64)), Some(Error::InputScaling { site: k }));
    let biased = TargetParts { bias: vec![1.0; 32], ..scaling(Scaled::Output, 32) };
    assert_eq!(build(k, biased), length(128, 0));
    let ranked = TargetParts { rank: 2, ..scaling(Scaled::Output, 32) };
    assert!(matches!(build(k, ranked), Some(Error::Rank { found: 2, .. })));
    let extras = Some(Error::EmbeddingExtras { site: embedding });
    assert_eq!(build(embedding, scaling(Scaled::Output, 64)), extras);
    let mut mixed = AdapterBuilder::new("a", "ia3");
    let factors = TargetParts {
        rank: 1,
        scaled: None,
        a: Factor::F32(vec![0.5; 64]),
        b: Factor::F32(vec![0.5; 64]),
        magnitude: Vec::new(),
        ..scaling(Scaled::Output, 0)
    };
    mixed.targets.insert(Place(0), factors);
    mixed.targets.insert(Place(k), scaling(Scaled::Output, 32));
    assert_eq!(mixed.build(&model).err(), Some(Error::MixedTargets { site: k }));
    let nan = TargetParts::scaling(Scaled::Output, vec![f32::NAN; 32]);
    assert_eq!(build(k, nan), Some(Error::NotFinite { site: k, index: 0 }));
}

/// Each refusal names the tensor or key, and what to do.
#[test]
fn an_import_refuses_by_name() {
    let archive = base(QWEN2, Format::F32, Format::F32);
    let model = Llama::open(&archive).unwrap();
    let name = |module: &str| format!("base_model.model.model.layers.0.{module}.ia3_l");
    let [key, down] = ["self_attn.k_proj", "mlp.down_proj"].map(name);
    let refused = |change: &dyn Fn(&mut Folder), parts: &[&str]| {
        let mut folder = Folder::golden(&format!("{QWEN2}/adapters/ia3"));
        change(&mut folder);
        let error = folder.import(&model).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
    };
    let shape = |folder: &mut Folder, name: &str, shape: &[usize]| {
        let count: usize = shape.iter().product();
        let ones = peft_folder::f32_tensor(shape, (0..count).map(|_| 1.0));
        folder.tensors.insert(name.into(), ones);
    };
    refused(
        &|folder| {
            folder.set("feedforward_modules", json!(["down_proj", "k_proj"]));
            shape(folder, &key, &[1, 32]);
        },
        &[&key, "other layers read", "feedforward_modules"],
    );
    refused(
        &|folder| {
            folder.set("feedforward_modules", json!([]));
        },
        &[&down, "[1, 40]", "[32, 1]", "feedforward_modules"],
    );
    refused(&|folder| shape(folder, &key, &[15, 1]), &[&key, "[15, 1]", "[16, 1]"]);
    refused(
        &|folder| {
            folder.set("feedforward_modules", json!("("));
        },
        &["feedforward_modules", "regular expression"],
    );
    refused(
        &|folder| {
            folder.tensors.insert(
                key.clone(),
                peft_folder::f32_tensor(&[16, 1], (0..16).map(|_| f32::INFINITY)),
            );
        },
        &[&key, "value 0 is inf"],
    );
    let lora = "base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight";
    refused(&|folder| shape(folder, lora, &[2, 32]), &[lora, "IA3"]);
    refused(
        &|folder| {
            folder.set("peft_type", json!("LORA")).set("feedforward_modules", Value::Null);
            folder.set("init_ia3_weights", Value::Null);
        },
        &[&down, "no tensor of LoRA"],
    );
    refused(
        &|folder| {
            folder.set("fan_in_fan_out", json!(true));
        },
        &["fan_in_fan_out"],
    );
    refused(
        &|folder| {
            folder.set("a_new_key", json!(1));
        },
        &["a_new_key", "might change"],
    );
    let table = "base_model.model.model.embed_tokens.ia3_l";
    refused(&|folder| shape(folder, table, &[32, 1]), &[table, "embeddings"]);
    // A regular expression, and no list at all, mean the same here.
    for value in [json!(".*down_proj"), Value::Null] {
        let mut folder = Folder::golden(&format!("{QWEN2}/adapters/ia3"));
        folder.set("feedforward_modules", value);
        let same =
            import_peft(golden(&format!("{QWEN2}/adapters/ia3")), &model, &Default::default());
        assert_eq!(folder.import(&model).unwrap().targets, same.unwrap().targets);
    }
}

/// Layers of one part that are scaled on different sides are named one by one, and PEFT's lists
/// mean the same.
#[test]
fn an_export_names_sides_layer_by_layer() {
    let archive = base("tiny-llama", Format::F32, Format::F32);
    let model = Llama::open(&archive).unwrap();
    let [first, second, key] =
        [Site::Down(0), Site::Down(1), Site::K(1)].map(|site| site.number(2));
    let builder = random(
        &model,
        &[(first, Scaled::Input), (second, Scaled::Output), (key, Scaled::Output)],
        3,
    );
    let directory = tempfile::tempdir().unwrap();
    let archive = builder.build(&model).unwrap();
    let adapter = Adapter::open(&archive).unwrap();
    lowrank::export::export_peft(&adapter, &model, directory.path()).unwrap();
    let config = peft_folder::config(directory.path());
    assert_eq!(config["feedforward_modules"], json!(["layers.0.mlp.down_proj"]));
    assert_eq!(
        config["target_modules"],
        json!(["layers.0.mlp.down_proj", "layers.1.mlp.down_proj", "layers.1.self_attn.k_proj"])
    );
    let again = import_peft(directory.path(), &model, &Default::default()).unwrap();
    assert_eq!(again.targets, builder.targets);
}

/// By default the layers and sides that PEFT has for Llama; from ones on, and without anything that
/// belongs to factors.
#[test]
fn training_scales_what_peft_scales() {
    let archive = common::base(&CONFIG, Format::Nf4, Format::Nf4, 1);
    let model = Llama::open(&archive).unwrap();
    let trainer = |options| Trainer::new(model, options, Vec::new());
    let mut ours = trainer(Options::new(Method::Ia3)).unwrap();
    let layers: Vec<_> = ours.parameters().map(|p| (p.layer, p.part, p.range.len())).collect();
    let layer = |i: usize, name: &str, len| (format!("model.layers.{i}.{name}"), Part::Scale, len);
    let block = |i| {
        [("self_attn.k_proj", 32), ("self_attn.v_proj", 32), ("mlp.down_proj", 100)]
            .map(|(name, len)| layer(i, name, len))
    };
    assert_eq!(layers, [block(0), block(1)].concat());
    assert!(ours.values().iter().all(|l| *l == 1.0));
    let tokens: Vec<u32> = (0..12).map(|i| i * 7 % 50).collect();
    let next = tokens[1..].iter().copied().chain([IGNORE]).collect();
    let batch =
        Batch { inputs: Inputs::Tokens(tokens), starts: vec![0, 12], targets: Wanted::Next(next) };
    let before = ours.loss(&Serial, &batch, None).unwrap().loss;
    for _ in 0..20 {
        ours.step(&Serial, std::slice::from_ref(&batch), 50.0).unwrap();
    }
    assert!(ours.loss(&Serial, &batch, None).unwrap().loss < before);
    let archive = ours.archive("scales", None).unwrap();
    let adapter = Adapter::verify(&archive).unwrap();
    let sides = [Scaled::Output, Scaled::Output, Scaled::Input].map(Some);
    assert_eq!(adapter.targets().map(|t| t.scaled).collect::<Vec<_>>(), [sides, sides].concat());
    assert!(adapter.method() == "ia3" && !adapter.facts().contains("rank"), "{}", adapter.facts());

    let refused = |options| trainer(options).unwrap_err().to_string();
    let options = || Options::new(Method::Ia3);
    let error = refused(Options { rank: 4, ..options() });
    assert!(error.contains("rank has no effect with ia3"), "{error}");
    let table = TargetModules::Names(vec!["embed_tokens".into()]);
    let error = refused(Options { targets: table, ..options() });
    assert!(error.contains("ia3 cannot train model.embed_tokens"), "{error}");
    // Another method's default layers are its own; layers that were named stay.
    let lora = options().with_method(Method::Lora);
    assert_eq!(lora.targets, TargetModules::AllLinear);
    assert_eq!(lora.with_method(Method::Ia3).targets, options().targets);
    let named = TargetModules::Names(vec!["q_proj".into()]);
    let kept = Options { targets: named.clone(), ..options() }.with_method(Method::Lora);
    assert_eq!(kept.targets, named);
}
