//! The formulas of AdamW and SGD on one group of parameters.

use crate::train::eight_bit::{BLOCK, Coder, Moments};

/// The numbers of one AdamW step, made in f64 and rounded once, as torch does.
#[derive(Clone, Copy)]
pub(super) struct Adam {
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
    pub(super) fn new(
        rate: f64,
        decay: f64,
        [beta1, beta2]: [f64; 2],
        epsilon: f64,
        steps: u64,
    ) -> Self {
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
    pub(super) fn decaying_after(self) -> Self {
        Self { shrink: 1.0, shrink_after: self.shrink, ..self }
    }

    /// The step of one parameter from its new moments.
    #[inline]
    fn moved(&self, value: f32, m: f32, v: f32) -> f32 {
        let moved =
            value * self.shrink - self.size * m / (v.sqrt() / self.correction + self.epsilon);
        moved * self.shrink_after
    }

    pub(super) fn step(&self, m: &mut [f32], v: &mut [f32], values: &mut [f32], gradients: &[f32]) {
        for (((m, v), value), &gradient) in m.iter_mut().zip(v).zip(values).zip(gradients) {
            *m += self.new1 * (gradient - *m);
            *v = *v * self.beta2 + self.new2 * gradient * gradient;
            *value = self.moved(*value, *m, *v);
        }
    }

    /// Block by block: decode, step, encode. The first moment is `β₁·m + (1 − β₁)·g`, as
    /// bitsandbytes adds it.
    pub(super) fn step_8_bit(
        &self,
        m: &mut Moments,
        v: &mut Moments,
        values: &mut [f32],
        gradients: &[f32],
    ) {
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

/// SGD with momentum.
pub(super) fn sgd(
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

/// SGD without memory.
pub(super) fn plain_sgd(rate: f32, decay: f32, values: &mut [f32], gradients: &[f32]) {
    for (value, gradient) in values.iter_mut().zip(gradients) {
        *value -= rate * (gradient + decay * *value);
    }
}
