//! Products and embeddings of every format in `ptx/` against their formulas in f64, adapters
//! included.

mod numbers;

use numbers::matrices::{Matrix, dense, nf4};
use numbers::{Device, Numbers, Parameters, close};

/// Two adapters of two sequences at site 1 of 2: a plain one of rank 3 for sequence 0, one with
/// gain and bias of rank 40 behind one of rank 2 for sequence 1, none for sequence 2.
struct Adapters {
    table: u64,
    /// Of each sequence: (a, b, bias, gain, scale, weight).
    all: Vec<Vec<Adapter>>,
}

struct Adapter {
    rank: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    bias: Vec<f32>,
    gain: Vec<f32>,
    scale: f32,
    weight: f32,
}

const SITES: usize = 2;
const SITE: usize = 1;
const MAX_ACTIVE: usize = 2;

fn adapters(device: &mut Device, rows: usize, cols: usize) -> Adapters {
    let mut numbers = Numbers::new(99);
    let mut make = |rank: usize, extras: bool| Adapter {
        rank,
        a: numbers.vec(rank * cols),
        b: numbers.vec(rows * rank),
        bias: if extras { numbers.vec(rows) } else { Vec::new() },
        gain: if extras { numbers.vec(rows) } else { Vec::new() },
        scale: 0.3,
        weight: 0.6,
    };
    let all = vec![vec![make(3, false)], vec![make(2, false), make(40, true)], Vec::new()];
    let mut table = Parameters::new();
    let stride = cols.next_multiple_of(8);
    for sequence in &all {
        for _ in 0..SITE * MAX_ACTIVE {
            table = table.words(&[0; 16]);
        }
        let mut first = 0;
        for i in 0..MAX_ACTIVE {
            let Some(adapter) = sequence.get(i) else {
                table = table.words(&[0; 16]);
                continue;
            };
            let mut a = vec![0.0f32; adapter.rank * stride];
            for (to, from) in a.chunks_exact_mut(stride).zip(adapter.a.chunks_exact(cols)) {
                to[..cols].copy_from_slice(from);
            }
            let mut optional = |values: &[f32]| {
                if values.is_empty() { 0 } else { device.floats(values) }
            };
            table = table
                .address(optional(&a))
                .address(optional(&adapter.b))
                .address(optional(&adapter.bias))
                .address(optional(&adapter.gain))
                .words(&[adapter.rank, first, stride, adapter.rank, 0, 0])
                .float(adapter.scale)
                .float(adapter.weight);
            first += adapter.rank;
        }
    }
    Adapters { table: device.bytes(&table.bytes()), all }
}

const DOWN_STRIDE: usize = 48;

/// y and what it may be off by, in f64: the formula of `product.h`.
fn expected(
    m: &Matrix,
    x: &[f32],
    bias: &[f32],
    adapters: &[Vec<Adapter>],
    sequences: &[usize],
) -> Vec<(f64, f64)> {
    let mut out = Vec::new();
    for (x, &sequence) in x.chunks_exact(m.cols).zip(sequences) {
        let dot = |w: &dyn Fn(usize) -> f64| -> (f64, f64) {
            (0..m.cols).fold((0.0, 0.0), |(sum, size), i| {
                let term = w(i) * f64::from(x[i]);
                (sum + term, size + term.abs())
            })
        };
        for (row, &bias) in bias.iter().enumerate() {
            let (p, mut size) = dot(&|i| m.weights[row * m.cols + i]);
            let mut y = p + f64::from(bias);
            for adapter in &adapters[sequence] {
                let (scale, weight) = (f64::from(adapter.scale), f64::from(adapter.weight));
                let mut delta = 0.0;
                for j in 0..adapter.rank {
                    let (u, u_size) = dot(&|i| f64::from(adapter.a[j * m.cols + i]));
                    let b = f64::from(adapter.b[row * adapter.rank + j]) * scale;
                    delta += b * u;
                    size += (b * u_size).abs();
                }
                delta += scale * adapter.bias.get(row).map_or(0.0, |&b| f64::from(b));
                let k = adapter.gain.get(row).map_or(1.0, |&k| f64::from(k));
                y += weight * (k - 1.0) * p + k * delta;
            }
            out.push((y, size + y.abs() + 1.0));
        }
    }
    out
}

