//! The forward pass of a Llama-family decoder on the device: line by line that of
//! `model/llama/forward.rs`, with a launch for each.

use super::buffer::{Address, Buffer};
use super::kernels::{Argmax, Attention, Down, Embedding, Norm, Product, Rotary, Swiglu};
use super::model::{DeviceLayer, DeviceLinear};
use super::weights::Weight;
use super::{CudaError, Model, State, stride};
use crate::adapter::Handle;
use crate::model::llama::Site;
use crate::nn::Segment;

/// Numbers of f32 or u32 in bytes.
const fn words(count: usize) -> usize {
    4 * count
}

/// The rows of a pass, or those whose logits are asked for.
struct Pass<'p> {
    model: &'p Model<'p>,
    state: &'p State,
    segments: &'p [Segment],
    rows: usize,
    /// The sequence of each row.
    sequences: Address,
}

impl<'m> Model<'m> {
    /// Runs all blocks over the rows; the residual stream stays on the device.
    pub(crate) fn run(
        &self,
        state: &mut State,
        tokens: &[u32],
        positions: &[usize],
        segments: &[Segment],
        active: &[Handle<'_>],
    ) -> Result<(), CudaError> {
        self.device().enter()?;
        state.choose(self, segments, active)?;
        let mut places = vec![0u32; 3 * state.rows];
        let (token, rest) = places.split_at_mut(state.rows);
        let (position, sequence) = rest.split_at_mut(state.rows);
        token[..tokens.len()].copy_from_slice(tokens);
        position.iter_mut().zip(positions).for_each(|(to, &position)| *to = position as u32);
        for segment in segments {
            sequence[segment.first..][..segment.rows].fill(segment.sequence as u32);
        }
        state.places.write(0, &places)?;
        let sequences = state.places.address() + words(2 * state.rows) as u64;
        let pass = Pass { model: self, state, segments, rows: tokens.len(), sequences };
        pass.embed()?;
        self.layers.iter().enumerate().try_for_each(|(index, layer)| pass.block(index, layer))
    }

    /// The logits of rows of the last run, one segment behind the other, on the device, `[rows,
    /// vocab]`; the number of rows.
    fn project(&self, state: &State, segments: &[Segment]) -> Result<usize, CudaError> {
        self.device().enter()?;
        let mut selected = vec![0u32; 2 * state.rows];
        let mut rows = 0;
        for segment in segments {
            for row in segment.first..segment.first + segment.rows {
                selected[rows] = row as u32;
                selected[state.rows + rows] = segment.sequence as u32;
                rows += 1;
            }
        }
        state.selected.write(0, &selected)?;
        let sequences = state.selected.address() + words(state.rows) as u64;
        let pass = Pass { model: self, state, segments, rows, sequences };
        pass.norm(&state.x, &state.normed, self.norm, state.selected.address())?;
        let site = Site::Head.number(self.llama.config().layers);
        pass.product(self.head(), 0, site, &state.normed, &state.logits, false)?;
        Ok(rows)
    }

    /// As [`project`](Self::project), copied to `out`, `[rows, vocab]`.
    pub(crate) fn logits(
        &self,
        state: &State,
        segments: &[Segment],
        out: &mut [f32],
    ) -> Result<(), CudaError> {
        let vocab = self.llama.config().vocab;
        let rows = self.project(state, segments)?;
        if vocab == stride(vocab) {
            return state.logits.read(0, &mut out[..rows * vocab]);
        }
        for (row, out) in out.chunks_exact_mut(vocab).take(rows).enumerate() {
            state.logits.read(words(row * stride(vocab)), out)?;
        }
        Ok(())
    }

    /// The most likely token of each of those rows, into `out`, `[rows]`; `u32::MAX` where a logit
    /// is NaN or +∞.
    pub(crate) fn best(
        &self,
        state: &State,
        segments: &[Segment],
        out: &mut [u32],
    ) -> Result<(), CudaError> {
        let vocab = self.llama.config().vocab;
        let rows = self.project(state, segments)?;
        let argmax = Argmax {
            x: state.logits.address(),
            out: state.best.address(),
            width: vocab as u32,
            stride: stride(vocab) as u32,
        };
        self.kernels.argmax(rows, &argmax)?;
        state.best.read(0, &mut out[..rows])
    }

    /// Could a key or value of a sequence not be held?
    pub(crate) fn overflowed(&self, state: &State, sequence: usize) -> Result<bool, CudaError> {
        let mut flag = [0u32];
        state.overflow.read(words(sequence), &mut flag)?;
        Ok(flag[0] != 0)
    }

    /// Forgets that one could not.
    pub(crate) fn forget(&self, state: &State, sequence: usize) -> Result<(), CudaError> {
        state.overflow.write(words(sequence), &[0u32])
    }

    /// Copies all keys and values of a sequence to another.
    pub(crate) fn copy(&self, state: &State, from: usize, to: usize) -> Result<(), CudaError> {
        let c = self.llama.config();
        let layer = state.layer_bytes(c.kv_heads, c.head_dim);
        let bytes = layer / state.batch;
        for first in (0..c.layers).map(|index| index * layer) {
            for cache in [&state.keys, &state.values] {
                cache.copy(first + from * bytes, first + to * bytes, bytes)?;
            }
        }
        Ok(())
    }
}

impl Pass<'_> {
    fn sites(&self) -> u32 {
        self.model.llama.config().sites() as u32
    }

