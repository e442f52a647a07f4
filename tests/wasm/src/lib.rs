//! The simd128 kernels against f64 and the scalar table over the shapes around every vector, group, block and tile edge, inside a
//! WebAssembly engine: `run.mjs` calls [`failures`] in Node. What `tests/kernels.rs` does where there is an operating system.
//!
//! Without std: failures are counted and the first of them printed through an imported function.
#![no_std]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use half::f16;
use lowrank::kernel::{GROUP, Input, Kernels, Quantized, by_name, kernels};
use lowrank::quant::{Format, Layout, OwnedMatrix};
use lowrank::tensor::{Columns, MatMut};

#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn log(text: *const u8, length: usize);
}

fn print(text: &str) {
    // SAFETY: the embedder reads the text's bytes and keeps nothing.
    unsafe { log(text.as_ptr(), text.len()) }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    print(&format!("{info}"));
    core::arch::wasm32::unreachable()
}

/// Kernel error allowed relative to Σ|wᵢxᵢ|; in `Precision::Fast` against the scalar table, whose integer sums are the same, twice that.
const EXACT: f64 = 1e-6;

static COMPARED: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);

/// Counts a comparison, and prints it if it is among the first to fail.
fn hold(holds: bool, what: impl Fn() -> String) {
    COMPARED.fetch_add(1, Relaxed);
    if !holds && FAILED.fetch_add(1, Relaxed) < 10 {
        print(&format!("FAIL: {}", what()));
    }
}

fn close(found: f32, expected: f64, allowed: f64, what: impl Fn() -> String) {
    hold((f64::from(found) - expected).abs() <= allowed, || format!("{}: {found} instead of {expected}", what()));
}

/// Comparisons made so far.
#[unsafe(no_mangle)]
pub extern "C" fn comparisons() -> u32 {
    COMPARED.load(Relaxed)
}

/// Runs all comparisons: the number that failed.
#[unsafe(no_mangle)]
pub extern "C" fn failures() -> u32 {
    let (table, scalar) = (kernels(), by_name("scalar").unwrap());
    print(&format!("table in use: {}.", table.name()));
    hold(table.name() == "simd128", || format!("the table in use is {}", table.name()));
    products(table);
    fast_products(table, scalar);
    integers(table, scalar);
    vectors(table, scalar);
    stored_rows(table);
    halves(table);
    exponentials(table, scalar);
    FAILED.load(Relaxed)
}

/// Numbers in about -1 to 1 with a few large ones, the same for the same seed.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| if next() > 0.95 { 5.0 * next() } else { next() }).collect()
}

/// Every format with block sizes and layouts that the shape allows.
fn matrices(rows: usize, cols: usize) -> Vec<OwnedMatrix> {
    let weights = numbers(rows * cols, (rows * 1000 + cols) as u64);
    let quantize = |format, block| OwnedMatrix::quantize(format, block, rows, cols, &weights).unwrap();
    let mut all = vec![quantize(Format::F32, 64), quantize(Format::F16, 64)];
    for block in [32, 64, 128, 4096] {
        all.push(quantize(Format::Int8, block));
        for format in [Format::Nf4, Format::Nf4Plain] {
            let matrix = quantize(format, block);
            if block == 64 && matrix.view().layout() == Layout::Split64 {
                all.push(matrix.clone().with_layout(Layout::Sequential));
            }
            all.push(matrix);
        }
    }
    all
}

/// (Σ w·x, Σ |w·x|) of every vector and row, in f64.
fn reference(matrix: &OwnedMatrix, x: &[f32]) -> Vec<(f64, f64)> {
    let view = matrix.view();
    let (rows, cols) = (view.rows(), view.cols());
    let mut weights = vec![0.0; rows * cols];
    weights.chunks_mut(cols).enumerate().for_each(|(row, out)| view.read(row, 0, out));
    let one = |x: &[f32], w: &[f32]| {
        x.iter().zip(w).fold((0.0, 0.0), |(sum, size), (&x, &w)| {
            let term = f64::from(x) * f64::from(w);
            (sum + term, size + term.abs())
        })
    };
    x.chunks(cols).flat_map(|x| weights.chunks(cols).map(move |w| one(x, w))).collect()
}

/// Runs a product into an output of NaNs, one part after the other.
fn run(table: &Kernels, matrix: &OwnedMatrix, input: &Input<'_>, parts: &[Range<usize>]) -> Vec<f32> {
    let rows = matrix.view().rows();
    let mut y = vec![f32::NAN; input.n() * rows];
    let mut view = MatMut::new(&mut y, rows).unwrap();
    let mut columns = Columns::all(&mut view);
    parts.iter().for_each(|part| table.product(&matrix.view(), input, &mut columns.narrow(part.clone())));
    y
}

