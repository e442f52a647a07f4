//! A Hugging Face folder arrives unchanged, value for value and code for code; a damaged, lying or
//! unsupported one gets one sentence that names the file and the tensor or key, and leaves no
//! output behind.

mod model_folder;

use std::fs;

use half::{bf16, f16};
use lowrank::import::{HuggingFace, Source};
use lowrank::model::llama::{Config, Llama, RopeScaling, Site};
use lowrank::quant::{Format, Layout, Matrix, Scales, Values};
use model_folder::{Folder, Stored, exact, golden, import, in_format, refused, write_tensors};
use safetensors::Dtype;
use serde_json::{Value, json};

fn dequantized(matrix: Matrix<'_>) -> Vec<f32> {
    let mut out = vec![0.0; matrix.rows() * matrix.cols()];
    out.chunks_exact_mut(matrix.cols()).enumerate().for_each(|(row, out)| matrix.read(row, 0, out));
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn sites(model: &Llama<'_>) -> Vec<Site> {
    (0..model.config().sites() as u32)
        .map(|number| Site::from_number(number, model.config().layers).unwrap())
        .collect()
}

/// Every weight, norm and bias of `model` is the one in `values` (by transformers' name), and every
/// one of those was compared.
fn check_all(model: &Llama<'_>, folder: &Folder, values: impl Fn(&str) -> Vec<f32>) {
    let mut compared = 0;
    let mut same = |name: &str, ours: &[f32]| {
        assert_eq!(bits(ours), bits(&values(name)), "{name}");
        compared += 1;
    };
    for site in sites(model) {
        if site != Site::Head || !model.is_tied() {
            same(&format!("{site}.weight"), &dequantized(model.weight(site)));
        }
    }
    for i in 0..model.config().layers {
        let layer = model.layer(i);
        let mut optional = |part: &str, ours: &[f32]| {
            let name = format!("model.layers.{i}.{part}");
            assert_eq!(ours.is_empty(), !folder.tensors.contains_key(&name), "{name}");
            if !ours.is_empty() {
                same(&name, ours);
            }
        };
        optional("input_layernorm.weight", layer.attention_norm);
        optional("post_attention_layernorm.weight", layer.feed_forward_norm);
        optional("self_attn.q_norm.weight", layer.q_norm);
        optional("self_attn.k_norm.weight", layer.k_norm);
        for (part, linear) in [
            ("self_attn.q", layer.q),
            ("self_attn.k", layer.k),
            ("self_attn.v", layer.v),
            ("self_attn.o", layer.o),
        ] {
            optional(&format!("{part}_proj.bias"), linear.bias);
        }
    }
    same("model.norm.weight", model.norm());
    let companions = folder.tensors.keys().filter(|name| name.contains(".weight.")).count();
    assert_eq!(compared, folder.tensors.len() - companions);
}

#[test]
fn every_value_arrives_unchanged() {
    for name in ["tiny-llama", "tiny-variants/qwen2", "tiny-variants/qwen3", "tiny-variants/tied"] {
        let folder = Folder::golden(name);
        let archive = import(&golden(name), &exact()).unwrap();
        check_all(&Llama::verify(&archive).unwrap(), &folder, |name| folder.tensors[name].floats());
    }
}

#[test]
fn sixteen_bit_sources_are_exact() {
    let original = Folder::golden("tiny-llama");
    type Conversion = (Dtype, fn(f32) -> u16, fn(u16) -> f32);
    let conversions: [Conversion; 2] = [
        (Dtype::F16, |v| f16::from_f32(v).to_bits(), |b| f16::from_bits(b).to_f32()),
        (Dtype::BF16, |v| bf16::from_f32(v).to_bits(), |b| bf16::from_bits(b).to_f32()),
    ];
    for (dtype, narrow, widen) in conversions {
        let mut folder = original.clone();
        for stored in folder.tensors.values_mut() {
            let halves: Vec<u16> = stored.floats().into_iter().map(narrow).collect();
            *stored = Stored {
                dtype,
                bytes: halves.iter().flat_map(|b| b.to_le_bytes()).collect(),
                shape: stored.shape.clone(),
            };
        }
        // Subnormals, the largest value and negative zero are values like others.
        for (i, bits) in [1u16, 0x8001, 0x7bff, 0x8000].into_iter().enumerate() {
            folder.tensor("model.embed_tokens.weight").bytes[2 * i..2 * i + 2]
                .copy_from_slice(&bits.to_le_bytes());
        }
        let archive = folder.import(&exact()).unwrap();
        let pairs = |name: &str| {
            folder.tensors[name]
                .bytes
                .chunks_exact(2)
                .map(|b| widen(u16::from_le_bytes([b[0], b[1]])))
                .collect()
        };
        check_all(&Llama::verify(&archive).unwrap(), &folder, pairs);
    }
}

#[test]
fn bitsandbytes_weights_are_taken_over_code_for_code() {
    for (name, nested) in [("tiny-llama-bnb", true), ("tiny-llama-bnb-plain", false)] {
        let mut folder = Folder::golden(name);
        let archive = import(&golden(name), &in_format(Format::Nf4)).unwrap();
        let model = Llama::verify(&archive).unwrap();
        for site in
            sites(&model).into_iter().filter(|site| !matches!(site, Site::Embedding | Site::Head))
        {
            let weight = format!("{site}.weight");
            let matrix = model.weight(site);
            let Values::Nf4(nf4) = matrix.values() else { panic!("{site}: {:?}", matrix.format()) };
            let split = matrix.cols() % 64 == 0;
            assert_eq!(
                nf4.layout,
                if split { Layout::Split64 } else { Layout::Sequential },
                "{site}"
            );
            let codes = folder.tensor(&weight).bytes.clone();
            let theirs = codes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
            assert!(theirs.enumerate().all(|(i, code)| nf4.code(i) == code), "{site}");
            match nf4.scales {
                Scales::Plain(plain) => {
                    assert!(!nested);
                    assert_eq!(
                        bits(plain),
                        bits(&folder.tensor(&format!("{weight}.absmax")).floats()),
                        "{site}"
                    );
                }
                Scales::Double { codes, nested: groups, offset } => {
                    assert!(nested);
                    assert_eq!(codes, folder.tensor(&format!("{weight}.absmax")).bytes, "{site}");
                    assert_eq!(
                        bits(groups),
                        bits(&folder.tensor(&format!("{weight}.nested_absmax")).floats()),
                        "{site}"
                    );
                    let state: Value =
                        serde_json::from_slice(&folder.tensor(&state(&weight)).bytes).unwrap();
                    assert_eq!(
                        f64::from(offset) as f32,
                        state["nested_offset"].as_f64().unwrap() as f32,
                        "{site}"
                    );
                }
            }
        }
        // Asked for floats, the same codes are unpacked.
        let unpacked = import(&golden(name), &exact()).unwrap();
        let unpacked = Llama::verify(&unpacked).unwrap();
        for site in sites(&model) {
            assert_eq!(
                bits(&dequantized(unpacked.weight(site))),
                bits(&dequantized(model.weight(site))),
                "{site}"
            );
        }
    }
}

fn state(weight: &str) -> String {
    format!("{weight}.quant_state.bitsandbytes__nf4")
}

#[test]
fn the_declared_type_of_packed_bytes_does_not_matter() {
    let mut folder = Folder::golden("tiny-llama-bnb");
    let original = folder.clone();
    let packed =
        folder.tensors.iter_mut().filter(|(name, _)| original.tensors.contains_key(&state(name)));
    packed.for_each(|(_, stored)| {
        (stored.dtype, stored.shape) = (Dtype::BF16, vec![stored.bytes.len() / 2, 1])
    });
    let [a, b] = [original, folder].map(|folder| folder.import(&in_format(Format::Nf4)).unwrap());
    assert_eq!(Llama::open(&a).unwrap().fingerprint(), Llama::open(&b).unwrap().fingerprint());
}

#[test]
fn configurations_in_the_keys_of_transformers_5_and_4() {
    let llama = Config {
        vocab: 64,
        dim: 32,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        head_dim: 16,
        hidden: 40,
        context: 128,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::None,
        norm_epsilon: 1e-5,
    };
    let qwen =
        Config { heads: 4, kv_heads: 2, head_dim: 8, rope_theta: 1e6, norm_epsilon: 1e-6, ..llama };
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_frequency: 1.0,
        high_frequency: 4.0,
        original_context: 32.0,
    };
    let expected = [
        ("qwen2", qwen),
        ("qwen3", Config { head_dim: 16, ..qwen }),
        ("llama3-rope", Config { rope_theta: 500.0, rope_scaling: llama3, ..llama }),
        (
            "linear-rope",
            Config {
                rope_theta: 100.0,
                rope_scaling: RopeScaling::Linear { factor: 3.0 },
                ..llama
            },
        ),
        ("tied", Config { heads: 4, kv_heads: 2, head_dim: 8, ..llama }),
    ];
    for (name, expected) in expected {
        let path = golden("tiny-variants").join(name);
        let mut folder = Folder::golden(&format!("tiny-variants/{name}"));
        let theirs = HuggingFace::open(&path).unwrap().config().unwrap();
        assert_eq!(theirs, expected, "{name}");
        folder.config =
            serde_json::from_slice(&fs::read(path.join("config.v4.json")).unwrap()).unwrap();
        let [new, old] = [import(&path, &exact()).unwrap(), folder.import(&exact()).unwrap()];
        let [new, old] = [Llama::open(&new).unwrap(), Llama::open(&old).unwrap()];
        assert_eq!(*old.config(), expected, "{name}, old keys");
        assert_eq!(old.fingerprint(), new.fingerprint(), "{name}");
        assert_eq!(new.is_tied(), name == "tied");
    }
}

