//! Small random bases and adapters for tests, built through the public writer. Not a fixture of any
//! promise itself.
#![allow(dead_code, reason = "every test binary uses its own part")]
#![allow(unused_imports, reason = "as above")]

mod bert;
#[cfg(feature = "std")]
mod slopes;
mod small;

pub use bert::{BERT, all_bert_linear, bert, bert_adapter, bert_adapter_parts, pooler_parts};
use lowrank::archive::{Buffer, schema, to_buffer};
use lowrank::model::llama::{Config, Llama, RopeScaling, Site};
use lowrank::quant::{Format, OwnedMatrix};
#[cfg(feature = "std")]
pub use slopes::{assert_slopes, shake};
pub use small::{LSTM, any_adapter, lstm, mlp, names};

/// A small decoder with grouped-query attention and a feed-forward width that no vector width
/// divides.
pub const CONFIG: Config = Config {
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

/// Repeatable numbers in -1 to 1 (a linear congruential generator: quality does not matter here).
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678)
    }

    pub fn next(&mut self) -> f32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    }

    pub fn vec(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.next() * scale).collect()
    }
}

/// A random base in `format`, its embedding and head in `embedding`.
pub fn base(config: &Config, format: Format, embedding: Format, seed: u64) -> Buffer {
    scaled_base(config, format, embedding, seed, 1.0)
}

/// As [`base`], the weights of the layers times `scale`.
pub fn scaled_base(
    config: &Config,
    format: Format,
    embedding: Format,
    seed: u64,
    scale: f32,
) -> Buffer {
    let mut numbers = Numbers::new(seed);
    let mut matrix = |format, (rows, cols): (usize, usize), scale: f32| {
        let weights = numbers.vec(rows * cols, scale * 2.0 / (cols as f32).sqrt());
        OwnedMatrix::quantize(format, 64, rows, cols, &weights).unwrap()
    };
    let sites: [fn(usize) -> Site; 7] =
        [Site::Q, Site::K, Site::V, Site::O, Site::Gate, Site::Up, Site::Down];
    let layers: Vec<[OwnedMatrix; 7]> = (0..config.layers)
        .map(|i| sites.map(|site| matrix(format, site(i).shape(config), scale)))
        .collect();
    let [table, head] =
        [Site::Embedding, Site::Head].map(|site| matrix(embedding, site.shape(config), 1.0));
    let norm = vec![1.0; config.dim];
    fn linear(weight: &OwnedMatrix) -> schema::Linear<'_> {
        schema::Linear { weight: weight.view().into(), bias: &[] }
    }
    let linears: Vec<[schema::Linear<'_>; 7]> = layers
        .iter()
        .map(|[q, k, v, o, g, u, d]| {
            [linear(q), linear(k), linear(v), linear(o), linear(g), linear(u), linear(d)]
        })
        .collect();
    let layers: Vec<lowrank::model::llama::schema::LlamaLayer<'_>> = linears
        .iter()
        .map(|&[q, k, v, o, gate, up, down]| lowrank::model::llama::schema::LlamaLayer {
            attention_norm: &norm,
            q,
            k,
            v,
            o,
            q_norm: &[],
            k_norm: &[],
            feed_forward_norm: &norm,
            gate,
            up,
            down,
        })
        .collect();
    let root = lowrank::model::llama::schema::Llama {
        name: "tiny",
        config: config.to_schema(),
        text: schema::Text { bos: Some(1), stop: &[2], ..Default::default() },
        embedding: table.view().into(),
        layers: &layers,
        norm: &norm,
        head: Some(head.view().into()),
    };
    to_buffer(&root, 1).unwrap()
}

/// A random LoRA adapter of rank `rank` on `sites`, strong enough to change what greedy decoding
/// chooses.
pub fn adapter(base: &Llama<'_>, sites: &[Site], rank: usize, seed: u64) -> Buffer {
    let config = base.config();
    let mut numbers = Numbers::new(seed);
    let mut sites: Vec<(u32, Site)> =
        sites.iter().map(|&site| (site.number(config.layers), site)).collect();
    sites.sort_by_key(|(number, _)| *number);
    let factors: Vec<(Vec<f32>, Vec<f32>)> = sites
        .iter()
        .map(|(_, site)| {
            let (rows, cols) = site.shape(config);
            (numbers.vec(rank * rows.max(cols), 0.3), numbers.vec(rank * rows.max(cols), 0.3))
        })
        .collect();
    let mut index = vec![0; config.sites()];
    let targets: Vec<schema::Target<'_>> = sites
        .iter()
        .zip(&factors)
        .enumerate()
        .map(|(i, ((number, site), (a, b)))| {
            index[*number as usize] = i as u16 + 1;
            let (rows, cols) = site.shape(config);
            let is_embedding = *site == Site::Embedding;
            let (outputs, inputs) = if is_embedding { (cols, rows) } else { (rows, cols) };
            schema::Target {
                site: *number,
                kind: u8::from(is_embedding),
                scaling: 0,
                rank: rank as u32,
                inputs: inputs as u32,
                outputs: outputs as u32,
                alpha: 2.0 * rank as f32,
                a: factor(&a[..rank * inputs]),
                b: factor(&b[..rank * outputs]),
                bias: &[],
                magnitude: &[],
                gain: &[],
            }
        })
        .collect();
    let root = schema::Adapter {
        base: base.fingerprint().0,
        base_root: lowrank::RootKind::LLAMA.0,
        name: "random",
        method: "lora",
        facts: "",
        index: &index,
        targets: &targets,
        replaced: &[],
        classifier: None,
    };
    to_buffer(&root, 1).unwrap()
}

/// The linear layers of every block.
pub fn all_linear(config: &Config) -> Vec<Site> {
    let sites: [fn(usize) -> Site; 7] =
        [Site::Q, Site::K, Site::V, Site::O, Site::Gate, Site::Up, Site::Down];
    (0..config.layers).flat_map(|i| sites.map(|site| site(i))).collect()
}

fn factor(values: &[f32]) -> schema::Factor<'_> {
    schema::Factor { format: Format::F32 as u8, values: bytemuck::cast_slice(values), scales: &[] }
}
