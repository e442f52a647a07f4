//! The types of PTX and how numbers of them lie in 64 bits.

/// A fundamental type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    B(u8),
    U(u8),
    S(u8),
    F16,
    F32,
    F64,
    Pred,
}

impl Type {
    /// The type called `name`, without its dot.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "b8" => Self::B(1),
            "b16" => Self::B(2),
            "b32" => Self::B(4),
            "b64" => Self::B(8),
            "u8" => Self::U(1),
            "u16" => Self::U(2),
            "u32" => Self::U(4),
            "u64" => Self::U(8),
            "s8" => Self::S(1),
            "s16" => Self::S(2),
            "s32" => Self::S(4),
            "s64" => Self::S(8),
            "f16" => Self::F16,
            "f32" => Self::F32,
            "f64" => Self::F64,
            "pred" => Self::Pred,
            _ => return None,
        })
    }

    /// Bytes.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::B(size) | Self::U(size) | Self::S(size) => usize::from(size),
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Pred => 1,
        }
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::F32 | Self::F64)
    }

    /// The bits that a register of this type keeps of `value`.
    pub(crate) fn cut(self, value: u64) -> u64 {
        value & (u64::MAX >> (64 - 8 * self.size() as u32))
    }

    /// An integer's value: of signed types with its sign.
    pub(crate) fn integer(self, value: u64) -> i128 {
        match self {
            Self::S(size) => {
                let unused = 64 - 8 * u32::from(size);
                i128::from(((value << unused) as i64) >> unused)
            }
            _ => i128::from(self.cut(value)),
        }
    }

    /// A float's value.
    pub(crate) fn float(self, value: u64) -> f64 {
        match self {
            Self::F16 => half_to_f64(value as u16),
            Self::F32 => f64::from(f32::from_bits(value as u32)),
            _ => f64::from_bits(value),
        }
    }

    /// The bits of `value`, rounded to the nearest number of this type.
    pub(crate) fn bits(self, value: f64) -> u64 {
        match self {
            Self::F16 => u64::from(half_from_f64(value)),
            Self::F32 => u64::from((value as f32).to_bits()),
            _ => value.to_bits(),
        }
    }
}

/// The value of an f16.
fn half_to_f64(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    }
}

/// The f16 nearest to a number, ties to even.
fn half_from_f64(value: f64) -> u16 {
    let sign = u16::from(value.is_sign_negative()) << 15;
    let size = value.abs();
    if size.is_nan() {
        return 0x7fff;
    }
    // Half a step above the largest, 65504.
    if size >= 65520.0 {
        return sign | 0x7c00;
    }
    // Subnormal numbers have the smallest normal one's step.
    let exponent = ((size.to_bits() >> 52) as i32 - 1023).max(-14);
    let steps = (size * 2f64.powi(10 - exponent)).round_ties_even() as u16;
    // A number rounded up to the next power of two carries into the exponent by itself.
    sign | (((exponent + 14) as u16) << 10).wrapping_add(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_comes_back() {
        for bits in 0..=u16::MAX {
            let value = half_to_f64(bits);
            if !value.is_nan() {
                assert_eq!(half_from_f64(value), bits, "{value}");
            }
        }
    }

    #[test]
    fn f16_rounds_to_even() {
        assert_eq!(half_from_f64(1.0 + 1.0 / 2048.0), 0x3c00);
        assert_eq!(half_from_f64(1.0 + 3.0 / 2048.0), 0x3c02);
        assert_eq!(half_from_f64(65519.9), 0x7bff);
        assert_eq!(half_from_f64(2f64.powi(-25)), 0);
        assert_eq!(half_from_f64(3.0 * 2f64.powi(-25)), 2);
    }

    #[test]
    fn integers_keep_their_sign() {
        assert_eq!(Type::S(1).integer(0x1ff), -1);
        assert_eq!(Type::U(1).integer(0x1ff), 255);
        assert_eq!(Type::S(8).integer(u64::MAX), -1);
        assert_eq!(Type::U(4).cut(u64::MAX), 0xffff_ffff);
    }
}
