//! Products of training and gradients of factors, in every format, against their formulas in f64.

mod numbers;

use numbers::matrices::{Matrix, dense, nf4};
use numbers::{Device, Numbers, Parameters};

/// Rows of `width` numbers, each with zeros up to the next multiple of `to`.
fn padded(values: &[f32], width: usize, to: usize) -> Vec<f32> {
    let stride = width.next_multiple_of(to);
    values
        .chunks_exact(width)
        .flat_map(|row| row.iter().copied().chain((width..stride).map(|_| 0.0)))
        .collect()
}

/// Are sums of `terms` within 1e-6 of Σ|term|?
fn check(name: &str, found: f32, terms: impl Iterator<Item = f64>) {
    let (sum, size) =
        terms.fold((0.0, 0.0), |(sum, size): (f64, f64), term| (sum + term, size + term.abs()));
    let error = (f64::from(found) - sum).abs();
    assert!(error <= 1e-6 * size.max(1e-3), "{name}: {found} is not {sum}, off by {error:e}");
}

/// y and dX of `n` vectors through a matrix and factors of `rank`, which may be 0.
fn check_tiles(format: &str, m: &Matrix, n: usize, rank: usize, device: &mut Device) {
    for is_back in [false, true] {
        let (terms, width) = if is_back { (m.rows, m.cols) } else { (m.cols, m.rows) };
        let mut numbers = Numbers::new((n + 7 * rank) as u64);
        let (x, bias) = (numbers.vec(n * terms), numbers.vec(width));
        let (u, low) = (numbers.vec(n * rank), numbers.vec(rank * width));
        let stride = rank.next_multiple_of(16);
        // Behind its ranks a vector's row may hold anything.
        let mut factors = vec![f32::NAN; n * stride];
        factors
            .chunks_exact_mut(stride.max(1))
            .zip(u.chunks_exact(rank.max(1)))
            .for_each(|(to, from)| to[..rank].copy_from_slice(from));
        let optional = |device: &mut Device, values: &[f32]| {
            if values.is_empty() { 0 } else { device.floats(values) }
        };
        let y = device.floats(&vec![f32::NAN; n * width]);
        let tiles = Parameters::new()
            .join(&m.parameters)
            .address(device.floats(&padded(&x, terms, 8)))
            .address(y)
            .address(if is_back { 0 } else { device.floats(&bias) })
            .address(optional(device, &padded(&low, width, 8)))
            .address(optional(device, &factors))
            .words(&[n, terms.next_multiple_of(8), width])
            .words(&[width.next_multiple_of(8), stride, rank]);
        let kernel = format!("{}_{format}", if is_back { "backward" } else { "forward" });
        let grid = [width.div_ceil(64), n.div_ceil(64)];
        device.launch("training", &kernel, grid, 256, tiles);
        let found = device.read(y, n * width);
        for (at, &found) in found.iter().enumerate() {
            let (vector, number) = (at / width, at % width);
            let weight = |term: usize| match is_back {
                false => m.weights[number * m.cols + term],
                true => m.weights[term * m.cols + number],
            };
            let base = (0..terms).map(|i| f64::from(x[vector * terms + i]) * weight(i));
            let more = (0..rank)
                .map(|j| f64::from(u[vector * rank + j]) * f64::from(low[j * width + number]));
            let bias = if is_back { 0.0 } else { f64::from(bias[number]) };
            let name = format!("{kernel} {}x{}, n {n}, rank {rank}: {at}", m.rows, m.cols);
            check(&name, found, base.chain(more).chain([bias]));
        }
    }
}

#[test]
fn products_of_training_forward_and_backward() {
    let mut device = Device::default();
    for (rows, cols, n, rank) in [(5, 64, 3, 0), (70, 128, 65, 3), (17, 1024 + 192, 2, 17)] {
        for nested in [true, false] {
            let m = nf4(&mut device, rows, cols, nested);
            check_tiles("nf4", &m, n, rank, &mut device);
        }
    }
    for (rows, cols, n, rank) in [(19, 264, 9, 16), (66, 24, 70, 40), (1, 8, 1, 1)] {
        for format in ["f32", "f16", "int8"] {
            let m = dense(&mut device, format, rows, cols);
            check_tiles(format, &m, n, rank, &mut device);
        }
    }
    for (rows, cols, n, rank) in [(4, 101, 2, 0), (3, 1, 5, 2), (1, 3, 1, 0)] {
        for format in ["f32", "f16"] {
            let m = dense(&mut device, format, rows, cols);
            check_tiles(format, &m, n, rank, &mut device);
        }
    }
}

/// Sums as long as a vocabulary lose no more than short ones, even if all terms have one sign.
#[test]
fn long_sums_of_one_sign_are_as_precise() {
    let (mut device, rows) = (Device::default(), 20_000);
    let mut m = dense(&mut device, "f32", rows, 1);
    m.weights.iter_mut().for_each(|w| *w = w.abs());
    let weights: Vec<f32> = m.weights.iter().map(|&w| w as f32).collect();
    m.parameters = Parameters::new()
        .address(device.floats(&padded(&weights, 1, 8)))
        .address(0)
        .address(0)
        .address(0)
        .float(0.0)
        .words(&[rows, 1, 8, 5, 0]);
    let x: Vec<f32> = Numbers::new(1).vec(rows).iter().map(|x| x.abs()).collect();
    let y = device.floats(&[0.0]);
    let tiles = Parameters::new()
        .join(&m.parameters)
        .address(device.floats(&x))
        .address(y)
        .address(0)
        .address(0)
        .address(0)
        .words(&[1, rows, 1, 0, 0, 0]);
    device.launch("training", "backward_f32", [1, 1], 256, tiles);
    let terms = x.iter().zip(&m.weights).map(|(x, w)| f64::from(*x) * w);
    check("backward_f32", device.read(y, 1)[0], terms);
}

#[test]
fn gradients_of_factors() {
    let mut device = Device::default();
    for (n, width, rank) in [(1, 1, 1), (3, 64, 16), (130, 65, 17), (258, 100, 3)] {
        let mut numbers = Numbers::new(n as u64);
        let (x, u) = (numbers.vec(n * width), numbers.vec(n * rank));
        let (x_stride, u_stride) = (width.next_multiple_of(8), rank.next_multiple_of(16));
        let g = device.floats(&vec![f32::NAN; rank * width]);
        let gradient = Parameters::new()
            .address(device.floats(&padded(&x, width, 8)))
            .address(device.floats(&padded(&u, rank, 16)))
            .address(g)
            .words(&[n, width, rank, x_stride, u_stride, width]);
        let grid = [width.div_ceil(64), rank.div_ceil(16)];
        device.launch("training", "gradient", grid, 256, gradient);
        for (at, &found) in device.read(g, rank * width).iter().enumerate() {
            let (j, col) = (at / width, at % width);
            let term = |v: usize| f64::from(u[v * rank + j]) * f64::from(x[v * width + col]);
            check(&format!("n {n}, [{rank}, {width}]: {at}"), found, (0..n).map(term));
        }
    }
}
