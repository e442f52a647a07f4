//! A base archive as a bitsandbytes 4-bit checkpoint: a directory that transformers loads.
//!
//! NF4 codes and scales go back in bitsandbytes' order exactly. Embedding, output head, norms and
//! biases become f32 (what int8 or f16 stand for), row by row while the file is written: memory
//! stays at the packed codes of one layer.

use std::borrow::Cow;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::transformers_text::{GENERATION, SETTINGS, TOKENIZER, TextFiles, eos, write_json};
use crate::file::{FileError, FolderKind, ToFolder, write_whole};
use crate::model::llama::{Config, Layer, Llama, RopeScaling, Site};
use crate::nn::Linear;
use crate::quant::{Layout, Matrix, Nf4, Scales, Values, double, nf4, reorder};

/// What a bitsandbytes checkpoint is to whoever writes one.
pub static BITSANDBYTES: FolderKind = FolderKind {
    name: "a bitsandbytes checkpoint",
    files: &[CONFIG, WEIGHTS, GENERATION, TOKENIZER, SETTINGS],
    key: CONFIG,
    is_own: |folder| super::is_own(&folder.join(CONFIG), &KEYS),
};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
/// What `config` begins with; see [`is_own`](super::is_own).
const KEYS: [&str; 4] = ["_name_or_path", "architectures", "model_type", "hidden_act"];

/// Writes `base` as the directory `directory`, a path or an
/// [`OutputFolder`](crate::file::OutputFolder) that was tried: it appears as a whole.
///
/// # Errors
/// A path where something else is than what this crate wrote, see
/// [`OutputFolder::new`](crate::file::OutputFolder::new).
/// A base whose linear layers are not NF4, that has biases or norms where no architecture of
/// transformers has them, or whose tokenizer cannot be read; I/O errors.
pub fn export_bitsandbytes(base: &Llama<'_>, directory: impl ToFolder) -> Result<(), FileError> {
    let place = directory.folder(&BITSANDBYTES)?;
    let directory = place.path();
    let tensors = tensors(base).map_err(|site| {
        FileError::format(
            directory,
            site.to_string(),
            "bitsandbytes checkpoints hold NF4 weights; import the base with --weights nf4",
        )
    })?;
    let family = Family::of(base).map_err(|reason| FileError::format(directory, "", reason))?;
    let text = TextFiles::of(base)
        .map_err(|reason| FileError::format(directory, "tokenizer.json", reason))?;
    place.check_room(tensors.iter().map(|tensor| tensor.bytes as u64).sum())?;
    place.write(|folder| {
        write_safetensors(&folder.join(WEIGHTS), &tensors)?;
        text.write(folder)?;
        write_json(&folder.join(CONFIG), &config(base, family))
    })
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
    fn bytes(
        name: String,
        dtype: &'static str,
        shape: Vec<usize>,
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> Self {
        let bytes = bytes.into();
        Self { name, dtype, shape, bytes: bytes.len(), data: Data::Bytes(bytes) }
    }

    fn floats(name: String, values: &'a [f32]) -> Self {
        Self::bytes(name, "F32", vec![values.len()], bytemuck::cast_slice::<f32, u8>(values))
    }

    fn dense(name: String, matrix: Matrix<'a>) -> Self {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        Self {
            name,
            dtype: "F32",
            shape: vec![rows, cols],
            bytes: rows * cols * 4,
            data: Data::Dense(matrix),
        }
    }

    fn write(&self, file: &mut impl Write) -> io::Result<()> {
        match &self.data {
            Data::Bytes(bytes) => file.write_all(bytes),
            Data::Codes(nf4, count) => {
                file.write_all(&reorder(nf4.codes, *count, nf4.layout, Layout::Sequential))
            }
            Data::Dense(matrix) => {
                let mut values = vec![0.0f32; matrix.cols()];
                (0..matrix.rows()).try_for_each(|row| {
                    matrix.read(row, 0, &mut values);
                    file.write_all(bytemuck::cast_slice(&values))
                })
            }
        }
    }
}

/// Every tensor of the checkpoint in the order of the file, or the first linear layer that is not
/// NF4.
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
    // As the safetensors library writes: wide types first, so that every tensor is aligned.
    out.sort_by(|a, b| a.dtype.cmp(b.dtype).then_with(|| a.name.cmp(&b.name)));
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
    out.push(Tensor {
        name: name(""),
        dtype: "U8",
        shape: vec![bytes, 1],
        bytes,
        data: Data::Codes(nf4, count),
    });
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
        let mut file = BufWriter::with_capacity(1 << 20, file);
        let mut write = || {
            file.write_all(&(header.len() as u64).to_le_bytes())?;
            file.write_all(header.as_bytes())?;
            tensors.iter().try_for_each(|tensor| tensor.write(&mut file))?;
            file.flush()
        };
        write().map_err(|error| FileError::io(path, error))
    })
}

