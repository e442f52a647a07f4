//! What a PEFT directory says is what the adapter computes with, or the import is refused by one
//! sentence that names the key or the tensor. Logits are compared in `golden_llama`.

mod peft_folder;

use std::collections::BTreeMap;

use half::{bf16, f16};
use lowrank::adapter::{
    Adapter, AdapterBuilder, FactorFormat, FactorValues, LowRank, Numbers, Orientation, Place,
    TargetParts,
};
use lowrank::archive::Buffer;
use lowrank::import::{AdapterOptions, import_peft};
use lowrank::model::llama::{Llama, Site};
use lowrank::quant::Format;
use peft_folder::{Folder, base, f32_tensor, floats, golden};
use safetensors::Dtype;
use serde_json::{Value, json};

const Q: &str = "base_model.model.model.layers.0.self_attn.q_proj";

fn tiny() -> Buffer {
    base("tiny-llama", Format::F32, Format::F32)
}

/// The scale of every target by module path.
fn scales(model: &Llama<'_>, builder: &AdapterBuilder) -> BTreeMap<String, f32> {
    let archive = builder.build(model).unwrap();
    let site = |number| Site::from_number(number, model.config().layers).unwrap().to_string();
    Adapter::open(&archive)
        .unwrap()
        .targets()
        .map(|target| (site(target.site), target.scale(target.rank)))
        .collect()
}

/// The import must fail, and its one sentence must have all these parts.
#[track_caller]
fn refused(name: &str, result: Result<AdapterBuilder, String>, parts: &[&str]) {
    let error = result.expect_err(name);
    assert!(!error.contains('\n'), "{name}: {error}");
    parts
        .iter()
        .for_each(|part| assert!(error.contains(part), "{name}: {part:?} is not in: {error}"));
}

#[test]
fn scales_of_rslora_with_patterns() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let builder = Folder::golden("tiny-llama/adapters/rslora").import(&model).unwrap();
    assert_eq!(builder.method, "rslora");
    for (module, scale) in scales(&model, &builder) {
        let expected = match module.as_str() {
            "model.layers.1.mlp.down_proj" => 12.0 / 6f32.sqrt(),
            "model.layers.0.self_attn.o_proj" => 5.0 / 2.0,
            other if other.ends_with("q_proj") => 8.0 / 2f32.sqrt(),
            other if other.ends_with("v_proj") => 3.0 / 2.0,
            _ => 8.0 / 2.0,
        };
        assert!(
            (scale - expected).abs() <= 1e-6 * expected,
            "{module}: {scale}, {expected} expected"
        );
    }
}

#[test]
fn patterns_match_as_in_peft() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let alphas = |pattern: Value| {
        let mut folder = Folder::golden("tiny-llama/adapters/lora");
        let builder = folder.set("alpha_pattern", pattern).import(&model).unwrap();
        scales(&model, &builder)
            .into_iter()
            .map(|(module, scale)| (module, scale * 4.0))
            .collect::<BTreeMap<_, _>>()
    };
    let q0 = "model.layers.0.self_attn.q_proj";
    for (pattern, alpha) in [
        (json!({"q_proj": 2, "self_attn.q_proj": 3}), 2.0),
        (json!({".*_proj": 1, "q_proj": 2}), 1.0),
        (json!({"proj": 2}), 8.0),
        (json!({"q_pro": 2}), 8.0),
        (json!({"k_proj|q_proj": 5}), 5.0),
        (json!({"layers\\.[0].*": 6}), 6.0),
        (json!({"model.layers.0.self_attn.q_proj": 0.5}), 0.5),
        (json!({"base_model.model.model.layers.0.self_attn.q_proj": 2}), 8.0),
        (json!({"q_proj": -2}), -2.0),
        (Value::Null, 8.0),
    ] {
        assert_eq!(alphas(pattern.clone())[q0], alpha, "{pattern}");
    }
    let both = alphas(json!({"layers.0.*": 6}));
    assert_eq!(
        (both["model.layers.0.mlp.up_proj"], both["model.layers.1.mlp.up_proj"]),
        (6.0, 8.0)
    );
}

