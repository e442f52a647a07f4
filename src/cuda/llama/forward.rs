//! The forward pass of a Llama-family decoder on the device: line by line that of
//! `model/llama/forward.rs`, with a launch for each.

use super::state::PART;
use super::{DeviceLayer, Model, State};
use crate::adapter::Handle;
use crate::cuda::buffer::{Address, Buffer};
use crate::cuda::parameters::{Argmax, Attention, Best, Norm, Rotary, Swiglu};
use crate::cuda::pass::{self, words};
use crate::cuda::{CudaError, stride};
use crate::model::llama::{Config, Site};
use crate::nn::Segment;

/// The rows of a pass, or those whose logits are asked for, and what they pass through.
struct Pass<'p> {
    config: &'p Config,
    state: &'p State,
    shared: pass::Pass<'p>,
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
        state.chosen.choose(&self.adapters, segments, active)?;
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
        let pass = self.pass(state, segments, tokens.len(), sequences);
        let site = Site::Embedding.number(pass.config.layers);
        pass.shared.embed(&self.embedding, site, state.places.address(), &state.x)?;
        self.layers.iter().enumerate().try_for_each(|(index, layer)| pass.block(index, layer))
    }

    fn pass<'p>(
        &'p self,
        state: &'p State,
        segments: &'p [Segment],
        rows: usize,
        sequences: Address,
    ) -> Pass<'p> {
        let (kernels, chosen) = (&self.kernels, &state.chosen);
        let shared = pass::Pass { kernels, chosen, segments, rows, sequences };
        Pass { config: self.llama.config(), state, shared }
    }

    /// What the head reads of rows of the last run, one segment behind the other, into
    /// `state.normed`; the pass of these rows.
    fn last_norm<'p>(
        &'p self,
        state: &'p State,
        segments: &'p [Segment],
    ) -> Result<Pass<'p>, CudaError> {
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
        let pass = self.pass(state, segments, rows, sequences);
        pass.norm(&state.x, &state.normed, self.norm, state.selected.address())?;
        Ok(pass)
    }

    /// The last hidden state, behind the final norm, of a row of the last run, `[dim]`.
    pub(crate) fn state(&self, state: &State, row: &[Segment]) -> Result<Vec<f32>, CudaError> {
        self.last_norm(state, row)?;
        let mut hidden = vec![0.0; self.llama.config().dim];
        state.normed.read(0, &mut hidden)?;
        Ok(hidden)
    }

    /// The logits of rows of the last run, on the device, `[rows, vocab]`; the number of rows.
    fn project(&self, state: &State, segments: &[Segment]) -> Result<usize, CudaError> {
        let pass = self.last_norm(state, segments)?;
        let site = Site::Head.number(pass.config.layers);
        let (x, y) = (state.normed.address(), state.logits.address());
        pass.shared.product(self.head(), 0, site, x, y, false)?;
        Ok(pass.shared.rows)
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

    /// The k largest logits of each of those rows and their tokens, largest first, `[rows, k]`;
    /// `u32::MAX` stands first where a logit is NaN or +∞.
    pub(crate) fn candidates(
        &self,
        state: &State,
        segments: &[Segment],
        k: usize,
        logits: &mut [f32],
        tokens: &mut [u32],
    ) -> Result<(), CudaError> {
        let vocab = self.llama.config().vocab;
        let rows = self.project(state, segments)?;
        let (mut x, mut places) = (state.logits.address(), 0);
        let (mut width, mut row) = (vocab, stride(vocab));
        for [values, out] in state.candidates.iter().cycle() {
            let parts = width.div_ceil(PART);
            let best = Best {
                x,
                places,
                values: values.address(),
                out: out.address(),
                width: width as u32,
                stride: row as u32,
                k: k as u32,
                padding: 0,
            };
            self.kernels.best(rows, parts, &best)?;
            if parts == 1 {
                values.read(0, logits)?;
                return out.read(0, tokens);
            }
            (x, places, width, row) = (values.address(), out.address(), parts * k, parts * k);
        }
        Ok(())
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
    /// y = norm(x) of `rows`, or of all if that is 0.
    fn norm(
        &self,
        x: &Buffer,
        y: &Buffer,
        weight: Address,
        rows: Address,
    ) -> Result<(), CudaError> {
        let c = self.config;
        let stride = stride(c.dim) as u32;
        let norm = Norm {
            x: x.address(),
            y: y.address(),
            weight,
            bias: 0,
            rows,
            epsilon: c.norm_epsilon,
            width: c.dim as u32,
            x_stride: stride,
            y_stride: stride,
        };
        self.shared.kernels.norm(self.shared.rows, 1, &norm)
    }

    /// Qwen3: a norm of each of `heads` heads of x, in place, if the model has one.
    fn norm_heads(&self, x: &Buffer, weight: Address, heads: usize) -> Result<(), CudaError> {
        if weight == 0 {
            return Ok(());
        }
        let c = self.config;
        let stride = stride(heads * c.head_dim) as u32;
        let norm = Norm {
            x: x.address(),
            y: x.address(),
            weight,
            bias: 0,
            rows: 0,
            epsilon: c.norm_epsilon,
            width: c.head_dim as u32,
            x_stride: stride,
            y_stride: stride,
        };
        self.shared.kernels.norm(self.shared.rows, heads, &norm)
    }

    fn block(&self, index: usize, layer: &DeviceLayer) -> Result<(), CudaError> {
        let (c, s) = (self.config, self.state);

        // x ← x + O · attention(rotate(Q n), rotate(K n), V n), n = norm(x)
        self.norm(&s.x, &s.normed, layer.attention_norm, 0)?;
        self.shared.linear(&layer.q, &s.normed, &s.q, false)?;
        self.shared.linear(&layer.k, &s.normed, &s.k, false)?;
        self.shared.linear(&layer.v, &s.normed, &s.v, false)?;
        self.norm_heads(&s.q, layer.q_norm, c.heads)?;
        self.norm_heads(&s.k, layer.k_norm, c.kv_heads)?;
        self.attend(index)?;
        self.shared.linear(&layer.o, &s.attended, &s.x, true)?;

        // x ← x + Down · (silu(Gate n) ⊙ Up n), n = norm(x)
        self.norm(&s.x, &s.normed, layer.feed_forward_norm, 0)?;
        self.shared.linear(&layer.gate, &s.normed, &s.gate, false)?;
        self.shared.linear(&layer.up, &s.normed, &s.up, false)?;
        let (width, stride) = (c.hidden as u32, stride(c.hidden) as u32);
        let swiglu = Swiglu { gate: s.gate.address(), up: s.up.address(), width, stride };
        self.shared.kernels.swiglu(self.shared.rows, &swiglu)?;
        self.shared.linear(&layer.down, &s.gate, &s.x, true)
    }

    /// Turns q and k, stores k and v, and gathers what q finds.
    fn attend(&self, index: usize) -> Result<(), CudaError> {
        let (c, s) = (self.config, self.state);
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
            sequences: self.shared.sequences,
            overflow: s.overflow.address(),
            heads,
            kv_heads,
            d,
            room,
            q_stride,
            kv_stride: stride(c.kv_dim()) as u32,
        };
        self.shared.kernels.rotary(s.kv_format, self.shared.rows, &rotary)?;
        let attention = Attention {
            q: s.q.address(),
            out: s.attended.address(),
            keys,
            values,
            positions,
            sequences: self.shared.sequences,
            scale: 1.0 / (c.head_dim as f32).sqrt(),
            heads,
            kv_heads,
            d,
            room,
            q_stride,
            out_stride: q_stride,
        };
        self.shared.kernels.attention(s.kv_format, self.shared.rows, &attention)
    }
}
