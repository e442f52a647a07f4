//! The kernels of decoders in `ptx/` but the products, each against its formula in f64; those of
//! encoders are in `encoders.rs`. What the kernels make of whole models is compared with the CPU path in the main crate's `tests/cuda.rs`.

mod numbers;

use numbers::{Device, Numbers, Parameters, close};

#[test]
fn norms() {
    let mut device = Device::default();
    let (width, stride, epsilon) = (300, 304, 1e-5f32);
    let mut numbers = Numbers::new(1);
    let (x, weight) = (numbers.vec(4 * stride), numbers.vec(width));
    let (x_at, weight_at) = (device.floats(&x), device.floats(&weight));
    let y = device.floats(&vec![0.0; 2 * stride]);
    let norm = Parameters::new()
        .address(x_at)
        .address(y)
        .address(weight_at)
        .address(0)
        .address(device.words(&[3, 1]))
        .float(epsilon)
        .words(&[width, stride, stride]);
    device.launch("norm", "rms_norm", [2, 1], 256, norm);
    let of = |x: &[f32], weight: &[f32]| -> Vec<f64> {
        let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
        let factor = 1.0 / (mean + f64::from(epsilon)).sqrt();
        x.iter().zip(weight).map(|(&x, &w)| f64::from(x) * factor * f64::from(w)).collect()
    };
    let found = device.read(y, 2 * stride);
    close(&found[..width], &of(&x[3 * stride..][..width], &weight), 1e-6);
    close(&found[stride..], &of(&x[stride..][..width], &weight), 1e-6);
    // Heads in place: 3 of 100 numbers side by side.
    let heads = Parameters::new().address(x_at).address(x_at).address(weight_at);
    let heads = heads.address(0).address(0).float(epsilon);
    device.launch("norm", "rms_norm", [4, 3], 256, heads.words(&[100, stride, stride]));
    let found = device.read(x_at, 4 * stride);
    for (found, x) in found.chunks_exact(stride).zip(x.chunks_exact(stride)) {
        for head in 0..3 {
            let expected = of(&x[head * 100..][..100], &weight[..100]);
            close(&found[head * 100..], &expected, 1e-6);
        }
    }
}

/// Attention of rows over a cache that `rotary_*` filled.
fn check_attention(format: &str, heads: usize, kv_heads: usize, d: usize, tolerance: f64) {
    let mut device = Device::default();
    let (room, batch) = (144, 2);
    let (mut numbers, half) = (Numbers::new(d as u64), d / 2);
    let lengths = [140usize, 5];
    let rows: Vec<(usize, usize)> =
        (0..batch).flat_map(|s| (0..lengths[s]).map(move |p| (s, p))).collect();
    let n = rows.len();
    let (q_stride, kv_stride) =
        ((heads * d).next_multiple_of(8), (kv_heads * d).next_multiple_of(8));
    let (q, k, v) =
        (numbers.vec(n * q_stride), numbers.vec(n * kv_stride), numbers.vec(n * kv_stride));
    let angles: Vec<f32> = (0..room * d)
        .map(|i| {
            let angle = (i / d) as f32 * 0.1 / (1 + i % d % half) as f32;
            if i % d < half { angle.cos() } else { angle.sin() }
        })
        .collect();
    let number = if format == "f16" { 2 } else { 4 };
    let cache = vec![0u8; batch * kv_heads * room * d * number];
    let (q_at, keys, values) = (device.floats(&q), device.bytes(&cache), device.bytes(&cache));
    let positions = device.words(&rows.iter().map(|row| row.1).collect::<Vec<_>>());
    let sequences = device.words(&rows.iter().map(|row| row.0).collect::<Vec<_>>());
    let overflow = device.words(&[0, 0]);
    let rotary = Parameters::new()
        .address(q_at)
        .address(device.floats(&k))
        .address(device.floats(&v))
        .address(keys)
        .address(values)
        .address(device.floats(&angles))
        .address(positions)
        .address(sequences)
        .address(overflow)
        .words(&[heads, kv_heads, d, room, q_stride, kv_stride]);
    let kernel = format!("rotary_{format}");
    device.launch("rotary", &kernel, [n, heads + 2 * kv_heads], 128, rotary);
    assert_eq!(device.read_words(overflow, 2), [0, 0]);
    let out = device.floats(&vec![0.0; n * q_stride]);
    let attention = Parameters::new()
        .address(q_at)
        .address(out)
        .address(keys)
        .address(values)
        .address(positions)
        .address(sequences)
        .float(1.0 / (d as f32).sqrt())
        .words(&[heads, kv_heads, d, room, q_stride, q_stride]);
    device.launch("attention", &format!("attention_{format}"), [n, heads], 128, attention);
    let found = device.read(out, n * q_stride);

    let turned = |x: &[f32], position: usize| -> Vec<f64> {
        let turn = &angles[position * d..][..d];
        (0..d)
            .map(|i| {
                let (a, b) = (f64::from(x[i % half]), f64::from(x[i % half + half]));
                let (cos, sin) = (f64::from(turn[i % half]), f64::from(turn[i % half + half]));
                if i < half { a * cos - b * sin } else { b * cos + a * sin }
            })
            .collect()
    };
    for (row, &(sequence, position)) in rows.iter().enumerate().step_by(23) {
        let first = row - position;
        assert_eq!(rows[first], (sequence, 0));
        for head in 0..heads {
            let kv = head / (heads / kv_heads) * d;
            let q = turned(&q[row * q_stride + head * d..], position);
            let scores: Vec<f64> = (0..=position)
                .map(|t| {
                    let key = turned(&k[(first + t) * kv_stride + kv..], t);
                    let dot: f64 = q.iter().zip(key).map(|(q, k)| q * k).sum();
                    (dot / (d as f64).sqrt()).exp()
                })
                .collect();
            let total: f64 = scores.iter().sum();
            let expected: Vec<f64> = (0..d)
                .map(|i| {
                    let value = |t: usize| f64::from(v[(first + t) * kv_stride + kv + i]);
                    scores.iter().enumerate().map(|(t, s)| s * value(t)).sum::<f64>() / total
                })
                .collect();
            close(&found[row * q_stride + head * d..], &expected, tolerance);
        }
    }
}