#[test]
fn missing_keys_take_pefts_defaults() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let mut folder = Folder::golden("tiny-llama/adapters/lora");
    folder.config = json!({"peft_type": "LORA", "r": 4});
    assert_eq!(scales(&model, &folder.import(&model).unwrap())["model.layers.1.mlp.up_proj"], 2.0);
    folder.config = json!({"peft_type": "LORA"});
    refused("r is 8", folder.import(&model), &[".lora_A.weight", "rank 4", "says 8"]);
}

#[test]
fn what_changes_the_mathematics_is_refused_by_name() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    for (key, value) in [
        ("peft_type", json!("LOHA")),
        ("peft_type", Value::Null),
        ("bias", json!("all")),
        ("bias", json!("lora_only")),
        ("fan_in_fan_out", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("trainable_token_indices", json!([1, 2])),
        ("trainable_token_indices", json!({"embed_tokens": [1]})),
        ("layer_replication", json!([[0, 2], [1, 2]])),
        ("target_parameters", json!(["mlp.experts"])),
        ("alora_invocation_tokens", json!([5])),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("lora_ga")),
        ("init_lora_weights", json!("mica")),
        ("use_qalora", json!(true)),
        ("use_bdlora", json!({"nblocks": 2})),
        ("velora_config", json!({"num_groups": 4})),
        ("kasa_config", json!({"beta": 1e-4})),
        ("monteclora_config", json!({"num_samples": 2})),
        ("arrow_config", json!({"top_k": 2})),
        ("megatron_config", json!({"tensor_model_parallel_size": 2})),
        ("a_later_invention", json!({"x": 1})),
        ("r", json!("4")),
        ("lora_alpha", json!("8")),
        ("lora_alpha", json!(1e39)),
        ("use_rslora", json!("yes")),
        ("rank_pattern", json!({"q_proj": 2.5})),
        ("rank_pattern", json!({"q_proj": 0})),
        ("rank_pattern", json!([4])),
        ("alpha_pattern", json!({"q_proj": "8"})),
        ("alpha_pattern", json!({"q_proj(": 8})),
    ] {
        let mut folder = Folder::golden("tiny-llama/adapters/lora");
        refused(key, folder.set(key, value).import(&model), &["adapter_config.json", key]);
    }
    let mut both = Folder::golden("tiny-llama/adapters/lora_bias");
    refused(
        "lora_bias with DoRA",
        both.set("use_dora", json!(true)).import(&model),
        &["lora_bias", "use_dora"],
    );
}

#[test]
fn what_changes_nothing_is_accepted() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let plain = Folder::golden("tiny-llama/adapters/lora").import(&model).unwrap().targets;
    for (key, value) in [
        ("init_lora_weights", json!(false)),
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!("eva")),
        ("init_lora_weights", json!("orthogonal")),
        ("eva_config", json!({"rho": 2.0})),
        ("loftq_config", json!({"loftq_bits": 4})),
        ("target_modules", json!("all-linear")),
        ("layers_to_transform", json!([0, 1])),
        ("layers_pattern", json!("layers")),
        ("exclude_modules", json!(["lm_head"])),
        ("auto_mapping", json!({"base_model_class": "LlamaForCausalLM"})),
        ("lora_dropout", json!(0.1)),
        ("ensure_weight_tying", json!(true)),
        ("a_later_invention", json!([])),
        ("another_one", json!(false)),
    ] {
        let mut folder = Folder::golden("tiny-llama/adapters/lora");
        assert_eq!(folder.set(key, value).import(&model).unwrap().targets, plain, "{key}");
    }
}

