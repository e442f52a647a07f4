//! The forward pass of a BERT-family encoder on the device: line by line that of
//! `model/bert/forward.rs`, with a launch for each.

use super::state::Place;
use super::{DeviceLayer, EncoderModel, EncoderState};
use crate::adapter::Handle;
use crate::cuda::buffer::{Address, Buffer};
use crate::cuda::parameters::{Activate, Bidirectional, Norm, Pool};
use crate::cuda::pass::{Pass, words};
use crate::cuda::upload::{DeviceLinear, DeviceNorm};
use crate::cuda::{CudaError, stride};
use crate::model::bert::{Architecture, Pooling, Site};
use crate::nn::{Activation, Segment};

/// `function` of `ptx/activation.cu`.
#[derive(Debug, Clone, Copy)]
enum Function {
    Gelu,
    GeluTanh,
    Relu,
    Tanh,
}

impl Function {
    fn of(activation: Activation) -> Self {
        match activation {
            Activation::Gelu => Self::Gelu,
            Activation::GeluTanh => Self::GeluTanh,
            Activation::Relu => Self::Relu,
        }
    }
}

/// Which vector of a text is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// This one, brought to length 1 if `normalize`.
    Pooled { pooling: Pooling, normalize: bool },
    /// What its classifier reads: the base's own, or that of the pooler which an adapter brings.
    Classified,
}