#[test]
fn absent_keys_take_transformers_defaults() {
    let mut folder = Folder::golden("tiny-llama");
    let fields = folder.config.as_object_mut().unwrap();
    for key in [
        "head_dim",
        "rms_norm_eps",
        "rope_parameters",
        "num_key_value_heads",
        "tie_word_embeddings",
        "architectures",
        "hidden_act",
    ] {
        fields.remove(key);
    }
    fields["num_attention_heads"] = json!(4);
    for part in ["k", "v"] {
        for layer in 0..2 {
            let name = format!("model.layers.{layer}.self_attn.{part}_proj.weight");
            *folder.tensor(&name) = Stored::f32(&[64, 64], &[0.5; 4096]);
        }
    }
    let archive = folder.import(&exact()).unwrap();
    let model = Llama::open(&archive).unwrap();
    let config = *model.config();
    assert_eq!(
        (config.kv_heads, config.head_dim, config.norm_epsilon, config.rope_theta),
        (4, 16, 1e-6, 10_000.0)
    );
    assert_eq!(config.rope_scaling, RopeScaling::None);
    assert!(!model.is_tied());
    folder.tensors.remove("lm_head.weight");
    let archive = folder.import(&exact()).unwrap();
    assert!(Llama::open(&archive).unwrap().is_tied());
}