/// PEFT ignores tensors of modules that the configuration leaves out; to apply them would give other
/// logits.
#[test]
fn a_file_with_more_modules_than_its_configuration_names_is_refused() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    for (key, value, module) in [
        ("target_modules", json!(["q_proj"]), "model.layers.0.mlp.down_proj"),
        ("layers_to_transform", json!([0]), "model.layers.1.mlp.down_proj"),
        ("exclude_modules", json!(["up_proj"]), "model.layers.0.mlp.up_proj"),
    ] {
        let mut folder = Folder::golden("tiny-llama/adapters/lora");
        let result = folder.set(key, value).import(&model);
        refused(key, result, &["adapter_model.safetensors", module, key]);
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let a = format!("{Q}.lora_A.weight");
    let check = |adapter: &str, change: &dyn Fn(&mut Folder), parts: &[&str]| {
        let mut folder = Folder::golden(&format!("tiny-llama/adapters/{adapter}"));
        change(&mut folder);
        refused(parts[0], folder.import(&model), parts);
    };
    let add = |name: &str, shape: &[usize]| {
        let (name, tensor) =
            (name.to_owned(), f32_tensor(shape, (0..shape.iter().product()).map(|_| 0.5)));
        move |folder: &mut Folder| drop(folder.tensors.insert(name.clone(), tensor.clone()))
    };

    check(
        "lora",
        &|folder| drop(folder.tensors.remove(&a)),
        &["layers.0.self_attn.q_proj", "A is missing"],
    );
    check(
        "lora",
        &|folder| drop(folder.tensors.remove(&format!("{Q}.lora_B.weight"))),
        &["q_proj", "B is missing"],
    );
    check("lora", &|folder| folder.tensors.clear(), &["no LoRA tensors"]);
    check(
        "lora",
        &add("base_model.model.lm_head.weight", &[96, 64]),
        &["base_model.model.lm_head.weight", "modules_to_save"],
    );
    check(
        "lora",
        &add("base_model.model.model.norm.modules_to_save.weight", &[64]),
        &["model.norm", "modules_to_save"],
    );
    check("lora", &add(&format!("{Q}.bias"), &[64]), &["q_proj.bias", "not a LoRA tensor"]);
    check("lora", &add(&format!("{Q}.lora_E"), &[4]), &["q_proj.lora_E", "not a LoRA tensor"]);
    check(
        "lora",
        &add(&format!("{Q}.lora_A.default.weight"), &[4, 64]),
        &["q_proj.lora_A", "one of the two"],
    );
    check(
        "lora",
        &add(&format!("{Q}.lora_magnitude_vector"), &[64]),
        &["q_proj", "lora_magnitude_vector is in the file", "use_dora"],
    );
    check(
        "lora",
        &add(&format!("{Q}.lora_B.bias"), &[64]),
        &["q_proj", "lora_B.bias is in the file", "lora_bias is false"],
    );
    check(
        "lora",
        &add(&format!("{Q}2.lora_A.weight"), &[4, 64]),
        &["q_proj2", "the base has no such"],
    );
    check(
        "lora",
        &add(&a.replace("layers.0", "layers.2"), &[4, 64]),
        &["layers.2", "the base has no such"],
    );
    check(
        "lora",
        &add(&format!("{Q}.lora_embedding_A"), &[4, 64]),
        &["lora_embedding_A", "embeddings"],
    );
    let dora_vector = format!("{Q}.lora_magnitude_vector");
    check(
        "dora",
        &|folder| drop(folder.tensors.remove(&dora_vector)),
        &["q_proj", "lora_magnitude_vector is missing", "use_dora is true"],
    );
    check("dora", &add(&dora_vector, &[65]), &["lora_magnitude_vector", "[65]", "[64]"]);
    check(
        "lora_bias",
        &|folder| drop(folder.tensors.remove(&format!("{Q}.lora_B.bias"))),
        &["q_proj", "lora_B.bias is missing"],
    );
    let embedding_with_dora = |folder: &mut Folder| {
        folder.tensors.retain(|name, _| name.contains("embed_tokens"));
        folder.set("use_dora", json!(true));
    };
    check("embed_head", &embedding_with_dora, &["model.embed_tokens", "DoRA on embeddings"]);

    check("lora", &add(&a, &[4, 65]), &["q_proj.lora_A.weight", "[4, 65]", "[4, 64]"]);
    check("lora", &add(&a, &[256]), &["q_proj.lora_A.weight", "rank 256", "says 4"]);
    check("lora", &add(&a, &[5, 64]), &["q_proj.lora_A.weight", "rank 5", "says 4"]);
    check(
        "lora",
        &add(&format!("{Q}.lora_B.weight"), &[64, 5]),
        &["q_proj.lora_B.weight", "[64, 5]", "[64, 4]"],
    );
    check(
        "lora",
        &add(&format!("{Q}.lora_B.weight"), &[4, 64]),
        &["q_proj.lora_B.weight", "[4, 64]", "[64, 4]"],
    );
    check(
        "lora",
        &|folder| folder.tensors.get_mut(&a).unwrap().0 = Dtype::I32,
        &["q_proj.lora_A.weight", "I32"],
    );
    let number = |value: f32| {
        let a = a.clone();
        move |folder: &mut Folder| {
            folder.tensors.get_mut(&a).unwrap().2[40..44].copy_from_slice(&value.to_le_bytes())
        }
    };
    check("lora", &number(f32::NAN), &["q_proj.lora_A.weight", "value 10", "NaN"]);
    check("lora", &number(f32::INFINITY), &["q_proj.lora_A.weight", "value 10", "inf"]);
}

