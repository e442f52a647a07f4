//! Small random LSTM and MLP bases and adapters for any base, built through the public writers.

use lowrank::adapter::{
    AdapterBuilder, Base, ClassifierParts, Numbers as Factor, Orientation, Place, TargetParts,
};
use lowrank::archive::{Buffer, schema, to_buffer};
use lowrank::model::lstm::schema::{Lstm as LstmRoot, LstmLayer};
use lowrank::model::lstm::{Config, Head, Site};
use lowrank::model::mlp;
use lowrank::model::mlp::schema::Mlp as MlpRoot;
use lowrank::quant::{Format, OwnedMatrix};

use super::Numbers;

/// Two layers whose widths no vector width divides.
pub const LSTM: Config =
    Config { vocab: 40, dim: 12, hidden: 22, layers: 2, head: Head::LanguageModel, outputs: 40 };

struct Layer {
    weight: OwnedMatrix,
    bias: Vec<f32>,
}

impl Layer {
    fn new(numbers: &mut Numbers, format: Format, rows: usize, cols: usize) -> Self {
        let weight = OwnedMatrix::quantize(
            format,
            64,
            rows,
            cols,
            &numbers.vec(rows * cols, 2.0 / (cols as f32).sqrt()),
        )
        .unwrap();
        Self { weight, bias: numbers.vec(rows, 0.3) }
    }

    fn view(&self) -> schema::Linear<'_> {
        schema::Linear { weight: self.weight.view().into(), bias: &self.bias }
    }
}

/// A random LSTM base in `format`, its embedding and head in `edge`; labels are called l0, l1 and
/// so on.
pub fn lstm(config: &Config, format: Format, edge: Format, seed: u64) -> Buffer {
    let mut numbers = Numbers::new(seed);
    let mut layer = |format, site: Site| {
        let (rows, cols) = site.shape(config);
        Layer::new(&mut numbers, format, rows, cols)
    };
    let layers: Vec<[Layer; 2]> = (0..config.layers)
        .map(|i| [Site::Ih(i), Site::Hh(i)].map(|site| layer(format, site)))
        .collect();
    let embedding = layer(edge, Site::Embedding);
    let head = (config.outputs > 0).then(|| layer(edge, Site::Head));
    let views: Vec<_> =
        layers.iter().map(|[ih, hh]| LstmLayer { ih: ih.view(), hh: hh.view() }).collect();
    let labels =
        if config.head == Head::Labels { names(config.outputs).join("\n") } else { String::new() };
    let root = LstmRoot {
        name: "tiny",
        config: config.to_schema(),
        text: schema::Text { bos: Some(1), stop: &[2], ..Default::default() },
        embedding: embedding.view().weight,
        layers: &views,
        head: head.as_ref().map(Layer::view),
        labels: &labels,
    };
    to_buffer(&root, 1).unwrap()
}

pub fn names(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("l{i}")).collect()
}

/// A random MLP in `format`, with or without label names.
pub fn mlp(
    inputs: usize,
    widths: &[usize],
    activation: mlp::Activation,
    format: Format,
    labelled: bool,
    seed: u64,
) -> Buffer {
    let mut numbers = Numbers::new(seed);
    let config = mlp::Config::new(inputs, activation, widths.iter().copied()).unwrap();
    let columns = std::iter::once(inputs).chain(widths.iter().copied());
    let layers: Vec<Layer> = widths
        .iter()
        .zip(columns)
        .map(|(&rows, cols)| Layer::new(&mut numbers, format, rows, cols))
        .collect();
    let views: Vec<_> = layers.iter().map(Layer::view).collect();
    let labels = if labelled { names(config.outputs).join("\n") } else { String::new() };
    to_buffer(
        &MlpRoot { name: "tiny", config: config.to_schema(), layers: &views, labels: &labels },
        1,
    )
    .unwrap()
}

/// A random adapter of any base on `sites`, with DoRA magnitudes if `dora`, and a classifier if
/// there are `labels`.
pub fn any_adapter(
    base: &dyn Base,
    sites: &[u32],
    dora: bool,
    labels: &[&str],
    seed: u64,
) -> Buffer {
    let (rank, mut numbers) = (3, Numbers::new(seed));
    let mut builder = AdapterBuilder::new("random", if dora { "dora" } else { "lora" });
    for &site in sites {
        let (rows, cols, is_embedding) = base.site(site).unwrap();
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
        builder.targets.insert(Place(site), parts);
    }
    if !labels.is_empty() {
        builder.classifier = Some(ClassifierParts {
            weight: numbers.vec(labels.len() * base.dim(), 0.5),
            bias: numbers.vec(labels.len(), 0.5),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        });
    }
    builder.build(base).unwrap()
}
