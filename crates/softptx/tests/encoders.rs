//! The kernels of encoders in `ptx/` against their formulas in f64. What they make of whole models is
//! compared with the CPU path in the main crate's `tests/cuda_encoder.rs`.

mod numbers;

use numbers::{Device, Numbers, Parameters, close};

#[test]
fn layer_norms_also_far_from_zero() {
    for (width, offset) in [(300usize, 0.0f32), (36, -3.0), (8, 1000.0)] {
        let (mut device, stride, epsilon) =
            (Device::default(), width.next_multiple_of(8), 1e-12f32);
        let mut numbers = Numbers::new(width as u64);
        let x: Vec<f32> = numbers.vec(3 * stride).iter().map(|x| x + offset).collect();
        let (weight, bias) = (numbers.vec(width), numbers.vec(width));
        let at = device.floats(&x);
        let norm = Parameters::new()
            .address(0)
            .address(at)
            .address(device.floats(&weight))
            .address(device.floats(&bias))
            .address(0)
            .float(epsilon)
            .words(&[width, 0, stride]);
        device.launch("norm", "layer_norm", [3, 1], 256, norm);
        let found = device.read(at, 3 * stride);
        for (found, x) in found.chunks_exact(stride).zip(x.chunks_exact(stride)) {
            let wide: Vec<f64> = x[..width].iter().map(|&x| f64::from(x)).collect();
            let mean = wide.iter().sum::<f64>() / width as f64;
            let variance = wide.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            let factor = 1.0 / (variance + f64::from(epsilon)).sqrt();
            let expected: Vec<f64> = (0..width)
                .map(|i| (wide[i] - mean) * factor * f64::from(weight[i]) + f64::from(bias[i]))
                .collect();
            // The mean is rounded at the offset's scale.
            close(found, &expected, 2e-6 + 1e-6 * f64::from(offset.abs()));
            assert_eq!(found[width..], x[width..], "the padding stays");
        }
    }
}

#[test]
fn vectors_of_length_one() {
    let mut device = Device::default();
    let (width, stride) = (261, 264);
    let mut x = Numbers::new(2).vec(2 * stride);
    x[stride..].fill(0.0);
    let at = device.floats(&x);
    let norm = Parameters::new().address(0).address(at).address(0).address(0).address(0);
    let norm = norm.float(0.0).words(&[width, 0, stride]);
    device.launch("norm", "unit_length", [2, 1], 256, norm);
    let found = device.read(at, 2 * stride);
    let length = x[..width].iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let expected: Vec<f64> = x[..width].iter().map(|&x| f64::from(x) / length).collect();
    close(&found[..width], &expected, 1e-6);
    assert!(found[stride..].iter().all(|&x| x == 0.0), "a vector of zeros stays one");
}

/// Φ(x) by the series of erf, or the continued fraction of erfc where that converges faster.
fn normal(x: f64) -> f64 {
    let z = x.abs() / 2f64.sqrt();
    let below = if z < 3.0 {
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= -z * z / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        0.5 - sum / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..60).rev().fold(0.0, |rest, n| n as f64 / 2.0 / (z + rest));
        (-z * z).exp() / (z + fraction) / std::f64::consts::PI.sqrt() / 2.0
    };
    if x < 0.0 { below } else { 1.0 - below }
}