#[test]
fn names_seen_in_the_wild_are_understood() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    for adapter in ["dora", "embed_head", "lora_bias"] {
        let folder = Folder::golden(&format!("tiny-llama/adapters/{adapter}"));
        let plain = folder.import(&model).unwrap().targets;
        let renamed = |rename: &dyn Fn(&str) -> String| {
            let tensors = folder
                .tensors
                .iter()
                .map(|(name, tensor)| (rename(name), tensor.clone()))
                .collect();
            Folder { tensors, ..folder.clone() }.import(&model).unwrap().targets
        };
        let default = |name: &str| match name.rsplit_once('.').unwrap() {
            (path, "lora_magnitude_vector") => {
                format!("{path}.lora_magnitude_vector.default.weight")
            }
            (path, last @ ("lora_embedding_A" | "lora_embedding_B")) => {
                format!("{path}.{last}.default")
            }
            (path, last) => format!("{path}.default.{last}"),
        };
        assert_eq!(renamed(&default), plain);
        assert_eq!(
            renamed(&|name| name.strip_prefix("base_model.model.").unwrap().to_owned()),
            plain
        );
        assert_eq!(
            renamed(&|name| name.replace("magnitude_vector", "magnitude_vector.weight")),
            plain
        );
        let mut column = folder.clone();
        for (name, tensor) in &mut column.tensors {
            if name.ends_with("magnitude_vector") {
                tensor.1.push(1);
            }
        }
        assert_eq!(column.import(&model).unwrap().targets, plain);
    }
}

#[test]
fn lying_safetensors_are_refused() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let folder = Folder::golden("tiny-llama/adapters/lora");
    folder.write(directory.path());
    let file = directory.path().join("adapter_model.safetensors");
    let good = std::fs::read(&file).unwrap();
    let import = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        import_peft(directory.path(), &model, &AdapterOptions::default())
            .map_err(|error| error.to_string())
    };
    assert!(import(&good).is_ok());
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    // Every length around the header's parts, and steps through the rest.
    for length in
        (0..16).chain([header - 1, header, header + 1]).chain((0..good.len()).step_by(997))
    {
        refused("truncated", import(&good[..length]), &["adapter_model.safetensors"]);
    }
    refused("longer", import(&[&good[..], &[0]].concat()), &["adapter_model.safetensors"]);
    for length in [0, 1, 7, header as u64, good.len() as u64, u64::MAX, 1 << 40] {
        let mut bytes = good.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        refused("header length", import(&bytes), &["adapter_model.safetensors", "safetensors"]);
    }
    let text = String::from_utf8(good[8..header].to_vec()).unwrap();
    for (from, to) in [
        ("\"data_offsets\":[0,1600]", "\"data_offsets\":[0,9600]"),
        ("\"data_offsets\":[0,1600]", "\"data_offsets\":[4,1604]"),
        ("\"data_offsets\":[0,1600]", "\"data_offsets\":[1600,0]"),
        ("\"shape\":[4,100]", "\"shape\":[4,101]"),
        ("\"shape\":[4,100]", "\"shape\":[9223372036854775807,100]"),
        ("\"dtype\":\"F32\"", "\"dtype\":\"F99\""),
        ("{", "["),
    ] {
        assert!(text.contains(from));
        let text = text.replacen(from, to, 1);
        let bytes =
            [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &good[header..]].concat();
        refused(to, import(&bytes), &["adapter_model.safetensors", "safetensors"]);
    }
    std::fs::remove_file(&file).unwrap();
    let import = || {
        import_peft(directory.path(), &model, &AdapterOptions::default())
            .map_err(|error| error.to_string())
    };
    refused("no weights", import(), &["adapter_model.safetensors"]);
    std::fs::write(directory.path().join("adapter_model.bin"), [0]).unwrap();
    refused("pickled weights", import(), &["adapter_model.bin", "safetensors"]);
    for text in ["", "[]", "{\"peft_type\": \"LORA\"", "null"] {
        std::fs::write(directory.path().join("adapter_config.json"), text).unwrap();
        refused("config", import(), &["adapter_config.json"]);
    }
    std::fs::remove_file(directory.path().join("adapter_config.json")).unwrap();
    refused("no config", import(), &["adapter_config.json"]);
}