#[test]
fn qwen_has_defaults_of_its_own() {
    let mut folder = Folder::golden("tiny-variants/qwen3");
    folder.config.as_object_mut().unwrap().remove("head_dim");
    folder.refused(&exact(), &["self_attn.q_proj.weight", "[512, 32]"]);
    let mut folder = Folder::golden("tiny-variants/qwen2");
    folder.config["num_key_value_heads"] = Value::Null;
    folder.refused(&exact(), &["self_attn.k_proj.bias", "[32]"]);
    folder.config.as_object_mut().unwrap().remove("num_key_value_heads");
    folder.refused(&exact(), &["the number of key-value heads is 32, expected 1 to 4"]);
}

#[test]
fn windows_that_do_not_act_are_no_windows() {
    let mut folder = Folder::golden("tiny-variants/qwen2");
    let fields = folder.config.as_object_mut().unwrap();
    fields.remove("use_sliding_window");
    fields.remove("layer_types");
    let mut set = |fields: &[(&str, Value)]| {
        fields.iter().for_each(|(key, value)| folder.config[*key] = value.clone());
        folder.clone()
    };
    // Switched off by default; from layer 28 on; as long as the model.
    set(&[("sliding_window", json!(16))]).import(&exact()).unwrap();
    set(&[("use_sliding_window", json!(true))]).import(&exact()).unwrap();
    set(&[("max_window_layers", json!(0))])
        .refused(&exact(), &["config.json", "sliding_window", "16 of 128"]);
    set(&[("sliding_window", json!(128))]).import(&exact()).unwrap();
    set(&[("sliding_window", json!(16)), ("layer_types", json!(["full_attention"]))])
        .import(&exact())
        .unwrap();
}

#[test]
fn rotary_parameters_from_every_place() {
    let mut folder = Folder::golden("tiny-llama");
    let mut set = |parameters: Value, scaling: Value, theta: Value| {
        folder.config["rope_parameters"] = parameters;
        folder.config["rope_scaling"] = scaling;
        folder.config["rope_theta"] = theta;
        folder.clone()
    };
    let rope = |folder: Folder| {
        let archive = folder.import(&exact()).unwrap();
        let config = *Llama::open(&archive).unwrap().config();
        (config.rope_theta, config.rope_scaling)
    };
    let linear = json!({ "rope_type": "linear", "factor": 2.0 });
    let doubled = RopeScaling::Linear { factor: 2.0 };
    assert_eq!(rope(set(json!(null), json!(null), json!(null))), (1e4, RopeScaling::None));
    assert_eq!(rope(set(json!({}), linear.clone(), json!(7.0))), (7.0, doubled));
    assert_eq!(rope(set(linear.clone(), json!(null), json!(7.0))), (7.0, doubled));
    assert_eq!(
        rope(set(
            json!({ "rope_theta": 9.0, "rope_type": "linear", "factor": 2.0 }),
            json!(null),
            json!(7.0)
        )),
        (9.0, doubled)
    );
    // Per kind of layer.
    assert_eq!(
        rope(set(json!({ "full_attention": { "rope_theta": 9.0 } }), json!(null), json!(null))),
        (9.0, RopeScaling::None)
    );
    assert_eq!(
        rope(set(json!({ "full_attention": linear }), json!(null), json!(7.0))),
        (7.0, doubled)
    );
    // Twice.
    assert_eq!(rope(set(linear.clone(), linear.clone(), json!(7.0))), (7.0, doubled));
    let other = json!({ "rope_type": "linear", "factor": 3.0 });
    set(linear, other, json!(7.0))
        .refused(&exact(), &["config.json", "rope_scaling", "contradicts rope_parameters"]);
    set(json!({ "factor": 2.0 }), json!(null), json!(7.0))
        .refused(&exact(), &["rope_parameters.rope_type", "missing"]);
    let llama3 = json!({
        "rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
    });
    let mut folder = set(llama3, json!(null), json!(7.0));
    folder.config["original_max_position_embeddings"] = json!(16);
    folder.refused(&exact(), &["config.json", "original_max_position_embeddings", "32"]);
}

#[test]
fn a_head_in_the_file_counts_where_it_differs() {
    let mut folder = Folder::golden("tiny-llama");
    let tied = |folder: &Folder| Llama::open(&folder.import(&exact()).unwrap()).unwrap().is_tied();
    folder.config["tie_word_embeddings"] = json!(true);
    assert!(!tied(&folder));
    folder
        .tensors
        .insert("lm_head.weight".into(), folder.tensors["model.embed_tokens.weight"].clone());
    assert!(tied(&folder));
    folder.config["tie_word_embeddings"] = json!(false);
    assert!(!tied(&folder));
    folder.tensors.remove("lm_head.weight");
    folder.refused(&exact(), &["lm_head.weight", "missing", "tie_word_embeddings"]);
}

