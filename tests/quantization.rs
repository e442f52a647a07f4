//! Quantization byte for byte as bitsandbytes 0.50 computes it on a CPU, and the properties of
//! every format.

use std::path::{Path, PathBuf};

use lowrank::quant::{
    BlockScale, Format, Layout, OwnedMatrix, OwnedScales, OwnedValues, Quantization, double, nf4,
};
use proptest::prelude::*;
use safetensors::SafeTensors;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/nf4").join(path)
}

fn floats(tensors: &SafeTensors<'_>, key: &str) -> Vec<f32> {
    let data = tensors.tensor(key).unwrap_or_else(|_| panic!("{key}")).data().to_vec();
    data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn bytes(tensors: &SafeTensors<'_>, key: &str) -> Vec<u8> {
    tensors.tensor(key).unwrap_or_else(|_| panic!("{key}")).data().to_vec()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn dequantize(matrix: &OwnedMatrix) -> Vec<f32> {
    let view = matrix.view();
    let mut out = vec![0.0; view.rows() * view.cols()];
    out.chunks_exact_mut(view.cols()).enumerate().for_each(|(row, out)| view.read(row, 0, out));
    out
}

#[test]
fn every_golden_case_byte_for_byte() {
    let cases: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden("cases.json")).unwrap()).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() > 10);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let file = std::fs::read(golden(case["file"].as_str().unwrap())).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        assert_eq!(bits(&floats(&tensors, "quant_map")), bits(&nf4::CODEBOOK));
        assert_eq!(bits(&floats(&tensors, "nested_quant_map")), bits(&double::MAP));
        let shape: Vec<usize> = serde_json::from_value(case["shape"].clone()).unwrap();
        let (rows, cols) = (shape[..shape.len() - 1].iter().product(), *shape.last().unwrap());
        let block = case["blocksize"].as_u64().unwrap() as usize;
        let input = floats(&tensors, &format!("{name}.input"));
        let quantize = |format| {
            let matrix = OwnedMatrix::quantize(format, block, rows, cols, &input).unwrap();
            (dequantize(&matrix), matrix.with_layout(Layout::Sequential).into_values())
        };

        let (values, OwnedValues::Nf4 { codes, scales: OwnedScales::Plain(absmax), .. }) =
            quantize(Format::Nf4Plain)
        else {
            panic!()
        };
        assert_eq!(codes, bytes(&tensors, &format!("{name}.codes")), "{name}: codes");
        assert_eq!(
            bits(&absmax),
            bits(&floats(&tensors, &format!("{name}.absmax"))),
            "{name}: absmax"
        );
        if tensors.tensor(&format!("{name}.plain")).is_ok() {
            assert_eq!(
                bits(&values),
                bits(&floats(&tensors, &format!("{name}.plain"))),
                "{name}: values, plain scales"
            );
        }

        let (
            values,
            OwnedValues::Nf4 {
                codes,
                scales: OwnedScales::Double { codes: scales, nested, offset },
                ..
            },
        ) = quantize(Format::Nf4)
        else {
            panic!()
        };
        assert_eq!(codes, bytes(&tensors, &format!("{name}.codes")), "{name}: codes, nested");
        assert_eq!(
            offset.to_bits(),
            floats(&tensors, &format!("{name}.offset"))[0].to_bits(),
            "{name}: offset"
        );
        assert_eq!(
            bits(&nested),
            bits(&floats(&tensors, &format!("{name}.nested_absmax"))),
            "{name}: nested absmax"
        );
        assert_eq!(scales, bytes(&tensors, &format!("{name}.nested_codes")), "{name}: scale codes");
        let decoded: Vec<f32> = scales
            .iter()
            .enumerate()
            .map(|(i, &code)| double::decode(code, nested[i / double::GROUP], offset))
            .collect();
        assert_eq!(
            bits(&decoded),
            bits(&floats(&tensors, &format!("{name}.nested_scale"))),
            "{name}: decoded scales"
        );
        if tensors.tensor(&format!("{name}.nested")).is_ok() {
            assert_eq!(
                bits(&values),
                bits(&floats(&tensors, &format!("{name}.nested"))),
                "{name}: values, nested scales"
            );
        }
    }
}