fn describe(matrix: &OwnedMatrix, n: usize, at: usize) -> String {
    let view = matrix.view();
    let (format, block, layout, rows) = (view.format(), view.block(), view.layout(), view.rows());
    format!("{format:?} block {block} {layout:?} [{rows}, {}] n {n}, vector {}, row {}", view.cols(), at / rows, at % rows)
}

/// Exact products against f64; the rows that a part leaves out stay untouched; parts give the whole's bits.
fn products(table: &Kernels) {
    for cols in (1..=70).chain(96..=132).chain([192, 320, 576, 832, 1000, 1536, 65_600]) {
        let shapes: &[usize] = if cols > 2000 { &[2] } else { &[1, 4, 9] };
        for &rows in shapes {
            for matrix in matrices(rows, cols) {
                let x = numbers(7 * cols, cols as u64);
                let expected = reference(&matrix, &x);
                for n in [1, 2, 3, 4, 7] {
                    let input = Input::new(&x[..n * cols], cols);
                    let (first, last) = (rows / 3, rows - rows / 4);
                    let whole = run(table, &matrix, &input, &[0..first, first..rows]);
                    let part = run(table, &matrix, &input, core::slice::from_ref(&(first..last)));
                    for (at, ((&whole, &part), &(sum, size))) in whole.iter().zip(&part).zip(&expected).enumerate() {
                        close(whole, sum, EXACT * size, || describe(&matrix, n, at));
                        let same = if (first..last).contains(&(at % rows)) { part.to_bits() == whole.to_bits() } else { part.is_nan() };
                        hold(same, || format!("{}: a part of the rows differs", describe(&matrix, n, at)));
                    }
                }
            }
        }
    }
}

/// Activations as the scalar table's integers.
fn quantize(table: &Kernels, x: &[f32]) -> (Vec<i8>, Vec<f32>) {
    let (mut values, mut scales) = (vec![99; x.len()], vec![f32::NAN; x.len() / GROUP]);
    table.quantize(x, &mut values, &mut scales);
    (values, scales)
}

/// Fast products against the scalar table.
fn fast_products(table: &Kernels, scalar: &Kernels) {
    for cols in [64, 128, 320, 576, 832, 1600, 4160] {
        for rows in [1, 2, 3, 4, 5, 17] {
            for matrix in matrices(rows, cols).iter().filter(|matrix| table.has_fast(&matrix.view())) {
                let x = numbers(19 * cols, cols as u64);
                let (values, scales) = quantize(scalar, &x);
                let expected = reference(matrix, &x);
                for n in [1, 2, 3, 4, 5, 16, 17, 19] {
                    let quantized = Quantized { values: &values[..n * cols], scales: &scales[..n * cols / GROUP] };
                    let input = Input { quantized: Some(quantized), ..Input::new(&x[..n * cols], cols) };
                    let parts = [0..rows / 3, rows / 3..rows];
                    let found = run(table, matrix, &input, &parts);
                    let whole = run(table, matrix, &input, core::slice::from_ref(&(0..rows)));
                    let oracle = run(scalar, matrix, &input, &parts);
                    for (at, (found, &oracle)) in found.iter().zip(&oracle).enumerate() {
                        close(*found, f64::from(oracle), 2.0 * EXACT * expected[at].1, || format!("fast {}", describe(matrix, n, at)));
                        let what = || format!("fast {}: parts of the rows differ", describe(matrix, n, at));
                        hold(found.to_bits() == whole[at].to_bits(), what);
                    }
                }
            }
        }
    }
}

/// Activations to integers, bit for bit.
fn integers(table: &Kernels, scalar: &Kernels) {
    let mut x = numbers(64 * 400, 3);
    x.iter_mut().enumerate().for_each(|(i, x)| *x *= [1e-30, 1e-3, 1.0, 1e30][i / 64 % 4]);
    x[..64].fill(0.0);
    x[64..128].fill(-1e-38);
    let ((values, scales), (oracle, oracle_scales)) = (quantize(table, &x), quantize(scalar, &x));
    values.iter().zip(&oracle).enumerate().for_each(|(i, (a, b))| hold(a == b, || format!("integer {i}: {a} instead of {b}")));
    scales.iter().zip(&oracle_scales).for_each(|(a, b)| hold(a == b, || format!("scale {a} instead of {b}")));
    x[70] = f32::NAN;
    hold(quantize(table, &x).1[1].is_nan(), || String::from("a NaN became a number"));
}

