//! Double quantization: the block scales (absmax) of NF4, themselves quantized to 8 bits (QLoRA,
//! section 3).
//!
//! Over the absmax values of one tensor, in block order:
//! `offset = mean(absmax)`; per group of 256: `nested = max |absmax − offset|`, `code =
//! nearest((absmax − offset) / nested)`; back: `absmax ≈ MAP[code] · nested + offset`, multiplied
//! and added in f32, each rounded.
//!
//! The code is the signed dynamic map of bitsandbytes (arXiv 2110.02861, section 2.1), which the
//! QLoRA paper calls FP8.

/// Blocks per nested group.
pub const GROUP: usize = 256;

/// The signed dynamic 8-bit map: 256 rising values from -0.99296875 to 1.0, with zero at index 127.
pub const MAP: [f32; 256] = dynamic_map();

/// `absmax` of a block: `MAP[code] · nested + offset`.
#[inline]
pub fn decode(code: u8, nested: f32, offset: f32) -> f32 {
    MAP[usize::from(code)] * nested + offset
}

/// Quantizes the block scales of one tensor; returns the offset.
///
/// `codes` has the length of `absmax`, `nested` one value per [`GROUP`] of them. Bit for bit what
/// bitsandbytes 0.50 computes on a CPU with one thread, which is not the nearest code: the value is
/// first rounded to one of 65536 bins, and a group without spread gets code 0.
pub fn encode(absmax: &[f32], codes: &mut [u8], nested: &mut [f32]) -> f32 {
    let offset = mean(absmax);
    encode_around(offset, absmax, codes, nested);
    offset
}

/// The codes of `absmax − offset` and the scale of each group.
fn encode_around(offset: f32, absmax: &[f32], codes: &mut [u8], nested: &mut [f32]) {
    for ((group, codes), nested) in absmax.chunks(GROUP).zip(codes.chunks_mut(GROUP)).zip(nested) {
        *nested = group.iter().fold(0.0f32, |most, &scale| most.max((scale - offset).abs()));
        for (code, &scale) in codes.iter_mut().zip(group) {
            *code = if *nested == 0.0 {
                0
            } else {
                encode_one(((scale - offset) * (1.0 / *nested)).clamp(-1.0, 1.0))
            };
        }
    }
}

/// The code of `value` in -1 to 1: that of the centre of its bin.
fn encode_one(value: f32) -> u8 {
    let bin = ((value + 1.0) * 0.5 * 65535.0 + 0.5) as u32;
    nearest(-1.0 + (2 * bin) as f32 / 65535.0)
}

/// The code whose value in the map is nearest: the number of midpoints below `value`.
pub(crate) fn nearest(value: f32) -> u8 {
    let (mut low, mut high) = (0usize, 255usize);
    while low < high {
        let middle = (low + high) / 2;
        if 0.5 * (MAP[middle] + MAP[middle + 1]) < value { low = middle + 1 } else { high = middle }
    }
    low as u8
}

/// The mean as torch sums it: the order of additions decides the last bit of the offset, and with
/// it whether codes match.
///
/// Lanes of 8 values (of 1 below 8); four vector sums take turns; each is a cascade of four levels
/// that folds every 16 steps.
fn mean(values: &[f32]) -> f32 {
    let sum = if values.len() < 8 {
        lane_sums::<1>(values)[0]
    } else {
        let tail = values.len() / 8 * 8;
        let total = values[tail..].iter().fold(0.0, |sum, v| sum + v);
        lane_sums::<8>(&values[..tail]).iter().fold(total, |sum, v| sum + v)
    };
    sum / values.len() as f32
}

/// The sums of each of `L` interleaved lanes; `values` is a whole number of vectors.
fn lane_sums<const L: usize>(values: &[f32]) -> [f32; L] {
    fn add<const L: usize>(sum: &mut [f32; L], term: &[f32]) {
        sum.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
    }
    let steps = values.len() / L / 4;
    // ⌈log2 steps⌉ / 4, at least 4: larger only beyond sixteen million blocks.
    let fold = 1usize << ((usize::BITS - steps.saturating_sub(1).leading_zeros()) / 4).max(4);
    let mut levels = [[[0.0f32; L]; 4]; 4];
    for (i, step) in values.chunks_exact(4 * L).enumerate() {
        for (levels, term) in levels.iter_mut().zip(step.chunks_exact(L)) {
            add(&mut levels[0], term);
            let mut period = fold;
            for level in 0..3 {
                if !(i + 1).is_multiple_of(period) {
                    break;
                }
                let below = core::mem::replace(&mut levels[level], [0.0; L]);
                add(&mut levels[level + 1], &below);
                period = period.saturating_mul(fold);
            }
        }
    }
    let mut sums = levels.map(|[mut l0, l1, l2, l3]| {
        [l1, l2, l3].iter().for_each(|level| add(&mut l0, level));
        l0
    });
    for term in values.chunks_exact(L).skip(4 * steps) {
        add(&mut sums[0], term);
    }
    let [mut total, s1, s2, s3] = sums;
    [s1, s2, s3].iter().for_each(|sum| add(&mut total, sum));
    total
}

