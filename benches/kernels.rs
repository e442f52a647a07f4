//! How many weights per second does each instruction set's matrix product take in, on one core?
//!
//! `cargo bench --bench kernels`: shapes of SmolLM2-135M and a square 4096, one vector (decoding),
//! few (several sequences, short prompts) and 128 (prefill). Every answer is checked against f64 before it is timed. Throughput is in
//! weights (elements), for n vectors in weights · n. `Fast` starts from activations that are
//! already integers: a layer quantizes its input once for all rows.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lowrank::kernel::{GROUP, Input, Kernels, Precision, Quantized, available};
use lowrank::quant::{BLOCK, Format, Matrix, OwnedMatrix};
use lowrank::tensor::{Columns, MatMut};

/// (format, rows, cols, vectors)
const CASES: [(Format, usize, usize, usize); 17] = [
    (Format::Nf4, 4096, 4096, 1),
    (Format::Nf4, 576, 576, 1),
    (Format::Nf4, 1536, 576, 1),
    (Format::Nf4, 576, 1536, 1),
    (Format::Int8, 49152, 576, 1),
    (Format::F16, 4096, 4096, 1),
    (Format::F32, 1536, 576, 1),
    (Format::Nf4, 1536, 576, 2),
    (Format::Nf4, 1536, 576, 4),
    (Format::Nf4, 1536, 576, 8),
    (Format::Nf4, 1536, 576, 16),
    (Format::Int8, 49152, 576, 8),
    (Format::Nf4, 4096, 4096, 128),
    (Format::Nf4, 576, 576, 128),
    (Format::Nf4, 1536, 576, 128),
    (Format::Nf4, 576, 1536, 128),
    (Format::Int8, 1536, 576, 128),
];

fn wave(count: usize, step: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * step).sin() * (i as f32 * 0.013).cos()).collect()
}

/// The first and last row of the first and last vector, within `allowed` of f64 relative to
/// Σ|wᵢxᵢ|.
fn check(table: &Kernels, weights: &Matrix<'_>, input: &Input<'_>, y: &[f32], allowed: f64) {
    let mut w = vec![0.0; weights.cols()];
    for row in [0, weights.rows() - 1] {
        weights.read(row, 0, &mut w);
        for i in [0, input.n() - 1] {
            let terms =
                || input.vector(i).iter().zip(&w).map(|(&x, &w)| f64::from(x) * f64::from(w));
            let (sum, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
            let found = f64::from(y[i * weights.rows() + row]);
            assert!(
                (found - sum).abs() <= allowed * size,
                "{}: {found} instead of {sum} ({size})",
                table.name()
            );
        }
    }
}

fn products(criterion: &mut Criterion) {
    for (format, rows, cols, n) in CASES {
        let weights = OwnedMatrix::quantize(format, BLOCK, rows, cols, &wave(rows * cols, 0.37))
            .expect("the shape is fine");
        let (weights, x) = (weights.view(), wave(n * cols, 0.71));
        let mut y = vec![0.0; n * rows];
        let mut group = criterion.benchmark_group(format!("{format:?} [{rows}, {cols}] n {n}"));
        group.throughput(Throughput::Elements((rows * cols * n) as u64));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_millis(800));
        for (table, precision) in
            available().flat_map(|table| [(table, Precision::Exact), (table, Precision::Fast)])
        {
            let (mut values, mut scales) = (vec![0; x.len()], vec![0.0; x.len() / GROUP]);
            let mut input = Input::new(&x, cols);
            if precision == Precision::Fast {
                if !table.has_fast(&weights) {
                    continue;
                }
                table.quantize(&x, &mut values, &mut scales);
                input.quantized = Some(Quantized { values: &values, scales: &scales });
            }
            table.product(
                &weights,
                &input,
                &mut Columns::all(&mut MatMut::new(&mut y, rows).expect("whole rows")),
            );
            check(
                table,
                &weights,
                &input,
                &y,
                if precision == Precision::Fast { 1e-2 } else { 1e-6 },
            );
            group.bench_function(format!("{} {precision:?}", table.name()), |bencher| {
                let mut y = MatMut::new(&mut y, rows).expect("whole rows");
                bencher.iter(|| {
                    table.product(black_box(&weights), black_box(&input), &mut Columns::all(&mut y))
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