/// Dot products, scaled additions, RMSNorm.
fn vectors(table: &Kernels, scalar: &Kernels) {
    for len in (0..=140).chain([576, 1000]) {
        let (a, b) = (numbers(len, 1), numbers(len, 2));
        let halves: Vec<u16> = a.iter().map(|&a| f16::from_f32(a).to_bits()).collect();
        let bytes: Vec<i8> = a.iter().map(|&a| (a * 25.0) as i8).collect();
        let of_halves: Vec<f32> = halves.iter().map(|&bits| f16::from_bits(bits).to_f32()).collect();
        let of_bytes: Vec<f32> = bytes.iter().map(|&q| f32::from(q)).collect();
        for (name, a, found) in [
            ("dot", &a, table.dot(&a, &b)),
            ("dot_f16", &of_halves, table.dot_f16(&halves, &b)),
            ("dot_i8", &of_bytes, table.dot_i8(&bytes, &b)),
        ] {
            let terms = || a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b));
            close(found, terms().sum(), EXACT * terms().map(f64::abs).sum::<f64>(), || format!("{name} of {len}"));
        }
        for (name, a) in [("axpy", &a), ("axpy_f16", &of_halves), ("axpy_i8", &of_bytes)] {
            let mut y = b.clone();
            match name {
                "axpy" => table.axpy(-0.7, a, &mut y),
                "axpy_f16" => table.axpy_f16(-0.7, &halves, &mut y),
                _ => table.axpy_i8(-0.7, &bytes, &mut y),
            }
            for ((&y, &a), &b) in y.iter().zip(a).zip(&b) {
                let (b, term) = (f64::from(b), f64::from(-0.7f32) * f64::from(a));
                close(y, b + term, 2e-7 * (term.abs() + b.abs()), || format!("{name} of {len}"));
            }
        }
        let (mut found, mut oracle) = (vec![f32::NAN; len], vec![f32::NAN; len]);
        table.rms_norm(&a, &b, 1e-5, &mut found);
        scalar.rms_norm(&a, &b, 1e-5, &mut oracle);
        for (&found, &oracle) in found.iter().zip(&oracle) {
            close(found, f64::from(oracle), 1e-6 * f64::from(oracle.abs()), || format!("rms_norm of {len}"));
        }
    }
}

/// Weighted sums of stored rows, and stored rows with one vector, against f64.
fn stored_rows(table: &Kernels) {
    for (terms, cols, stride) in [(1, 1, 1), (3, 7, 9), (5, 8, 8), (17, 40, 64), (9, 64, 192), (33, 67, 67), (4, 12, 12)] {
        let stored = numbers(terms * stride, 5);
        let halves: Vec<u16> = stored.iter().map(|&v| f16::from_f32(v).to_bits()).collect();
        let bytes: Vec<i8> = stored.iter().map(|&v| (v * 25.0) as i8).collect();
        let of_halves: Vec<f32> = halves.iter().map(|&bits| f16::from_bits(bits).to_f32()).collect();
        let of_bytes: Vec<f32> = bytes.iter().map(|&q| f32::from(q)).collect();
        let x = numbers(cols, 9);
        for (format, values) in [&stored, &of_halves, &of_bytes].into_iter().enumerate() {
            for sets in 1..=6 {
                let weights: Vec<Vec<f32>> = (0..sets).map(|r| numbers(terms, 20 + r)).collect();
                let w: Vec<&[f32]> = weights.iter().map(Vec::as_slice).collect();
                let mut found: Vec<Vec<f32>> = (0..sets).map(|r| numbers(cols, 40 + r)).collect();
                let before = found.clone();
                let mut out: Vec<&mut [f32]> = found.iter_mut().map(Vec::as_mut_slice).collect();
                match format {
                    0 => table.mix(&w, &stored, stride, &mut out),
                    1 => table.mix_f16(&w, &halves, stride, &mut out),
                    _ => table.mix_i8(&w, &bytes, stride, &mut out),
                }
                for (r, found) in found.iter().enumerate() {
                    for (c, &found) in found.iter().enumerate() {
                        let term = |t: usize| f64::from(weights[r][t]) * f64::from(values[t * stride + c]);
                        let old = f64::from(before[r][c]);
                        let size = (0..terms).map(|t| term(t).abs()).sum::<f64>() + old.abs();
                        let what = || format!("mix of {terms} rows of {cols} in format {format}, result {r}, column {c}");
                        close(found, (0..terms).map(term).sum::<f64>() + old, 3e-6 * size, what);
                    }
                }
            }
            let mut found = vec![f32::NAN; terms * stride / cols];
            match format {
                0 => table.dots(&stored, &x, &mut found),
                1 => table.dots_f16(&halves, &x, &mut found),
                _ => table.dots_i8(&bytes, &x, &mut found),
            }
            for (j, &found) in found.iter().enumerate() {
                let term = |i: usize| f64::from(values[j * cols + i]) * f64::from(x[i]);
                let size: f64 = (0..cols).map(|i| term(i).abs()).sum();
                close(found, (0..cols).map(term).sum(), EXACT * size, || format!("dots of {cols} in format {format}, row {j}"));
            }
        }
    }
}

