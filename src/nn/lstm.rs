//! The LSTM cell (Hochreiter and Schmidhuber 1997, with forget gates), gates in PyTorch's order.
//!
//! ```text
//! i, f, o = σ(…)   g = tanh(…)
//! c ← f ⊙ c + i ⊙ g
//! h ← o ⊙ tanh(c)
//! ```
//! The products in front of the gates are linear layers; here is what follows them, for one
//! sequence.

use crate::tensor::math;

/// One step: `gates`, `[4 · hidden]`, holds what the four functions read and then their values; c
/// and h, `[hidden]`, move on.
pub(crate) fn cell(gates: &mut [f32], c: &mut [f32], h: &mut [f32]) {
    let hidden = h.len();
    let (i, rest) = gates.split_at_mut(hidden);
    let (f, rest) = rest.split_at_mut(hidden);
    let (g, o) = rest.split_at_mut(hidden);
    for (((((i, f), g), o), c), h) in i.iter_mut().zip(f).zip(g).zip(o).zip(c).zip(h) {
        (*i, *f, *g, *o) = (sigmoid(*i), sigmoid(*f), math::tanh(*g), sigmoid(*o));
        *c = *f * *c + *i * *g;
        *h = *o * math::tanh(*c);
    }
}

/// σ(x) = 1 / (1 + e^−x).
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + math::exp(-x))
}

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn the_cell_agrees_with_f64() {
        let (mut gates, mut c, mut h) =
            ([0.3f32, -2.0, 1.5, 40.0, -0.7, 0.9, 0.1, -90.0], [0.5f32, -1.25], [9.0f32, 9.0]);
        let wide: Vec<f64> = gates.iter().map(|&v| v.into()).collect();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        for j in 0..2 {
            let next =
                sigmoid(wide[2 + j]) * f64::from(c[j]) + sigmoid(wide[j]) * wide[4 + j].tanh();
            let expected = sigmoid(wide[6 + j]) * next.tanh();
            let (mut gates, mut c, mut h) = (gates, c, h);
            cell(&mut gates, &mut c, &mut h);
            assert!(
                (f64::from(c[j]) - next).abs() < 1e-6 && (f64::from(h[j]) - expected).abs() < 1e-6
            );
        }
        gates[0] = f32::NAN;
        cell(&mut gates, &mut c, &mut h);
        assert!(h[0].is_nan() && h[1].is_finite());
    }
}