#[test]
fn rotary_and_attention() {
    check_attention("f32", 4, 2, 16, 5e-6);
    check_attention("f16", 3, 1, 64, 1e-3);
    check_attention("f32", 1, 1, 136, 5e-6);
    check_attention("f16", 2, 2, 6, 1e-3);
}

#[test]
fn swiglu_and_its_ends() {
    let mut device = Device::default();
    let (width, stride) = (261, 264);
    let mut gate: Vec<f32> = (0..2 * stride).map(|i| i as f32 * 0.7 - 185.0).collect();
    gate[3] = f32::NEG_INFINITY;
    let up: Vec<f32> = Numbers::new(4).vec(2 * stride);
    let gate_at = device.floats(&gate);
    let swiglu = Parameters::new().address(gate_at).address(device.floats(&up));
    device.launch("swiglu", "swiglu", [2, 2], 256, swiglu.words(&[width, stride]));
    let found = device.read(gate_at, 2 * stride);
    for row in 0..2 {
        let at = |i: usize| {
            let (g, u) = (f64::from(gate[row * stride + i]), f64::from(up[row * stride + i]));
            if g == f64::NEG_INFINITY { 0.0 } else { g / (1.0 + (-g).exp()) * u }
        };
        let expected: Vec<f64> = (0..width).map(at).collect();
        for (found, expected) in found[row * stride..].iter().zip(expected) {
            let error = (f64::from(*found) - expected).abs();
            assert!(error <= 1e-6 * expected.abs() + 1e-30, "{found} {expected}");
        }
    }
}

#[test]
fn argmax_takes_the_first_of_equals_and_refuses_nan() {
    let mut device = Device::default();
    let (width, stride) = (700, 704);
    let mut x = vec![-1.0f32; 5 * stride];
    (x[650], x[130]) = (2.0, 2.0);
    x[stride + 699] = 5.0;
    x[2 * stride + 300] = f32::NAN;
    x[3 * stride + 10] = f32::INFINITY;
    let out = device.words(&[7; 5]);
    let argmax = Parameters::new().address(device.floats(&x)).address(out);
    device.launch("argmax", "argmax", [5, 1], 256, argmax.words(&[width, stride]));
    assert_eq!(device.read_words(out, 5), [130, 699, u32::MAX, u32::MAX, 0]);
}

/// The k largest of a row by their formula: (value, place).
fn largest(row: &[f32], k: usize) -> Vec<(f32, u32)> {
    let mut all: Vec<(f32, u32)> = row.iter().copied().zip(0..).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    all.resize(all.len().max(k), (f32::NEG_INFINITY, u32::MAX - 1));
    all.truncate(k);
    all
}

#[test]
fn the_best_of_rows_in_parts_are_the_largest_of_all() {
    let mut device = Device::default();
    for (width, k) in [(3usize, 5), (300, 64), (4096, 1), (8200, 20)] {
        let (rows, stride, parts) = (3usize, width + 8, width.div_ceil(4096));
        let mut x = Numbers::new(width as u64).vec(rows * stride);
        // Equal numbers, some that cannot be chosen, and one that is not a number.
        x[width - 1] = 1.0;
        x[width / 2] = 1.0;
        x[stride..stride + width - 2].fill(f32::NEG_INFINITY);
        x[2 * stride + width - 1] = f32::NAN;
        let room = vec![0.0f32; rows * parts * k];
        let [values, places, last, last_places] = [(); 4].map(|()| device.floats(&room));
        let best = |x: u64, places: u64, values: u64, out: u64| {
            Parameters::new().address(x).address(places).address(values).address(out)
        };
        let first = best(device.floats(&x), 0, values, places).words(&[width, stride, k, 0]);
        device.launch("best", "best", [parts, rows], 256, first);
        let (mut found, mut at) = (values, places);
        if parts > 1 {
            let all = [parts * k, parts * k, k, 0];
            let second = best(values, places, last, last_places).words(&all);
            device.launch("best", "best", [1, rows], 256, second);
            (found, at) = (last, last_places);
        }
        let (found, at) = (device.read(found, rows * k), device.read_words(at, rows * k));
        for row in 0..2 {
            let expected = largest(&x[row * stride..][..width], k);
            let found: Vec<(f32, u32)> =
                (row * k..(row + 1) * k).map(|i| (found[i], at[i])).collect();
            assert_eq!(found, expected, "row {row} of {width}, {k}");
        }
        assert_eq!(at[2 * k], u32::MAX, "{width}");
    }
}
