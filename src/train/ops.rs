//! Norms and activations, the backward pass, formula by formula. Rows are independent; threads have
//! rows of their own.

use super::device::{Floats, Machine};
use crate::nn::{self, Activation, LayerNorm};

/// RMSNorm of every row: `y = x / √(mean(x²) + ε) ⊙ w`.
pub(crate) fn rms_norm(machine: &Machine<'_>, x: &[f32], weight: &[f32], epsilon: f32) -> Floats {
    let width = weight.len();
    let mut y = machine.unset(x.len());
    let share = machine.share(x.len() / width) * width;
    machine.each(y.chunks_mut(share).zip(x.chunks(share)), |(y, x)| {
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            machine.kernels.rms_norm(x, weight, epsilon, y);
        }
    });
    y
}

/// The backward pass of [`rms_norm`]; adds to dx, and to dw unless it is empty. With i =
/// 1/√(mean(x²) + ε) and g = w ⊙ dy: `dx = i·g − x·(i³/d)·Σ g ⊙ x`, `dw = Σ rows dy ⊙ x·i`.
pub(crate) fn rms_norm_back(
    machine: &Machine<'_>,
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    dy: &[f32],
    dx: &mut [f32],
    dw: &mut [f32],
) {
    let width = weight.len();
    let inverse = |x: &[f32]| 1.0 / (machine.kernels.dot(x, x) / width as f32 + epsilon).sqrt();
    let share = machine.share(x.len() / width) * width;
    machine.each(
        dx.chunks_mut(share).zip(x.chunks(share).zip(dy.chunks(share))),
        |(dx, (x, dy))| {
            for ((dx, x), dy) in
                dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(width))
            {
                let i = inverse(x);
                let along: f32 = dy.iter().zip(weight).zip(x).map(|((dy, w), x)| dy * w * x).sum();
                let back = i * i * i / width as f32 * along;
                for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                    *dx += i * w * dy - back * x;
                }
            }
        },
    );
    if !dw.is_empty() {
        machine.compute(|| {
            for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact(width)) {
                let i = inverse(x);
                dw.iter_mut().zip(dy).zip(x).for_each(|((dw, dy), x)| *dw += dy * x * i);
            }
        });
    }
}

/// SwiGLU: `h = silu(gate) ⊙ up`, silu(z) = z·σ(z).
pub(crate) fn silu_mul(machine: &Machine<'_>, gate: &[f32], up: &[f32]) -> Floats {
    let mut h = machine.unset(gate.len());
    let share = machine.share(h.len());
    machine.each(
        h.chunks_mut(share).zip(gate.chunks(share)).zip(up.chunks(share)),
        |((h, gate), up)| {
            h.copy_from_slice(gate);
            machine.kernels.silu_mul(h, up);
        },
    );
    h
}

static ONES: [f32; 1024] = [1.0; 1024];

/// The backward pass of [`silu_mul`], in place: dh becomes d_gate, and d_up is returned.
/// `d_gate = dh ⊙ up ⊙ σ(1 + gate·(1 − σ))`, `d_up = dh ⊙ silu(gate)`.
pub(crate) fn silu_mul_back(
    machine: &Machine<'_>,
    gate: &[f32],
    up: &[f32],
    dh: &mut [f32],
) -> Floats {
    let mut d_up = machine.unset(dh.len());
    let share = machine.share(dh.len());
    let parts = dh
        .chunks_mut(share)
        .zip(d_up.chunks_mut(share))
        .zip(gate.chunks(share).zip(up.chunks(share)));
    machine.each(parts, |((dh, d_up), (gate, up))| {
        d_up.copy_from_slice(gate);
        d_up.chunks_mut(ONES.len())
            .for_each(|d_up| machine.kernels.silu_mul(d_up, &ONES[..d_up.len()]));
        for (((dh, d_up), &g), up) in dh.iter_mut().zip(d_up).zip(gate).zip(up) {
            // σ from silu(g) = g·σ, which the kernel has; around zero from its series.
            let silu = *d_up;
            let sigma = if g.abs() > 1e-3 { silu / g } else { 0.5 + 0.25 * g };
            *d_up = *dh * silu;
            *dh *= up * sigma * (1.0 + g * (1.0 - sigma));
        }
    });
    d_up
}

/// LayerNorm of every row: `y = (x − mean) / √(var + ε) ⊙ w + b`.
pub(crate) fn layer_norm(machine: &Machine<'_>, x: &[f32], norm: &LayerNorm<'_>) -> Floats {
    let mut y = machine.unset(x.len());
    let width = norm.weight.len();
    let share = machine.share(x.len() / width) * width;
    machine.each(y.chunks_mut(share).zip(x.chunks(share)), |(y, x)| {
        y.copy_from_slice(x);
        machine.kernels.layer_norm(norm, y);
    });
    y
}

