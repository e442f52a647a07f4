//! A base archive as a bitsandbytes 4-bit checkpoint: a directory that transformers loads.
//!
//! NF4 codes and scales go back in bitsandbytes' order exactly. Embedding, output head, norms and biases become f32 (what int8 or
//! f16 stand for). Tensors are produced one at a time while the file is written, so memory stays at the largest of them.

use std::borrow::Cow;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::file::{FileError, write_whole};
use crate::model::llama::{Config, Layer, Llama, RopeScaling, Site};
use crate::nn::Linear;
use crate::quant::{Layout, Matrix, Nf4, Scales, Values, double, nf4, reorder};

/// Writes `base` as the directory `directory`, each file whole or not at all.
///
/// # Errors
/// A base whose linear layers are not NF4; I/O errors.
pub fn export_bitsandbytes(base: &Llama<'_>, directory: &Path) -> Result<(), FileError> {
    let tensors = tensors(base).map_err(|site| {
        FileError::format(directory, site.to_string(), "bitsandbytes checkpoints hold NF4 weights; import the base with --weights nf4")
    })?;
    let family = Family::of(base).map_err(|reason| FileError::format(directory, "", reason))?;
    std::fs::create_dir_all(directory).map_err(|error| FileError::io(directory, error))?;
    write_safetensors(&directory.join("model.safetensors"), &tensors)?;
    write_text_border(base, directory)?;
    // Last, so that a directory with a config.json is complete.
    write_json(&directory.join("config.json"), &config(base, family))
}

/// A tensor of the checkpoint.
struct Tensor<'a> {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: usize,
    data: Data<'a>,
}

/// Where its bytes come from.
enum Data<'a> {
    Bytes(Cow<'a, [u8]>),
    /// Packed codes, back to bitsandbytes' order.
    Codes(Nf4<'a>, usize),
    /// Dequantized to f32.
    Dense(Matrix<'a>),
}

impl<'a> Tensor<'a> {
    fn bytes(name: String, dtype: &'static str, shape: Vec<usize>, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        let bytes = bytes.into();
        Self { name, dtype, shape, bytes: bytes.len(), data: Data::Bytes(bytes) }
    }

    fn floats(name: String, values: &'a [f32]) -> Self {
        Self::bytes(name, "F32", vec![values.len()], bytemuck::cast_slice::<f32, u8>(values))
    }

    fn dense(name: String, matrix: Matrix<'a>) -> Self {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        Self { name, dtype: "F32", shape: vec![rows, cols], bytes: rows * cols * 4, data: Data::Dense(matrix) }
    }

    fn produce(&self) -> Cow<'_, [u8]> {
        match &self.data {
            Data::Bytes(bytes) => Cow::Borrowed(bytes),
            Data::Codes(nf4, count) => Cow::Owned(reorder(nf4.codes, *count, nf4.layout, Layout::Sequential)),
            Data::Dense(matrix) => {
                let mut values = vec![0.0; matrix.rows() * matrix.cols()];
                values.chunks_exact_mut(matrix.cols()).enumerate().for_each(|(row, out)| matrix.read(row, 0, out));
                Cow::Owned(bytemuck::cast_slice(&values).to_vec())
            }
        }
    }
}

/// Every tensor of the checkpoint, or the first linear layer that is not NF4.
fn tensors<'a>(base: &Llama<'a>) -> Result<Vec<Tensor<'a>>, Site> {
    let mut out = vec![Tensor::dense(format!("{}.weight", Site::Embedding), base.embedding())];
    for index in 0..base.config().layers {
        let layer = base.layer(index);
        for (site, linear) in linears(index, &layer) {
            packed(&mut out, site, &linear)?;
        }
        let norms = [
            ("input_layernorm", layer.attention_norm),
            ("post_attention_layernorm", layer.feed_forward_norm),
            ("self_attn.q_norm", layer.q_norm),
            ("self_attn.k_norm", layer.k_norm),
        ];
        for (name, values) in norms.into_iter().filter(|(_, values)| !values.is_empty()) {
            out.push(Tensor::floats(format!("model.layers.{index}.{name}.weight"), values));
        }
    }
    out.push(Tensor::floats("model.norm.weight".into(), base.norm()));
    if !base.is_tied() {
        out.push(Tensor::dense(format!("{}.weight", Site::Head), base.head()));
    }
    Ok(out)
}