/// tiny-llama in two shards with an index.
fn sharded() -> (tempfile::TempDir, Value) {
    let folder = Folder::golden("tiny-llama");
    let place = tempfile::tempdir().unwrap();
    folder.write_settings(place.path());
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let shard_of =
        |tensor: &str| usize::from(tensor.contains("layers.1") || tensor == "lm_head.weight");
    for (i, name) in names.iter().enumerate() {
        let part = folder
            .tensors
            .iter()
            .filter(|(tensor, _)| shard_of(tensor) == i)
            .map(|(name, t)| (name.clone(), t.clone()))
            .collect();
        write_tensors(&part, &place.path().join(name));
    }
    let map: serde_json::Map<String, Value> = folder
        .tensors
        .keys()
        .map(|tensor| (tensor.clone(), names[shard_of(tensor)].into()))
        .collect();
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    fs::write(place.path().join(INDEX), index.to_string()).unwrap();
    (place, index)
}

const INDEX: &str = "model.safetensors.index.json";

#[test]
fn shards_equal_the_single_file() {
    let (place, _) = sharded();
    let [single, sharded] = [golden("tiny-llama"), place.path().to_owned()]
        .map(|folder| import(&folder, &exact()).unwrap());
    let [single, sharded] = [&single, &sharded].map(|archive| Llama::verify(archive).unwrap());
    assert_eq!(single.fingerprint(), sharded.fingerprint());
}

#[test]
fn damaged_indexes_and_missing_shards() {
    let (place, index) = sharded();
    let with = |change: &dyn Fn(&mut Value), parts: &[&str]| {
        let mut changed = index.clone();
        change(&mut changed);
        fs::write(place.path().join(INDEX), changed.to_string()).unwrap();
        refused(place.path(), &exact(), parts);
    };
    let norm = "model.norm.weight";
    with(&|index| *index = json!({}), &[INDEX, "weight_map", "missing"]);
    with(
        &|index| index["weight_map"] = json!([1]),
        &[INDEX, "weight_map", "an object was expected"],
    );
    with(
        &|index| index["weight_map"][norm] = json!(7),
        &[INDEX, norm, "a file name was expected, found 7"],
    );
    with(
        &|index| index["weight_map"][norm] = json!("../model.safetensors"),
        &[INDEX, norm, "a file name was expected"],
    );
    with(
        &|index| index["weight_map"][norm] = json!("/dev/zero"),
        &[INDEX, norm, "a file name was expected"],
    );
    with(
        &|index| index["weight_map"][norm] = json!("absent.safetensors"),
        &["absent.safetensors", "No such file"],
    );
    // The index announces a tensor that no shard holds.
    with(
        &|index| {
            index["weight_map"]["model.layers.2.self_attn.q_proj.weight"] =
                json!("model-00001-of-00002.safetensors")
        },
        &[INDEX, "model.layers.2.self_attn.q_proj.weight"],
    );
    fs::write(place.path().join(INDEX), "{").unwrap();
    refused(place.path(), &exact(), &[INDEX, "not valid JSON"]);
    fs::write(place.path().join(INDEX), index.to_string()).unwrap();
    // The same tensor twice.
    let folder = Folder::golden("tiny-llama");
    let second = place.path().join("model-00002-of-00002.safetensors");
    write_tensors(&folder.tensors, &second);
    refused(
        place.path(),
        &exact(),
        &["model-00002-of-00002.safetensors", "another file holds a tensor of the same name"],
    );
    fs::remove_file(second).unwrap();
    refused(place.path(), &exact(), &["model-00002-of-00002.safetensors", "No such file"]);
    fs::remove_file(place.path().join(INDEX)).unwrap();
    refused(
        place.path(),
        &exact(),
        &["neither model.safetensors nor model.safetensors.index.json"],
    );
    // Where both are there, the single file counts, as it does for transformers.
    folder.write(place.path());
    fs::write(place.path().join(INDEX), "{").unwrap();
    check_all(&Llama::open(&import(place.path(), &exact()).unwrap()).unwrap(), &folder, |name| {
        folder.tensors[name].floats()
    });
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let original = Folder::golden("tiny-llama");
    let q = "model.layers.1.self_attn.q_proj.weight";
    let with = |change: &dyn Fn(&mut Folder), parts: &[&str]| {
        let mut folder = original.clone();
        change(&mut folder);
        folder.refused(&exact(), parts);
    };
    for name in original.tensors.keys() {
        with(&|folder| drop(folder.tensors.remove(name)), &[name, "missing"]);
    }
    for name in [
        "model.layers.2.mlp.up_proj.weight",
        "score.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "x",
    ] {
        with(
            &|folder| drop(folder.tensors.insert(name.to_owned(), Stored::f32(&[1], &[1.0]))),
            &[name, "what the tensor is for"],
        );
    }
    // What neither family nor configuration announces, transformers would ignore.
    for (name, len) in [
        ("0.self_attn.q_proj.bias", 64),
        ("1.mlp.down_proj.bias", 64),
        ("1.self_attn.k_norm.weight", 16),
    ] {
        let name = format!("model.layers.{name}");
        with(
            &|folder| {
                drop(folder.tensors.insert(name.clone(), Stored::f32(&[len], &[1.0; 64][..len])))
            },
            &[&name, "announces no such"],
        );
    }
    with(&|folder| folder.tensor(q).shape = vec![32, 128], &[q, "[32, 128]", "[64, 64]"]);
    with(&|folder| folder.tensor(q).shape = vec![4096], &[q, "[4096]", "[64, 64]"]);
    with(
        &|folder| folder.tensor("model.norm.weight").shape = vec![64, 1],
        &["model.norm.weight", "[64, 1]", "[64]"],
    );
    with(
        &|folder| folder.config["vocab_size"] = json!(97),
        &["model.embed_tokens.weight", "[96, 64]", "[97, 64]"],
    );
    with(
        &|folder| folder.config["intermediate_size"] = json!(99),
        &["mlp.gate_proj.weight", "[100, 64]", "[99, 64]"],
    );
    with(&|folder| folder.config["num_hidden_layers"] = json!(1), &["model.layers.1."]);
    with(&|folder| folder.config["num_hidden_layers"] = json!(3), &["model.layers.2.", "missing"]);
    for (dtype, size) in
        [(Dtype::I64, 8), (Dtype::F64, 8), (Dtype::I32, 4), (Dtype::U8, 1), (Dtype::BOOL, 1)]
    {
        let stored = Stored { dtype, shape: vec![64, 64], bytes: vec![0; 4096 * size] };
        with(
            &|folder| *folder.tensor(q) = stored.clone(),
            &[q, &format!("{dtype:?}"), "F32, F16 and BF16"],
        );
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let text = value.to_string();
        with(&|folder| folder.tensor(q).put(77, value), &[q, "value 77 ", &text]);
        with(
            &|folder| folder.tensor("model.norm.weight").put(63, value),
            &["model.norm.weight", "value 63 ", &text],
        );
        with(
            &|folder| folder.tensor("lm_head.weight").put(5, value),
            &["lm_head.weight", "value 5 ", &text, "finite"],
        );
    }
    let mut folder = original.clone();
    folder.tensor(q).put(9, -70_000.0);
    folder.import(&exact()).unwrap();
    folder.refused(&in_format(Format::F16), &[q, "value 9 is -70000"]);
    folder.tensor(q).put(9, 1e30);
    folder.refused(&in_format(Format::Int8), &[q, "value 9 is 1000000000000000000000000000000"]);
}

