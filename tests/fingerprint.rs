//! A base's fingerprint is that of what it computes: it ignores name, tokenizer and the order of
//! codes in bytes, and changes with every number that changes a logit.

mod model_folder;

use std::path::Path;

use lowrank::Error;
use lowrank::adapter::{Adapter, AdapterSet, Slot};
use lowrank::archive::{Fingerprint, schema, to_buffer};
use lowrank::file::FileError;
use lowrank::import::{
    AdapterOptions, BaseOptions, HuggingFace, Source, Tensor, TextParts, base_to_buffer,
    import_peft,
};
use lowrank::model::llama::{Config, Llama, RopeScaling, Site};
use lowrank::quant::{Format, Layout, OwnedMatrix, OwnedScales, OwnedValues};
use model_folder::{exact, golden, in_format};

/// A source with one thing changed.
struct Changed<'c> {
    inner: &'c HuggingFace,
    name: &'c str,
    text: TextParts,
    config: &'c dyn Fn(&mut Config),
    tensor: &'c dyn Fn(&str, &mut Tensor),
}

impl<'c> Changed<'c> {
    fn nothing(inner: &'c HuggingFace) -> Self {
        Self {
            inner,
            name: "tiny",
            text: TextParts::default(),
            config: &|_| (),
            tensor: &|_, _| (),
        }
    }

    fn fingerprint(&self, options: &BaseOptions) -> Fingerprint {
        let archive = base_to_buffer(self, options, &mut |_| {}).unwrap();
        Llama::verify(&archive).unwrap().fingerprint()
    }
}

impl Source for Changed<'_> {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn config(&self) -> Result<Config, FileError> {
        let mut config = self.inner.config()?;
        (self.config)(&mut config);
        Ok(config)
    }

    fn text(&self) -> Result<TextParts, FileError> {
        Ok(self.text.clone())
    }

    fn tensor(&self, name: &str) -> Result<Option<Tensor>, FileError> {
        let mut tensor = self.inner.tensor(name)?;
        if let Some(tensor) = &mut tensor {
            (self.tensor)(name, tensor);
        }
        Ok(tensor)
    }

    fn names(&self) -> Vec<String> {
        self.inner.names()
    }
}

#[test]
fn name_and_text_do_not_count() {
    let source = HuggingFace::open(golden("tiny-llama")).unwrap();
    let plain = Changed::nothing(&source).fingerprint(&exact());
    let text = TextParts {
        tokenizer: b"{}".to_vec(),
        chat_template: "x".into(),
        bos: Some(3),
        add_bos: true,
        stop: vec![1, 2],
    };
    assert_eq!(
        Changed { name: "other", text, ..Changed::nothing(&source) }.fingerprint(&exact()),
        plain
    );
    assert_eq!(
        Changed::nothing(&source).fingerprint(&BaseOptions { content_version: 9, ..exact() }),
        plain
    );
}

#[test]
fn an_adapter_is_refused_by_a_base_with_one_other_weight() {
    let source = HuggingFace::open(golden("tiny-llama")).unwrap();
    let change = |asked: &str, tensor: &mut Tensor| {
        if let Tensor::Dense { values, .. } = tensor
            && asked == "model.layers.1.mlp.up_proj.weight"
        {
            values[7] = values[7].next_up();
        }
    };
    let changed = Changed { tensor: &change, ..Changed::nothing(&source) };
    let [own, other] = [&Changed::nothing(&source), &changed]
        .map(|source| base_to_buffer(source, &exact(), &mut |_| {}).unwrap());
    let [own, other] = [&own, &other].map(|archive| Llama::open(archive).unwrap());
    let archive = import_peft(golden("tiny-llama/adapters/lora"), &own, &AdapterOptions::default())
        .unwrap()
        .build(&own)
        .unwrap();
    let attach = |base: &Llama<'_>| {
        AdapterSet::new(&mut [Slot::EMPTY], base)
            .attach(0, Adapter::open(&archive).unwrap())
            .map(drop)
    };
    attach(&own).unwrap();
    let expected =
        Error::OtherBase { adapter: own.fingerprint().short(), base: other.fingerprint().short() };
    assert_eq!(attach(&other), Err(expected));
}

