//! AdamW (f32 or 8-bit moments), SGD, and clipping by the global norm, as torch and bitsandbytes
//! define them.
//!
//! Parameters and gradients lie in one flat f32 arena each; a tensor is a range of it. Only ranges
//! that a [`Group`] names have a state and change. What the gradients are is not decided here.
//!
//! AdamW at step t, with η = rate · group rate (arXiv 1711.05101; torch's order of operations):
//! `w ← w·(1 − η·decay)`, `m ← m + (1 − β₁)(g − m)`, `v ← β₂·v + (1 − β₂)·g²`,
//! `w ← w − η / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)`. Or the decay of w at the end (PEFT's
//! LoRA-FA).
//!
//! SGD: `g ← g + decay·w`, `m ← momentum·m + g` (`m = g` in the first step), `w ← w − η·m`.
//!
//! Everything is elementwise in a fixed order, so results do not depend on threads.

use std::fmt;
use std::ops::Range;

use crate::error::{Error, Result};

use super::eight_bit::{BLOCK, Coder, Moments};

/// Tensors smaller than this keep their moments in f32 under [`OptimizerKind::AdamW8Bit`], as in
/// bitsandbytes.
pub const LEAST_8_BIT: usize = 4096;

/// One tensor, or neighbours in the arena with the same settings; 8-bit blocks start at its
/// beginning.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Its place in the arena.
    pub range: Range<usize>,
    /// Multiplies the schedule's rate.
    pub rate: f32,
    /// Weight decay.
    pub decay: f32,
}

/// Which optimizer, with its constants.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay; two f32 a parameter.
    AdamW {
        /// β₁, the memory of the mean of the gradients.
        beta1: f64,
        /// β₂, the memory of the mean of their squares.
        beta2: f64,
        /// ε, added to the denominator.
        epsilon: f64,
    },
    /// The same with moments in 8 bits; two bytes and 1/32 a parameter.
    AdamW8Bit {
        /// β₁, the memory of the mean of the gradients.
        beta1: f64,
        /// β₂, the memory of the mean of their squares.
        beta2: f64,
        /// ε, added to the denominator.
        epsilon: f64,
    },
    /// Stochastic gradient descent; one f32 a parameter with momentum, none without.
    Sgd {
        /// The memory of the direction; 0 for none.
        momentum: f64,
    },
}

impl OptimizerKind {
    /// The name on the command line and in archives.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AdamW { .. } => "adamw",
            Self::AdamW8Bit { .. } => "adamw8bit",
            Self::Sgd { .. } => "sgd",
        }
    }

    /// The bytes of state of a group of `length` parameters.
    pub(crate) fn state_bytes(self, length: usize) -> u64 {
        let length = length as u64;
        match self {
            Self::Sgd { momentum: 0.0 } => 0,
            Self::Sgd { .. } => 4 * length,
            Self::AdamW8Bit { .. } if length >= LEAST_8_BIT as u64 => {
                2 * (length + 4 * length.div_ceil(BLOCK as u64))
            }
            Self::AdamW { .. } | Self::AdamW8Bit { .. } => 8 * length,
        }
    }

    /// AdamW with torch's constants: β 0.9 and 0.999, ε 1e-8.
    pub const fn adamw() -> Self {
        Self::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }

    /// AdamW with 8-bit moments and the same constants.
    pub const fn adamw_8bit() -> Self {
        Self::AdamW8Bit { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }

    /// SGD without momentum.
    pub const fn sgd() -> Self {
        Self::Sgd { momentum: 0.0 }
    }
}

impl fmt::Display for OptimizerKind {
    /// The name and the constants.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        match self {
            Self::AdamW { beta1, beta2, epsilon } | Self::AdamW8Bit { beta1, beta2, epsilon } => {
                write!(f, "{name} beta1 {beta1} beta2 {beta2} epsilon {epsilon}")
            }
            Self::Sgd { momentum } => write!(f, "{name} momentum {momentum}"),
        }
    }
}

impl Default for OptimizerKind {
    fn default() -> Self {
        Self::adamw()
    }
}

