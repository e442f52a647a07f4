//! A float base with its linear layers in NF4, in memory: what `qlora` trains on when methods are
//! compared. Importing from files is in `import`.

use super::AnyBase;
use crate::archive::schema::bert::{Bert as BertRoot, BertLayer, LayerNorm as StoredNorm};
use crate::archive::schema::lstm::{Lstm as LstmRoot, LstmLayer};
use crate::archive::schema::mlp::Mlp as MlpRoot;
use crate::archive::{Buffer, schema, to_buffer};
use crate::error::Result;
use crate::model::bert::Bert;
use crate::model::llama::Llama;
use crate::model::lstm::Lstm;
use crate::model::mlp::Mlp;
use crate::nn::{LayerNorm, Linear};
use crate::quant::{BLOCK, Format, Matrix, OwnedMatrix};

/// A float base as `lowrank import` makes it by default: linear layers in NF4, embedding and output
/// head in 8 bits; `None` if its linear layers are no floats.
///
/// # Errors
/// What the writers say.
pub fn with_nf4(base: &AnyBase<'_>) -> Result<Option<Buffer>> {
    match base {
        AnyBase::Llama(model) if is_float(&model.layer(0).q.weight) => {
            llama_with_nf4(model).map(Some)
        }
        AnyBase::Bert(model) if is_float(&model.layer(0).q.weight) => {
            bert_with_nf4(model).map(Some)
        }
        AnyBase::Lstm(model) if is_float(&model.layer(0).ih.weight) => {
            lstm_with_nf4(model).map(Some)
        }
        AnyBase::Mlp(model) if is_float(&model.layer(0).weight) => mlp_with_nf4(model).map(Some),
        _ => Ok(None),
    }
}

fn is_float(weight: &Matrix<'_>) -> bool {
    matches!(weight.format(), Format::F32 | Format::F16)
}

/// A matrix in another format.
fn converted(weight: Matrix<'_>, format: Format) -> Result<OwnedMatrix> {
    let mut floats = vec![0.0; weight.rows() * weight.cols()];
    floats
        .chunks_exact_mut(weight.cols())
        .enumerate()
        .for_each(|(row, out)| weight.read(row, 0, out));
    OwnedMatrix::quantize(format, BLOCK, weight.rows(), weight.cols(), &floats)
}

