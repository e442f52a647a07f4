//! Archived roots as they were before they were written: what `verify` hashes again.
//!
//! Compiled with `alloc`, as the hash is, but allocates nothing: layers are shown one by one. Call it
//! on roots that were opened: their lengths are proven. Names, tokenizers and label names are left
//! out, as they are by the fingerprint.

use super::Fingerprint;
use super::fingerprint::Hasher;
use super::schema::bert::{
    ArchivedBert, ArchivedLayerNorm, Bert, BertConfig, BertLayer, LayerNorm,
};
use super::schema::lstm::{ArchivedLstm, Lstm, LstmConfig, LstmLayer};
use super::schema::mlp::{ArchivedMlp, Mlp, MlpConfig};
use super::schema::{
    Adapter, ArchivedLinear, ArchivedLlama, ArchivedMatrix, Linear, Llama, LlamaConfig, LlamaLayer,
    Matrix, Target, Text, vector,
};
use crate::error::{Error, Result, RootKind};

/// Compares the `stored` fingerprint with that of what `content` feeds.
fn check(stored: Fingerprint, kind: RootKind, content: impl FnOnce(&mut Hasher)) -> Result<()> {
    let mut hasher = Hasher::new(kind);
    content(&mut hasher);
    let computed = hasher.finish();
    if computed == stored {
        return Ok(());
    }
    Err(Error::Content { stored: stored.short(), computed: computed.short() })
}

fn matrix<'a>(matrix: &'a ArchivedMatrix<'static>) -> Matrix<'a> {
    matrix.view().into()
}

/// A linear layer.
pub(crate) fn linear<'a>(linear: &'a ArchivedLinear<'static>) -> Linear<'a> {
    let weight = matrix(&linear.weight);
    Linear { weight, bias: vector(&linear.bias, weight.rows as usize) }
}

/// Checks the content of a Llama-family base.
pub(crate) fn llama(stored: Fingerprint, root: &ArchivedLlama<'static>) -> Result<()> {
    let c = &root.config;
    let config = LlamaConfig {
        vocab: c.vocab.to_native(),
        dim: c.dim.to_native(),
        layers: c.layers.to_native(),
        heads: c.heads.to_native(),
        kv_heads: c.kv_heads.to_native(),
        head_dim: c.head_dim.to_native(),
        hidden: c.hidden.to_native(),
        context: c.context.to_native(),
        rope_theta: c.rope_theta.to_native(),
        rope_scaling: c.rope_scaling.to_native(),
        rope_parameters: c.rope_parameters.map(|value| value.to_native()),
        norm_epsilon: c.norm_epsilon.to_native(),
    };
    let (dim, head_dim) = (config.dim as usize, config.head_dim as usize);
    let layers = root.layers.iter().map(|layer| LlamaLayer {
        attention_norm: vector(&layer.attention_norm, dim),
        q: linear(&layer.q),
        k: linear(&layer.k),
        v: linear(&layer.v),
        o: linear(&layer.o),
        q_norm: vector(&layer.q_norm, head_dim),
        k_norm: vector(&layer.k_norm, head_dim),
        feed_forward_norm: vector(&layer.feed_forward_norm, dim),
        gate: linear(&layer.gate),
        up: linear(&layer.up),
        down: linear(&layer.down),
    });
    let twin = Llama {
        name: "",
        config,
        text: Text::default(),
        embedding: matrix(&root.embedding),
        layers: &[],
        norm: vector(&root.norm, dim),
        head: root.head.as_ref().map(matrix),
    };
    check(stored, RootKind::LLAMA, |hasher| hasher.llama(&twin, layers))
}

fn layer_norm<'a>(norm: &'a ArchivedLayerNorm<'static>, dim: usize) -> LayerNorm<'a> {
    LayerNorm { weight: vector(&norm.weight, dim), bias: vector(&norm.bias, dim) }
}

/// Checks the content of a BERT-family base.
pub(crate) fn bert(stored: Fingerprint, root: &ArchivedBert<'static>) -> Result<()> {
    let c = &root.config;
    let config = BertConfig {
        vocab: c.vocab.to_native(),
        dim: c.dim.to_native(),
        layers: c.layers.to_native(),
        heads: c.heads.to_native(),
        hidden: c.hidden.to_native(),
        context: c.context.to_native(),
        token_types: c.token_types.to_native(),
        activation: c.activation.to_native(),
        pooling: c.pooling.to_native(),
        normalize: c.normalize.to_native(),
        norm_epsilon: c.norm_epsilon.to_native(),
    };
    let dim = config.dim as usize;
    let layers = root.layers.iter().map(|layer| BertLayer {
        q: linear(&layer.q),
        k: linear(&layer.k),
        v: linear(&layer.v),
        o: linear(&layer.o),
        attention_norm: layer_norm(&layer.attention_norm, dim),
        up: linear(&layer.up),
        down: linear(&layer.down),
        output_norm: layer_norm(&layer.output_norm, dim),
    });
    let twin = Bert {
        name: "",
        config,
        max_length: root.max_length.to_native(),
        text: Text::default(),
        embedding: matrix(&root.embedding),
        positions: matrix(&root.positions),
        token_types: matrix(&root.token_types),
        embedding_norm: layer_norm(&root.embedding_norm, dim),
        layers: &[],
        pooler: root.pooler.as_ref().map(linear),
    };
    check(stored, RootKind::BERT, |hasher| hasher.bert(&twin, layers))
}

/// Checks the content of a base of LSTM layers.
pub(crate) fn lstm(stored: Fingerprint, root: &ArchivedLstm<'static>) -> Result<()> {
    let c = &root.config;
    let config = LstmConfig {
        vocab: c.vocab.to_native(),
        dim: c.dim.to_native(),
        hidden: c.hidden.to_native(),
        layers: c.layers.to_native(),
        head: c.head.to_native(),
        outputs: c.outputs.to_native(),
    };
    let layers =
        root.layers.iter().map(|layer| LstmLayer { ih: linear(&layer.ih), hh: linear(&layer.hh) });
    let twin = Lstm {
        name: "",
        config,
        text: Text::default(),
        embedding: matrix(&root.embedding),
        layers: &[],
        head: root.head.as_ref().map(linear),
        labels: "",
    };
    check(stored, RootKind::LSTM, |hasher| hasher.lstm(&twin, layers))
}

/// Checks the content of a base of plain linear layers.
pub(crate) fn mlp(stored: Fingerprint, root: &ArchivedMlp<'static>) -> Result<()> {
    let c = &root.config;
    let config = MlpConfig {
        inputs: c.inputs.to_native(),
        outputs: c.outputs.to_native(),
        layers: c.layers.to_native(),
        activation: c.activation.to_native(),
    };
    let layers = root.layers.iter().map(linear);
    let twin = Mlp { name: "", config, layers: &[], labels: "" };
    check(stored, RootKind::MLP, |hasher| hasher.mlp(&twin, layers))
}

/// Checks the content of an adapter: `targets`, and what `twin` has beside them.
pub(crate) fn adapter<'t>(
    stored: Fingerprint,
    twin: &Adapter<'_>,
    targets: impl ExactSizeIterator<Item = Target<'t>>,
) -> Result<()> {
    check(stored, RootKind::ADAPTER, |hasher| hasher.adapter(twin, targets))
}