#[test]
fn types_are_kept_or_converted_as_asked() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let q = Place(Site::Q(0).number(2));
    let mut folder = Folder::golden("tiny-llama/adapters/lora");
    let mut values = floats(&folder.tensors[&format!("{Q}.lora_A.weight")].2);
    values[3] = 0.0;
    let mut cast = |dtype, bytes: Vec<u8>| {
        folder.tensors.insert(format!("{Q}.lora_A.weight"), (dtype, vec![4, 64], bytes));
        folder.import(&model).unwrap()
    };
    let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
    let builder = cast(Dtype::F16, halves.iter().flat_map(|v| v.to_le_bytes()).collect());
    assert_eq!(builder.targets[&q].a, Numbers::F16(halves.iter().map(|v| v.to_bits()).collect()));
    let brains: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v)).collect();
    let builder = cast(Dtype::BF16, brains.iter().flat_map(|v| v.to_le_bytes()).collect());
    assert_eq!(builder.targets[&q].a, Numbers::F32(brains.iter().map(|v| v.to_f32()).collect()));

    let mut builder = cast(Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    let mut stored = |format| {
        builder.format = format;
        builder.build(&model).unwrap()
    };
    let (f32s, f16s, int8s) =
        (stored(FactorFormat::AsIs), stored(FactorFormat::F16), stored(FactorFormat::Int8));
    let a =
        |archive: &Buffer, col| Adapter::open(archive).unwrap().target(q.0).unwrap().a.get(1, col);
    let absmax = values[64..128].iter().fold(0.0f32, |most, v| most.max(v.abs()));
    for (col, &value) in values[64..128].iter().enumerate() {
        assert_eq!(a(&f32s, col), value);
        assert_eq!(a(&f16s, col), f16::from_f32(value).to_f32());
        assert!(
            (a(&int8s, col) - value).abs() <= absmax / 127.0 * 0.5001,
            "{} {value}",
            a(&int8s, col)
        );
    }
    assert!(matches!(
        Adapter::open(&int8s).unwrap().target(q.0).unwrap().b.values(),
        FactorValues::Int8 { .. }
    ));
    let Numbers::F32(values) = &mut builder.targets.get_mut(&q).unwrap().a else {
        panic!("f32 was given")
    };
    values[9] = 1e5;
    builder.format = FactorFormat::F16;
    assert_eq!(builder.build(&model).unwrap_err(), lowrank::Error::Range { index: 9, value: 1e5 });
}

/// k of every row in f64, from the definition: m / ‖W + s·B A‖.
fn gains(model: &Llama<'_>, target: &LowRank<'_>) -> Vec<f64> {
    let weight = model.weight(Site::from_number(target.site, model.config().layers).unwrap());
    let scale = f64::from(target.alpha) / target.rank as f64;
    let mut row = vec![0.0; target.inputs];
    let gain = |out: usize| {
        weight.read(out, 0, &mut row);
        let adapted = row.iter().enumerate().map(|(col, &w)| {
            let delta: f64 = (0..target.rank)
                .map(|j| f64::from(target.b.get(j, out)) * f64::from(target.a.get(j, col)))
                .sum();
            f64::from(w) + scale * delta
        });
        f64::from(target.magnitude[out]) / adapted.map(|v| v * v).sum::<f64>().sqrt()
    };
    (0..target.outputs).map(gain).collect()
}

