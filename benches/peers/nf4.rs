//! One NF4 matrix-vector product on one core, [4096, 4096], for the comparison with bitsandbytes.
//! Prints one line of JSON: seconds per product of both precisions (the median of many) and the
//! instruction set. `Fast` includes the rounding of its input to 8 bits.
//!
//! `compare.py` calls it in turn with its peer; `benches/kernels.rs` has the statistics of all
//! shapes.

use std::hint::black_box;
use std::time::Instant;

use lowrank::kernel::{GROUP, Input, Kernels, Quantized, kernels};
use lowrank::quant::{BLOCK, Format, Matrix, OwnedMatrix};
use lowrank::tensor::{Columns, MatMut};

const SIZE: usize = 4096;
const PRODUCTS: usize = 41;

fn wave(count: usize, step: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * step).sin() * (i as f32 * 0.013).cos()).collect()
}

/// The first and the last number of `y` within `allowed` of f64, relative to Σ|wᵢxᵢ|.
fn check(weights: &Matrix<'_>, x: &[f32], y: &[f32], allowed: f64) {
    let mut w = vec![0.0; SIZE];
    for row in [0, SIZE - 1] {
        weights.read(row, 0, &mut w);
        let terms = || x.iter().zip(&w).map(|(&x, &w)| f64::from(x) * f64::from(w));
        let (sum, size): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
        assert!(
            (f64::from(y[row]) - sum).abs() <= allowed * size,
            "{} instead of {sum} ({size})",
            y[row]
        );
    }
}

/// The median time of a product; `Fast` if there is room for integers.
fn seconds(
    table: &Kernels,
    weights: &Matrix<'_>,
    x: &[f32],
    mut fast: Option<(&mut [i8], &mut [f32])>,
) -> f64 {
    let mut y = vec![0.0; SIZE];
    let mut times: Vec<f64> = (0..PRODUCTS)
        .map(|_| {
            let start = Instant::now();
            let mut input = Input::new(black_box(x), SIZE);
            if let Some((values, scales)) = &mut fast {
                table.quantize(x, values, scales);
                input.quantized = Some(Quantized { values, scales });
            }
            table.product(
                weights,
                &input,
                &mut Columns::all(&mut MatMut::new(&mut y, SIZE).expect("whole rows")),
            );
            start.elapsed().as_secs_f64()
        })
        .collect();
    check(weights, x, &y, if fast.is_some() { 1e-2 } else { 1e-6 });
    times.sort_by(f64::total_cmp);
    times[PRODUCTS / 2]
}

fn main() {
    let weights = OwnedMatrix::quantize(Format::Nf4, BLOCK, SIZE, SIZE, &wave(SIZE * SIZE, 0.37))
        .expect("the shape is fine");
    let (weights, x, table) = (weights.view(), wave(SIZE, 0.71), kernels());
    let exact = seconds(table, &weights, &x, None);
    let (mut values, mut scales) = (vec![0; SIZE], vec![0.0; SIZE / GROUP]);
    let fast = if table.has_fast(&weights) {
        seconds(table, &weights, &x, Some((&mut values, &mut scales)))
    } else {
        exact
    };
    println!("{{\"isa\": \"{}\", \"exact\": {exact:e}, \"fast\": {fast:e}}}", table.name());
}
