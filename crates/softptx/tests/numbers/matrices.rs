//! Weight matrices of every format as they lie on the device, and what they mean.

use super::{Device, Numbers, Parameters, half, halves};

const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A matrix on the device: the parameters that `Matrix` in `weights.h` has, and its weights.
pub struct Matrix {
    pub parameters: Parameters,
    pub weights: Vec<f64>,
    pub rows: usize,
    pub cols: usize,
}

/// Where the code of a column is in its row: the byte, and is it in the high nibble?
fn place(cols: usize, col: usize) -> (usize, bool) {
    let inside = col % 1024;
    let byte = if col < cols / 1024 * 1024 {
        col / 1024 * 512 + inside % 256 / 8 * 16 + inside / 256 * 4 + inside % 8 / 2
    } else {
        col / 2
    };
    (byte, col.is_multiple_of(2))
}

pub fn nf4(device: &mut Device, rows: usize, cols: usize, nested: bool) -> Matrix {
    let mut numbers = Numbers::new(rows as u64 * 7 + cols as u64);
    let count = rows * cols;
    let codes: Vec<u8> = (0..count).map(|_| (numbers.next().abs() * 16.0) as u8 & 15).collect();
    let scale_values = numbers.vec(256);
    let blocks = count / 64;
    let scale_codes: Vec<u8> = (0..blocks).map(|i| (i * 37) as u8).collect();
    let groups: Vec<f32> = numbers.vec(blocks.div_ceil(256)).iter().map(|x| x.abs()).collect();
    let plain = numbers.vec(blocks);
    let offset = 0.5f32;
    let scale = |block: usize| {
        if nested {
            f64::from(scale_values[usize::from(scale_codes[block])])
                * f64::from(groups[block / 256])
                + f64::from(offset)
        } else {
            f64::from(plain[block])
        }
    };
    let weights =
        (0..count).map(|i| f64::from(NF4[usize::from(codes[i])]) * scale(i / 64)).collect();
    let mut packed = vec![0u8; count / 2];
    for (i, &code) in codes.iter().enumerate() {
        let (byte, high) = place(cols, i % cols);
        packed[i / cols * cols / 2 + byte] |= if high { code << 4 } else { code };
    }
    let tables = [&NF4[..], &scale_values].concat();
    let scales = if nested { device.bytes(&scale_codes) } else { device.floats(&plain) };
    let parameters = Parameters::new()
        .address(device.bytes(&packed))
        .address(scales)
        .address(if nested { device.floats(&groups) } else { 0 })
        .address(device.floats(&tables))
        .float(offset)
        .words(&[rows, cols, cols, 6, 0]);
    Matrix { parameters, weights, rows, cols }
}

pub fn dense(device: &mut Device, format: &str, rows: usize, cols: usize) -> Matrix {
    let mut numbers = Numbers::new(cols as u64);
    let stride = cols.next_multiple_of(8);
    let floats = numbers.vec(rows * cols);
    let mut padded = vec![0.0f32; rows * stride];
    for (to, from) in padded.chunks_exact_mut(stride).zip(floats.chunks_exact(cols)) {
        to[..cols].copy_from_slice(from);
    }
    let int8: Vec<i8> = floats.iter().map(|x| (x * 100.0) as i8).collect();
    let scales = numbers.vec((rows * cols).div_ceil(32));
    let (codes, scales_at, weights) = match format {
        "f32" => (device.floats(&padded), 0, floats.iter().map(|&x| f64::from(x)).collect()),
        "f16" => (device.bytes(&halves(&padded)), 0, floats.iter().map(|&x| half(x).1).collect()),
        _ => {
            let bytes: Vec<u8> = int8.iter().map(|&q| q as u8).collect();
            let weight = |i: usize| f64::from(int8[i]) * half(scales[i / 32]).1;
            let weights = (0..rows * cols).map(weight).collect();
            (device.bytes(&bytes), device.bytes(&halves(&scales)), weights)
        }
    };
    let parameters = Parameters::new()
        .address(codes)
        .address(scales_at)
        .address(0)
        .address(0)
        .float(0.0)
        .words(&[rows, cols, stride, 5, 0]);
    Matrix { parameters, weights, rows, cols }
}