#[test]
fn dora_gains_are_magnitude_over_norm() {
    for (format, factors) in [
        (Format::F32, FactorFormat::AsIs),
        (Format::Nf4, FactorFormat::AsIs),
        (Format::F16, FactorFormat::Int8),
    ] {
        let archive = base("tiny-llama", format, Format::F32);
        let model = Llama::open(&archive).unwrap();
        let options = AdapterOptions { format: factors, ..AdapterOptions::default() };
        let adapter = import_peft(golden("tiny-llama/adapters/dora"), &model, &options)
            .unwrap()
            .build(&model)
            .unwrap();
        let adapter = Adapter::open(&adapter).unwrap();
        assert_eq!((adapter.method(), adapter.targets().len()), ("dora", 14));
        for target in adapter.targets() {
            assert_eq!(target.gain.len(), target.outputs);
            for (row, (&k, expected)) in target.gain.iter().zip(gains(&model, &target)).enumerate()
            {
                assert!(
                    (f64::from(k) - expected).abs() <= 1e-7 * expected,
                    "{format:?}, tensor {}, row {row}: {k}",
                    target.site
                );
            }
        }
    }
}

#[test]
fn rows_of_zeros_get_finite_gains() {
    let archive = base("tiny-zero-row", Format::F32, Format::F32);
    let model = Llama::open(&archive).unwrap();
    let o = Site::O(0).number(1);
    for (adapter, last) in [("dora", 0.0), ("dora_zero_norm", 1.0)] {
        let adapter = import_peft(
            golden(&format!("tiny-zero-row/adapters/{adapter}")),
            &model,
            &AdapterOptions::default(),
        );
        let adapter = adapter.unwrap().build(&model).unwrap();
        let target = Adapter::open(&adapter).unwrap().target(o).unwrap();
        let expected = gains(&model, &target)[5];
        assert!(
            (f64::from(target.gain[5]) - expected).abs() <= 1e-7 * expected && target.gain[5] > 0.0
        );
        assert_eq!(target.gain[6], last);
    }
}

#[test]
fn stored_base_layers_must_be_the_bases_own() {
    let (embedding, head) = (
        "base_model.model.model.embed_tokens.base_layer.weight",
        "base_model.model.lm_head.base_layer.weight",
    );
    for format in [Format::F32, Format::F16, Format::Int8, Format::Nf4, Format::Nf4Plain] {
        let archive = base("tiny-llama", Format::F32, format);
        let model = Llama::open(&archive).unwrap();
        let folder = Folder::golden("tiny-llama/adapters/embed_head");
        assert_eq!(folder.import(&model).unwrap().targets.len(), 2, "{format:?}");
        for name in [embedding, head] {
            let change = |change: &dyn Fn(usize, f32) -> f32, rows: usize| {
                let mut folder = folder.clone();
                let values = floats(&folder.tensors[name].2);
                let changed =
                    values.iter().cycle().take(rows * 64).enumerate().map(|(i, &v)| change(i, v));
                folder.tensors.insert(name.into(), f32_tensor(&[rows, 64], changed));
                folder.import(&model)
            };
            let trained = change(&|i, v| if i == 130 { v + 1.0 } else { v }, 96);
            refused("trained", trained, &[name, "[2, 2]", "trained or replaced"]);
            refused("another", change(&|_, v| -v, 96), &[name, "trained or replaced"]);
            refused(
                "not a number",
                change(&|i, v| if i == 0 { f32::NAN } else { v }, 96),
                &[name, "[0, 0]"],
            );
            refused("resized", change(&|_, v| v, 97), &[name, "[97, 64]", "[96, 64]"]);
        }
    }
}