fn check_product(file: &str, format: &str, m: &Matrix, device: &mut Device) {
    let (rows, cols, x_stride) = (m.rows, m.cols, m.cols.next_multiple_of(8));
    let adapters = adapters(device, rows, cols);
    let y_stride = rows.next_multiple_of(8);
    let kernels = match format {
        "nf4" => [(1, 1, ""), (3, 4, ""), (1, 1, "_large"), (5, 8, "tensor"), (19, 16, "tensor")],
        _ => [(1, 1, ""), (3, 4, ""), (5, 4, ""), (8, 8, ""), (11, 8, "")],
    };
    for (n, each, size) in kernels {
        let mut numbers = Numbers::new(n as u64);
        let (mut x, bias) = (numbers.vec(n * cols), numbers.vec(rows));
        // Numbers of all sizes: each 64 have their own.
        for (i, x) in x.chunks_exact_mut(64).enumerate().filter(|_| format == "nf4") {
            x.iter_mut().for_each(|x| *x *= [1.0, 1e-6, 300.0, 1e6][i % 4]);
        }
        let mut padded = vec![0.0f32; n * x_stride];
        for (to, from) in padded.chunks_exact_mut(x_stride).zip(x.chunks_exact(cols)) {
            to[..cols].copy_from_slice(from);
        }
        let sequences: Vec<usize> = (0..n).map(|i| (i + 1) % 3).collect();
        let (x_at, u) = (device.floats(&padded), device.floats(&vec![0.0; n * DOWN_STRIDE]));
        let (y, before) = (device.floats(&vec![0.25; n * y_stride]), 0.25);
        let sequences_at = device.words(&sequences);
        let places = [SITE, SITES, MAX_ACTIVE];
        let down = Parameters::new()
            .address(x_at)
            .address(u)
            .address(adapters.table)
            .address(sequences_at)
            .words(&[cols, x_stride, DOWN_STRIDE])
            .words(&places);
        device.launch("low_rank", "low_rank_down", [n, DOWN_STRIDE / 8], 256, down);
        let product = Parameters::new()
            .join(&m.parameters)
            .address(x_at)
            .address(y)
            .address(device.floats(&bias))
            .address(adapters.table)
            .address(sequences_at)
            .address(u)
            .words(&[n, x_stride, y_stride, DOWN_STRIDE])
            .words(&places)
            .words(&[1]);
        let (kernel, grid) = match size {
            "tensor" => (format!("tensor_{format}_{each}"), [rows.div_ceil(16), n.div_ceil(each)]),
            "_large" => (format!("product_{format}_{each}{size}"), [rows.div_ceil(32), 1]),
            _ => (format!("product_{format}_{each}"), [rows.div_ceil(16), n.div_ceil(each)]),
        };
        if size == "tensor" {
            let halves = halves_of(device, x_at, n, cols, x_stride);
            device.launch("tensor", &kernel, grid, 256, product.join(&halves));
        } else {
            device.launch(file, &kernel, grid, 256, product);
        }
        let found = device.read(y, n * y_stride);
        let expected = expected(m, &x, &bias, &adapters.all, &sequences);
        for (i, (value, size)) in expected.iter().enumerate() {
            let found = f64::from(found[i / rows * y_stride + i % rows]);
            let error = (found - (value + before)).abs();
            assert!(error <= 1e-6 * size, "{kernel} {rows}x{cols}, n {n}: {i} is off by {error:e}");
        }
    }
}

/// x split into halves: what a product on tensor cores takes beside the others.
fn halves_of(device: &mut Device, x: u64, n: usize, cols: usize, stride: usize) -> Parameters {
    let bytes = vec![0xff; 2 * n * cols];
    let [high, low] = [(); 2].map(|()| device.bytes(&bytes));
    let scales = device.floats(&vec![0.0; n * cols / 64]);
    let to = || Parameters::new().address(high).address(low).address(scales);
    let halve = Parameters::new().address(x).join(&to()).words(&[cols, stride]);
    device.launch("tensor", "halve", [cols.div_ceil(512), n], 256, halve);
    to()
}

#[test]
fn products_with_their_adapters() {
    let mut device = Device::default();
    for (rows, cols) in [(5, 64), (17, 1024 + 192), (3, 2048)] {
        for nested in [true, false] {
            let m = nf4(&mut device, rows, cols, nested);
            check_product("nf4", "nf4", &m, &mut device);
        }
    }
    for (rows, cols) in [(19, 264), (2, 24)] {
        for format in ["f32", "f16", "int8"] {
            let m = dense(&mut device, format, rows, cols);
            check_product("dense", format, &m, &mut device);
        }
    }
    let m = dense(&mut device, "f32", 4, 101);
    check_product("dense", "f32", &m, &mut device);
}

#[test]
fn embeddings_are_rows_of_the_table() {
    let mut device = Device::default();
    let tables = [
        ("nf4", "nf4", nf4(&mut device, 9, 1024 + 128, true)),
        ("dense", "int8", dense(&mut device, "int8", 9, 264)),
        ("dense", "f16", dense(&mut device, "f16", 9, 101)),
        ("dense", "f32", dense(&mut device, "f32", 9, 12)),
    ];
    for (file, format, m) in tables {
        let (tokens, more) = ([8usize, 0, 3], [1usize, 8, 8]);
        let stride = m.cols.next_multiple_of(8);
        let y = device.floats(&vec![0.0; 3 * stride]);
        let row = |token: usize| &m.weights[token * m.cols..][..m.cols];
        // Then the rows of others are added.
        for (numbers, accumulate) in [(tokens, 0), (more, 1)] {
            let embedding = Parameters::new()
                .join(&m.parameters)
                .address(device.words(&numbers))
                .address(y)
                .address(0)
                .address(device.words(&[0, 0, 0]))
                .words(&[stride, 0, 1, 1, accumulate, 0]);
            device.launch(file, &format!("embedding_{format}"), [3, 1], 256, embedding);
            let found = device.read(y, 3 * stride);
            for (i, found) in found.chunks_exact(stride).enumerate() {
                let added = |col: usize| row(more[i])[col] * accumulate as f64;
                let expected: Vec<f64> =
                    row(tokens[i]).iter().enumerate().map(|(col, w)| w + added(col)).collect();
                close(found, &expected, 1e-6);
                assert!(found[m.cols..].iter().all(|&x| x == 0.0), "the padding stays");
            }
        }
    }
}
