//! Every kernel of every instruction set that this CPU has computes what its formula says.
//!
//! Products are held to f64 over the dequantized weights: |error| ≤ 1e-6 · Σ|wᵢxᵢ|, in
//! `Precision::Fast` 1e-2, where they are also held to the scalar table's, whose integer sums are
//! the same. Shapes run around every vector, group, block and tile edge; outputs are filled with
//! NaN first, so a missing element shows.

#![cfg(feature = "alloc")]

use half::f16;
use lowrank::kernel::{GROUP, Input, Kernels, Quantized, available, by_name, kernels};
use lowrank::quant::{Format, Layout, OwnedMatrix};
use lowrank::tensor::{Columns, MatMut};
use proptest::prelude::*;

/// Kernel error allowed relative to Σ|wᵢxᵢ|.
const EXACT: f64 = 1e-6;

/// The same in `Precision::Fast`.
const FAST: f64 = 1e-2;

/// The instruction sets that a test ran on are printed, and those that this CPU lacks.
const KNOWN: &[&str] = if cfg!(target_arch = "x86_64") {
    &["scalar", "avx2", "avx512vnni"]
} else if cfg!(target_arch = "aarch64") {
    &["scalar", "neon", "neondot"]
} else {
    &["scalar"]
};

fn tables() -> Vec<&'static Kernels> {
    for name in KNOWN.iter().filter(|name| by_name(name).is_none()) {
        eprintln!("SKIPPED: this CPU cannot run {name}");
    }
    available().collect()
}

/// Numbers in about -1 to 1 with a few large ones, the same for the same seed.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| if next() > 0.95 { 5.0 * next() } else { next() }).collect()
}