/// What transformers calls the architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama { attention_bias: bool, mlp_bias: bool },
    Qwen2,
    Qwen3 { attention_bias: bool },
}

impl Family {
    /// Read off the biases and norms of the blocks, which must be alike: transformers fills a bias
    /// that it expects and does not find with chance, and drops one that it does not expect.
    fn of(base: &Llama<'_>) -> Result<Self, String> {
        let kind = |index: usize| {
            let layer = base.layer(index);
            (
                linears(index, &layer).map(|(_, linear)| !linear.bias.is_empty()),
                [layer.q_norm, layer.k_norm].map(|norm| !norm.is_empty()),
            )
        };
        let first = kind(0);
        if let Some(other) = (1..base.config().layers).find(|&index| kind(index) != first) {
            return Err(format!(
                "blocks 0 and {other} differ in which biases and norms they have; transformers has no such model"
            ));
        }
        match first {
            ([q, k, v, o, gate, up, down], [false, false])
                if [k, v, o] == [q; 3] && [up, down] == [gate; 2] =>
            {
                Ok(Self::Llama { attention_bias: q, mlp_bias: gate })
            }
            ([true, true, true, false, false, false, false], [false, false]) => Ok(Self::Qwen2),
            ([q, k, v, o, false, false, false], [true, true]) if [k, v, o] == [q; 3] => {
                Ok(Self::Qwen3 { attention_bias: q })
            }
            (biases, norms) => {
                let parts = ["q", "k", "v", "o", "gate", "up", "down", "q_norm", "k_norm"];
                let has = biases
                    .into_iter()
                    .chain(norms)
                    .zip(parts)
                    .filter(|(has, _)| *has)
                    .map(|(_, part)| part);
                let has: Vec<_> = has.collect();
                Err(format!(
                    "transformers has no architecture with just these biases and norms: {}",
                    has.join(", ")
                ))
            }
        }
    }
}

fn config(base: &Llama<'_>, family: Family) -> Value {
    let c = base.config();
    let (class, model_type) = match family {
        Family::Llama { .. } => ("LlamaForCausalLM", "llama"),
        Family::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
        Family::Qwen3 { .. } => ("Qwen3ForCausalLM", "qwen3"),
    };
    let nested = matches!(
        base.layer(0).q.weight.values(),
        Values::Nf4(Nf4 { scales: Scales::Double { .. }, .. })
    );
    let mut config = json!({
        "_name_or_path": base.name(), "architectures": [class], "model_type": model_type, "hidden_act": "silu", "torch_dtype": "float32",
        "vocab_size": c.vocab, "hidden_size": c.dim, "num_hidden_layers": c.layers, "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim, "intermediate_size": c.hidden,
        "max_position_embeddings": c.context, "rms_norm_eps": decimal(c.norm_epsilon), "rope_theta": decimal(c.rope_theta),
        "rope_scaling": rope_scaling(c), "tie_word_embeddings": base.is_tied(),
        "bos_token_id": base.bos(), "eos_token_id": eos(base),
        "quantization_config": {
            "quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": false, "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": nested, "bnb_4bit_compute_dtype": "float32", "bnb_4bit_quant_storage": "uint8",
            "llm_int8_skip_modules": ["lm_head"],
        },
    });
    if let Family::Llama { attention_bias, .. } | Family::Qwen3 { attention_bias } = family {
        config["attention_bias"] = attention_bias.into();
    }
    if let Family::Llama { mlp_bias, .. } = family {
        config["mlp_bias"] = mlp_bias.into();
    }
    config
}

/// The shortest decimal that reads back as `value`: 1e-5, not 0.000009999999747378752.
fn decimal(value: f32) -> f64 {
    value
        .to_string()
        .parse()
        .ok()
        .filter(|short: &f64| *short as f32 == value)
        .unwrap_or(f64::from(value))
}

fn rope_scaling(config: &Config) -> Value {
    match config.rope_scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => {
            json!({ "rope_type": "linear", "factor": decimal(factor) })
        }
        RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context } => json!({
            "rope_type": "llama3", "factor": decimal(factor), "low_freq_factor": decimal(low_frequency),
            "high_freq_factor": decimal(high_frequency), "original_max_position_embeddings": original_context as u64,
        }),
    }
}