fn linears<'a>(i: usize, layer: &Layer<'a>) -> [(Site, Linear<'a>); 7] {
    [
        (Site::Q(i), layer.q),
        (Site::K(i), layer.k),
        (Site::V(i), layer.v),
        (Site::O(i), layer.o),
        (Site::Gate(i), layer.gate),
        (Site::Up(i), layer.up),
        (Site::Down(i), layer.down),
    ]
}

/// A packed weight and its companions, named as bitsandbytes names them.
fn packed<'a>(out: &mut Vec<Tensor<'a>>, site: Site, linear: &Linear<'a>) -> Result<(), Site> {
    let Values::Nf4(nf4) = linear.weight.values() else { return Err(site) };
    let (rows, cols) = (linear.weight.rows(), linear.weight.cols());
    let name = |suffix: &str| format!("{site}.weight{suffix}");
    let (count, bytes) = (rows * cols, nf4.codes.len());
    out.push(Tensor { name: name(""), dtype: "U8", shape: vec![bytes, 1], bytes, data: Data::Codes(nf4, count) });
    out.push(Tensor::floats(name(".quant_map"), &nf4::CODEBOOK));
    let mut state = json!({ "quant_type": "nf4", "blocksize": nf4.block, "dtype": "float32", "shape": [rows, cols] });
    match nf4.scales {
        Scales::Plain(scales) => out.push(Tensor::floats(name(".absmax"), scales)),
        Scales::Double { codes, nested, offset } => {
            out.push(Tensor::bytes(name(".absmax"), "U8", vec![codes.len()], codes));
            out.push(Tensor::floats(name(".nested_absmax"), nested));
            out.push(Tensor::floats(name(".nested_quant_map"), &MAP));
            state["nested_blocksize"] = double::GROUP.into();
            state["nested_dtype"] = "float32".into();
            // The f64 of an f32, so that reading it back gives the same bits.
            state["nested_offset"] = f64::from(offset).into();
        }
    }
    let state = state.to_string().into_bytes();
    out.push(Tensor::bytes(name(".quant_state.bitsandbytes__nf4"), "U8", vec![state.len()], state));
    if !linear.bias.is_empty() {
        out.push(Tensor::floats(format!("{site}.bias"), linear.bias));
    }
    Ok(())
}

static MAP: [f32; 256] = double::MAP;

/// The safetensors format: the header's length, the header (JSON), the tensors one after the other.
fn write_safetensors(path: &Path, tensors: &[Tensor<'_>]) -> Result<(), FileError> {
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
    let mut at = 0;
    for tensor in tensors {
        let entry = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, at + tensor.bytes] });
        header.insert(tensor.name.clone(), entry);
        at += tensor.bytes;
    }
    let mut header = Value::Object(header).to_string();
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    write_whole(path, |file| {
        let mut file = BufWriter::new(file);
        let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(|error| FileError::io(path, error));
        write(&(header.len() as u64).to_le_bytes())?;
        write(header.as_bytes())?;
        tensors.iter().try_for_each(|tensor| write(&tensor.produce()))?;
        file.flush().map_err(|error| FileError::io(path, error))
    })
}

/// What transformers calls the architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama { attention_bias: bool, mlp_bias: bool },
    Qwen2,
    Qwen3,
}