impl EncoderModel<'_> {
    /// Encodes all rows; their last hidden states are left in `state.x`.
    pub(crate) fn encode(
        &self,
        state: &mut EncoderState,
        tokens: &[u32],
        types: &[u32],
        segments: &[Segment],
        active: &[Handle<'_>],
    ) -> Result<(), CudaError> {
        self.device().enter()?;
        state.chosen.choose(&self.adapters, segments, active)?;
        state.describe(tokens, types, segments)?;
        let state = &*state;
        let pass = Pass {
            kernels: &self.kernels,
            chosen: &state.chosen,
            segments,
            rows: tokens.len(),
            sequences: state.at(Place::Sequence),
        };
        // x = norm(word + position + token type)
        let site = Site::Embedding.number(self.layers.len());
        pass.embed(&self.embedding, site, state.at(Place::Token), &state.x)?;
        pass.add_rows(&self.positions, state.at(Place::Position), &state.x)?;
        pass.add_rows(&self.token_types, state.at(Place::Type), &state.x)?;
        self.norm(&pass, &self.embedding_norm, &state.x)?;
        self.layers.iter().try_for_each(|layer| self.block(&pass, state, layer))
    }

    fn block(
        &self,
        pass: &Pass<'_>,
        s: &EncoderState,
        layer: &DeviceLayer,
    ) -> Result<(), CudaError> {
        let c = self.bert.config();

        // x ← norm(x + O · attention(Q x, K x, V x))
        pass.linear(&layer.q, &s.x, &s.q, false)?;
        pass.linear(&layer.k, &s.x, &s.k, false)?;
        pass.linear(&layer.v, &s.x, &s.v, false)?;
        let attention = Bidirectional {
            q: s.q.address(),
            k: s.k.address(),
            v: s.v.address(),
            out: s.attended.address(),
            first: s.at(Place::First),
            length: s.at(Place::Length),
            scale: 1.0 / (c.head_dim() as f32).sqrt(),
            d: c.head_dim() as u32,
            stride: stride(c.dim) as u32,
            padding: 0,
        };
        self.kernels.bidirectional(pass.rows, c.heads, &attention)?;
        pass.linear(&layer.o, &s.attended, &s.x, true)?;
        self.norm(pass, &layer.attention_norm, &s.x)?;

        // x ← norm(x + Down · gelu(Up x))
        pass.linear(&layer.up, &s.x, &s.hidden, false)?;
        let function = Function::of(c.activation);
        self.activate(function, pass.rows, s.hidden.address(), c.hidden)?;
        pass.linear(&layer.down, &s.hidden, &s.x, true)?;
        self.norm(pass, &layer.output_norm, &s.x)
    }

    fn norm(&self, pass: &Pass<'_>, norm: &DeviceNorm, x: &Buffer) -> Result<(), CudaError> {
        let dim = self.bert.config().dim;
        let norm = Norm {
            y: x.address(),
            weight: norm.weight,
            bias: norm.bias,
            epsilon: norm.epsilon,
            width: dim as u32,
            y_stride: stride(dim) as u32,
            ..Norm::default()
        };
        self.kernels.layer_norm(pass.rows, &norm)
    }

    fn activate(
        &self,
        function: Function,
        rows: usize,
        x: Address,
        width: usize,
    ) -> Result<(), CudaError> {
        let (function, stride) = (function as u32, stride(width) as u32);
        let activate = Activate { x, width: width as u32, stride, function, padding: 0 };
        self.kernels.activation(rows, &activate)
    }

    /// The hidden states of all rows of the last pass, `[rows, dim]`.
    pub(crate) fn hidden(&self, state: &EncoderState, rows: usize) -> Result<Vec<f32>, CudaError> {
        self.rows_of(&state.x, rows)
    }

    /// A vector of each text of the last pass, `[texts, dim]`.
    pub(crate) fn vectors(
        &self,
        state: &EncoderState,
        segments: &[Segment],
        wanted: Wanted,
    ) -> Result<Vec<f32>, CudaError> {
        self.device().enter()?;
        let (pooling, normalize) = match wanted {
            Wanted::Pooled { pooling, normalize } => (pooling, normalize),
            Wanted::Classified => (self.bert.classifier_pooling(), false),
        };
        match (pooling, &self.pooler) {
            (Pooling::Pooler, Some(pooler)) => {
                self.pool(state, segments.len(), Pooling::Cls, &state.firsts)?;
                self.apply(pooler, state, segments)?;
            }
            _ => self.pool(state, segments.len(), pooling, &state.pooled)?,
        }
        if wanted == Wanted::Classified {
            self.apply_own(state, segments)?;
        }
        if normalize {
            let dim = self.bert.config().dim;
            let norm = Norm {
                y: state.pooled.address(),
                width: dim as u32,
                y_stride: stride(dim) as u32,
                ..Norm::default()
            };
            self.kernels.unit_length(segments.len(), &norm)?;
        }
        self.rows_of(&state.pooled, segments.len())
    }

    /// Pools without a pooler.
    fn pool(
        &self,
        state: &EncoderState,
        texts: usize,
        pooling: Pooling,
        out: &Buffer,
    ) -> Result<(), CudaError> {
        let dim = self.bert.config().dim;
        let pool = Pool {
            x: state.x.address(),
            out: out.address(),
            first: state.at(Place::TextFirst),
            length: state.at(Place::TextLength),
            width: dim as u32,
            stride: stride(dim) as u32,
            is_mean: u32::from(pooling == Pooling::Mean),
            padding: 0,
        };
        self.kernels.pool(texts, &pool)
    }

    /// What an adapter's own pooler makes of the texts that have one.
    fn apply_own(&self, state: &EncoderState, segments: &[Segment]) -> Result<(), CudaError> {
        let owner = |segment: &Segment| state.chosen.with_pooler(segment.sequence);
        if segments.iter().all(|segment| owner(segment).is_none()) {
            return Ok(());
        }
        self.pool(state, segments.len(), Pooling::Cls, &state.firsts)?;
        let same = |one: &Segment, other: &Segment| match (owner(one), owner(other)) {
            (Some(one), Some(other)) => std::sync::Arc::ptr_eq(one, other),
            _ => false,
        };
        for texts in segments.chunk_by(same) {
            if let Some(pooler) = owner(&texts[0]).and_then(|owner| owner.pooler.as_ref()) {
                self.apply(pooler, state, texts)?;
            }
        }
        Ok(())
    }

    /// A pooler over the first rows of some texts, whose numbers follow each other.
    fn apply(
        &self,
        pooler: &DeviceLinear,
        state: &EncoderState,
        texts: &[Segment],
    ) -> Result<(), CudaError> {
        let (c, first) = (self.bert.config(), texts[0].sequence);
        let row = words(first * stride(c.dim)) as u64;
        let pass = Pass {
            kernels: &self.kernels,
            chosen: &state.chosen,
            segments: texts,
            rows: texts.len(),
            sequences: state.at(Place::Text) + words(first) as u64,
        };
        let (x, y) = (state.firsts.address() + row, state.pooled.address() + row);
        pass.product(&pooler.weight, pooler.bias, pooler.site, x, y, false)?;
        let function = match c.architecture {
            Architecture::DistilBert => Function::Relu,
            _ => Function::Tanh,
        };
        self.activate(function, texts.len(), y, c.dim)
    }

    /// The first rows of a buffer of rows as wide as the model, without what stands behind them.
    fn rows_of(&self, from: &Buffer, rows: usize) -> Result<Vec<f32>, CudaError> {
        let dim = self.bert.config().dim;
        let mut all = vec![0.0f32; rows * stride(dim)];
        from.read(0, &mut all)?;
        if stride(dim) > dim {
            for row in 0..rows {
                all.copy_within(row * stride(dim)..row * stride(dim) + dim, row * dim);
            }
            all.truncate(rows * dim);
        }
        Ok(all)
    }
}