#[test]
fn every_weight_norm_and_format_counts() {
    let source = HuggingFace::open(golden("tiny-llama")).unwrap();
    let mut seen = vec![Changed::nothing(&source).fingerprint(&exact())];
    for name in source.names() {
        let change = |asked: &str, tensor: &mut Tensor| {
            if let Tensor::Dense { values, .. } = tensor
                && asked == name
            {
                let last = values.last_mut().unwrap();
                *last = last.next_up();
            }
        };
        seen.push(Changed { tensor: &change, ..Changed::nothing(&source) }.fingerprint(&exact()));
    }
    // Two matrices of one shape, exchanged.
    let exchange = |asked: &str, tensor: &mut Tensor| match asked {
        "model.layers.0.self_attn.q_proj.weight" => {
            *tensor = source.tensor("model.layers.0.self_attn.o_proj.weight").unwrap().unwrap();
        }
        "model.layers.0.self_attn.o_proj.weight" => {
            *tensor = source.tensor("model.layers.0.self_attn.q_proj.weight").unwrap().unwrap();
        }
        _ => (),
    };
    seen.push(Changed { tensor: &exchange, ..Changed::nothing(&source) }.fingerprint(&exact()));
    for format in [Format::F16, Format::Int8, Format::Nf4, Format::Nf4Plain] {
        seen.push(Changed::nothing(&source).fingerprint(&in_format(format)));
    }
    seen.push(
        Changed::nothing(&source).fingerprint(&BaseOptions { block: 32, ..in_format(Format::Nf4) }),
    );
    all_differ(&seen);
}

#[test]
fn every_number_of_the_configuration_counts() {
    let source = HuggingFace::open(golden("tiny-llama")).unwrap();
    let llama3 = |factor, low_frequency, high_frequency, original_context| {
        move |c: &mut Config| {
            c.rope_scaling =
                RopeScaling::Llama3 { factor, low_frequency, high_frequency, original_context }
        }
    };
    // Vocabulary, dimensions and layers fix shapes, which differ then anyway; heads of another size
    // keep them.
    let changes: [&dyn Fn(&mut Config); 12] = [
        &|_| (),
        &|c| (c.heads, c.kv_heads, c.head_dim) = (2, 1, 32),
        &|c| c.context += 1,
        &|c| c.rope_theta = c.rope_theta.next_up(),
        &|c| c.norm_epsilon = c.norm_epsilon.next_up(),
        &|c| c.rope_scaling = RopeScaling::Linear { factor: 2.0 },
        &|c| c.rope_scaling = RopeScaling::Linear { factor: 4.0 },
        &llama3(2.0, 1.0, 4.0, 32.0),
        &llama3(4.0, 1.0, 4.0, 32.0),
        &llama3(2.0, 2.0, 4.0, 32.0),
        &llama3(2.0, 1.0, 8.0, 32.0),
        &llama3(2.0, 1.0, 4.0, 64.0),
    ];
    let seen: Vec<_> = changes
        .iter()
        .map(|config| Changed { config, ..Changed::nothing(&source) }.fingerprint(&exact()))
        .collect();
    all_differ(&seen);
}

