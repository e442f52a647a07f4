//! What a GGUF file says arrives unchanged, and a file that lies gets one clear error and no panic.
//!
//! Reference values are those of ggml, gguf-py and transformers in `tests/golden/` (see its
//! README). Hostile files are built from the committed ones, and from scratch by [`File`].

mod gguf_file;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use gguf_file::{File, open, smallest, string, temporary};
use lowrank::import::{Gguf, GgufAdapter, Source, Tensor};
use lowrank::model::llama::{Config, RopeScaling};
use safetensors::SafeTensors;
use tokenizers::Tokenizer;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Shapes and f32 values of a safetensors file.
fn floats(name: &str) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = fs::read(golden(name)).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let read = |(name, tensor): (String, safetensors::tensor::TensorView<'_>)| {
        let values = tensor
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        (name, (tensor.shape().to_vec(), values))
    };
    tensors
        .tensors()
        .into_iter()
        .filter(|(_, t)| t.dtype() == safetensors::Dtype::F32)
        .map(read)
        .collect()
}

fn dense(source: &Gguf, name: &str) -> (Vec<usize>, Vec<f32>) {
    match source.tensor(name).unwrap() {
        Some(Tensor::Dense { shape, values }) => (shape, values),
        other => panic!("{name}: {other:?}"),
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_type_dequantizes_as_ggml_does() {
    let bytes = fs::read(golden("gguf/tensors.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let types = [
        ("F32", 0),
        ("F16", 1),
        ("Q4_0", 2),
        ("Q4_1", 3),
        ("Q5_0", 6),
        ("Q5_1", 7),
        ("Q8_0", 8),
        ("Q4_K", 12),
        ("Q5_K", 13),
        ("Q6_K", 14),
        ("IQ4_NL", 20),
        ("BF16", 30),
    ];
    let values = floats("gguf/tensors.safetensors");
    for (name, number) in types {
        let blocks = stored.tensor(&format!("{name}.blocks")).unwrap().data().to_vec();
        let mut file = smallest(&["a"; 4]);
        file.number("llama.feed_forward_length", 256);
        file.zeros("blk.0.ffn_gate.weight", &[256, 4])
            .zeros("blk.0.ffn_up.weight", &[256, 4])
            .without("blk.0.ffn_down.weight");
        file.tensors.push(("blk.0.ffn_down.weight".into(), vec![256, 4], number, blocks));
        let (shape, found) = dense(&file.open().unwrap(), "model.layers.0.mlp.down_proj.weight");
        let (expected_shape, expected) = &values[&format!("{name}.values")];
        assert_eq!((&shape, bits(&found)), (expected_shape, bits(expected)), "{name}");
    }
}

/// `name` holds exactly the tensors of the safetensors file, those for which `half` is true rounded
/// to f16.
fn same_tensors(source: &Gguf, file: &str, half: impl Fn(&str, &[usize]) -> bool) {
    let expected = floats(file);
    assert_eq!(source.names(), expected.keys().cloned().collect::<Vec<_>>());
    for (name, (shape, values)) in &expected {
        let round = |v: &f32| if half(name, shape) { half::f16::from_f32(*v).to_f32() } else { *v };
        let values: Vec<f32> = values.iter().map(round).collect();
        let (found_shape, found) = dense(source, name);
        assert_eq!((&found_shape, bits(&found)), (shape, bits(&values)), "{name}");
    }
    assert_eq!(source.tensor("model.layers.9.mlp.up_proj.weight").unwrap(), None);
}

const TINY: Config = Config {
    vocab: 96,
    dim: 64,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    hidden: 100,
    context: 64,
    rope_theta: 10_000.0,
    rope_scaling: RopeScaling::None,
    norm_epsilon: 1e-5,
};

#[test]
fn the_tiny_llama_arrives_in_transformers_order() {
    let source = Gguf::open(golden("gguf/tiny-llama.gguf")).unwrap();
    assert_eq!(source.config().unwrap(), TINY);
    assert_eq!(source.name(), "tiny-llama");
    same_tensors(&source, "tiny-llama/model.safetensors", |name, shape| {
        shape.len() == 2 && name != "model.layers.1.mlp.down_proj.weight"
    });
}

#[test]
fn the_variants_arrive() {
    let base = Config {
        vocab: 64,
        dim: 32,
        layers: 1,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        hidden: 40,
        context: 128,
        ..TINY
    };
    let qwen = Config { rope_theta: 1e6, norm_epsilon: 1e-6, ..base };
    let llama = Config { heads: 2, kv_heads: 1, head_dim: 16, ..base };
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_frequency: 1.0,
        high_frequency: 4.0,
        original_context: 32.0,
    };
    for (name, config) in [
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
    ] {
        let source = Gguf::open(golden(&format!("gguf/{name}.gguf"))).unwrap();
        assert_eq!(source.config().unwrap(), config, "{name}");
        same_tensors(&source, &format!("tiny-variants/{name}/model.safetensors"), |_, _| false);
    }
}

#[test]
fn an_adapter_equals_the_peft_one() {
    let adapter = GgufAdapter::open(golden("gguf/lora.gguf"), &TINY).unwrap();
    assert_eq!((adapter.alpha, adapter.architecture.as_str()), (Some(8.0), "llama"));
    let mut expected = floats("tiny-llama/adapters/lora/adapter_model.safetensors");
    for target in &adapter.targets {
        for (part, shape, values) in [
            ("A", [target.r, target.inputs], &target.a),
            ("B", [target.outputs, target.r], &target.b),
        ] {
            let key = format!("base_model.model.{}.lora_{part}.weight", target.site);
            let (expected_shape, expected) = expected.remove(&key).unwrap();
            assert_eq!((&shape[..], bits(values)), (&expected_shape[..], bits(&expected)), "{key}");
        }
    }
    assert!(expected.is_empty(), "{:?}", expected.keys());
}

#[test]
fn an_embedding_adapter_is_flipped() {
    let config = Config {
        vocab: 3,
        dim: 4,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
        hidden: 4,
        ..TINY
    };
    let mut file = File { pairs: Vec::new(), tensors: Vec::new() };
    file.text("general.architecture", "llama")
        .text("general.type", "adapter")
        .text("adapter.type", "lora");
    let f32s = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    file.tensors.push((
        "token_embd.weight.lora_a".into(),
        vec![2, 3],
        0,
        f32s(&[1., 2., 3., 4., 5., 6.]),
    ));
    file.tensors.push((
        "token_embd.weight.lora_b".into(),
        vec![2, 4],
        0,
        f32s(&[1., 2., 3., 4., 5., 6., 7., 8.]),
    ));
    let adapter = GgufAdapter::open(temporary(&file.bytes()).path(), &config).unwrap();
    let target = &adapter.targets[0];
    assert_eq!((adapter.alpha, target.site.to_string().as_str()), (None, "model.embed_tokens"));
    assert_eq!((target.r, target.inputs, target.outputs), (2, 3, 4));
    assert_eq!(target.a, [1., 3., 5., 2., 4., 6.]);
    assert_eq!(target.b, [1., 2., 3., 4., 5., 6., 7., 8.]);
}

/// One change to a file, and words its error must hold.
type Case = (fn(&mut File), &'static [&'static str]);

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let cases: &[Case] = &[
        (
            |f| {
                f.text("general.architecture", "gemma2");
            },
            &["general.architecture", "gemma2", "qwen3"],
        ),
        (
            |f| {
                f.text("general.type", "adapter");
            },
            &["general.type", "adapter"],
        ),
        (
            |f| {
                f.number("llama.expert_count", 8);
            },
            &["llama.expert_count", "8"],
        ),
        (
            |f| {
                f.number("llama.attention.sliding_window", 16);
            },
            &["llama.attention.sliding_window", "16", "32"],
        ),
        (
            |f| {
                f.float("llama.attn_logit_softcapping", 50.0);
            },
            &["llama.attn_logit_softcapping", "50"],
        ),
        (
            |f| {
                f.float("llama.logit_scale", 0.5);
            },
            &["llama.logit_scale", "0.5"],
        ),
        (
            |f| {
                f.float("llama.attention.scale", 0.5);
            },
            &["llama.attention.scale", "0.5"],
        ),
        (
            |f| {
                f.text("llama.rope.scaling.type", "yarn");
            },
            &["llama.rope.scaling.type", "yarn"],
        ),
        (
            |f| {
                f.text("llama.rope.scaling.type", "longrope");
            },
            &["llama.rope.scaling.type", "longrope"],
        ),
        (
            |f| {
                f.number("llama.rope.dimension_count", 2);
            },
            &["llama.rope.dimension_count", "2", "4"],
        ),
        (
            |f| {
                f.number("llama.attention.value_length", 8);
            },
            &["llama.attention.value_length", "8", "4"],
        ),
        (
            |f| {
                f.number("split.count", 2);
            },
            &["split.count", "2"],
        ),
        (
            |f| {
                f.numbers("llama.attention.head_count_kv", &[1, 1]);
            },
            &["llama.attention.head_count_kv", "2 numbers for 1 blocks"],
        ),
        (
            |f| {
                f.number("llama.block_count", 2).numbers("llama.feed_forward_length", &[4, 8]);
            },
            &["llama.feed_forward_length", "4 in block 0", "8 in block 1"],
        ),
        (
            |f| {
                f.number("llama.block_count", 2).numbers("llama.attention.head_count", &[1, 2]);
            },
            &["llama.attention.head_count", "1 in block 0", "2 in block 1"],
        ),
        (
            |f| {
                f.numbers("llama.feed_forward_length", &[-4]);
            },
            &["llama.feed_forward_length", "-4"],
        ),
    ];
    refused_by_name(cases);
}