/// Every f16 to f32; every f16, every middle of two and their neighbours back.
fn halves(table: &Kernels) {
    for first in (0..=u16::MAX).step_by(8) {
        let bits: [u16; 8] = core::array::from_fn(|i| first + i as u16);
        let mut wide = [0.0; 8];
        table.axpy_f16(1.0, &bits, &mut wide);
        for (bits, wide) in bits.into_iter().zip(wide) {
            let expected = f16::from_bits(bits).to_f32();
            hold(wide == expected || wide.is_nan() && expected.is_nan(), || format!("f16 {bits:04x}: {wide} instead of {expected}"));
        }
    }
    let exact = (0..0x7c00u16).map(|bits| f16::from_bits(bits).to_f32());
    let middle = (0..0x7bffu16).map(|bits| (f16::from_bits(bits).to_f32() + f16::from_bits(bits + 1).to_f32()) / 2.0);
    let positive = exact.chain(middle).flat_map(|x| [x.next_down(), x, x.next_up()]);
    let extremes = [65_519.996, 65_520.0, 1e30, f32::INFINITY, f32::MIN_POSITIVE, 1e-45];
    let x: Vec<f32> = positive.chain(extremes).flat_map(|x| [x, -x]).collect();
    let mut out = vec![0x1234; x.len()];
    table.to_f16(&x, &mut out);
    for (&x, &bits) in x.iter().zip(&out) {
        let expected = f16::from_f32(x).to_bits();
        hold(bits == expected, || format!("{x:e} to f16: {bits:04x} instead of {expected:04x}"));
    }
    let mut out = [0; 8];
    table.to_f16(&[f32::NAN; 8], &mut out);
    hold(out.iter().all(|&bits| f16::from_bits(bits).is_nan()), || String::from("NaN to f16"));
}

/// Softmax and SwiGLU's gate against the scalar table, whose e^x is libm's.
fn exponentials(table: &Kernels, scalar: &Kernels) {
    for len in (1..=70).chain([576]) {
        for scale in [0.0, 1.0, 30.0, 1e30] {
            let mut found: Vec<f32> = numbers(len, 6).iter().map(|x| x * scale).collect();
            let mut oracle = found.clone();
            let mut part = found.clone();
            let (step, expected) = (table.softmax_step(&mut found, 0.125, 0.5), scalar.softmax_step(&mut part, 0.125, 0.5));
            hold(step.max == expected.max, || format!("softmax_step of {len}: {step:?} instead of {expected:?}"));
            for (&found, &oracle) in found.iter().zip(&part).chain([(&step.sum, &expected.sum), (&step.rescale, &expected.rescale)]) {
                // The oracle adds up one by one in f32: each addition may be off by half a unit in the last place.
                let rounding = 2e-6 + len as f64 * f64::from(f32::EPSILON) / 2.0;
                close(found, f64::from(oracle), rounding * f64::from(oracle) + 1e-44, || format!("softmax_step of {len}"));
            }
            found.clone_from(&oracle);
            table.softmax(&mut found);
            scalar.softmax(&mut oracle);
            for (&found, &oracle) in found.iter().zip(&oracle) {
                close(found, f64::from(oracle), 2e-6 * f64::from(oracle) + 1e-44, || format!("softmax of {len}"));
            }
        }
    }
    let z: Vec<f32> = (-11_000..11_000).map(|i| i as f32 / 100.0).chain([1e-30, -1e-30, 1e30, -1e30]).collect();
    for z in [&z[..], &z[..7], &z[3..12], &z[..0]] {
        let (mut found, mut oracle) = (z.to_vec(), z.to_vec());
        table.silu_mul(&mut found, &vec![-1.5; z.len()]);
        scalar.silu_mul(&mut oracle, &vec![-1.5; z.len()]);
        for ((&found, &oracle), z) in found.iter().zip(&oracle).zip(z) {
            close(found, f64::from(oracle), 1e-6 * f64::from(oracle.abs()) + 4e-37, || format!("silu({z})"));
        }
    }
    let mut limits = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, f32::MIN, f32::MAX];
    table.silu_mul(&mut limits, &[1.0; 5]);
    let [low, high, nan, least, most] = limits;
    hold((low, high, least, most) == (0.0, f32::INFINITY, 0.0, f32::MAX) && nan.is_nan(), || format!("silu's limits: {limits:?}"));
    table.softmax(&mut []);
    let mut masked = [f32::NEG_INFINITY; 11];
    (masked[2], masked[9]) = (3.0, 3.0);
    table.softmax(&mut masked);
    let right = masked.iter().enumerate().all(|(i, &x)| x == if i == 2 || i == 9 { 0.5 } else { 0.0 });
    hold(right, || format!("softmax with masked scores: {masked:?}"));
}