#[test]
fn values_that_no_format_holds_are_refused_with_their_index() {
    let quantize = |format, weights: &[f32]| {
        OwnedMatrix::quantize(format, 64, 1, weights.len(), weights).unwrap_err()
    };
    for format in [Format::F32, Format::F16, Format::Int8, Format::Nf4, Format::Nf4Plain] {
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(matches!(
                quantize(format, &[0.0, bad]),
                lowrank::Error::Range { index: 1, .. }
            ));
        }
    }
    assert_eq!(quantize(Format::F16, &[1.0, 1e5]), lowrank::Error::Range { index: 1, value: 1e5 });
    assert_eq!(
        quantize(Format::Int8, &[1.0, -1e30, 2.0]),
        lowrank::Error::Range { index: 1, value: -1e30 }
    );
    // Each scale fits f32, their sum does not: bitsandbytes would store an infinite offset.
    let mut weights = vec![1.0; 128];
    (weights[3], weights[100]) = (f32::MAX, -f32::MAX);
    assert_eq!(
        quantize(Format::Nf4, &weights),
        lowrank::Error::Range { index: 3, value: f32::MAX }
    );
    OwnedMatrix::quantize(Format::Nf4Plain, 64, 1, 128, &weights).unwrap();
    let wrong = OwnedMatrix::quantize(Format::Nf4, 48, 1, 4, &[0.0; 4]).unwrap_err();
    assert_eq!(wrong, lowrank::Error::Block { found: 48 });
    let wrong = OwnedMatrix::quantize(Format::F32, 64, 2, 3, &[0.0; 5]).unwrap_err();
    assert_eq!(wrong, lowrank::Error::Length { have: 5, need: 6 });
}

/// Any shape, any block size, values over several decades.
fn matrices() -> impl Strategy<Value = (usize, usize, usize, Vec<f32>)> {
    (1usize..6, prop_oneof![1usize..140, Just(192), Just(256)], 5u32..13).prop_flat_map(
        |(rows, cols, block)| {
            let value = (-1.0f32..1.0, -3i32..3)
                .prop_map(|(mantissa, exponent)| mantissa * 10f32.powi(exponent));
            (Just(rows), Just(cols), Just(1 << block), prop::collection::vec(value, rows * cols))
        },
    )
}