#[test]
fn every_code_and_scale_counts() {
    let options = in_format(Format::Nf4);
    for (folder, nested) in [("tiny-llama-bnb", true), ("tiny-llama-bnb-plain", false)] {
        let source = HuggingFace::open(golden(folder)).unwrap();
        type Change<'c> = &'c dyn Fn(&mut Vec<u8>, &mut OwnedScales);
        let changes: [Change<'_>; 5] = [
            &|_, _| (),
            &|codes, _| codes[0] ^= 0x10,
            &|codes, _| *codes.last_mut().unwrap() ^= 0x01,
            &|_, scales| match scales {
                OwnedScales::Plain(scales) => scales[1] = scales[1].next_up(),
                OwnedScales::Double { codes, .. } => codes[1] ^= 1,
            },
            &|_, scales| match scales {
                OwnedScales::Plain(scales) => scales.swap(0, 1),
                OwnedScales::Double { nested, .. } => nested[0] = nested[0].next_up(),
            },
        ];
        let offset = |_: &mut Vec<u8>, scales: &mut OwnedScales| {
            if let OwnedScales::Double { offset, .. } = scales {
                *offset = offset.next_up();
            }
        };
        let mut changes = changes.to_vec();
        if nested {
            changes.push(&offset);
        }
        // Rows of 64 are reordered into groups, rows of 100 are not: both must count.
        for part in ["self_attn.q_proj", "mlp.down_proj"] {
            let name = format!("model.layers.1.{part}.weight");
            let with = |change: Change<'_>| {
                let tensor = |asked: &str, tensor: &mut Tensor| {
                    if let Tensor::Packed(matrix) = tensor
                        && asked == name
                    {
                        let (rows, cols) = (matrix.view().rows(), matrix.view().cols());
                        let OwnedValues::Nf4 { mut codes, mut scales, block, layout } =
                            matrix.clone().into_values()
                        else {
                            panic!()
                        };
                        change(&mut codes, &mut scales);
                        *matrix = OwnedMatrix::new(
                            rows,
                            cols,
                            OwnedValues::Nf4 { codes, scales, block, layout },
                        )
                        .unwrap();
                    }
                };
                Changed { tensor: &tensor, ..Changed::nothing(&source) }.fingerprint(&options)
            };
            all_differ(&changes.iter().map(|change| with(*change)).collect::<Vec<_>>());
        }
    }
}

#[test]
fn the_order_of_codes_does_not_count() {
    let config = Config {
        vocab: 8,
        dim: 64,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        hidden: 128,
        context: 16,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        norm_epsilon: 1e-5,
    };
    let sites = [
        Site::Q(0),
        Site::K(0),
        Site::V(0),
        Site::O(0),
        Site::Gate(0),
        Site::Up(0),
        Site::Down(0),
        Site::Embedding,
        Site::Head,
    ];
    let fingerprint = |layout, format| {
        let matrices = sites.map(|site| {
            let (rows, cols) = site.shape(&config);
            let weights: Vec<f32> =
                (0..rows * cols).map(|i| ((i * i + rows) as f32 * 0.37).sin()).collect();
            let matrix = OwnedMatrix::quantize(format, 64, rows, cols, &weights)
                .unwrap()
                .with_layout(layout);
            assert_eq!(matrix.view().layout(), layout);
            matrix
        });
        let linear = |i: usize| schema::Linear { weight: matrices[i].view().into(), bias: &[] };
        let norm = [1.0; 64];
        let layer = lowrank::model::llama::schema::LlamaLayer {
            attention_norm: &norm,
            q: linear(0),
            k: linear(1),
            v: linear(2),
            o: linear(3),
            q_norm: &[],
            k_norm: &[],
            feed_forward_norm: &norm,
            gate: linear(4),
            up: linear(5),
            down: linear(6),
        };
        let root = lowrank::model::llama::schema::Llama {
            name: "",
            config: config.to_schema(),
            text: schema::Text::default(),
            embedding: matrices[7].view().into(),
            layers: &[layer],
            norm: &norm,
            head: Some(matrices[8].view().into()),
        };
        let archive = to_buffer(&root, 1).unwrap();
        Llama::verify(&archive).unwrap().fingerprint()
    };
    for format in [Format::Nf4, Format::Nf4Plain] {
        assert_eq!(fingerprint(Layout::Sequential, format), fingerprint(Layout::Split64, format));
    }
}

fn all_differ(seen: &[Fingerprint]) {
    for (i, a) in seen.iter().enumerate() {
        for (j, b) in seen.iter().enumerate().skip(i + 1) {
            assert_ne!(a, b, "changes {i} and {j}");
        }
    }
}