#[test]
fn activations() {
    let inner = (2.0 / std::f64::consts::PI).sqrt();
    let functions: [&dyn Fn(f64) -> f64; 4] = [
        &|x| x * normal(x),
        &|x| 0.5 * x * (1.0 + (inner * (x + 0.044715 * x.powi(3))).tanh()),
        &|x| x.max(0.0),
        &f64::tanh,
    ];
    let (width, stride) = (261, 264);
    let mut x: Vec<f32> = (0..2 * stride).map(|i| (i as f32 - 263.5) * 0.04).collect();
    (x[0], x[1], x[2], x[3]) = (-30.0, 1e-4, -1e-4, 0.2499);
    for (number, function) in functions.iter().enumerate() {
        let mut device = Device::default();
        x[4] = f32::NAN;
        let at = device.floats(&x);
        let activation = Parameters::new().address(at).words(&[width, stride, number]);
        device.launch("activation", "activation", [2, 2], 256, activation);
        let found = device.read(at, 2 * stride);
        assert!(found[4].is_nan(), "{number}: NaN stays");
        for row in 0..2 {
            for i in (row * stride..row * stride + width).filter(|&i| i != 4) {
                let (wide, found) = (f64::from(x[i]), f64::from(found[i]));
                let expected = function(wide);
                let tolerance = 2e-7 * wide.abs().clamp(1e-3, 10.0);
                assert!(
                    (found - expected).abs() <= tolerance,
                    "{number} {wide}: {found} {expected}"
                );
            }
        }
        assert_eq!(found[width..stride], x[width..stride], "the padding stays");
    }
}

/// Texts packed one behind the other: first rows and lengths.
const TEXTS: [(usize, usize); 3] = [(0, 5), (5, 1), (6, 141)];

fn of_rows(what: impl Fn((usize, usize)) -> usize) -> Vec<usize> {
    TEXTS.iter().flat_map(|&text| vec![what(text); text.1]).collect()
}

#[test]
fn pools() {
    let (mut device, width, stride) = (Device::default(), 300, 304);
    let x = Numbers::new(5).vec(147 * stride);
    let x_at = device.floats(&x);
    for is_mean in [0, 1] {
        let out = device.floats(&vec![0.0; 3 * stride]);
        let pool = Parameters::new()
            .address(x_at)
            .address(out)
            .address(device.words(&TEXTS.map(|text| text.0)))
            .address(device.words(&TEXTS.map(|text| text.1)))
            .words(&[width, stride, is_mean, 0]);
        device.launch("pool", "pool", [3, 2], 256, pool);
        let found = device.read(out, 3 * stride);
        for (found, (first, length)) in found.chunks_exact(stride).zip(TEXTS) {
            let rows = if is_mean == 1 { length } else { 1 };
            let expected: Vec<f64> = (0..width)
                .map(|i| {
                    let at = |row: usize| f64::from(x[(first + row) * stride + i]);
                    (0..rows).map(at).sum::<f64>() / rows as f64
                })
                .collect();
            close(found, &expected, 1e-6);
        }
    }
}

#[test]
fn attention_stays_inside_its_text() {
    for (heads, d) in [(3usize, 12usize), (2, 64), (1, 136)] {
        let (mut device, mut numbers) = (Device::default(), Numbers::new(d as u64));
        let (n, stride) = (147, (heads * d).next_multiple_of(8));
        let [q, k, v] = [(); 3].map(|()| numbers.vec(n * stride));
        let out = device.floats(&vec![0.0; n * stride]);
        let attention = Parameters::new()
            .address(device.floats(&q))
            .address(device.floats(&k))
            .address(device.floats(&v))
            .address(out)
            .address(device.words(&of_rows(|text| text.0)))
            .address(device.words(&of_rows(|text| text.1)))
            .float(1.0 / (d as f32).sqrt())
            .words(&[d, stride, 0]);
        device.launch("attention", "attention_bidirectional", [n, heads], 128, attention);
        let found = device.read(out, n * stride);
        for (first, length) in TEXTS {
            for row in (first..first + length).step_by(17) {
                for head in 0..heads {
                    let at =
                        |x: &[f32], row: usize, i: usize| f64::from(x[row * stride + head * d + i]);
                    let scores: Vec<f64> = (first..first + length)
                        .map(|t| {
                            let dot: f64 = (0..d).map(|i| at(&q, row, i) * at(&k, t, i)).sum();
                            (dot / (d as f64).sqrt()).exp()
                        })
                        .collect();
                    let total: f64 = scores.iter().sum();
                    let expected: Vec<f64> = (0..d)
                        .map(|i| {
                            let value = |t: usize| scores[t] * at(&v, first + t, i);
                            (0..length).map(value).sum::<f64>() / total
                        })
                        .collect();
                    close(&found[row * stride + head * d..], &expected, 5e-6);
                }
            }
        }
    }
}
