//! The fingerprint: SHA-256, truncated to 128 bits, over what an archive means.
//!
//! Order: root kind, configuration, then each tensor by rising site as (rows, cols, format, block,
//! codes in bitsandbytes' order, scales, nested scales, offset). Names, tokenizer, templates,
//! layout and padding do not count: they change no logit.

use sha2::{Digest, Sha256};

use super::Fingerprint;
use super::schema::bert::{Bert, BertLayer, LayerNorm};
use super::schema::checkpoint::Checkpoint;
use super::schema::lstm::{Lstm, LstmLayer};
use super::schema::mlp::Mlp;
use super::schema::{Adapter, Factor, Linear, Llama, LlamaLayer, Matrix, Target};
use crate::error::RootKind;
use crate::quant::Layout;

/// Collects the content of a root.
#[derive(Debug)]
pub struct Hasher(Sha256);

impl Hasher {
    pub(super) fn new(kind: RootKind) -> Self {
        let mut hasher = Self(Sha256::new());
        hasher.numbers(&[kind.0]);
        hasher
    }

    pub(super) fn finish(self) -> Fingerprint {
        let digest = self.0.finalize();
        let mut short = [0; 16];
        short.copy_from_slice(&digest[..16]);
        Fingerprint(short)
    }

    /// `layers` counts, not the list in `root`: layers that are read in place make no list.
    pub(super) fn llama<'l>(
        &mut self,
        root: &Llama<'_>,
        layers: impl Iterator<Item = LlamaLayer<'l>>,
    ) {
        let c = &root.config;
        self.numbers(&[
            c.vocab,
            c.dim,
            c.layers,
            c.heads,
            c.kv_heads,
            c.head_dim,
            c.hidden,
            c.context,
            c.rope_scaling,
        ]);
        self.floats(&[c.rope_theta, c.norm_epsilon]);
        self.floats(&c.rope_parameters);
        for layer in layers {
            for linear in
                [&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down]
            {
                self.linear(linear);
            }
            for vector in
                [layer.attention_norm, layer.q_norm, layer.k_norm, layer.feed_forward_norm]
            {
                self.floats(vector);
            }
        }
        self.matrix(&root.embedding);
        self.numbers(&[u32::from(root.head.is_some())]);
        if let Some(head) = &root.head {
            self.matrix(head);
        }
        self.floats(root.norm);
    }

    pub(super) fn checkpoint(&mut self, root: &Checkpoint<'_>) {
        self.0.update(root.base);
        self.0.update(root.steps.to_le_bytes());
        self.floats(root.values);
    }

    /// Pooling counts, it decides what is embedded; the length a text is cut to does not.
    pub(super) fn bert<'l>(
        &mut self,
        root: &Bert<'_>,
        layers: impl Iterator<Item = BertLayer<'l>>,
    ) {
        let c = &root.config;
        self.numbers(&[c.vocab, c.dim, c.layers, c.heads, c.hidden, c.context, c.token_types]);
        self.numbers(&[c.activation, c.pooling, c.normalize]);
        self.floats(&[c.norm_epsilon]);
        for layer in layers {
            [&layer.q, &layer.k, &layer.v, &layer.o, &layer.up, &layer.down]
                .iter()
                .for_each(|linear| self.linear(linear));
            [&layer.attention_norm, &layer.output_norm]
                .iter()
                .for_each(|norm| self.layer_norm(norm));
        }
        [&root.embedding, &root.positions, &root.token_types]
            .iter()
            .for_each(|matrix| self.matrix(matrix));
        self.layer_norm(&root.embedding_norm);
        self.numbers(&[u32::from(root.pooler.is_some())]);
        if let Some(pooler) = &root.pooler {
            self.linear(pooler);
        }
    }

    pub(super) fn lstm<'l>(
        &mut self,
        root: &Lstm<'_>,
        layers: impl Iterator<Item = LstmLayer<'l>>,
    ) {
        let c = &root.config;
        self.numbers(&[c.vocab, c.dim, c.hidden, c.layers, c.head, c.outputs]);
        for layer in layers {
            self.linear(&layer.ih);
            self.linear(&layer.hh);
        }
        self.matrix(&root.embedding);
        if let Some(head) = &root.head {
            self.linear(head);
        }
    }

    pub(super) fn mlp<'l>(&mut self, root: &Mlp<'_>, layers: impl Iterator<Item = Linear<'l>>) {
        let c = &root.config;
        self.numbers(&[c.inputs, c.outputs, c.layers, c.activation]);
        layers.for_each(|linear| self.linear(&linear));
    }

    pub(super) fn adapter<'t>(
        &mut self,
        root: &Adapter<'_>,
        targets: impl ExactSizeIterator<Item = Target<'t>>,
    ) {
        self.0.update(root.base);
        self.numbers(&[targets.len() as u32, root.replaced.len() as u32]);
        for t in targets {
            self.numbers(&[t.site, t.kind.into(), t.scaling.into(), t.rank, t.inputs, t.outputs]);
            self.floats(&[t.alpha]);
            self.factor(&t.a);
            self.factor(&t.b);
            [t.bias, t.magnitude, t.gain].iter().for_each(|vector| self.floats(vector));
        }
        for replaced in root.replaced {
            self.numbers(&[replaced.site]);
            self.linear(&replaced.linear);
        }
        if let Some(classifier) = &root.classifier {
            self.linear(&classifier.linear);
        }
    }

    fn linear(&mut self, linear: &Linear<'_>) {
        self.matrix(&linear.weight);
        self.floats(linear.bias);
    }

    fn layer_norm(&mut self, norm: &LayerNorm<'_>) {
        self.floats(norm.weight);
        self.floats(norm.bias);
    }

    fn factor(&mut self, factor: &Factor<'_>) {
        self.numbers(&[factor.format.into()]);
        self.bytes(factor.values);
        self.floats(factor.scales);
    }

    fn matrix(&mut self, matrix: &Matrix<'_>) {
        self.numbers(&[matrix.rows, matrix.cols, matrix.format.into(), matrix.block]);
        self.floats(&[matrix.offset]);
        if matrix.layout == Layout::Split64 as u8 {
            self.split_codes(matrix.codes);
        } else {
            self.bytes(matrix.codes);
        }
        self.bytes(matrix.scales);
        self.floats(matrix.nested);
    }

    /// Codes in groups of 32 bytes (weight i low in byte i, weight i + 32 high), fed in
    /// bitsandbytes' order.
    fn split_codes(&mut self, codes: &[u8]) {
        self.length(codes.len());
        for group in codes.chunks_exact(32) {
            let mut sequential = [0; 32];
            for i in 0..16 {
                let (first, second) = (group[2 * i], group[2 * i + 1]);
                sequential[i] = first << 4 | second & 15;
                sequential[16 + i] = first & 0xf0 | second >> 4;
            }
            self.0.update(sequential);
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.update(bytes);
    }

    fn floats(&mut self, values: &[f32]) {
        self.bytes(bytemuck::cast_slice(values));
    }

    fn length(&mut self, length: usize) {
        self.0.update((length as u64).to_le_bytes());
    }

    fn numbers(&mut self, numbers: &[u32]) {
        numbers.iter().for_each(|n| self.0.update(n.to_le_bytes()));
    }
}