/// Every format with every block size and layout that the shape allows.
fn matrices(rows: usize, cols: usize) -> Vec<OwnedMatrix> {
    let weights = numbers(rows * cols, (rows * 1000 + cols) as u64);
    let quantize =
        |format, block| OwnedMatrix::quantize(format, block, rows, cols, &weights).unwrap();
    let mut all = vec![quantize(Format::F32, 64), quantize(Format::F16, 64)];
    for block in [32, 64, 128, 512, 4096] {
        all.push(quantize(Format::Int8, block));
        for format in [Format::Nf4, Format::Nf4Plain] {
            let matrix = quantize(format, block);
            if Layout::Split64.allows(cols, block) {
                assert_eq!(matrix.view().layout(), Layout::Split64);
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
fn run(
    table: &Kernels,
    matrix: &OwnedMatrix,
    input: &Input<'_>,
    parts: &[std::ops::Range<usize>],
) -> Vec<f32> {
    let rows = matrix.view().rows();
    let mut y = vec![f32::NAN; input.n() * rows];
    let mut view = MatMut::new(&mut y, rows).unwrap();
    let mut columns = Columns::all(&mut view);
    for part in parts {
        table.product(&matrix.view(), input, &mut columns.narrow(part.clone()));
    }
    y
}

fn describe(table: &Kernels, matrix: &OwnedMatrix, n: usize) -> String {
    let view = matrix.view();
    let (format, block, layout) = (view.format(), view.block(), view.layout());
    format!(
        "{} {format:?} block {block} {layout:?} [{}, {}] n {n}",
        table.name(),
        view.rows(),
        view.cols()
    )
}

/// Holds columns `part` of the product to the reference, and the others to not having been touched.
fn check(
    table: &Kernels,
    matrix: &OwnedMatrix,
    x: &[f32],
    expected: &[(f64, f64)],
    part: std::ops::Range<usize>,
) {
    let view = matrix.view();
    let input = Input::new(x, view.cols());
    let y = run(table, matrix, &input, std::slice::from_ref(&part));
    for (at, (&y, &(sum, size))) in y.iter().zip(expected).enumerate() {
        let (i, row) = (at / view.rows(), at % view.rows());
        let case =
            || format!("{}: vector {i}, row {row} of {part:?}", describe(table, matrix, input.n()));
        if part.contains(&row) {
            assert!(
                (f64::from(y) - sum).abs() <= EXACT * size,
                "{}: {y} instead of {sum} (size {size})",
                case()
            );
        } else {
            assert!(y.is_nan(), "{}: written outside the part", case());
        }
    }
}

#[test]
fn products_around_every_edge() {
    let tables = tables();
    let cols = (1..=70).chain(96..=132).chain([192, 256, 320, 576, 768, 832, 1000, 1536]);
    for cols in cols {
        for rows in if cols > 200 { vec![1, 4, 7, 9] } else { (1..=9).collect() } {
            for matrix in matrices(rows, cols) {
                let x = numbers(9 * cols, cols as u64);
                let expected = reference(&matrix, &x);
                for table in &tables {
                    for n in 1..=9 {
                        check(table, &matrix, &x[..n * cols], &expected[..n * rows], 0..rows);
                    }
                    check(
                        table,
                        &matrix,
                        &x[..3 * cols],
                        &expected[..3 * rows],
                        rows / 3..rows - rows / 4,
                    );
                }
            }
        }
    }
}

#[test]
fn products_of_many_vectors() {
    // Around the vectors that pass over a tile together, and around the 16 rows of a register and
    // the 64 of a panel.
    let some = [65, 66, 67, 68, 132, 140];
    let shapes = [
        (5, 100, &some[..]),
        (9, 832, &some),
        (16, 100, &[2, 7]),
        (65, 192, &[2, 6, 13]),
        (131, 320, &[5, 12]),
        (80, 64, &[509, 510, 511]),
    ];
    for (rows, cols, counts) in shapes {
        for matrix in matrices(rows, cols) {
            let x = numbers(counts[counts.len() - 1] * cols, 8);
            let expected = reference(&matrix, &x);
            for table in tables() {
                for &n in counts {
                    check(table, &matrix, &x[..n * cols], &expected[..n * rows], 0..rows);
                }
            }
        }
    }
}

#[test]
fn rows_are_dequantized_to_the_bit() {
    for (rows, cols) in
        [(3, 1), (5, 63), (4, 64), (3, 100), (7, 576), (2, 768), (2, 800), (2, 1536), (1, 1600)]
    {
        for matrix in matrices(rows, cols) {
            for table in tables() {
                for row in 0..rows {
                    let (mut found, mut expected) = (vec![f32::NAN; cols], vec![0.0; cols]);
                    table.read_row(&matrix.view(), row, &mut found);
                    matrix.view().read(row, 0, &mut expected);
                    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    assert_eq!(
                        bits(&found),
                        bits(&expected),
                        "row {row}, {}",
                        describe(table, &matrix, 1)
                    );
                }
            }
        }
    }
}

#[test]
fn products_do_not_depend_on_how_rows_are_split() {
    for cols in [64, 100, 576, 2304] {
        for matrix in matrices(23, cols) {
            let x = numbers(7 * cols, 5);
            for table in tables() {
                for n in [1, 2, 3, 4, 7] {
                    let input = Input::new(&x[..n * cols], cols);
                    let whole = run(table, &matrix, &input, std::slice::from_ref(&(0..23)));
                    for parts in [
                        vec![0..12, 12..23],
                        vec![0..1, 1..6, 6..6, 6..8, 8..19, 19..23],
                        (0..23).map(|r| r..r + 1).collect(),
                    ] {
                        let split = run(table, &matrix, &input, &parts);
                        assert!(
                            whole.iter().zip(&split).all(|(a, b)| a.to_bits() == b.to_bits()),
                            "{} {parts:?}",
                            describe(table, &matrix, n)
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_vector_does_not_depend_on_those_beside_it() {
    for (rows, cols) in [(8, 100), (23, 100), (23, 576), (70, 192)] {
        for matrix in matrices(rows, cols) {
            let x = numbers(19 * cols, 6);
            for table in tables() {
                let all =
                    run(table, &matrix, &Input::new(&x, cols), std::slice::from_ref(&(0..rows)));
                // One vector alone may be added up in another order; two are as many are.
                for n in [2, 3, 5, 6, 7, 13] {
                    let some = run(
                        table,
                        &matrix,
                        &Input::new(&x[..n * cols], cols),
                        std::slice::from_ref(&(0..rows)),
                    );
                    assert!(
                        some.iter().zip(&all).all(|(a, b)| a.to_bits() == b.to_bits()),
                        "{}",
                        describe(table, &matrix, n)
                    );
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn products_of_any_shape(rows in 1usize..40, cols in 1usize..900, n in 1usize..14, start in 0usize..40, len in 0usize..40, seed: u64) {
        let part = start.min(rows)..(start + len).min(rows);
        let x = numbers(n * cols, seed);
        let all = matrices(rows, cols);
        let matrix = &all[seed as usize % all.len()];
        let expected = reference(matrix, &x);
        for table in tables() {
            check(table, matrix, &x, &expected, part.clone());
        }
    }

    #[test]
    fn products_of_whole_groups(rows in 1usize..40, groups in 1usize..70, n in 1usize..14, seed: u64) {
        let cols = 64 * groups;
        let x = numbers(n * cols, seed);
        let all = matrices(rows, cols);
        let matrix = &all[seed as usize % all.len()];
        let expected = reference(matrix, &x);
        for table in tables() {
            check(table, matrix, &x, &expected, 0..rows);
        }
    }
}

/// Activations as one table's integers.
struct Integers {
    values: Vec<i8>,
    scales: Vec<f32>,
}

impl Integers {
    fn of(table: &Kernels, x: &[f32]) -> Self {
        let mut integers =
            Self { values: vec![99; x.len()], scales: vec![f32::NAN; x.len() / GROUP] };
        table.quantize(x, &mut integers.values, &mut integers.scales);
        integers
    }

    fn input<'a>(&'a self, x: &'a [f32], cols: usize) -> Input<'a> {
        let quantized =
            Quantized { values: &self.values[..x.len()], scales: &self.scales[..x.len() / GROUP] };
        Input { quantized: Some(quantized), ..Input::new(x, cols) }
    }
}

/// Holds a fast product to f64 and to the scalar table.
fn check_fast(table: &Kernels, matrix: &OwnedMatrix, x: &[f32], expected: &[(f64, f64)]) {
    let (rows, cols) = (matrix.view().rows(), matrix.view().cols());
    let scalar = by_name("scalar").unwrap();
    let integers = Integers::of(scalar, x);
    let parts = [0..rows / 3, rows / 3..rows];
    let y = run(table, matrix, &integers.input(x, cols), &parts);
    let oracle = run(scalar, matrix, &integers.input(x, cols), &parts);
    for (at, ((&y, &oracle), &(sum, size))) in y.iter().zip(&oracle).zip(expected).enumerate() {
        let case = || {
            format!(
                "{}: vector {}, row {}",
                describe(table, matrix, x.len() / cols),
                at / rows,
                at % rows
            )
        };
        assert!(
            (f64::from(y) - sum).abs() <= FAST * size,
            "{}: {y} instead of {sum} (size {size})",
            case()
        );
        assert!(
            f64::from((y - oracle).abs()) <= 2.0 * EXACT * size,
            "{}: {y}, scalar {oracle} (size {size})",
            case()
        );
    }
}

/// Vectors from which the fast products of a table do not depend on how many they are.
fn least(table: &str) -> usize {
    match table {
        "scalar" => 1,
        "avx512vnni" => 2,
        _ => 3,
    }
}

/// The matrices that have a fast form, of one block size each.
fn fast_forms(rows: usize, cols: usize) -> Vec<OwnedMatrix> {
    let mut all = matrices(rows, cols);
    all.retain(|matrix| {
        kernels().has_fast(&matrix.view()) && matches!(matrix.view().block(), 64 | 512)
    });
    assert_eq!(all.len(), 6, "int8 and both kinds of NF4");
    all
}

/// The matrices that have a fast form. The bound of 1e-2 is for Σ over many columns: in a single
/// group the rounding of a few large products may not average out, so the least width here is 4
/// groups.
fn fast_matrices(rows: usize, cols: usize) -> Vec<OwnedMatrix> {
    let mut all = matrices(rows, cols);
    all.retain(|matrix| kernels().has_fast(&matrix.view()));
    assert_eq!(all.len(), 12, "int8 and both kinds of NF4 with blocks of 64, 128, 512 and 4096");
    all
}

#[test]
fn fast_products_around_every_edge() {
    for cols in [256, 320, 576, 768, 832, 1536, 1600, 4160] {
        for rows in [1, 2, 3, 4, 5, 15, 16, 17, 31, 33] {
            if rows > 5 && cols > 1000 && rows != 17 {
                continue;
            }
            for matrix in fast_matrices(rows, cols) {
                let x = numbers(19 * cols, cols as u64);
                let expected = reference(&matrix, &x);
                for table in tables() {
                    for n in 1..=19 {
                        check_fast(table, &matrix, &x[..n * cols], &expected[..n * rows]);
                    }
                }
            }
        }
    }
}

#[test]
fn a_fast_vector_does_not_depend_on_those_beside_it() {
    // Parts of rows, panels and registers that end early.
    for (rows, cols) in [(1, 64), (16, 256), (37, 576), (33, 1536), (18, 1600), (5, 3136)] {
        for matrix in fast_forms(rows, cols) {
            let x = numbers(131 * cols, 6);
            for table in tables() {
                let integers = Integers::of(table, &x);
                let of = |vectors: std::ops::Range<usize>| {
                    let quantized = Quantized {
                        values: &integers.values[vectors.start * cols..vectors.end * cols],
                        scales: &integers.scales
                            [vectors.start * cols / GROUP..vectors.end * cols / GROUP],
                    };
                    let x = &x[vectors.start * cols..vectors.end * cols];
                    let input = Input { quantized: Some(quantized), ..Input::new(x, cols) };
                    run(table, &matrix, &input, std::slice::from_ref(&(0..rows)))
                };
                let all = of(0..131);
                for n in (least(table.name())..=40).chain([63, 64, 65, 72, 128]) {
                    for first in [0, 131 - n] {
                        let equal = of(first..first + n)
                            .iter()
                            .zip(&all[first * rows..])
                            .all(|(a, b)| a.to_bits() == b.to_bits());
                        assert!(equal, "{} from {first}", describe(table, &matrix, n));
                    }
                }
            }
        }
    }
}

#[test]
fn fast_products_of_many_vectors() {
    for matrix in fast_matrices(18, 832) {
        let x = numbers(140 * 832, 8);
        let expected = reference(&matrix, &x);
        for table in tables() {
            for n in (20..=40).chain([63, 64, 65, 68, 128, 140]) {
                check_fast(table, &matrix, &x[..n * 832], &expected[..n * 18]);
            }
        }
    }
}

#[test]
fn fast_products_do_not_depend_on_how_rows_are_split() {
    // Odd and even numbers of groups, in one part and in several; odd rows that begin a range, end
    // it, or are all of it.
    for cols in [64, 192, 576, 640, 2304, 4160, 4224] {
        for matrix in fast_matrices(37, cols) {
            let x = numbers(9 * cols, 5);
            for table in tables() {
                let integers = Integers::of(table, &x);
                for n in [1, 2, 3, 4, 9] {
                    let input = integers.input(&x[..n * cols], cols);
                    let whole = run(table, &matrix, &input, std::slice::from_ref(&(0..37)));
                    let odd = vec![0..1, 1..6, 6..6, 6..24, 24..37];
                    for parts in [
                        vec![0..12, 12..37],
                        odd,
                        vec![0..13, 13..36, 36..37],
                        (0..37).map(|r| r..r + 1).collect(),
                    ] {
                        let split = run(table, &matrix, &input, &parts);
                        assert!(
                            whole.iter().zip(&split).all(|(a, b)| a.to_bits() == b.to_bits()),
                            "{} {parts:?}",
                            describe(table, &matrix, n)
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn without_a_fast_form_integers_change_nothing() {
    for matrix in [
        OwnedMatrix::quantize(Format::F16, 64, 3, 128, &numbers(384, 1)).unwrap(),
        OwnedMatrix::quantize(Format::Int8, 32, 3, 128, &numbers(384, 1)).unwrap(),
        OwnedMatrix::quantize(Format::Nf4, 32, 3, 128, &numbers(384, 1)).unwrap(),
    ] {
        let x = numbers(256, 2);
        for table in tables() {
            assert!(!table.has_fast(&matrix.view()));
            let integers = Integers::of(table, &x);
            let whole = std::slice::from_ref(&(0..3));
            assert_eq!(
                run(table, &matrix, &integers.input(&x, 128), whole),
                run(table, &matrix, &Input::new(&x, 128), whole)
            );
        }
    }
}

#[test]
fn integers_are_the_nearest_and_the_same_on_every_instruction_set() {
    let mut x = numbers(64 * 40, 3);
    x.iter_mut().enumerate().for_each(|(i, x)| *x *= [1e-30, 1e-3, 1.0, 1e30][i / 64 % 4]);
    x[..64].fill(0.0);
    x[64..128].fill(-1e-38);
    for table in tables() {
        let found = Integers::of(table, &x);
        let oracle = Integers::of(by_name("scalar").unwrap(), &x);
        assert!(found.values == oracle.values && found.scales == oracle.scales, "{}", table.name());
        for ((x, values), &scale) in x.chunks(64).zip(found.values.chunks(64)).zip(&found.scales) {
            let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (&x, &value) in x.iter().zip(values) {
                assert!(
                    (f32::from(value) * scale - x).abs() <= most / 127.0 * 0.500_01 + 1e-37,
                    "{} {x:e}",
                    table.name()
                );
                assert_ne!(value, i8::MIN);
            }
        }
        assert_eq!(found.scales[..2], [0.0; 2]);
        x[70] = f32::NAN;
        assert!(
            Integers::of(table, &x).scales[1].is_nan(),
            "{}: a NaN must not become a number",
            table.name()
        );
        x[70] = 0.0;
    }
}

#[test]
fn a_nan_activation_reaches_every_output_of_its_vector_only() {
    let matrix = OwnedMatrix::quantize(Format::Nf4, 64, 5, 128, &numbers(640, 1)).unwrap();
    for table in tables() {
        for n in [1, 2, 5] {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut x = numbers(128 * n, 2);
                x[100] = bad;
                let integers = Integers::of(table, &x);
                let y =
                    run(table, &matrix, &integers.input(&x, 128), std::slice::from_ref(&(0..5)));
                assert!(y[..5].iter().all(|y| !y.is_finite()), "{} {bad} {y:?}", table.name());
                assert!(y[5..].iter().all(|y| y.is_finite()), "{} {bad} {y:?}", table.name());
            }
        }
    }
}

#[test]
#[should_panic(expected = "shapes")]
fn an_input_of_another_width_is_refused() {
    let matrix = OwnedMatrix::quantize(Format::F32, 64, 2, 4, &[0.0; 8]).unwrap();
    let _ = run(kernels(), &matrix, &Input::new(&[0.0; 6], 3), &[0..1, 1..2]);
}

fn close(found: f32, expected: f64, allowed: f64, what: impl std::fmt::Display) {
    assert!(
        (f64::from(found) - expected).abs() <= allowed,
        "{what}: {found} instead of {expected} (allowed {allowed:e})"
    );
}

#[test]
fn dot_products_and_scaled_additions() {
    for table in tables() {
        for len in (0..=140).chain([576, 1000]) {
            let (a, b) = (numbers(len, 1), numbers(len, 2));
            let halves: Vec<u16> = a.iter().map(|&a| f16::from_f32(a).to_bits()).collect();
            let bytes: Vec<i8> = a.iter().map(|&a| (a * 25.0) as i8).collect();
            let of_halves: Vec<f32> =
                halves.iter().map(|&bits| f16::from_bits(bits).to_f32()).collect();
            let of_bytes: Vec<f32> = bytes.iter().map(|&q| f32::from(q)).collect();
            for (name, a, found) in [
                ("dot", &a, table.dot(&a, &b)),
                ("dot_f16", &of_halves, table.dot_f16(&halves, &b)),
                ("dot_i8", &of_bytes, table.dot_i8(&bytes, &b)),
            ] {
                let terms = || a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b));
                let size: f64 = terms().map(f64::abs).sum();
                close(
                    found,
                    terms().sum(),
                    EXACT * size,
                    format_args!("{} {name} of {len}", table.name()),
                );
            }
            for w in [1.0f32, 0.0, 0.5, -1.25] {
                let mut x = b.clone();
                table.scale(&a, w, &mut x);
                for ((&x, &a), &b) in x.iter().zip(&a).zip(&b) {
                    let exact = f64::from(b) * (f64::from(w) * f64::from(a) + 1.0 - f64::from(w));
                    let size = f64::from(b).abs() * (f64::from(w * a).abs() + 1.0);
                    close(x, exact, 3e-7 * size, format_args!("{} scale of {len}", table.name()));
                    assert!(w != 0.0 || x == b);
                    assert!(w != 1.0 || x == a * b);
                }
            }
            for (name, a) in [("axpy", &a), ("axpy_f16", &of_halves), ("axpy_i8", &of_bytes)] {
                let mut y = b.clone();
                match name {
                    "axpy" => table.axpy(-0.7, a, &mut y),
                    "axpy_f16" => table.axpy_f16(-0.7, &halves, &mut y),
                    _ => table.axpy_i8(-0.7, &bytes, &mut y),
                }
                for ((&y, &a), &b) in y.iter().zip(a).zip(&b) {
                    let term = f64::from(-0.7f32) * f64::from(a);
                    let size = term.abs() + f64::from(b).abs();
                    close(
                        y,
                        f64::from(b) + term,
                        2e-7 * size,
                        format_args!("{} {name} of {len}", table.name()),
                    );
                }
            }
        }
    }
}

/// Stored rows in each of the three formats, beside what they are as f32.
struct Stored {
    floats: Vec<f32>,
    halves: Vec<u16>,
    bytes: Vec<i8>,
    of_halves: Vec<f32>,
    of_bytes: Vec<f32>,
}

impl Stored {
    fn new(count: usize, seed: u64) -> Self {
        let floats = numbers(count, seed);
        let halves: Vec<u16> = floats.iter().map(|&a| f16::from_f32(a).to_bits()).collect();
        let bytes: Vec<i8> = floats.iter().map(|&a| (a * 25.0) as i8).collect();
        let of_halves = halves.iter().map(|&bits| f16::from_bits(bits).to_f32()).collect();
        let of_bytes = bytes.iter().map(|&q| f32::from(q)).collect();
        Self { floats, halves, bytes, of_halves, of_bytes }
    }
}

#[test]
fn dot_products_of_several_rows() {
    for table in tables() {
        for len in (1..=70).chain([96, 576, 1000, 4096]) {
            for rows in (0..=9).chain([16, 64]) {
                if rows > 9 && len > 70 && len != 576 {
                    continue;
                }
                let (a, x) = (Stored::new(rows * len, 1), numbers(len, 2));
                for (name, values) in
                    [("dots", &a.floats), ("dots_f16", &a.of_halves), ("dots_i8", &a.of_bytes)]
                {
                    let mut out = vec![f32::NAN; rows];
                    match name {
                        "dots" => table.dots(&a.floats, &x, &mut out),
                        "dots_f16" => table.dots_f16(&a.halves, &x, &mut out),
                        _ => table.dots_i8(&a.bytes, &x, &mut out),
                    }
                    for (&found, row) in out.iter().zip(values.chunks(len)) {
                        let terms =
                            || row.iter().zip(&x).map(|(&a, &b)| f64::from(a) * f64::from(b));
                        let size: f64 = terms().map(f64::abs).sum();
                        close(
                            found,
                            terms().sum(),
                            EXACT * size,
                            format_args!("{} {name} of {rows} rows of {len}", table.name()),
                        );
                    }
                }
            }
        }
    }
}

/// `mix` of one format: results start as `before`.
fn mix(
    table: &Kernels,
    name: &str,
    w: &[Vec<f32>],
    rows: &Stored,
    stride: usize,
    first: usize,
    before: &[Vec<f32>],
) -> Vec<Vec<f32>> {
    let mut out = before.to_vec();
    let w: Vec<&[f32]> = w.iter().map(Vec::as_slice).collect();
    let mut views: Vec<&mut [f32]> = out.iter_mut().map(Vec::as_mut_slice).collect();
    match name {
        "mix" => table.mix(&w, &rows.floats[first..], stride, &mut views),
        "mix_f16" => table.mix_f16(&w, &rows.halves[first..], stride, &mut views),
        _ => table.mix_i8(&w, &rows.bytes[first..], stride, &mut views),
    }
    out
}

#[test]
fn weighted_sums_of_stored_rows() {
    for table in tables() {
        for cols in (1..=40).chain([48, 63, 64, 65, 80, 100, 128, 200]) {
            for terms in [1, 2, 7, 64] {
                let stride = cols + 5;
                let rows = Stored::new(terms * stride, cols as u64);
                for results in (1..=9).chain([13, 24]) {
                    if results > 9 && cols % 16 != 0 {
                        continue;
                    }
                    let w: Vec<_> = (0..results).map(|r| numbers(terms, r as u64)).collect();
                    let before: Vec<_> =
                        (0..results).map(|r| numbers(cols, 50 + r as u64)).collect();
                    for (name, values) in [
                        ("mix", &rows.floats),
                        ("mix_f16", &rows.of_halves),
                        ("mix_i8", &rows.of_bytes),
                    ] {
                        let out = mix(table, name, &w, &rows, stride, 0, &before);
                        for (r, c) in (0..results).flat_map(|r| (0..cols).map(move |c| (r, c))) {
                            let products = || {
                                w[r].iter()
                                    .enumerate()
                                    .map(|(t, &w)| f64::from(w) * f64::from(values[t * stride + c]))
                            };
                            let start = f64::from(before[r][c]);
                            let size = start.abs() + products().map(f64::abs).sum::<f64>();
                            let expected = start + products().sum::<f64>();
                            let what = format_args!(
                                "{} {name} {terms} rows, result {r} of {results}, {c} of {cols}",
                                table.name()
                            );
                            close(out[r][c], expected, EXACT * size, what);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn weighted_sums_do_not_depend_on_what_is_computed_beside_them() {
    let (cols, terms, results) = (123, 9, 11);
    let rows = Stored::new(terms * cols, 1);
    let w: Vec<_> = (0..results).map(|r| numbers(terms, r as u64)).collect();
    let before = vec![numbers(cols, 77); results];
    for table in tables() {
        for name in ["mix", "mix_f16", "mix_i8"] {
            let whole = mix(table, name, &w, &rows, cols, 0, &before);
            for first in (0..cols).step_by(8) {
                let before: Vec<_> = before.iter().map(|before| before[first..].to_vec()).collect();
                let some = mix(
                    table,
                    name,
                    &w[first % 5..][..1 + first % 6],
                    &rows,
                    cols,
                    first,
                    &before[..1 + first % 6],
                );
                for (some, whole) in some.iter().zip(&whole[first % 5..]) {
                    assert_eq!(
                        some,
                        &whole[first..],
                        "{} {name} from column {first}",
                        table.name()
                    );
                }
            }
        }
    }
}

#[test]
fn a_softmax_in_parts_is_the_whole() {
    for table in tables() {
        for len in [1, 3, 8, 15, 64, 70] {
            let before = numbers(5 * len, 6);
            let (mut x, mut most, mut totals) = (before.clone(), f32::MIN, 0.0f64);
            let mut kept = Vec::new();
            for part in x.chunks_mut(len) {
                let step = table.softmax_step(part, 3.0, most);
                assert!(step.max >= most);
                totals = totals * f64::from(step.rescale) + f64::from(step.sum);
                (most, _) = (step.max, kept.push(step.rescale));
            }
            let largest = before.iter().fold(f32::MIN, |most, &x| most.max(3.0 * x));
            assert_eq!(most, largest);
            let powers: Vec<f64> =
                before.iter().map(|&x| f64::from(3.0 * x - largest).exp()).collect();
            let total: f64 = powers.iter().sum();
            close(
                totals as f32,
                total,
                5e-6 * total,
                format_args!("{} total of 5 x {len}", table.name()),
            );
            for (i, (&x, power)) in x.iter().zip(&powers).enumerate() {
                let x =
                    kept[i / len + 1..].iter().fold(f64::from(x), |x, &kept| x * f64::from(kept));
                close(
                    x as f32,
                    *power,
                    5e-6 * power + 1e-44,
                    format_args!("{} part {} of {len}", table.name(), i / len),
                );
            }
        }
        // What −∞ hides weighs nothing, also where a whole part is hidden.
        let mut hidden = [f32::NEG_INFINITY; 9];
        let step = table.softmax_step(&mut hidden, 0.5, f32::MIN);
        assert_eq!((hidden, step.sum, step.rescale), ([0.0; 9], 0.0, 1.0), "{}", table.name());
        assert!(
            table.softmax_step(&mut [1.0, f32::NAN], 1.0, 0.0).sum.is_nan(),
            "{}",
            table.name()
        );
    }
}

#[test]
#[should_panic(expected = "lengths")]
fn rows_that_are_too_short_are_refused() {
    kernels().mix(&[&[1.0; 3]], &[0.0; 20], 8, &mut [&mut [0.0; 5]]);
}

#[test]
fn the_shorter_length_counts() {
    for table in tables() {
        assert_eq!(table.dot(&[1.0; 20], &[1.0; 9]), 9.0);
        let mut y = [0.0; 20];
        table.axpy(2.0, &[1.0; 9], &mut y);
        assert_eq!(y[..9], [2.0; 9]);
        assert_eq!(y[9..], [0.0; 11]);
    }
}

#[test]
fn to_f16_rounds_as_half_does() {
    let halves = (0..0x7c00u16).map(|bits| f16::from_bits(bits).to_f32());
    let middle = (0..0x7bffu16)
        .map(|bits| (f16::from_bits(bits).to_f32() + f16::from_bits(bits + 1).to_f32()) / 2.0);
    let positive = halves.chain(middle).flat_map(|x| [x.next_down(), x, x.next_up()]);
    let extremes = [65_519.996, 65_520.0, 1e30, f32::INFINITY, f32::MIN_POSITIVE, 1e-45];
    let x: Vec<f32> = positive.chain(extremes).flat_map(|x| [x, -x]).collect();
    for table in tables() {
        for x in [&x[..], &x[1..8], &x[3..16], &x[..0]] {
            let mut out = vec![0x1234; x.len()];
            table.to_f16(x, &mut out);
            for (&x, &bits) in x.iter().zip(&out) {
                assert_eq!(bits, f16::from_f32(x).to_bits(), "{} {x:e}", table.name());
            }
        }
        let mut out = [0; 9];
        table.to_f16(&[f32::NAN; 9], &mut out);
        assert!(out.iter().all(|&bits| f16::from_bits(bits).is_nan()), "{}", table.name());
    }
}

#[test]
fn rms_norm_is_its_formula() {
    for table in tables() {
        for len in (1..=70).chain([576]) {
            let (x, weight) = (numbers(len, 3), numbers(len, 4));
            let mut out = vec![f32::NAN; len];
            table.rms_norm(&x, &weight, 1e-5, &mut out);
            let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / len as f64;
            for ((&x, &w), &found) in x.iter().zip(&weight).zip(&out) {
                let expected = f64::from(x) / (mean + f64::from(1e-5f32)).sqrt() * f64::from(w);
                close(
                    found,
                    expected,
                    1e-6 * expected.abs(),
                    format_args!("{} rms_norm of {len}", table.name()),
                );
            }
        }
    }
}

#[test]
fn softmax_is_its_formula() {
    for table in tables() {
        for len in (1..=70).chain([576]) {
            for scale in [0.0, 1.0, 30.0, 1e30] {
                let before: Vec<f32> = numbers(len, 6).iter().map(|x| x * scale).collect();
                let mut x = before.clone();
                table.softmax(&mut x);
                let most = before.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                // The difference is rounded to f32 first, as the kernels do: its rounding is the
                // input's affair.
                let powers: Vec<f64> = before.iter().map(|&x| f64::from(x - most).exp()).collect();
                let total: f64 = powers.iter().sum();
                for (&x, power) in x.iter().zip(&powers) {
                    close(
                        x,
                        power / total,
                        1e-6 * power / total + 1e-44,
                        format_args!("{} softmax of {len}", table.name()),
                    );
                }
            }
        }
        table.softmax(&mut []);
        let mut masked = [f32::NEG_INFINITY; 11];
        (masked[2], masked[9]) = (3.0, 3.0);
        table.softmax(&mut masked);
        assert!(
            masked.iter().enumerate().all(|(i, &x)| x == if i == 2 || i == 9 { 0.5 } else { 0.0 }),
            "{}",
            table.name()
        );
    }
}

#[test]
fn silu_mul_is_its_formula() {
    for table in tables() {
        let z: Vec<f32> = (-11_000..11_000)
            .map(|i| i as f32 / 100.0)
            .chain([1e-30, -1e-30, 1e30, -1e30])
            .collect();
        for z in [&z[..], &z[..7], &z[3..12], &z[..0]] {
            let mut gate = z.to_vec();
            table.silu_mul(&mut gate, &vec![-1.5; z.len()]);
            for (&z, &found) in z.iter().zip(&gate) {
                let expected = f64::from(z) / (1.0 + f64::from(-z).exp()) * -1.5;
                // From e^−z = ∞ on, at z < -88.7, the f32 formula gives 0 where silu is still
                // -2.4e-37.
                close(
                    found,
                    expected,
                    5e-7 * expected.abs() + 4e-37,
                    format_args!("{} silu({z})", table.name()),
                );
            }
        }
        let mut limits = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN, f32::MIN, f32::MAX];
        table.silu_mul(&mut limits, &[1.0; 5]);
        assert_eq!(
            (limits[0], limits[1], limits[3], limits[4]),
            (0.0, f32::INFINITY, 0.0, f32::MAX),
            "{}",
            table.name()
        );
        assert!(limits[2].is_nan());
        let mut wide = [f32::NEG_INFINITY; 8];
        table.silu_mul(&mut wide, &[1.0; 8]);
        assert_eq!(wide, [0.0; 8]);
    }
}

#[test]
fn detection_agrees_with_std() {
    assert_eq!(available().last().map(Kernels::name), Some("scalar"));
    assert!(by_name("no such instruction set").is_none());
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        assert_eq!(by_name("avx2").is_some(), avx2);
        let wide = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        assert_eq!(
            by_name("avx512vnni").is_some(),
            avx2 && wide && is_x86_feature_detected!("avx512vnni")
        );
    }
    #[cfg(target_arch = "aarch64")]
    {
        assert!(by_name("neon").is_some());
        assert_eq!(
            by_name("neondot").is_some(),
            std::arch::is_aarch64_feature_detected!("dotprod")
        );
    }
}

/// Prints the table in use; the next test runs it in processes of its own.
#[test]
fn child_prints_the_table_in_use() {
    println!("table in use: {}.", kernels().name());
}

#[test]
#[cfg(feature = "std")]
fn a_forced_instruction_set_really_runs() {
    // What a process of this program starts under where the machine cannot run it by itself: an
    // emulator with its options.
    let runner = std::env::var("LOWRANK_TEST_RUNNER").unwrap_or_default();
    let child = |isa: &str| {
        let mut command: Vec<_> = runner.split_whitespace().map(Into::into).collect();
        command.push(std::env::current_exe().unwrap().into_os_string());
        let output = std::process::Command::new(&command[0])
            .args(&command[1..])
            .args(["--exact", "--nocapture", "child_prints_the_table_in_use"])
            .env("LOWRANK_ISA", isa)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for table in tables() {
        let said = child(table.name());
        assert!(
            said.contains(&format!("table in use: {}.", table.name())),
            "LOWRANK_ISA={}: {said}",
            table.name()
        );
    }
    assert!(child("no such instruction set").contains("table in use: scalar."));
}
