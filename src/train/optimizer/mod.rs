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

mod kind;
mod memory;
mod rules;

use std::ops::Range;

use crate::error::{Error, Result};

use memory::Memory;
use rules::{Adam, plain_sgd, sgd};

pub use kind::{LEAST_8_BIT, OptimizerKind};

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

/// The state of an optimizer, for a checkpoint. It does not name the kind or the groups: whoever
/// loads it has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Steps taken.
    pub steps: u64,
    /// The moments, little endian, group after group.
    pub bytes: Vec<u8>,
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
        let parts: Vec<&[u8]> = self.groups.iter().flat_map(|(_, memory)| memory.parts()).collect();
        let bytes = parts.concat();
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
            let error = Error::Length { have, need };
            let (taken, rest) = left.split_at_checked(part.len()).ok_or(error)?;
            part.copy_from_slice(taken);
            left = rest;
        }
        self.steps = state.steps;
        Ok(())
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