/// The state of an optimizer, for a checkpoint. It does not name the kind or the groups: whoever
/// loads it has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Steps taken.
    pub steps: u64,
    /// The moments, little endian, group after group.
    pub bytes: Vec<u8>,
}

/// The moments of one group.
#[derive(Debug, Clone, PartialEq)]
enum Memory {
    None,
    Direction(Vec<f32>),
    Float { m: Vec<f32>, v: Vec<f32> },
    EightBit { m: Moments, v: Moments },
}

/// Changes parameters by their gradients.
#[derive(Debug, Clone)]
pub struct Optimizer {
    kind: OptimizerKind,
    groups: Vec<(Group, Memory)>,
    steps: u64,
    /// Does AdamW's weight decay come after the step?
    decay_after: bool,
}

impl Optimizer {
    /// An optimizer before its first step, for an arena of `parameters` values. Groups should not
    /// overlap; what they name beyond the arena is left out.
    pub fn new(kind: OptimizerKind, groups: Vec<Group>, parameters: usize) -> Self {
        let with_memory = |mut group: Group| {
            group.range.end = group.range.end.min(parameters);
            group.range.start = group.range.start.min(group.range.end);
            let memory = Memory::zeros(kind, group.range.len());
            (group, memory)
        };
        let groups = groups.into_iter().map(with_memory).collect();
        Self { kind, groups, steps: 0, decay_after: false }
    }

    /// One step. `rate` is the schedule's learning rate; `values` and `gradients` are whole arenas
    /// of the length given to [`new`](Self::new) (what a shorter one lacks is left out).
    pub fn step(&mut self, rate: f32, values: &mut [f32], gradients: &[f32]) {
        self.steps += 1;
        for (group, memory) in &mut self.groups {
            let end = group.range.end.min(values.len()).min(gradients.len());
            let range = group.range.start.min(end)..end;
            let (values, gradients) = (&mut values[range.clone()], &gradients[range]);
            let rate = f64::from(rate) * f64::from(group.rate);
            match (self.kind, memory) {
                (OptimizerKind::Sgd { momentum }, Memory::Direction(direction)) => {
                    let keep = if self.steps == 1 { 0.0 } else { momentum as f32 };
                    sgd(rate as f32, group.decay, keep, direction, values, gradients);
                }
                (OptimizerKind::Sgd { .. }, _) => {
                    plain_sgd(rate as f32, group.decay, values, gradients)
                }
                (
                    OptimizerKind::AdamW { beta1, beta2, epsilon }
                    | OptimizerKind::AdamW8Bit { beta1, beta2, epsilon },
                    memory,
                ) => {
                    let adam = Adam::new(
                        rate,
                        f64::from(group.decay),
                        [beta1, beta2],
                        epsilon,
                        self.steps,
                    );
                    let adam = if self.decay_after { adam.decaying_after() } else { adam };
                    match memory {
                        Memory::Float { m, v } => adam.step(m, v, values, gradients),
                        Memory::EightBit { m, v } => adam.step_8_bit(m, v, values, gradients),
                        Memory::None | Memory::Direction(_) => {}
                    }
                }
            }
        }
    }

    /// Lets AdamW's weight decay come after the step: `w ← w·(1 − η·decay)` at its end.
    pub(crate) fn set_decay_after(&mut self, after: bool) {
        self.decay_after = after;
    }

