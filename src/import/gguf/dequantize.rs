//! ggml's tensor types as f32, to the bit.
//!
//! One function per type, each with its block's layout and formula. No type is written here, only
//! read. Every product of a 16-bit scale and its integers has at most 24 significant bits or is
//! rounded once, so the results do not depend on how ggml's own loops are compiled.

use half::{bf16, f16};

/// Values per block of the types with one scale.
const SMALL: usize = 32;
/// Values per block of the K types.
const LARGE: usize = 256;

/// A tensor type that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TensorType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
    IQ4NL,
}

/// ggml's names of its type numbers, also of those that are not read; empty where no type has the
/// number.
const NAMES: [&str; 40] = [
    "F32",
    "F16",
    "Q4_0",
    "Q4_1",
    "",
    "",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q8_1",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "Q8_K",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ3_XXS",
    "IQ1_S",
    "IQ4_NL",
    "IQ3_S",
    "IQ2_S",
    "IQ4_XS",
    "I8",
    "I16",
    "I32",
    "I64",
    "F64",
    "IQ1_M",
    "BF16",
    "Q4_0_4_4",
    "Q4_0_4_8",
    "Q4_0_8_8",
    "TQ1_0",
    "TQ2_0",
    "IQ4_NL_4_4",
    "IQ4_NL_4_8",
    "IQ4_NL_8_8",
    "MXFP4",
];

impl TensorType {
    /// The type with ggml's `number`.
    ///
    /// # Errors
    /// A sentence with the name and number of a type that is not read.
    pub(super) fn from_number(number: u32) -> Result<Self, String> {
        Ok(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            20 => Self::IQ4NL,
            30 => Self::BF16,
            _ => {
                let name = NAMES
                    .get(number as usize)
                    .copied()
                    .filter(|name| !name.is_empty())
                    .unwrap_or("unknown");
                return Err(format!(
                    "tensor type {name} (number {number}) is not supported; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K \
                     and IQ4_NL are"
                ));
            }
        })
    }

    /// Values and bytes per block.
    pub(super) const fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 | Self::IQ4NL => (SMALL, 18),
            Self::Q4_1 => (SMALL, 20),
            Self::Q5_0 => (SMALL, 22),
            Self::Q5_1 => (SMALL, 24),
            Self::Q8_0 => (SMALL, 34),
            Self::Q4K => (LARGE, 144),
            Self::Q5K => (LARGE, 176),
            Self::Q6K => (LARGE, 210),
        }
    }

    /// The values of whole blocks. `bytes` and `out` hold the same number of blocks of this type.
    pub(super) fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => plain(bytes, out, f32::from_le_bytes),
            Self::F16 => plain(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Self::BF16 => plain(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            Self::Q4_0 => blocks(bytes, out, q4_0),
            Self::Q4_1 => blocks(bytes, out, q4_1),
            Self::Q5_0 => blocks(bytes, out, q5_0),
            Self::Q5_1 => blocks(bytes, out, q5_1),
            Self::Q8_0 => blocks(bytes, out, q8_0),
            Self::Q4K => blocks(bytes, out, q4_k),
            Self::Q5K => blocks(bytes, out, q5_k),
            Self::Q6K => blocks(bytes, out, q6_k),
            Self::IQ4NL => blocks(bytes, out, iq4_nl),
        }
    }
}

/// One number after the other, `N` bytes each: 8·N bits per weight.
fn plain<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    for (bytes, out) in bytes.as_chunks::<N>().0.iter().zip(out) {
        *out = decode(*bytes);
    }
}

/// Block by block.
fn blocks<const BYTES: usize, const VALUES: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; VALUES]),
) {
    for (bytes, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<VALUES>().0) {
        decode(bytes, out);
    }
}

/// The f16 at `offset` of a block.
fn scale(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// The 4-bit codes of 32 values in 16 bytes: value i in the low half of byte i, value i + 16 in its
/// high half.
fn nibble(codes: &[u8], i: usize) -> u8 {
    if i < 16 { codes[i] & 15 } else { codes[i - 16] >> 4 }
}

/// `d` f16, 16 bytes of 4-bit codes; 4.5 bits per weight. Value: `d · (q − 8)`.
fn q4_0(block: &[u8; 18], out: &mut [f32; SMALL]) {
    let d = scale(block, 0);
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(nibble(&block[2..], i) as i8 - 8);
    }
}

/// `d` f16, `m` f16, 16 bytes of 4-bit codes; 5 bits per weight. Value: `d · q + m`.
fn q4_1(block: &[u8; 20], out: &mut [f32; SMALL]) {
    let (d, m) = (scale(block, 0), scale(block, 2));
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(nibble(&block[4..], i)) + m;
    }
}

/// A 5-bit code: the low four bits as in [`nibble`], the fifth in bit i of the four bytes before
/// them.
fn five_bits(high: &[u8], codes: &[u8], i: usize) -> u8 {
    nibble(codes, i) | ((high[i / 8] >> (i % 8)) & 1) << 4
}

