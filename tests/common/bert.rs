//! Small random encoders and adapters for them, built through the public writers.

use lowrank::adapter::{
    AdapterBuilder, ClassifierParts, Numbers as Factor, Orientation, Place, PoolerParts,
    TargetParts,
};
use lowrank::archive::{Buffer, schema, to_buffer};
use lowrank::model::bert::schema::{Bert as Root, BertLayer, LayerNorm};
use lowrank::model::bert::{Activation, Architecture, Bert, Config, Pooling, Site};
use lowrank::quant::{Format, OwnedMatrix};

use super::Numbers;

/// A small encoder whose widths no vector width divides.
pub const BERT: Config = Config {
    architecture: Architecture::Bert,
    vocab: 60,
    dim: 36,
    layers: 2,
    heads: 3,
    hidden: 50,
    context: 24,
    token_types: 2,
    activation: Activation::Gelu,
    pooling: Pooling::Mean,
    normalize: true,
    norm_epsilon: 1e-12,
};

const SITES: [fn(usize) -> Site; 6] = [Site::Q, Site::K, Site::V, Site::O, Site::Up, Site::Down];

struct Layer {
    weight: OwnedMatrix,
    bias: Vec<f32>,
}

impl Layer {
    fn view(&self) -> schema::Linear<'_> {
        schema::Linear { weight: self.weight.view().into(), bias: &self.bias }
    }
}

/// A random encoder in `format`, its word embedding in `embedding`, with or without a pooler.
pub fn bert(config: &Config, format: Format, embedding: Format, pooler: bool, seed: u64) -> Buffer {
    let mut numbers = Numbers::new(seed);
    let mut matrix = |format, rows: usize, cols: usize, scale: f32| {
        OwnedMatrix::quantize(format, 64, rows, cols, &numbers.vec(rows * cols, scale)).unwrap()
    };
    let mut linear = |site: Site| {
        let (rows, cols) = site.shape(config);
        let bias = (0..rows).map(|i| (i % 5) as f32 * 0.1 - 0.2).collect();
        Layer { weight: matrix(format, rows, cols, 3.0 / (cols as f32).sqrt()), bias }
    };
    let layers: Vec<[Layer; 6]> =
        (0..config.layers).map(|i| SITES.map(|site| linear(site(i)))).collect();
    let pooler = pooler.then(|| linear(Site::Pooler));
    let words = matrix(embedding, config.vocab, config.dim, 1.0);
    let positions = matrix(Format::F32, config.context, config.dim, 0.5);
    let token_types = matrix(Format::F32, config.token_types, config.dim, 0.5);
    let weight: Vec<f32> = (0..config.dim).map(|i| 0.8 + (i % 7) as f32 * 0.1).collect();
    let bias: Vec<f32> = (0..config.dim).map(|i| (i % 3) as f32 * 0.1).collect();
    let norm = LayerNorm { weight: &weight, bias: &bias };
    let views: Vec<BertLayer<'_>> = layers
        .iter()
        .map(|layer| {
            let [q, k, v, o, up, down] = layer.each_ref().map(Layer::view);
            BertLayer { q, k, v, o, attention_norm: norm, up, down, output_norm: norm }
        })
        .collect();
    let root = Root {
        name: "tiny",
        config: config.to_schema(),
        max_length: config.context as u32,
        text: schema::Text::default(),
        embedding: words.view().into(),
        positions: positions.view().into(),
        token_types: token_types.view().into(),
        embedding_norm: norm,
        layers: &views,
        pooler: pooler.as_ref().map(Layer::view),
    };
    to_buffer(&root, 1).unwrap()
}

/// A random adapter on `sites`, with DoRA magnitudes if `dora`, and a classifier if there are
/// `labels`.
pub fn bert_adapter(
    base: &Bert<'_>,
    sites: &[Site],
    dora: bool,
    labels: &[&str],
    seed: u64,
) -> Buffer {
    bert_adapter_parts(base, sites, dora, labels, seed).build(base).unwrap()
}

/// What [`bert_adapter`] builds.
pub fn bert_adapter_parts(
    base: &Bert<'_>,
    sites: &[Site],
    dora: bool,
    labels: &[&str],
    seed: u64,
) -> AdapterBuilder {
    let (config, rank) = (base.config(), 3);
    let mut numbers = Numbers::new(seed);
    let mut builder = AdapterBuilder::new("random", if dora { "dora" } else { "lora" });
    for &site in sites {
        let (rows, cols) = site.shape(config);
        let is_embedding = site == Site::Embedding;
        let (outputs, inputs) = if is_embedding { (cols, rows) } else { (rows, cols) };
        let magnitude = if dora && !is_embedding {
            (0..outputs).map(|i| 1.0 + (i % 4) as f32 * 0.2).collect()
        } else {
            Vec::new()
        };
        let parts = TargetParts {
            rank,
            alpha: 6.0,
            rank_stabilized: false,
            orientation: Orientation::Peft,
            a: Factor::F32(numbers.vec(rank * inputs, 0.3)),
            b: Factor::F32(numbers.vec(rank * outputs, 0.3)),
            bias: Vec::new(),
            magnitude,
            scaled: None,
        };
        builder.targets.insert(Place(site.number(config.layers)), parts);
    }
    if !labels.is_empty() {
        builder.classifier = Some(ClassifierParts {
            weight: numbers.vec(labels.len() * config.dim, 0.5),
            bias: numbers.vec(labels.len(), 0.5),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        });
    }
    builder
}

/// A random pooler for an adapter.
pub fn pooler_parts(dim: usize, seed: u64) -> PoolerParts {
    let mut numbers = Numbers::new(seed);
    PoolerParts { weight: numbers.vec(dim * dim, 0.3), bias: numbers.vec(dim, 0.3) }
}

/// The linear layers of every block.
pub fn all_bert_linear(config: &Config) -> Vec<Site> {
    (0..config.layers).flat_map(|i| SITES.map(|site| site(i))).collect()
}