#[test]
fn buffers_that_are_computed_anew_are_no_weights() {
    let mut folder = Folder::golden("tiny-llama");
    let buffer = "model.layers.0.self_attn.rotary_emb.inv_freq".to_owned();
    folder.tensors.insert(buffer, Stored::f32(&[8], &[1.0; 8]));
    folder.import(&exact()).unwrap();
}

#[test]
fn announced_biases_and_norms_must_be_there() {
    for (name, tensor) in [("qwen2", "self_attn.k_proj.bias"), ("qwen3", "self_attn.q_norm.weight")]
    {
        let mut folder = Folder::golden(&format!("tiny-variants/{name}"));
        let tensor = format!("model.layers.0.{tensor}");
        folder.tensors.remove(&tensor).unwrap();
        folder.refused(&exact(), &[&tensor, "missing"]);
    }
    let mut folder = Folder::golden("tiny-llama");
    folder.config["attention_bias"] = json!(true);
    folder.refused(&exact(), &["model.layers.0.self_attn.q_proj.bias", "missing"]);
    for layer in 0..2 {
        for (part, rows) in [("q", 64), ("k", 32), ("v", 32), ("o", 64)] {
            folder.tensors.insert(
                format!("model.layers.{layer}.self_attn.{part}_proj.bias"),
                Stored::f32(&[rows], &vec![0.25; rows]),
            );
        }
    }
    let archive = folder.import(&exact()).unwrap();
    check_all(&Llama::open(&archive).unwrap(), &folder, |name| folder.tensors[name].floats());
    folder.config["mlp_bias"] = json!(true);
    folder.refused(&exact(), &["model.layers.0.mlp.gate_proj.bias", "missing"]);
}