/// `d` f16, 32 high bits, 16 bytes of low bits; 5.5 bits per weight. Value: `d · (q − 16)`.
fn q5_0(block: &[u8; 22], out: &mut [f32; SMALL]) {
    let d = scale(block, 0);
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(five_bits(&block[2..6], &block[6..], i) as i8 - 16);
    }
}

/// `d` f16, `m` f16, 32 high bits, 16 bytes of low bits; 6 bits per weight. Value: `d · q + m`.
fn q5_1(block: &[u8; 24], out: &mut [f32; SMALL]) {
    let (d, m) = (scale(block, 0), scale(block, 2));
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(five_bits(&block[4..8], &block[8..], i)) + m;
    }
}

/// `d` f16, 32 signed bytes; 8.5 bits per weight. Value: `d · q`.
fn q8_0(block: &[u8; 34], out: &mut [f32; SMALL]) {
    let d = scale(block, 0);
    for (out, &q) in out.iter_mut().zip(&block[2..]) {
        *out = d * f32::from(q as i8);
    }
}

/// The 6-bit scale and minimum of group `j` of 8 in the 12 bytes of Q4_K and Q5_K.
///
/// Groups 0 to 3 have theirs in the low six bits of bytes j and j + 4; groups 4 to 7 have the low
/// four bits in byte j + 4 (scale low, minimum high) and the high two bits on top of bytes j − 4
/// and j.
fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

/// `d` f16, `m` f16, 12 bytes of scales, 128 bytes of 4-bit codes; 4.5 bits per weight. Value: `d ·
/// scale · q − m · minimum`.
///
/// Eight groups of 32. Each 32 bytes of codes hold two groups: the even one in the low halves, the
/// odd one in the high halves.
fn q4_k(block: &[u8; 144], out: &mut [f32; LARGE]) {
    let (d, m, packed, codes) = (scale(block, 0), scale(block, 2), &block[4..16], &block[16..]);
    for (j, group) in out.as_chunks_mut::<SMALL>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(packed, j);
        let (d, m) = (d * scale, m * minimum);
        for (out, &code) in group.iter_mut().zip(&codes[j / 2 * SMALL..]) {
            *out = d * f32::from(code >> (j % 2 * 4) & 15) - m;
        }
    }
}

/// `d` f16, `m` f16, 12 bytes of scales, 32 bytes of fifth bits, 128 bytes of 4-bit codes; 5.5 bits
/// per weight. Value: `d · scale · q − m · minimum`.
///
/// As Q4_K; the fifth bit of value l of group j is bit j of high byte l.
fn q5_k(block: &[u8; 176], out: &mut [f32; LARGE]) {
    let (d, m, packed, high, codes) =
        (scale(block, 0), scale(block, 2), &block[4..16], &block[16..48], &block[48..]);
    for (j, group) in out.as_chunks_mut::<SMALL>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(packed, j);
        let (d, m) = (d * scale, m * minimum);
        for ((out, &code), &high) in group.iter_mut().zip(&codes[j / 2 * SMALL..]).zip(high) {
            *out = d * f32::from(code >> (j % 2 * 4) & 15 | (high >> j & 1) << 4) - m;
        }
    }
}

/// 128 bytes of low four bits, 64 bytes of high two bits, 16 signed scales, `d` f16; 6.5625 bits
/// per weight. Value: `d · scale · (q − 32)`, the first product first.
///
/// Two halves of 128 values. In a half, value 32·g + l (g 0 to 3) has its low bits in low byte
/// 32·(g mod 2) + l (low half of the byte for g < 2), its high bits at bit 2·g of high byte l, and
/// scale 2·g + l/16.
fn q6_k(block: &[u8; 210], out: &mut [f32; LARGE]) {
    let d = scale(block, 208);
    for (h, half) in out.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let (low, high, scales) = (&block[64 * h..], &block[128 + 32 * h..], &block[192 + 8 * h..]);
        for (i, out) in half.iter_mut().enumerate() {
            let (g, l) = (i / 32, i % 32);
            let q = low[g % 2 * 32 + l] >> (g / 2 * 4) & 15 | (high[l] >> (2 * g) & 3) << 4;
            *out = d * f32::from(scales[2 * g + l / 16] as i8) * f32::from(q as i8 - 32);
        }
    }
}

/// The sixteen values of IQ4_NL's codes.
const NONLINEAR: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// `d` f16, 16 bytes of 4-bit codes; 4.5 bits per weight. Value: `d · NONLINEAR[q]`.
fn iq4_nl(block: &[u8; 18], out: &mut [f32; SMALL]) {
    let d = scale(block, 0);
    for (i, out) in out.iter_mut().enumerate() {
        *out = d * f32::from(NONLINEAR[usize::from(nibble(&block[2..], i))]);
    }
}