#[test]
fn tensors_that_do_not_belong_and_keys_that_lie_are_refused_by_name() {
    let cases: &[Case] = &[
        (
            |f| {
                f.zeros("blk.0.ffn_gate_exps.weight", &[2, 4, 4]);
            },
            &["blk.0.ffn_gate_exps.weight"],
        ),
        (
            |f| {
                f.zeros("blk.0.attn_q_norm.weight", &[4]);
            },
            &["blk.0.attn_q_norm.weight"],
        ),
        (
            |f| {
                f.zeros("blk.1.ffn_up.weight", &[4, 4]);
            },
            &["blk.1.ffn_up.weight"],
        ),
        (
            |f| {
                f.zeros("blk.00.ffn_up.weight", &[4, 4]);
            },
            &["blk.00.ffn_up.weight"],
        ),
        (
            |f| {
                f.zeros("blk.0.ffn_up.weight", &[4, 5]);
            },
            &["blk.0.ffn_up.weight", "[4, 5]", "[4, 4]"],
        ),
        (
            |f| {
                f.without("blk.0.ffn_up.weight");
            },
            &["model.layers.0.mlp.up_proj.weight"],
        ),
        (
            |f| {
                f.without("llama.block_count");
            },
            &["llama.block_count", "missing"],
        ),
        (
            |f| {
                f.text("llama.block_count", "1");
            },
            &["llama.block_count", "a string"],
        ),
        (
            |f| {
                f.number("llama.attention.head_count", 3);
            },
            &["llama.attention.head_count", "3", "4"],
        ),
        (
            |f| {
                f.number("llama.attention.head_count", 0);
            },
            &["head_count", "0"],
        ),
        (|f| f.tensors[3].2 = 10, &["Q2_K", "10"]),
        (|f| f.tensors[3].2 = 77, &["77"]),
        (|f| f.tensors[3].2 = 2, &["rows of 4", "32"]),
        (|f| f.tensors[3].1 = vec![u64::MAX, 3], &["overflow"]),
        (|f| f.tensors[3].1 = vec![1 << 40, 1 << 20], &["overflow"]),
        (|f| f.tensors[3].1 = vec![0, 4], &["dimension", "0"]),
        (|f| f.tensors[3].1 = vec![], &["0 dimensions"]),
        (|f| f.tensors[3].1 = vec![1; 5], &["5 dimensions"]),
        (|f| f.tensors[3].1 = vec![4, 1 << 30], &["17179869184", "end after"]),
        (|f| f.tensors[3].0 = f.tensors[4].0.clone(), &["twice"]),
        (|f| f.pairs.push(f.pairs[0].clone()), &["general.architecture", "twice"]),
        (
            |f| {
                f.number("general.alignment", 48);
            },
            &["general.alignment", "48"],
        ),
        (
            |f| {
                f.number("general.alignment", 64);
            },
            &["alignment 64"],
        ),
        (
            |f| {
                f.pair("x", 7, &[2]);
            },
            &["x", "2"],
        ),
        (
            |f| {
                f.pair("x", 13, &[]);
            },
            &["x", "13"],
        ),
        (
            |f| {
                f.pair("x", 9, &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            },
            &["x", "arrays of arrays"],
        ),
        (
            |f| {
                f.pair("x", 9, &[0xff; 12]);
            },
            &["x"],
        ),
        (
            |f| {
                f.pair("x", 8, &[0xff; 8]);
            },
            &["x", "18446744073709551615"],
        ),
    ];
    refused_by_name(cases);
}

/// Every case opens before the change, and after it is refused with its words in one line.
fn refused_by_name(cases: &[Case]) {
    for (i, (change, words)) in cases.iter().enumerate() {
        let mut file = smallest(&["a", "b"]);
        file.open().unwrap();
        change(&mut file);
        let error = file.open().err().unwrap_or_else(|| panic!("case {i}, {words:?}: opened"));
        assert!(
            words.iter().all(|word| error.contains(word)),
            "case {i}: {error}, expected {words:?}"
        );
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn other_containers_are_refused() {
    let good = smallest(&["a"]).bytes();
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        open(&file).unwrap_err()
    };
    assert!(patched(0, b"GGML").contains("not a GGUF file"));
    assert!(patched(4, &[0, 0, 0, 3]).contains("big-endian"));
    assert!(patched(4, &[1, 0, 0, 0]).contains("version 1"));
    assert!(patched(8, &[0xff; 8]).contains("18446744073709551615 tensors"));
    assert!(patched(16, &[0, 0, 0, 0, 1, 0, 0, 0]).contains("4294967296 metadata pairs"));
    assert!(open(&[]).unwrap_err().contains("4 bytes expected"));
}

#[test]
fn overlapping_tensors_are_refused() {
    let file = smallest(&["a"]);
    let mut bytes = file.bytes();
    // The entry ends with the offset: that of the second tensor becomes the first's.
    let name = string(&file.tensors[1].0);
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap()
        + name.len()
        + 4
        + 8
        + 4;
    bytes[at..at + 8].fill(0);
    assert!(open(&bytes).unwrap_err().contains("overlaps"));
}

/// Every damaged version of `good`, one after the other in one file: `read` with each byte of `at`
/// flipped in two ways, then `refused` with the file cut to each length of `at`, longest first.
/// Only a panic or an accepted cut is a failure.
fn damage(good: &[u8], at: &[usize], read: impl Fn(&Path), refused: impl Fn(&Path) -> bool) {
    let mut scratch = temporary(good);
    let put = |scratch: &mut tempfile::NamedTempFile, at: usize, byte: u8| {
        scratch.seek(SeekFrom::Start(at as u64)).unwrap();
        scratch.write_all(&[byte]).unwrap();
    };
    for &at in at {
        for flip in [0x01, 0xff] {
            put(&mut scratch, at, good[at] ^ flip);
            read(scratch.path());
        }
        put(&mut scratch, at, good[at]);
    }
    for &length in at.iter().rev() {
        scratch.as_file().set_len(length as u64).unwrap();
        assert!(refused(scratch.path()), "cut to {length} of {} bytes", good.len());
    }
}

/// Opens a model and reads everything in it.
fn read_model(path: &Path) {
    if let Ok(source) = Gguf::open(path) {
        let _ = source.text();
        for name in source.names() {
            source.tensor(&name).unwrap();
        }
    }
}

/// Every byte of the header, and every `step`th of the data.
fn places(header: usize, length: usize, step: usize) -> Vec<usize> {
    (0..header).chain((header..length).step_by(step)).collect()
}

#[test]
fn damaged_models_never_panic() {
    let mut file = smallest(&["<s>", "a", "b", "ab"]);
    file.texts("tokenizer.ggml.merges", &["a b"])
        .numbers("tokenizer.ggml.token_type", &[3, 1, 1, 1]);
    let small = file.bytes();
    let golden = fs::read(golden("gguf/tiny-llama.gguf")).unwrap();
    for (good, at) in
        [(&small, places(small.len(), small.len(), 1)), (&golden, places(3808, golden.len(), 4099))]
    {
        damage(good, &at, read_model, |path| Gguf::open(path).is_err());
    }
}

#[test]
fn damaged_adapters_never_panic() {
    let good = fs::read(golden("gguf/lora.gguf")).unwrap();
    let open = |path: &Path| GgufAdapter::open(path, &TINY);
    damage(
        &good,
        &places(2080, good.len(), 997),
        |path| drop(open(path)),
        |path| open(path).is_err(),
    );
}

#[test]
fn adapters_that_are_not_supported_are_refused_by_name() {
    let config = Config {
        vocab: 3,
        dim: 4,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
        hidden: 4,
        ..TINY
    };
    let mut good = File { pairs: Vec::new(), tensors: Vec::new() };
    good.text("general.architecture", "llama")
        .text("general.type", "adapter")
        .text("adapter.type", "lora");
    good.float("adapter.lora.alpha", 4.0);
    good.zeros("blk.0.attn_q.weight.lora_a", &[2, 4]).zeros("blk.0.attn_q.weight.lora_b", &[4, 2]);
    let open = |file: &File| {
        GgufAdapter::open(temporary(&file.bytes()).path(), &config)
            .map_err(|error| error.to_string())
    };
    assert_eq!(open(&good).unwrap().targets.len(), 1);
    let cases: &[Case] = &[
        (
            |f| {
                f.text("general.type", "model");
            },
            &["general.type", "model"],
        ),
        (
            |f| {
                f.without("general.type");
            },
            &["general.type", "missing"],
        ),
        (
            |f| {
                f.text("adapter.type", "ia3");
            },
            &["adapter.type", "ia3"],
        ),
        (
            |f| {
                f.numbers("adapter.alora.invocation_tokens", &[1]);
            },
            &["adapter.alora.invocation_tokens", "aLoRA"],
        ),
        (
            |f| {
                f.text("general.architecture", "mamba");
            },
            &["mamba"],
        ),
        (
            |f| {
                f.float("adapter.lora.alpha", f32::NAN);
            },
            &["adapter.lora.alpha", "NaN"],
        ),
        (
            |f| {
                f.without("blk.0.attn_q.weight.lora_a");
            },
            &["blk.0.attn_q.weight.lora_b", "lora_a is missing"],
        ),
        (
            |f| {
                f.without("blk.0.attn_q.weight.lora_b");
            },
            &["blk.0.attn_q.weight.lora_a", "lora_b is missing"],
        ),
        (
            |f| {
                f.zeros("blk.0.attn_q.weight", &[4, 4]);
            },
            &["blk.0.attn_q.weight", "neither A"],
        ),
        (
            |f| {
                f.zeros("blk.0.attn_norm.weight.lora_a", &[4, 4]);
            },
            &["blk.0.attn_norm.weight"],
        ),
        (
            |f| {
                f.zeros("blk.1.ffn_up.weight.lora_a", &[2, 4]);
            },
            &["blk.1.ffn_up.weight"],
        ),
        (
            |f| {
                f.zeros("blk.0.attn_q.weight.lora_a", &[2, 5]);
            },
            &["[2, 5]", "[2, 4]", "another base"],
        ),
        (
            |f| {
                f.zeros("blk.0.attn_q.weight.lora_b", &[4, 3]);
            },
            &["[3, 4]", "another base"],
        ),
        (|f| f.tensors.clear(), &["no tensors"]),
    ];
    for (i, (change, words)) in cases.iter().enumerate() {
        let mut file = good.clone();
        change(&mut file);
        let error = open(&file).err().unwrap_or_else(|| panic!("case {i}, {words:?}: opened"));
        assert!(
            words.iter().all(|word| error.contains(word)),
            "case {i}: {error}, expected {words:?}"
        );
    }
}

fn ids(file: &File, text: &str) -> Vec<u32> {
    let parts = file.open().unwrap().text().unwrap();
    Tokenizer::from_bytes(&parts.tokenizer).unwrap().encode(text, false).unwrap().get_ids().to_vec()
}

#[test]
fn special_tokens_are_found_first_and_merges_are_those_of_the_file() {
    let mut file = smallest(&["<|im_end|>", "a", "b", "ab", "a\u{20}b", "Ġ", "Ġab"]);
    file.texts("tokenizer.ggml.merges", &["a b", "Ġ ab", "b a"])
        .numbers("tokenizer.ggml.token_type", &[1, 1, 1, 1, 4, 1, 1]);
    assert_eq!(ids(&file, "ab ab a bba<|im_end|>a"), [3, 6, 5, 4, 2, 1, 0, 1]);
    let text = file.open().unwrap().text().unwrap();
    assert_eq!((text.bos, text.add_bos, text.stop), (None, false, vec![0]));
}

#[test]
fn a_byte_without_a_token_disappears_and_joins_nothing() {
    let mut file = smallest(&["a", "b", "ab"]);
    file.texts("tokenizer.ggml.merges", &["a b"]);
    assert_eq!(ids(&file, "ab"), [2]);
    assert_eq!(ids(&file, "acb"), [0, 1]);
}

#[test]
fn every_pre_tokenizer_cuts_where_llama_cpp_does() {
    let read = |name: &str| fs::read_to_string(golden(name)).unwrap();
    let vocabulary: BTreeMap<String, Vec<String>> =
        serde_json::from_str(&read("pretokenizers/vocabulary.json")).unwrap();
    let list = |key: &str| vocabulary[key].iter().map(String::as_str).collect::<Vec<_>>();
    let lines = read("smollm2/lines.jsonl");
    let lines: Vec<serde_json::Value> =
        lines.lines().step_by(4).map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected: BTreeMap<String, Vec<Vec<u32>>> =
        serde_json::from_str(&read("pretokenizers/ids.json")).unwrap();
    assert_eq!(expected.len(), 7);
    for (name, expected) in expected {
        let mut file = smallest(&list("tokens"));
        file.texts("tokenizer.ggml.merges", &list("merges"))
            .text("tokenizer.ggml.pre", &name)
            .number("tokenizer.ggml.bos_token_id", 0);
        let text = file.open().unwrap().text().unwrap();
        let tokenizer = Tokenizer::from_bytes(&text.tokenizer).unwrap();
        assert_eq!(lines.len(), expected.len());
        for (line, expected) in lines.iter().zip(expected) {
            let line = line["text"].as_str().unwrap();
            assert_eq!(
                tokenizer.encode(line, false).unwrap().get_ids(),
                expected,
                "{name}: {line:?}"
            );
        }
    }
}

#[test]
fn begin_of_sequence_follows_the_key_and_then_the_pre_tokenizer() {
    let mut file = smallest(&["<s>", "a"]);
    let add = |file: &File| {
        file.open()
            .unwrap()
            .text()
            .map(|text| (text.bos, text.add_bos))
            .map_err(|error| error.to_string())
    };
    file.number("tokenizer.ggml.bos_token_id", 0);
    assert_eq!(add(&file), Ok((Some(0), false)));
    file.text("tokenizer.ggml.pre", "llama-bpe");
    assert_eq!(add(&file), Ok((Some(0), true)));
    file.pair("tokenizer.ggml.add_bos_token", 7, &[0]);
    assert_eq!(add(&file), Ok((Some(0), false)));
    file.pair("tokenizer.ggml.add_bos_token", 7, &[1]).without("tokenizer.ggml.bos_token_id");
    assert!(add(&file).unwrap_err().contains("tokenizer.ggml.bos_token_id is missing"));
}

#[test]
fn tokenizers_that_are_not_understood_are_refused_by_name() {
    let cases: &[Case] = &[
        (
            |f| {
                f.text("tokenizer.ggml.model", "t5");
            },
            &["tokenizer.ggml.model", "t5"],
        ),
        (
            |f| {
                f.text("tokenizer.ggml.pre", "kimi-k2");
            },
            &["tokenizer.ggml.pre", "kimi-k2"],
        ),
        (
            |f| {
                f.without("tokenizer.ggml.tokens");
            },
            &["tokenizer.ggml.tokens", "missing"],
        ),
        (
            |f| {
                f.texts("tokenizer.ggml.tokens", &["a"]);
            },
            &["tokenizer.ggml.tokens", "1 tokens", "2 rows"],
        ),
        (
            |f| {
                f.texts("tokenizer.ggml.tokens", &["a", "a"]);
            },
            &["tokenizer.ggml.tokens", "0 and 1"],
        ),
        (
            |f| {
                f.numbers("tokenizer.ggml.tokens", &[0, 1]);
            },
            &["tokenizer.ggml.tokens", "strings"],
        ),
        (
            |f| {
                f.numbers("tokenizer.ggml.token_type", &[1]);
            },
            &["tokenizer.ggml.token_type", "1 types"],
        ),
        (
            |f| {
                f.without("tokenizer.ggml.merges");
            },
            &["tokenizer.ggml.merges", "missing"],
        ),
        (
            |f| {
                f.texts("tokenizer.ggml.merges", &["ab"]);
            },
            &["tokenizer.ggml.merges", "merge 0"],
        ),
        (
            |f| {
                f.number("tokenizer.ggml.eos_token_id", 2);
            },
            &["tokenizer.ggml.eos_token_id", "token 2"],
        ),
        (
            |f| {
                f.pair("tokenizer.ggml.add_eos_token", 7, &[1]);
            },
            &["tokenizer.ggml.add_eos_token"],
        ),
    ];
    for (i, (change, words)) in cases.iter().enumerate() {
        let mut file = smallest(&["a", "b"]);
        change(&mut file);
        let error = file
            .open()
            .unwrap()
            .text()
            .err()
            .unwrap_or_else(|| panic!("case {i}, {words:?}: read"))
            .to_string();
        assert!(
            words.iter().all(|word| error.contains(word)),
            "case {i}: {error}, expected {words:?}"
        );
    }
}