fn all_nf4<const N: usize>(linears: [Linear<'_>; N]) -> Result<Vec<OwnedMatrix>> {
    linears.into_iter().map(|linear| converted(linear.weight, Format::Nf4)).collect()
}

fn linear<'v>(weight: &'v OwnedMatrix, bias: &'v [f32]) -> schema::Linear<'v> {
    schema::Linear { weight: weight.view().into(), bias }
}

fn llama_with_nf4(model: &Llama<'_>) -> Result<Buffer> {
    let of = |index| {
        let layer = model.layer(index);
        all_nf4([layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down])
    };
    let weights: Vec<_> = (0..model.config().layers).map(of).collect::<Result<_>>()?;
    let embedding = converted(model.embedding(), Format::Int8)?;
    let head = if model.is_tied() { None } else { Some(converted(model.head(), Format::Int8)?) };
    let layers: Vec<_> = weights
        .iter()
        .enumerate()
        .map(|(index, weights)| {
            let layer = model.layer(index);
            schema::LlamaLayer {
                attention_norm: layer.attention_norm,
                q: linear(&weights[0], layer.q.bias),
                k: linear(&weights[1], layer.k.bias),
                v: linear(&weights[2], layer.v.bias),
                o: linear(&weights[3], layer.o.bias),
                q_norm: layer.q_norm,
                k_norm: layer.k_norm,
                feed_forward_norm: layer.feed_forward_norm,
                gate: linear(&weights[4], layer.gate.bias),
                up: linear(&weights[5], layer.up.bias),
                down: linear(&weights[6], layer.down.bias),
            }
        })
        .collect();
    let stop: Vec<u32> = model.stop_tokens().collect();
    let text = schema::Text {
        tokenizer: model.tokenizer_json(),
        chat_template: model.chat_template(),
        bos: model.bos(),
        add_bos: model.leading_bos().is_some(),
        stop: &stop,
    };
    let root = schema::Llama {
        name: model.name(),
        config: model.config().to_schema(),
        text,
        embedding: embedding.view().into(),
        layers: &layers,
        norm: model.norm(),
        head: head.as_ref().map(|head| head.view().into()),
    };
    to_buffer(&root, 1)
}

fn bert_with_nf4(model: &Bert<'_>) -> Result<Buffer> {
    let of = |index| {
        let layer = model.layer(index);
        all_nf4([layer.q, layer.k, layer.v, layer.o, layer.up, layer.down])
    };
    let weights: Vec<_> = (0..model.config().layers).map(of).collect::<Result<_>>()?;
    let embedding = converted(model.embedding(), Format::Int8)?;
    let pooler = model
        .pooler()
        .map(|pooler| Ok((converted(pooler.weight, Format::Nf4)?, pooler.bias)))
        .transpose()?;
    fn norm(norm: LayerNorm<'_>) -> StoredNorm<'_> {
        StoredNorm { weight: norm.weight, bias: norm.bias }
    }
    let layers: Vec<_> = weights
        .iter()
        .enumerate()
        .map(|(index, weights)| {
            let layer = model.layer(index);
            BertLayer {
                q: linear(&weights[0], layer.q.bias),
                k: linear(&weights[1], layer.k.bias),
                v: linear(&weights[2], layer.v.bias),
                o: linear(&weights[3], layer.o.bias),
                attention_norm: norm(layer.attention_norm),
                up: linear(&weights[4], layer.up.bias),
                down: linear(&weights[5], layer.down.bias),
                output_norm: norm(layer.output_norm),
            }
        })
        .collect();
    let root = BertRoot {
        name: model.name(),
        config: model.config().to_schema(),
        max_length: model.max_length() as u32,
        text: schema::Text { tokenizer: model.tokenizer_json(), ..Default::default() },
        embedding: embedding.view().into(),
        positions: model.positions().into(),
        token_types: model.token_types().into(),
        embedding_norm: norm(model.embedding_norm()),
        layers: &layers,
        pooler: pooler.as_ref().map(|(weight, bias)| linear(weight, bias)),
    };
    to_buffer(&root, 1)
}

fn lstm_with_nf4(model: &Lstm<'_>) -> Result<Buffer> {
    let of = |index| {
        let layer = model.layer(index);
        all_nf4([layer.ih, layer.hh])
    };
    let weights: Vec<_> = (0..model.config().layers).map(of).collect::<Result<_>>()?;
    let embedding = converted(model.embedding(), Format::Int8)?;
    let head = model
        .head()
        .map(|head| Ok((converted(head.weight, Format::Int8)?, head.bias)))
        .transpose()?;
    let layers: Vec<_> = weights
        .iter()
        .enumerate()
        .map(|(index, weights)| {
            let layer = model.layer(index);
            LstmLayer {
                ih: linear(&weights[0], layer.ih.bias),
                hh: linear(&weights[1], layer.hh.bias),
            }
        })
        .collect();
    let stop: Vec<u32> = model.stop_tokens().collect();
    let root = LstmRoot {
        name: model.name(),
        config: model.config().to_schema(),
        text: schema::Text {
            tokenizer: model.tokenizer_json(),
            chat_template: "",
            bos: model.bos(),
            add_bos: model.leading_bos().is_some(),
            stop: &stop,
        },
        embedding: embedding.view().into(),
        layers: &layers,
        head: head.as_ref().map(|(weight, bias)| linear(weight, bias)),
        labels: &model.labels().collect::<Vec<_>>().join("\n"),
    };
    to_buffer(&root, 1)
}

fn mlp_with_nf4(model: &Mlp<'_>) -> Result<Buffer> {
    let count = model.config().layers;
    // The last layer is the head.
    let format = |index| if index + 1 == count { Format::Int8 } else { Format::Nf4 };
    let weights: Vec<_> = (0..count)
        .map(|index| converted(model.layer(index).weight, format(index)))
        .collect::<Result<_>>()?;
    let layers: Vec<_> = weights
        .iter()
        .enumerate()
        .map(|(index, weight)| linear(weight, model.layer(index).bias))
        .collect();
    let labels = model.labels().collect::<Vec<_>>().join("\n");
    to_buffer(
        &MlpRoot {
            name: model.name(),
            config: model.config().to_schema(),
            layers: &layers,
            labels: &labels,
        },
        1,
    )
}
