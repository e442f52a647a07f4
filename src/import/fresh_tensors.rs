//! What the weights of a fresh model are drawn from, family by family.
//!
//! Llama, Qwen and BERT as transformers has it: N(0, `initializer_range`²), 0.02 unless stated, in
//! linear layers and embeddings, ones in norms, zeros in biases and in the padding token's row.
//! LSTM and MLP as PyTorch's modules have it: U(−1/√n, 1/√n) with n the hidden size of an LSTM and
//! the inputs of a linear layer, N(0, 1) in embeddings.

use std::path::Path;

use super::json::Json;
use crate::file::FileError;
use crate::model::llama::import::config::Family;
use crate::model::{bert, llama, lstm, mlp};
use crate::random;

/// A distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Draw {
    /// N(0, σ²).
    Normal(f32),
    /// U(−bound, bound).
    Uniform(f32),
    Constant(f32),
}

/// A tensor that is about to be drawn.
#[derive(Debug, Clone)]
pub(super) struct Drawn {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    draw: Draw,
    /// A row of zeros: an embedding's padding token.
    zero_row: Option<usize>,
}

/// The streams of random numbers, one per tensor from here on.
const STREAMS: u64 = 0x6672_6573_6800_0000;

impl Drawn {
    fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>, draw: Draw) -> Self {
        Self { name: name.into(), shape: shape.into(), draw, zero_row: None }
    }

    /// How many numbers it has.
    pub(super) fn numbers(&self) -> u64 {
        self.shape.iter().fold(1, |product, &rows| product.saturating_mul(rows as u64))
    }

    /// The values; `index` is the tensor's among its model's.
    pub(super) fn values(&self, seed: u64, index: u64) -> Vec<f32> {
        let (count, stream) = (self.shape.iter().product::<usize>() as u64, STREAMS + index);
        let mut values: Vec<f32> = match self.draw {
            Draw::Normal(sigma) => {
                (0..count).map(|i| sigma * random::normal(seed, stream, i)).collect()
            }
            Draw::Uniform(bound) => {
                (0..count).map(|i| bound * (2.0 * random::uniform(seed, stream, i) - 1.0)).collect()
            }
            Draw::Constant(value) => vec![value; count as usize],
        };
        if let (Some(row), Some(&width)) = (self.zero_row, self.shape.get(1))
            && let Some(row) = values.chunks_exact_mut(width).nth(row)
        {
            row.fill(0.0);
        }
        values
    }
}

/// The tensors of the model that the configuration at `path` describes.
pub(super) fn of(path: &Path, json: &Json) -> Result<Vec<Drawn>, FileError> {
    match json.required("model_type", json.text("model_type")?)? {
        "bert" => of_bert(path, json),
        other if bert::import::config::architecture(other).is_some() => {
            let reason = format!("\"{other}\" cannot be made anew; of the encoders bert can");
            Err(json.error("model_type", reason))
        }
        "lstm" => of_lstm(json),
        "mlp" => of_mlp(json),
        _ => of_decoder(json),
    }
}

fn sigma(json: &Json) -> Result<Draw, FileError> {
    let sigma = json.number("initializer_range")?.unwrap_or(0.02);
    if sigma > 0.0 && sigma.is_finite() {
        return Ok(Draw::Normal(sigma));
    }
    Err(json.error("initializer_range", format!("a number above 0 was expected, found {sigma}")))
}

/// Llama, Qwen2 and Qwen3.
fn of_decoder(json: &Json) -> Result<Vec<Drawn>, FileError> {
    use llama::Site;
    let family = Family::of(json)?;
    let (c, normal) = (family.config(json)?, sigma(json)?);
    let (one, zero) = (Draw::Constant(1.0), Draw::Constant(0.0));
    let announced = family.announced(json)?;
    let weight = |site: Site| {
        Drawn::new(format!("{site}.weight"), <[usize; 2]>::from(site.shape(&c)), normal)
    };
    let mut embedding = weight(Site::Embedding);
    embedding.zero_row = json.count("pad_token_id")?;
    let mut tensors = vec![embedding];
    for layer in 0..c.layers {
        let prefix = format!("model.layers.{layer}.");
        for site in Site::block(layer) {
            let bias = format!("{site}.bias");
            tensors.push(weight(site));
            if announced
                .iter()
                .any(|(part, there)| *there && bias.strip_prefix(&prefix) == Some(part))
            {
                tensors.push(Drawn::new(bias, [site.shape(&c).0], zero));
            }
        }
        for (part, there) in announced {
            if there && part.ends_with("_norm.weight") {
                tensors.push(Drawn::new(format!("{prefix}{part}"), [c.head_dim], one));
            }
        }
        for part in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push(Drawn::new(format!("{prefix}{part}.weight"), [c.dim], one));
        }
    }
    tensors.push(Drawn::new("model.norm.weight", [c.dim], one));
    if !json.flag("tie_word_embeddings")? {
        tensors.push(weight(Site::Head));
    }
    Ok(tensors)
}