proptest! {
    #[test]
    fn layouts_are_permutations_and_reads_follow_the_definition((rows, cols, block, weights) in matrices()) {
        for format in [Format::Nf4, Format::Nf4Plain] {
            let fast = OwnedMatrix::quantize(format, block, rows, cols, &weights).unwrap();
            prop_assert_eq!(fast.view().layout() == Layout::Split64, cols % 64 == 0 && block >= 64);
            let sequential = fast.clone().with_layout(Layout::Sequential);
            prop_assert_eq!(dequantize(&fast), dequantize(&sequential));
            prop_assert_eq!(&sequential.clone().with_layout(Layout::Split64), &fast);
            let OwnedValues::Nf4 { codes, .. } = sequential.clone().into_values() else { unreachable!() };
            let lowrank::quant::Values::Nf4(view) = fast.view().values() else { unreachable!() };
            for (i, value) in dequantize(&sequential).into_iter().enumerate() {
                let code = if i % 2 == 0 { codes[i / 2] >> 4 } else { codes[i / 2] & 15 };
                prop_assert_eq!(code, view.code(i));
                prop_assert_eq!(value, nf4::CODEBOOK[usize::from(code)] * view.scales.get(i / block));
            }
        }
    }

    #[test]
    fn errors_stay_within_the_format((rows, cols, block, weights) in matrices()) {
        let absmax = |i: usize| weights[i / block * block..].iter().take(block).fold(0.0f32, |most, w| most.max(w.abs()));
        // f16 rounds each weight; below its normal range to multiples of 2^-24.
        let half = |w: f32| (w.abs() / 2048.0).max(0.5f32.powi(25));
        // Half the gap of the codebook around the weight.
        let gap = |i: usize, w: f32| {
            let above = nf4::CODEBOOK[1..].iter().position(|&c| c * absmax(i) >= w).unwrap_or(14);
            (nf4::CODEBOOK[above + 1] - nf4::CODEBOOK[above]) / 2.0 * absmax(i) * 1.00001
        };
        // Half a step under the rounded scale, and what lies beyond 127 steps of it.
        let step = |i: usize, w: f32| {
            let scale = half::f16::from_f32(absmax(i) / 127.0).to_f32();
            (0.5 * scale + (w.abs() - 127.0 * scale).max(0.0)) * 1.00001
        };
        type Bound<'b> = &'b dyn Fn(usize, f32) -> f32;
        let bounds: [(Format, Bound<'_>); 4] =
            [(Format::F32, &|_, _| 0.0), (Format::F16, &|_, w| half(w)), (Format::Nf4Plain, &gap), (Format::Int8, &step)];
        for (format, bound) in bounds {
            let matrix = OwnedMatrix::quantize(format, block, rows, cols, &weights).unwrap();
            let (codes, scales, nested) = format.payload((rows * cols) as u64, block as u64);
            prop_assert_eq!(matrix.view().bytes(), codes + scales + nested);
            for (i, (back, &weight)) in dequantize(&matrix).into_iter().zip(&weights).enumerate() {
                prop_assert!((back - weight).abs() <= bound(i, weight), "{:?} {} {} {}", format, i, back, weight);
            }
        }
    }

    #[test]
    fn payloads_have_the_announced_lengths((rows, cols, block, weights) in matrices()) {
        for format in [Format::F32, Format::F16, Format::Int8, Format::Nf4, Format::Nf4Plain] {
            let (codes, scales, nested) = format.payload((rows * cols) as u64, block as u64);
            let made = match OwnedMatrix::quantize(format, block, rows, cols, &weights).unwrap().into_values() {
                OwnedValues::F32(values) => (4 * values.len(), 0, 0),
                OwnedValues::F16(values) => (2 * values.len(), 0, 0),
                OwnedValues::Int8 { values, scales, .. } => (values.len(), 2 * scales.len(), 0),
                OwnedValues::Nf4 { codes, scales: OwnedScales::Plain(scales), .. } => (codes.len(), 4 * scales.len(), 0),
                OwnedValues::Nf4 { codes, scales: OwnedScales::Double { codes: scales, nested, .. }, .. } => {
                    (codes.len(), scales.len(), 4 * nested.len())
                }
            };
            prop_assert_eq!(made, (codes as usize, scales as usize, nested as usize));
        }
    }

    #[test]
    fn doubly_quantized_scales_are_near_the_plain_ones((rows, cols, block, weights) in matrices()) {
        let scales = |format| {
            let OwnedValues::Nf4 { scales, .. } = OwnedMatrix::quantize(format, block, rows, cols, &weights).unwrap().into_values() else { unreachable!() };
            scales
        };
        let (OwnedScales::Plain(plain), OwnedScales::Double { codes, nested, offset }) = (scales(Format::Nf4Plain), scales(Format::Nf4)) else { unreachable!() };
        for (i, plain) in plain.iter().enumerate() {
            let back = double::decode(codes[i], nested[i / double::GROUP], offset);
            // The map's widest gap is 0.9 / 64; its lower end is 0.007 short of -1.
            prop_assert!((back - plain).abs() <= 0.0145 / 2.0 * nested[i / double::GROUP] + 1e-5 * offset.abs(), "{back} {plain}");
        }
    }
}

/// No shape that a file may claim makes the number of bytes overflow.
#[test]
fn payloads_of_absurd_shapes_are_large_and_do_not_overflow() {
    for format in [Format::F32, Format::F16, Format::Int8, Format::Nf4, Format::Nf4Plain] {
        let least = format.payload(1 << 56, 64).0;
        assert!(least >= 1 << 55, "{format:?}");
        for count in [(1 << 56) + 1, u64::from(u32::MAX).pow(2), u64::MAX] {
            for block in [0, 1, 32, 4096, u64::MAX] {
                assert!(format.payload(count, block).0 >= least, "{format:?} {count} {block}");
            }
        }
    }
}

/// Σ (w − what is stored)² in f64.
fn squared_error(weights: &[f32], stored: &OwnedMatrix) -> f64 {
    let difference = |(w, s): (&f32, f32)| f64::from(w - s).powi(2);
    weights.iter().zip(dequantize(stored)).map(difference).sum()
}

proptest! {
    /// Whatever the shape (blocks across rows, a last block cut short, an odd number of weights)
    /// and the size of the weights.
    #[test]
    fn fitted_scales_leave_less_error_than_the_largest_weight(
        rows in 1usize..6,
        cols in 1usize..200,
        block in prop::sample::select(vec![32usize, 64, 256]),
        nested in any::<bool>(),
        exponent in -20i32..20,
        seed in any::<u64>(),
    ) {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let size = 2f32.powi(exponent);
        let weights: Vec<f32> = (0..rows * cols).map(|_| (next() + next() + next()) * size).collect();
        let stored = |scale| {
            let format = if nested { Format::Nf4 } else { Format::Nf4Plain };
            let how = Quantization { block, scale, ..Quantization::new(format) };
            OwnedMatrix::quantize_pieces(&how, rows, cols, &mut |first, out| {
                out.copy_from_slice(&weights[first..][..out.len()]);
            })
            .unwrap()
        };
        let plain = squared_error(&weights, &stored(BlockScale::Absmax));
        let fitted = squared_error(&weights, &stored(BlockScale::Fitted));
        // Scales of 8 bits cost some of it; those of either sign are further apart.
        let most = if nested { 1.1 } else { 1.0 + 1e-5 };
        prop_assert!(fitted <= plain * most, "{fitted} {plain}");
    }
}