    /// Another ε from the next step on.
    pub(crate) fn set_epsilon(&mut self, to: f64) {
        if let OptimizerKind::AdamW { epsilon, .. } | OptimizerKind::AdamW8Bit { epsilon, .. } =
            &mut self.kind
        {
            *epsilon = to;
        }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The bytes of its state.
    pub fn bytes(&self) -> usize {
        self.groups.iter().map(|(_, memory)| memory.bytes()).sum()
    }

    /// The state, bit for bit.
    pub fn save(&self) -> State {
        let mut bytes = Vec::with_capacity(self.bytes());
        for part in self.groups.iter().flat_map(|(_, memory)| memory.parts()) {
            match part {
                Part::Floats(floats) => {
                    floats.iter().for_each(|value| bytes.extend_from_slice(&value.to_le_bytes()))
                }
                Part::Codes(codes) => bytes.extend_from_slice(codes),
            }
        }
        State { steps: self.steps, bytes }
    }

    /// Continues from a saved state of the same kind and groups.
    ///
    /// # Errors
    /// [`Error::Length`] if the state has another length than this optimizer's; then nothing
    /// changes.
    pub fn load(&mut self, state: &State) -> Result<()> {
        let (have, need) = (state.bytes.len(), self.bytes());
        if have != need {
            return Err(Error::Length { have, need });
        }
        let mut left = state.bytes.as_slice();
        for part in self.groups.iter_mut().flat_map(|(_, memory)| memory.parts_mut()) {
            let bytes = match &part {
                PartMut::Floats(floats) => size_of_val::<[f32]>(&**floats),
                PartMut::Codes(codes) => codes.len(),
            };
            let (taken, rest) = left.split_at_checked(bytes).ok_or(Error::Length { have, need })?;
            left = rest;
            match part {
                PartMut::Floats(floats) => {
                    let (words, _) = taken.as_chunks::<4>();
                    floats
                        .iter_mut()
                        .zip(words)
                        .for_each(|(value, word)| *value = f32::from_le_bytes(*word));
                }
                PartMut::Codes(codes) => codes.copy_from_slice(taken),
            }
        }
        self.steps = state.steps;
        Ok(())
    }
}

enum Part<'m> {
    Floats(&'m [f32]),
    Codes(&'m [u8]),
}

enum PartMut<'m> {
    Floats(&'m mut [f32]),
    Codes(&'m mut [u8]),
}

impl Memory {
    fn zeros(kind: OptimizerKind, length: usize) -> Self {
        let zeros = || vec![0.0; length];
        match kind {
            OptimizerKind::Sgd { momentum: 0.0 } => Self::None,
            OptimizerKind::Sgd { .. } => Self::Direction(zeros()),
            OptimizerKind::AdamW8Bit { .. } if length >= LEAST_8_BIT => {
                Self::EightBit { m: Moments::zeros(length), v: Moments::zeros(length) }
            }
            OptimizerKind::AdamW { .. } | OptimizerKind::AdamW8Bit { .. } => {
                Self::Float { m: zeros(), v: zeros() }
            }
        }
    }

    fn bytes(&self) -> usize {
        let size = |part| match part {
            Part::Floats(floats) => size_of_val::<[f32]>(floats),
            Part::Codes(codes) => codes.len(),
        };
        self.parts().into_iter().map(size).sum()
    }

    fn parts(&self) -> Vec<Part<'_>> {
        match self {
            Self::None => vec![],
            Self::Direction(direction) => vec![Part::Floats(direction)],
            Self::Float { m, v } => vec![Part::Floats(m), Part::Floats(v)],
            Self::EightBit { m, v } => {
                vec![
                    Part::Codes(&m.codes),
                    Part::Floats(&m.absmax),
                    Part::Codes(&v.codes),
                    Part::Floats(&v.absmax),
                ]
            }
        }
    }

    fn parts_mut(&mut self) -> Vec<PartMut<'_>> {
        match self {
            Self::None => vec![],
            Self::Direction(direction) => vec![PartMut::Floats(direction)],
            Self::Float { m, v } => vec![PartMut::Floats(m), PartMut::Floats(v)],
            Self::EightBit { m, v } => vec![
                PartMut::Codes(&mut m.codes),
                PartMut::Floats(&mut m.absmax),
                PartMut::Codes(&mut v.codes),
                PartMut::Floats(&mut v.absmax),
            ],
        }
    }
}

/// The numbers of one AdamW step, made in f64 and rounded once, as torch does.
#[derive(Clone, Copy)]
struct Adam {
    /// `1 − η·decay`
    shrink: f32,
    /// The same, after the step
    shrink_after: f32,
    beta1: f32,
    /// `1 − β₁`
    new1: f32,
    beta2: f32,
    /// `1 − β₂`
    new2: f32,
    /// `√(1 − β₂ᵗ)`
    correction: f32,
    epsilon: f32,
    /// `η / (1 − β₁ᵗ)`
    size: f32,
}

impl Adam {
    fn new(rate: f64, decay: f64, [beta1, beta2]: [f64; 2], epsilon: f64, steps: u64) -> Self {
        let unbiased = |beta| 1.0 - libm::pow(beta, steps as f64);
        Self {
            shrink: (1.0 - rate * decay) as f32,
            shrink_after: 1.0,
            beta1: beta1 as f32,
            new1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            new2: (1.0 - beta2) as f32,
            correction: libm::sqrt(unbiased(beta2)) as f32,
            epsilon: epsilon as f32,
            size: (rate / unbiased(beta1)) as f32,
        }
    }