#[test]
fn tied_adapters_need_both_parts() {
    let archive = base("tiny-variants/tied", Format::F32, Format::F32);
    let model = Llama::open(&archive).unwrap();
    assert!(model.is_tied());
    let (vocab, dim) = (model.config().vocab, model.config().dim);
    let tensor = |rows, cols| f32_tensor(&[rows, cols], (0..rows * cols).map(|i| i as f32 * 0.01));
    let mut folder = Folder {
        config: json!({"peft_type": "LORA", "r": 2, "ensure_weight_tying": true}),
        tensors: BTreeMap::new(),
    };
    folder
        .tensors
        .insert("base_model.model.model.embed_tokens.lora_embedding_A".into(), tensor(2, vocab));
    folder
        .tensors
        .insert("base_model.model.model.embed_tokens.lora_embedding_B".into(), tensor(dim, 2));
    refused("tied", folder.import(&model), &["ensure_weight_tying", "one of them only"]);
    folder.tensors.insert("base_model.model.lm_head.lora_A.weight".into(), tensor(2, dim));
    folder.tensors.insert("base_model.model.lm_head.lora_B.weight".into(), tensor(vocab, 2));
    assert_eq!(folder.import(&model).unwrap().targets.len(), 2);
}

#[test]
fn the_builder_refuses_what_cannot_be_bound_and_leaves_no_file() {
    use lowrank::Error;
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let (q, embedding) = (Site::Q(0).number(2), Site::Embedding.number(2));
    let parts = |rank: usize, inputs: usize, outputs: usize| TargetParts {
        rank,
        alpha: 8.0,
        rank_stabilized: false,
        orientation: Orientation::Peft,
        a: Numbers::F32(vec![0.1; rank * inputs]),
        b: Numbers::F16(vec![0x3c00; rank * outputs]),
        bias: Vec::new(),
        magnitude: Vec::new(),
        scaled: None,
    };
    let good = parts(2, 64, 64);
    let with_nan = Numbers::F32((0..128).map(|i| if i == 7 { f32::NAN } else { 0.0 }).collect());
    let cases: [(u32, TargetParts, Error); 9] = [
        (99, good.clone(), Error::UnknownSite { site: 99, sites: 16 }),
        (q, parts(0, 64, 64), Error::Rank { found: 0, most: 1 << 15 }),
        (
            q,
            TargetParts { rank: usize::MAX, ..good.clone() },
            Error::Rank { found: u32::MAX, most: 1 << 15 },
        ),
        (
            q,
            TargetParts { rank: 3, ..good.clone() },
            Error::PayloadLength { site: q, have: 512, need: 768 },
        ),
        (
            q,
            TargetParts { magnitude: vec![1.0; 63], ..good.clone() },
            Error::PayloadLength { site: q, have: 252, need: 256 },
        ),
        (q, TargetParts { a: with_nan, ..good.clone() }, Error::NotFinite { site: q, index: 7 }),
        (
            q,
            TargetParts { bias: vec![f32::INFINITY; 64], ..good.clone() },
            Error::NotFinite { site: q, index: 0 },
        ),
        (
            embedding,
            TargetParts { magnitude: vec![1.0; 64], ..parts(2, 96, 64) },
            Error::EmbeddingExtras { site: embedding },
        ),
        (
            embedding,
            TargetParts { bias: vec![1.0; 64], ..parts(2, 96, 64) },
            Error::EmbeddingExtras { site: embedding },
        ),
    ];
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.lrk");
    for (site, parts, expected) in cases {
        let mut builder = AdapterBuilder::new("a", "lora");
        builder.targets.insert(Place(site), parts);
        assert_eq!(builder.build(&model).unwrap_err(), expected);
        let error = builder.write(&model, &file).unwrap_err().to_string();
        assert!(error.contains("a.lrk") && error.contains(&expected.to_string()), "{error}");
    }
    let empty = AdapterBuilder::new("a", "lora");
    assert!(matches!(empty.build(&model), Err(Error::Config { found: 0, .. })));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);

    let mut builder = AdapterBuilder::new("a", "lora");
    builder.targets.insert(Place(q), good);
    builder.write(&model, &file).unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), builder.build(&model).unwrap()[..]);
    let infinite = TargetParts { alpha: f32::INFINITY, ..builder.targets[&Place(q)].clone() };
    builder.targets.insert(Place(q), infinite);
    builder.write(&model, &file).unwrap_err();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    Adapter::verify(&Buffer::from(&std::fs::read(&file).unwrap()[..])).unwrap();
}