#[test]
fn configurations_that_are_not_supported_are_refused_by_key() {
    let original = Folder::golden("tiny-llama");
    let with = |key: &str, value: Value, parts: &[&str]| {
        let mut folder = original.clone();
        folder.config[key] = value;
        folder.refused(&exact(), &[&["config.json", key], parts].concat());
    };
    with("model_type", json!("mamba"), &["\"mamba\"", "llama, qwen2, qwen3 and the encoders bert"]);
    with("model_type", json!(7), &["a string was expected, found 7"]);
    with("model_type", json!(null), &["missing"]);
    with(
        "architectures",
        json!(["LlamaForSequenceClassification"]),
        &["LlamaForSequenceClassification"],
    );
    with("hidden_act", json!("gelu"), &["\"gelu\""]);
    with("sliding_window", json!(16), &["16 of 64"]);
    with("num_experts", json!(8), &["8"]);
    with("num_local_experts", json!(8), &["8"]);
    with("partial_rotary_factor", json!(0.5), &["0.5"]);
    with("final_logit_softcapping", json!(30.0), &["30"]);
    with("layer_types", json!(["full_attention", "sliding_attention"]), &["sliding_attention"]);
    with("pretraining_tp", json!(2), &["2"]);
    with("logits_scaling", json!(8.0), &["8"]);
    with("clip_qkv", json!(6.0), &["6"]);
    with("rope_interleaved", json!(true), &["true"]);
    for (value, found) in
        [(json!("64"), "\"64\""), (json!(-1), "-1"), (json!(6.5), "6.5"), (json!([64]), "[64]")]
    {
        for key in [
            "hidden_size",
            "num_attention_heads",
            "num_hidden_layers",
            "vocab_size",
            "num_key_value_heads",
            "head_dim",
        ] {
            with(key, value.clone(), &["a whole number was expected", found]);
        }
    }
    for key in [
        "hidden_size",
        "num_attention_heads",
        "num_hidden_layers",
        "vocab_size",
        "intermediate_size",
        "max_position_embeddings",
    ] {
        with(key, json!(null), &["missing"]);
    }
    with("rms_norm_eps", json!("small"), &["a number was expected, found \"small\""]);
    with("tie_word_embeddings", json!("yes"), &["true or false was expected"]);
    with("attention_bias", json!(1), &["true or false was expected"]);
    with("eos_token_id", json!("</s>"), &["a token id was expected"]);
    with("rope_parameters", json!(5), &["an object was expected, found 5"]);
    with(
        "rope_parameters",
        json!({"rope_type": "yarn", "factor": 4.0}),
        &["rope_parameters.rope_type", "\"yarn\""],
    );
    with("rope_parameters", json!({"rope_type": "linear"}), &["rope_parameters.factor", "missing"]);
    with(
        "rope_parameters",
        json!({"rope_type": "default", "partial_rotary_factor": 0.25}),
        &["rope_parameters.partial_rotary_factor"],
    );
    // The old key for the same.
    let mut folder = original.clone();
    folder.config["rope_parameters"] = Value::Null;
    folder.config["rope_scaling"] = json!({"type": "dynamic", "factor": 2.0});
    folder.refused(&exact(), &["config.json", "rope_scaling.rope_type", "\"dynamic\""]);
}

#[test]
fn numbers_out_of_range_say_what_is_allowed() {
    let original = Folder::golden("tiny-llama");
    let with = |key: &str, value: Value, parts: &[&str]| {
        let mut folder = original.clone();
        folder.config[key] = value;
        folder.refused(&exact(), parts);
    };
    with("num_attention_heads", json!(0), &["the number of attention heads is 0, expected 1 to"]);
    with("num_key_value_heads", json!(0), &["the number of key-value heads is 0"]);
    with("num_key_value_heads", json!(3), &["the number of key-value heads is 3, expected 2 to 2"]);
    with("num_hidden_layers", json!(0), &["the number of layers is 0"]);
    with("hidden_size", json!(u64::MAX), &["the model dimension is 18446744073709551615"]);
    with("num_hidden_layers", json!(u64::MAX), &["the number of layers is 18446744073709551615"]);
    with("vocab_size", json!(1u64 << 60), &["the vocabulary size"]);
    with("head_dim", json!(15), &["the head dimension is 15"]);
    with("rms_norm_eps", json!(0.0), &["epsilon"]);
    with("rms_norm_eps", json!(1e300), &["rms_norm_eps", "32 bits"]);
    with("rope_parameters", json!({"rope_theta": -1.0}), &["the rotary base"]);
    with("bos_token_id", json!(96), &["token 96", "vocabulary of 96"]);
    with("eos_token_id", json!([2, 4000]), &["token 4000", "vocabulary of 96"]);
    let mut folder = original.clone();
    folder.config.as_object_mut().unwrap().remove("head_dim");
    folder.config["num_attention_heads"] = json!(0);
    folder.refused(&exact(), &["config.json", "num_attention_heads", "found 0"]);
}

#[test]
fn files_that_are_not_json_or_not_there() {
    let place = tempfile::tempdir().unwrap();
    let folder = Folder::golden("tiny-llama");
    refused(place.path(), &exact(), &["config.json", "No such file"]);
    folder.write(place.path());
    for (text, reason) in [
        ("", "not valid JSON"),
        ("{\"a\": ", "not valid JSON"),
        ("[]", "a JSON object was expected"),
        ("\u{0}", "not valid JSON"),
    ] {
        fs::write(place.path().join("config.json"), text).unwrap();
        refused(place.path(), &exact(), &["config.json", reason]);
    }
    let deep = "[".repeat(100_000);
    fs::write(place.path().join("config.json"), format!("{{\"a\": {deep}")).unwrap();
    refused(place.path(), &exact(), &["config.json", "not valid JSON"]);
    folder.write_settings(place.path());
    let strict = lowrank::import::BaseOptions { allow_missing_tokenizer: false, ..exact() };
    refused(place.path(), &strict, &["tokenizer", "without a tokenizer"]);
    fs::write(place.path().join("tokenizer.json"), "not json").unwrap();
    refused(place.path(), &strict, &["tokenizer.json", "not valid JSON"]);
}