    /// With the decay after the step instead of before.
    fn decaying_after(self) -> Self {
        Self { shrink: 1.0, shrink_after: self.shrink, ..self }
    }

    /// The step of one parameter from its new moments.
    #[inline]
    fn moved(&self, value: f32, m: f32, v: f32) -> f32 {
        let moved =
            value * self.shrink - self.size * m / (v.sqrt() / self.correction + self.epsilon);
        moved * self.shrink_after
    }

    fn step(&self, m: &mut [f32], v: &mut [f32], values: &mut [f32], gradients: &[f32]) {
        for (((m, v), value), &gradient) in m.iter_mut().zip(v).zip(values).zip(gradients) {
            *m += self.new1 * (gradient - *m);
            *v = *v * self.beta2 + self.new2 * gradient * gradient;
            *value = self.moved(*value, *m, *v);
        }
    }

    /// Block by block: decode, step, encode. The first moment is `β₁·m + (1 − β₁)·g`, as
    /// bitsandbytes adds it.
    fn step_8_bit(&self, m: &mut Moments, v: &mut Moments, values: &mut [f32], gradients: &[f32]) {
        let (signed, unsigned) = (Coder::signed(), Coder::unsigned());
        let (mut m_block, mut v_block) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
        let m = m.codes.chunks_mut(BLOCK).zip(&mut m.absmax);
        let v = v.codes.chunks_mut(BLOCK).zip(&mut v.absmax);
        for (((m, v), values), gradients) in
            m.zip(v).zip(values.chunks_mut(BLOCK)).zip(gradients.chunks(BLOCK))
        {
            let (m_block, v_block) = (&mut m_block[..m.0.len()], &mut v_block[..v.0.len()]);
            signed.decode(m.0, *m.1, m_block);
            unsigned.decode(v.0, *v.1, v_block);
            for (((m, v), value), &gradient) in
                m_block.iter_mut().zip(v_block.iter_mut()).zip(values).zip(gradients)
            {
                *m = *m * self.beta1 + self.new1 * gradient;
                *v = *v * self.beta2 + self.new2 * gradient * gradient;
                *value = self.moved(*value, *m, *v);
            }
            *m.1 = signed.encode(m_block, m.0);
            *v.1 = unsigned.encode(v_block, v.0);
        }
    }
}

fn sgd(
    rate: f32,
    decay: f32,
    keep: f32,
    direction: &mut [f32],
    values: &mut [f32],
    gradients: &[f32],
) {
    for ((direction, value), gradient) in direction.iter_mut().zip(values).zip(gradients) {
        *direction = *direction * keep + (gradient + decay * *value);
        *value -= rate * *direction;
    }
}

fn plain_sgd(rate: f32, decay: f32, values: &mut [f32], gradients: &[f32]) {
    for (value, gradient) in values.iter_mut().zip(gradients) {
        *value -= rate * (gradient + decay * *value);
    }
}

/// Scales `gradients` by `max_norm / (norm + 1e-6)` if that is below 1, as torch's
/// `clip_grad_norm_`; returns the norm before.
///
/// The sum of squares runs in f64 in a fixed order. A norm that is not finite is returned and
/// changes nothing.
pub fn clip(gradients: &mut [f32], max_norm: f32) -> f32 {
    const LANES: usize = 8;
    let mut sums = [0.0f64; LANES];
    let (chunks, rest) = gradients.as_chunks::<LANES>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
    }
    let rest: f64 = rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let norm = (sums.iter().sum::<f64>() + rest).sqrt() as f32;
    let factor = max_norm / (norm + 1e-6);
    if norm.is_finite() && factor < 1.0 {
        gradients.iter_mut().for_each(|x| *x *= factor);
    }
    norm
}

#[cfg(test)]
mod tests;