/// The backward pass of [`layer_norm`], in place: dy becomes dx (see [`LayerNorm`]); adds to dw and
/// db unless they are empty. With i = 1/√(var + ε) and n = (x − mean)·i: `dw = Σ rows dy ⊙ n`, `db
/// = Σ rows dy`.
pub(crate) fn layer_norm_back(
    machine: &Machine<'_>,
    x: &[f32],
    norm: &LayerNorm<'_>,
    d: &mut [f32],
    dw: &mut [f32],
    db: &mut [f32],
) {
    let width = norm.weight.len();
    if !dw.is_empty() && !db.is_empty() {
        machine.compute(|| {
            for (x, dy) in x.chunks_exact(width).zip(d.chunks_exact(width)) {
                let (mean, i) = norm.moments(x);
                for (((dw, db), x), dy) in dw.iter_mut().zip(&mut *db).zip(x).zip(dy) {
                    *dw += dy * (x - mean) * i;
                    *db += dy;
                }
            }
        });
    }
    let share = machine.share(x.len() / width) * width;
    machine.each(d.chunks_mut(share).zip(x.chunks(share)), |(d, x)| {
        machine.kernels.layer_norm_back(norm, x, d)
    });
}

/// `f(x)`.
pub(crate) fn activate(machine: &Machine<'_>, activation: Activation, x: &[f32]) -> Floats {
    let mut y = machine.unset(x.len());
    let share = machine.share(x.len());
    machine.each(y.chunks_mut(share).zip(x.chunks(share)), |(y, x)| {
        y.copy_from_slice(x);
        nn::apply_all(machine.kernels, activation, y);
    });
    y
}

/// `f(x)` and `f'(x)`.
pub(crate) fn activate_with_derivative(
    machine: &Machine<'_>,
    activation: Activation,
    mut x: Floats,
) -> (Floats, Floats) {
    let mut y = machine.unset(x.len());
    let share = machine.share(x.len());
    machine.each(y.chunks_mut(share).zip(x.chunks_mut(share)), |(y, x)| match activation {
        Activation::Gelu => machine.kernels.gelu_and_derivative(x, y),
        other => y.iter_mut().zip(x).for_each(|(y, x)| (*y, *x) = other.with_derivative(*x)),
    });
    (y, x)
}

/// `x ⊙= y`.
pub(crate) fn multiply_by(machine: &Machine<'_>, x: &mut [f32], y: &[f32]) {
    let share = machine.share(x.len());
    machine.each(x.chunks_mut(share).zip(y.chunks(share)), |(x, y)| {
        x.iter_mut().zip(y).for_each(|(x, y)| *x *= y)
    });
}

/// `x += y`.
pub(crate) fn add(machine: &Machine<'_>, x: &mut [f32], y: &[f32]) {
    let share = machine.share(x.len());
    machine
        .each(x.chunks_mut(share).zip(y.chunks(share)), |(x, y)| machine.kernels.axpy(1.0, y, x));
}

/// `sum += Σ rows of x`; nothing if `sum` is empty.
pub(crate) fn sum_rows(machine: &Machine<'_>, x: &[f32], sum: &mut [f32]) {
    if sum.is_empty() {
        return;
    }
    machine.compute(|| {
        x.chunks_exact(sum.len()).for_each(|x| sum.iter_mut().zip(x).for_each(|(s, x)| *s += x))
    });
}

/// Some rows of x, `[_, width]`, in a buffer of their own.
pub(crate) fn gather(
    machine: &Machine<'_>,
    x: &[f32],
    width: usize,
    rows: impl ExactSizeIterator<Item = usize>,
) -> Floats {
    let mut y = machine.alone(rows.len() * width);
    machine.compute(|| {
        y.chunks_exact_mut(width)
            .zip(rows)
            .for_each(|(y, row)| y.copy_from_slice(&x[row * width..][..width]))
    });
    y
}

/// The backward pass of [`gather`]: the rows of y become those of x.
pub(crate) fn scatter(
    machine: &Machine<'_>,
    y: &[f32],
    width: usize,
    rows: impl Iterator<Item = usize>,
    x: &mut [f32],
) {
    machine.compute(|| {
        y.chunks_exact(width)
            .zip(rows)
            .for_each(|(y, row)| x[row * width..][..width].copy_from_slice(y))
    });
}