impl Family {
    /// Read off the biases and norms of the blocks, which must be alike.
    fn of(base: &Llama<'_>) -> Result<Self, String> {
        let kind = |layer: &Layer<'_>| {
            let has = |linear: &Linear<'_>| !linear.bias.is_empty();
            (has(&layer.q), has(&layer.o), has(&layer.gate), !layer.q_norm.is_empty())
        };
        let first = kind(&base.layer(0));
        if (1..base.config().layers).any(|i| kind(&base.layer(i)) != first) {
            return Err("the decoder blocks differ in biases or norms; transformers has no such model".into());
        }
        match first {
            (false, false, false, true) => Ok(Self::Qwen3),
            (true, false, false, false) => Ok(Self::Qwen2),
            (attention_bias, o, mlp_bias, false) if attention_bias == o => Ok(Self::Llama { attention_bias, mlp_bias }),
            _ => Err("transformers has no model with these biases and norms".into()),
        }
    }
}

fn config(base: &Llama<'_>, family: Family) -> Value {
    let c = base.config();
    let (class, model_type) = match family {
        Family::Llama { .. } => ("LlamaForCausalLM", "llama"),
        Family::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
        Family::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
    };
    let stop: Vec<u32> = base.stop_tokens().collect();
    let nested = matches!(base.layer(0).q.weight.values(), Values::Nf4(Nf4 { scales: Scales::Double { .. }, .. }));
    let mut config = json!({
        "architectures": [class], "model_type": model_type, "hidden_act": "silu", "torch_dtype": "float32",
        "vocab_size": c.vocab, "hidden_size": c.dim, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim, "intermediate_size": c.hidden,
        "max_position_embeddings": c.context, "rms_norm_eps": c.norm_epsilon, "rope_theta": c.rope_theta,
        "rope_scaling": rope_scaling(c), "tie_word_embeddings": base.is_tied(),
        "bos_token_id": base.bos(), "eos_token_id": stop,
        "quantization_config": {
            "quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": false, "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": nested, "bnb_4bit_compute_dtype": "float32", "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": ["lm_head"],
        },
    });
    if let Family::Llama { attention_bias, mlp_bias } = family {
        config["attention_bias"] = attention_bias.into();
        config["mlp_bias"] = mlp_bias.into();
    }
    config
}

fn rope_scaling(config: &Config) -> Value {
    match config.rope_scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_frequency, "high_freq_factor": high_frequency,
            "original_max_position_embeddings": original_context as u64,
        }),
    }
}

/// tokenizer.json as it came, and what transformers wants to know beside it.
fn write_text_border(base: &Llama<'_>, directory: &Path) -> Result<(), FileError> {
    let stop: Vec<u32> = base.stop_tokens().collect();
    write_json(&directory.join("generation_config.json"), &json!({ "bos_token_id": base.bos(), "eos_token_id": stop }))?;
    if base.tokenizer_json().is_empty() {
        return Ok(());
    }
    let path = directory.join("tokenizer.json");
    write_whole(&path, |file| file.write_all(base.tokenizer_json()).map_err(|error| FileError::io(&path, error)))?;
    let parsed: Value = serde_json::from_slice(base.tokenizer_json()).unwrap_or_default();
    let text = |id: u32| parsed["added_tokens"].as_array()?.iter().find(|token| token["id"] == id)?["content"].as_str();
    let mut settings = json!({ "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": base.leading_bos().is_some() });
    let named = [("bos_token", base.bos().and_then(text)), ("eos_token", stop.iter().rev().find_map(|&id| text(id)))];
    for (key, value) in named.into_iter().filter_map(|(key, value)| Some((key, value?))) {
        settings[key] = value.into();
    }
    if !base.chat_template().is_empty() {
        settings["chat_template"] = base.chat_template().into();
    }
    write_json(&directory.join("tokenizer_config.json"), &settings)
}

fn write_json(path: &Path, value: &Value) -> Result<(), FileError> {
    write_whole(path, |file| writeln!(file, "{value:#}").map_err(|error| FileError::io(path, error)))
}