#[test]
fn quantizations_that_are_not_supported_are_refused_by_key() {
    let original = Folder::golden("tiny-llama-bnb");
    let with = |change: &dyn Fn(&mut Value), key: &str, parts: &[&str]| {
        let mut folder = original.clone();
        change(&mut folder.config["quantization_config"]);
        folder.refused(
            &in_format(Format::Nf4),
            &[&["config.json", &format!("quantization_config.{key}")], parts].concat(),
        );
    };
    with(&|c| c["quant_method"] = json!("gptq"), "quant_method", &["\"gptq\""]);
    with(&|c| c["quant_method"] = json!("fp8"), "quant_method", &["\"fp8\""]);
    with(&|c| c["bnb_4bit_quant_type"] = json!("fp4"), "bnb_4bit_quant_type", &["\"fp4\""]);
    with(
        &|c| drop(c.as_object_mut().unwrap().remove("bnb_4bit_quant_type")),
        "bnb_4bit_quant_type",
        &["\"fp4\""],
    );
    with(
        &|c| (c["load_in_4bit"], c["load_in_8bit"]) = (json!(false), json!(true)),
        "load_in_4bit",
        &["4-bit"],
    );
    with(&|c| *c = json!({"quant_method": "bitsandbytes"}), "load_in_4bit", &["4-bit"]);
}

#[test]
fn packed_weights_that_lie_are_refused_by_name() {
    let weight = "model.layers.0.mlp.down_proj.weight";
    let part = |suffix: &str| format!("{weight}{suffix}");
    let refuse = |plain: bool, change: &dyn Fn(&mut Folder), parts: &[&str]| {
        let mut folder =
            Folder::golden(if plain { "tiny-llama-bnb-plain" } else { "tiny-llama-bnb" });
        change(&mut folder);
        folder.refused(&in_format(Format::Nf4), parts);
    };
    let with = |change: &dyn Fn(&mut Folder), parts: &[&str]| refuse(false, change, parts);
    let with_state = |key: &str, value: Value, parts: &[&str]| {
        let change = |folder: &mut Folder| {
            let stored = folder.tensor(&state(weight));
            let mut state: Value = serde_json::from_slice(&stored.bytes).unwrap();
            state[key] = value.clone();
            stored.bytes = state.to_string().into_bytes();
            stored.shape = vec![stored.bytes.len()];
        };
        with(&change, &[&[state(weight).as_str()], parts].concat());
    };
    let with_text = |from: &str, to: &str, parts: &[&str]| {
        let change = |folder: &mut Folder| {
            let stored = folder.tensor(&state(weight));
            stored.bytes =
                String::from_utf8(stored.bytes.clone()).unwrap().replace(from, to).into_bytes();
        };
        with(&change, parts);
    };
    for suffix in [".quant_map", ".nested_quant_map", ".absmax", ".nested_absmax"] {
        with(&|folder| drop(folder.tensors.remove(&part(suffix))), &[&part(suffix), "missing"]);
    }
    with(
        &|folder| folder.tensor(&part(".quant_map")).put(3, -0.4),
        &[&part(".quant_map"), "entry 3 is -0.4"],
    );
    with(
        &|folder| folder.tensor(&part(".quant_map")).put(7, f32::NAN),
        &[&part(".quant_map"), "entry 7 is NaN"],
    );
    with(
        &|folder| folder.tensor(&part(".nested_quant_map")).put(200, 0.5),
        &[&part(".nested_quant_map"), "entry 200 is 0.5"],
    );
    let shorten = |suffix: &'static str| {
        move |folder: &mut Folder| {
            let stored = folder.tensor(&part(suffix));
            let element = stored.bytes.len() / stored.shape.iter().product::<usize>();
            stored.shape[0] -= 1;
            stored.bytes.truncate(stored.shape.iter().product::<usize>() * element);
        }
    };
    with(&shorten(".quant_map"), &[&part(".quant_map"), "16", "15"]);
    with(&shorten(".nested_quant_map"), &[&part(".nested_quant_map"), "256", "255"]);
    with(&shorten(".absmax"), &[&part(".absmax"), "99", "100"]);
    refuse(true, &shorten(".absmax"), &[&part(".absmax"), "99", "100"]);
    with(&shorten(".nested_absmax"), &[&part(".nested_absmax"), "0", "1"]);
    with(&shorten(""), &[weight, "3199", "3200"]);
    with_state("nested_blocksize", json!(128), &["nested_blocksize", "256", "128"]);
    with_state("nested_blocksize", json!("x"), &["nested_blocksize"]);
    with_state("nested_offset", json!(null), &["nested_offset"]);
    with_state("nested_offset", json!(1e300), &["nested_offset", "1e+300"]);
    with_state("blocksize", json!(null), &["blocksize"]);
    with_state("blocksize", json!(0), &["blocksize", "0"]);
    with_state("blocksize", json!(48), &["blocksize", "48"]);
    with_state("quant_type", json!("fp4"), &["quant_type", "fp4"]);
    with_state("shape", json!(null), &["shape"]);
    with_state("shape", json!([64, 100, 1]), &["shape", "[64,100,1]"]);
    with_state("shape", json!([64, -100]), &["shape"]);
    with_state("shape", json!([u64::MAX, u64::MAX]), &["shape"]);
    with_state("shape", json!([1u64 << 40, 1u64 << 40]), &["shape"]);
    refuse(
        true,
        &|folder| folder.tensor(&part(".absmax")).put(42, f32::NAN),
        &[&part(".absmax"), "value 42", "NaN"],
    );
    with(
        &|folder| folder.tensor(&part(".nested_absmax")).put(0, f32::INFINITY),
        &[&part(".nested_absmax"), "value 0", "inf"],
    );
    with(
        &|folder| {
            *folder.tensor(&state(weight)) =
                Stored { dtype: Dtype::U8, shape: vec![3], bytes: b"{\"s".to_vec() }
        },
        &[&state(weight), "not valid JSON"],
    );
    with(&|folder| drop(folder.tensors.remove(&state(weight))), &[weight, "U8"]);
    let fp4 = |folder: &mut Folder| {
        let stored = folder.tensors.remove(&state(weight)).unwrap();
        folder.tensors.insert(part(".quant_state.bitsandbytes__fp4"), stored);
    };
    with(&fp4, &[weight, "fp4"]);
    // Each number is finite, the scale that they stand for is not.
    let overflow = |folder: &mut Folder| {
        folder.tensor(&part(".nested_absmax")).put(0, f32::MAX);
        let stored = folder.tensor(&state(weight));
        let mut state: Value = serde_json::from_slice(&stored.bytes).unwrap();
        state["nested_offset"] = json!(f32::MAX);
        stored.bytes = state.to_string().into_bytes();
        stored.shape = vec![stored.bytes.len()];
    };
    with(&overflow, &[&part(".absmax"), "inf"]);
    // More codes asked for than there are; and the right number of codes, another shape than the
    // configuration's.
    with_text("[64, 100]", "[64, 101]", &[weight, "3232", "3200"]);
    with_text("[64, 100]", "[100, 64]", &[weight, "[100, 64]", "[64, 100]"]);
}