fn of_bert(path: &Path, json: &Json) -> Result<Vec<Drawn>, FileError> {
    use bert::Site;
    let c = bert::import::config::read(path.parent().unwrap_or(Path::new("")), json)?.config;
    let a = c.architecture;
    let (normal, zero, one) = (sigma(json)?, Draw::Constant(0.0), Draw::Constant(1.0));
    let mut tensors = Vec::new();
    let mut words =
        Drawn::new(format!("{}.weight", a.path(Site::Embedding)), [c.vocab, c.dim], normal);
    words.zero_row = Some(json.count("pad_token_id")?.unwrap_or(0));
    tensors.push(words);
    tensors.push(Drawn::new("embeddings.position_embeddings.weight", [c.context, c.dim], normal));
    tensors.push(Drawn::new(
        "embeddings.token_type_embeddings.weight",
        [c.token_types, c.dim],
        normal,
    ));
    let norm = |tensors: &mut Vec<Drawn>, path: &str| {
        tensors.push(Drawn::new(format!("{path}.weight"), [c.dim], one));
        tensors.push(Drawn::new(format!("{path}.bias"), [c.dim], zero));
    };
    let linear = |tensors: &mut Vec<Drawn>, site: Site| {
        let (rows, cols) = site.shape(&c);
        let path = a.path(site);
        tensors.push(Drawn::new(format!("{path}.weight"), [rows, cols], normal));
        tensors.push(Drawn::new(format!("{path}.bias"), [rows], zero));
    };
    norm(&mut tensors, &a.norm_path(0));
    for layer in 0..c.layers {
        Site::block(layer).for_each(|site| linear(&mut tensors, site));
        norm(&mut tensors, &a.norm_path(2 * layer + 1));
        norm(&mut tensors, &a.norm_path(2 * layer + 2));
    }
    linear(&mut tensors, Site::Pooler);
    Ok(tensors)
}

/// A weight and its bias, as `torch.nn.Linear` draws them.
fn linear(tensors: &mut Vec<Drawn>, path: &str, rows: usize, cols: usize, biased: bool) {
    let uniform = Draw::Uniform(1.0 / (cols as f32).sqrt());
    tensors.push(Drawn::new(format!("{path}.weight"), [rows, cols], uniform));
    if biased {
        tensors.push(Drawn::new(format!("{path}.bias"), [rows], uniform));
    }
}

fn of_lstm(json: &Json) -> Result<Vec<Drawn>, FileError> {
    use lstm::Site;
    json.refuse("modules", |_| false)?;
    let (c, _) = lstm::import::config(json)?;
    let biased = super::pytorch::is_biased(json)?;
    let mut tensors = vec![Drawn::new("embedding.weight", [c.vocab, c.dim], Draw::Normal(1.0))];
    let uniform = Draw::Uniform(1.0 / (c.hidden as f32).sqrt());
    for layer in 0..c.layers {
        for (part, site) in [("ih", Site::Ih(layer)), ("hh", Site::Hh(layer))] {
            let (rows, cols) = site.shape(&c);
            tensors.push(Drawn::new(format!("lstm.weight_{part}_l{layer}"), [rows, cols], uniform));
            if biased {
                tensors.push(Drawn::new(format!("lstm.bias_{part}_l{layer}"), [rows], uniform));
            }
        }
    }
    if c.outputs > 0 {
        linear(&mut tensors, "head", c.outputs, c.hidden, true);
    }
    Ok(tensors)
}

fn of_mlp(json: &Json) -> Result<Vec<Drawn>, FileError> {
    let (c, widths, _) = mlp::import::config(json)?;
    let biased = super::pytorch::is_biased(json)?;
    let (mut tensors, mut inputs) = (Vec::new(), c.inputs);
    for (index, rows) in widths.into_iter().enumerate() {
        linear(&mut tensors, &format!("layers.{index}"), rows, inputs, biased);
        inputs = rows;
    }
    Ok(tensors)
}