/// For each of 7 decades 10^-6 … 10^0: the 2^i midpoints of 2^i + 1 evenly spaced points in 0.1 to
/// 1, in both signs; then 0 and 1.
///
/// bitsandbytes makes it with `torch.linspace` in f32, whose points are rounded once (multiply-add)
/// from the nearer end; repeating that in f64 and rounding gives the same 256 bit patterns.
const fn dynamic_map() -> [f32; 256] {
    const DECADES: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
    let mut map = [0.0f32; 256];
    // Positive values rise with decade and midpoint, so they can be placed without sorting: 127 of
    // them from index 128.
    let (mut decade, mut placed) = (0, 0);
    while decade < 7 {
        let parts = 1usize << decade;
        let step = ((1.0f32 - 0.1f32) / parts as f32) as f64;
        let mut k = 0;
        while k < parts {
            let midpoint = (point(k, parts, step) + point(k + 1, parts, step)) / 2.0;
            let value = midpoint * DECADES[decade];
            map[128 + placed] = value;
            map[126 - placed] = -value;
            placed += 1;
            k += 1;
        }
        decade += 1;
    }
    map[255] = 1.0;
    map
}

/// Point `k` of `parts + 1` evenly spaced ones from 0.1 to 1.
const fn point(k: usize, parts: usize, step: f64) -> f32 {
    if k < parts.div_ceil(2) {
        (0.1f32 as f64 + step * k as f64) as f32
    } else {
        (1.0 - step * (parts - k) as f64) as f32
    }
}

#[cfg(test)]
#[cfg(feature = "std")]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    fn golden(file: &str) -> Vec<u8> {
        let path =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/nf4").join(file);
        std::fs::read(path).unwrap()
    }

    fn floats(tensors: &SafeTensors<'_>, key: &str) -> Vec<f32> {
        tensors
            .tensor(key)
            .unwrap()
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn the_map_is_sorted_asymmetric_and_has_zero_at_127() {
        assert!(MAP.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!((MAP[0], MAP[127], MAP[255]), (-0.992_968_74, 0.0, 1.0));
    }

    #[test]
    fn means_are_those_of_torch_to_the_bit() {
        let file = golden("scales.safetensors");
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let names: Vec<String> = tensors
            .names()
            .iter()
            .filter_map(|name| name.strip_suffix(".input"))
            .map(str::to_owned)
            .collect();
        assert!(names.len() > 20, "{names:?}");
        for name in names {
            let (input, theirs) = (
                floats(&tensors, &format!("{name}.input")),
                floats(&tensors, &format!("{name}.mean")),
            );
            assert_eq!(
                mean(&input).to_bits(),
                theirs[0].to_bits(),
                "{name}: {} {}",
                mean(&input),
                theirs[0]
            );
        }
    }

    #[test]
    fn codes_are_those_of_the_binned_quantizer() {
        let file = golden("blockwise8.safetensors");
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let input = floats(&tensors, "input");
        let (mut codes, mut nested) =
            (vec![0; input.len()], vec![0.0; input.len().div_ceil(GROUP)]);
        encode_around(0.0, &input, &mut codes, &mut nested);
        assert_eq!(codes, tensors.tensor("codes").unwrap().data());
        assert_eq!(bits(&nested), bits(&floats(&tensors, "absmax")));
        let back: Vec<f32> = codes
            .iter()
            .enumerate()
            .map(|(i, &code)| MAP[usize::from(code)] * nested[i / GROUP])
            .collect();
        assert_eq!(bits(&back), bits(&floats(&tensors, "dequantized")));
    }

    #[test]
    fn zero_is_not_the_code_of_zero() {
        // bitsandbytes' bins put zero beside its own code, and a group without spread at the first
        // one.
        assert_eq!(encode_one(0.0), 131);
        let (mut codes, mut nested) = ([9; 3], [9.0; 1]);
        assert_eq!(encode(&[2.5; 3], &mut codes, &mut nested), 2.5);
        assert_eq!((codes, nested), ([0; 3], [0.0]));
        assert_eq!(decode(codes[0], nested[0], 2.5), 2.5);
    }
}