    /// The adapters' table if some sequence has ranks at `site`, and how many.
    fn adapters(&self, site: u32) -> (Address, u32) {
        let ranks = self.state.ranks(self.segments, site);
        (if ranks > 0 { self.state.adapters.address() } else { 0 }, ranks)
    }

    fn embed(&self) -> Result<(), CudaError> {
        let (config, state) = (self.model.llama.config(), self.state);
        let site = Site::Embedding.number(config.layers);
        let embedding = Embedding {
            table: self.model.embedding.matrix,
            tokens: state.places.address(),
            y: state.x.address(),
            adapters: self.adapters(site).0,
            sequences: self.sequences,
            y_stride: stride(config.dim) as u32,
            site,
            sites: self.sites(),
            max_active: state.max_active as u32,
        };
        self.model.kernels.embedding(self.model.embedding.format, self.rows, &embedding)
    }

    /// y = norm(x) of `rows`, or of all if that is 0.
    fn norm(
        &self,
        x: &Buffer,
        y: &Buffer,
        weight: Address,
        rows: Address,
    ) -> Result<(), CudaError> {
        let c = self.model.llama.config();
        let stride = stride(c.dim) as u32;
        let norm = Norm {
            x: x.address(),
            y: y.address(),
            weight,
            rows,
            epsilon: c.norm_epsilon,
            width: c.dim as u32,
            x_stride: stride,
            y_stride: stride,
        };
        self.model.kernels.norm(self.rows, 1, &norm)
    }

    /// Qwen3: a norm of each of `heads` heads of x, in place, if the model has one.
    fn norm_heads(&self, x: &Buffer, weight: Address, heads: usize) -> Result<(), CudaError> {
        if weight == 0 {
            return Ok(());
        }
        let c = self.model.llama.config();
        let stride = stride(heads * c.head_dim) as u32;
        let norm = Norm {
            x: x.address(),
            y: x.address(),
            weight,
            rows: 0,
            epsilon: c.norm_epsilon,
            width: c.head_dim as u32,
            x_stride: stride,
            y_stride: stride,
        };
        self.model.kernels.norm(self.rows, heads, &norm)
    }

    fn linear(
        &self,
        linear: &DeviceLinear,
        x: &Buffer,
        y: &Buffer,
        accumulate: bool,
    ) -> Result<(), CudaError> {
        self.product(&linear.weight, linear.bias, linear.site, x, y, accumulate)
    }