/// A safetensors file of a header and data, whatever they say.
fn raw(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn lying_safetensors_headers_are_refused() {
    let place = tempfile::tempdir().unwrap();
    Folder::golden("tiny-llama").write_settings(place.path());
    let tensor = |shape: &str, offsets: &str| {
        format!(r#""model.norm.weight":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let one = |shape: &str, offsets: &str| format!("{{{}}}", tensor(shape, offsets));
    let second = r#""x":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}"#;
    let files = [
        Vec::new(),
        vec![0; 7],
        vec![0; 8],
        vec![0xff; 64],
        [&u64::MAX.to_le_bytes()[..], b"{}"].concat(),
        [&100u64.to_le_bytes()[..], b"{}"].concat(),
        [&(1u64 << 40).to_le_bytes()[..], &[b' '; 100]].concat(),
        raw("", 0),
        raw("[]", 0),
        raw("{", 0),
        raw(&one("[2]", "[0,4]"), 4),
        raw(&one("[2]", "[0,8]"), 4),
        raw(&one("[2]", "[0,8]"), 9),
        raw(&one("[2]", "[8,16]"), 16),
        raw(&one("[2]", "[8,0]"), 8),
        raw(&one("[2]", "[0,18446744073709551615]"), 8),
        raw(&one("[2]", "[18446744073709551608,18446744073709551615]"), 8),
        raw(&one("[4611686018427387904, 4]", "[0,8]"), 8),
        raw(&one("[18446744073709551615, 18446744073709551615]", "[0,8]"), 8),
        raw(&one("[-2]", "[0,8]"), 8),
        raw(&one("[2.5]", "[0,8]"), 8),
        raw(&format!("{{{},{second}}}", tensor("[2]", "[0,8]")), 12),
        raw(&format!("{{{},{}}}", tensor("[2]", "[0,8]"), tensor("[2]", "[8,16]")), 16),
        raw(r#"{"x":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}"#, 8),
        raw(r#"{"x":{"dtype":"F32","shape":[2]}}"#, 8),
        raw(r#"{"x":7}"#, 8),
        raw(&format!("{{\"x\":{}", "[".repeat(100_000)), 8),
    ];
    for file in files {
        fs::write(place.path().join("model.safetensors"), &file).unwrap();
        refused(place.path(), &exact(), &["model.safetensors"]);
    }
}

#[test]
fn truncations_are_refused_and_no_flipped_byte_panics() {
    let folder = Folder::golden("tiny-variants/tied");
    let place = tempfile::tempdir().unwrap();
    folder.write(place.path());
    let path = place.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for len in (0..16).chain((16..header + 8).step_by(7)).chain((header..whole.len()).step_by(997))
    {
        fs::write(&path, &whole[..len]).unwrap();
        let error =
            HuggingFace::open(place.path()).expect_err("a truncated file was accepted").to_string();
        assert!(error.contains("model.safetensors"), "{error}");
    }
    // Every byte of the header: a neighbouring character and no character, in turn. Then steps
    // through the data.
    let mut flipped = whole.clone();
    for at in (0..header).chain((header..whole.len()).step_by(397)) {
        let mask = if at % 2 == 0 { 0x01 } else { 0xff };
        flipped[at] ^= mask;
        fs::write(&path, &flipped).unwrap();
        if let Ok(archive) = import(place.path(), &exact()) {
            Llama::verify(&archive).unwrap();
        }
        flipped[at] ^= mask;
    }
}

#[test]
fn a_flipped_byte_of_a_packed_folder_never_panics() {
    let mut folder = Folder::golden("tiny-llama-bnb");
    let names: Vec<String> = folder
        .tensors
        .keys()
        .filter(|name| name.contains("layers.0.mlp.down_proj"))
        .cloned()
        .collect();
    for name in names {
        for at in 0..folder.tensor(&name).bytes.len().min(120) {
            folder.tensor(&name).bytes[at] ^= 0x80;
            if let Ok(archive) = folder.import(&in_format(Format::Nf4)) {
                Llama::verify(&archive).unwrap();
            }
            folder.tensor(&name).bytes[at] ^= 0x80;
        }
    }
}