    /// y = W x + b and the adapters at `site`, added to y if `accumulate`.
    fn product(
        &self,
        weight: &Weight,
        bias: Address,
        site: u32,
        x: &Buffer,
        y: &Buffer,
        accumulate: bool,
    ) -> Result<(), CudaError> {
        let state = self.state;
        let (adapters, ranks) = self.adapters(site);
        let x_stride = stride(weight.matrix.cols as usize) as u32;
        let (down_stride, max_active) = (stride(state.width) as u32, state.max_active as u32);
        if ranks > 0 {
            let down = Down {
                x: x.address(),
                u: state.low_rank.address(),
                adapters,
                sequences: self.sequences,
                inputs: weight.matrix.cols,
                x_stride,
                u_stride: down_stride,
                site,
                sites: self.sites(),
                max_active,
            };
            self.model.kernels.down(self.rows, ranks, &down)?;
        }
        let product = Product {
            weight: weight.matrix,
            x: x.address(),
            y: y.address(),
            bias,
            adapters,
            sequences: self.sequences,
            down: state.low_rank.address(),
            n: self.rows as u32,
            x_stride,
            y_stride: stride(weight.matrix.rows as usize) as u32,
            down_stride,
            site,
            sites: self.sites(),
            max_active,
            accumulate: accumulate.into(),
        };
        self.model.kernels.product(weight.format, &product)
    }

    fn block(&self, index: usize, layer: &DeviceLayer) -> Result<(), CudaError> {
        let (c, s) = (self.model.llama.config(), self.state);

        // x ← x + O · attention(rotate(Q n), rotate(K n), V n), n = norm(x)
        self.norm(&s.x, &s.normed, layer.attention_norm, 0)?;
        self.linear(&layer.q, &s.normed, &s.q, false)?;
        self.linear(&layer.k, &s.normed, &s.k, false)?;
        self.linear(&layer.v, &s.normed, &s.v, false)?;
        self.norm_heads(&s.q, layer.q_norm, c.heads)?;
        self.norm_heads(&s.k, layer.k_norm, c.kv_heads)?;
        self.attend(index)?;
        self.linear(&layer.o, &s.attended, &s.x, true)?;

        // x ← x + Down · (silu(Gate n) ⊙ Up n), n = norm(x)
        self.norm(&s.x, &s.normed, layer.feed_forward_norm, 0)?;
        self.linear(&layer.gate, &s.normed, &s.gate, false)?;
        self.linear(&layer.up, &s.normed, &s.up, false)?;
        let (width, stride) = (c.hidden as u32, stride(c.hidden) as u32);
        let swiglu = Swiglu { gate: s.gate.address(), up: s.up.address(), width, stride };
        self.model.kernels.swiglu(self.rows, &swiglu)?;
        self.linear(&layer.down, &s.gate, &s.x, true)
    }

    /// Turns q and k, stores k and v, and gathers what q finds.
    fn attend(&self, index: usize) -> Result<(), CudaError> {
        let (c, s) = (self.model.llama.config(), self.state);
        let layer = (index * s.layer_bytes(c.kv_heads, c.head_dim)) as u64;
        let (keys, values) = (s.keys.address() + layer, s.values.address() + layer);
        let positions = s.places.address() + words(s.rows) as u64;
        let [heads, kv_heads, d, room] =
            [c.heads, c.kv_heads, c.head_dim, s.room].map(|n| n as u32);
        let q_stride = stride(c.q_dim()) as u32;
        let rotary = Rotary {
            q: s.q.address(),
            k: s.k.address(),
            v: s.v.address(),
            keys,
            values,
            angles: s.angles.address(),
            positions,
            sequences: self.sequences,
            overflow: s.overflow.address(),
            heads,
            kv_heads,
            d,
            room,
            q_stride,
            kv_stride: stride(c.kv_dim()) as u32,
        };
        self.model.kernels.rotary(s.kv_format, self.rows, &rotary)?;
        let attention = Attention {
            q: s.q.address(),
            out: s.attended.address(),
            keys,
            values,
            positions,
            sequences: self.sequences,
            scale: 1.0 / (c.head_dim as f32).sqrt(),
            heads,
            kv_heads,
            d,
            room,
            q_stride,
            out_stride: q_stride,
        };
        self.model.kernels.attention(s.kv_format, self.rows, &attention)
    }
}
