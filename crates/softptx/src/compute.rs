//! Instructions that make one number of up to three.

use crate::types::Type;
use crate::warp::Lanes;

/// Which bits of a product are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Low,
    High,
    /// All, in twice the width.
    Wide,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compute {
    Move,
    /// `cvta.to.global`: generic addresses are those of device memory.
    Address,
    Negate,
    Absolute,
    Not,
    SquareRoot,
    ReciprocalRoot,
    Reciprocal,
    PowerOfTwo,
    Logarithm,
    Add,
    Subtract,
    Multiply(Part),
    Divide,
    Remainder,
    Min,
    Max,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
    MultiplyAdd(Part),
    FusedMultiplyAdd,
    Select,
    ExtractBits,
    Permute,
}

impl Compute {
    /// The instruction whose name begins with `base`.
    pub(crate) fn named(base: &str) -> Option<Self> {
        Some(match base {
            "cvta" => Self::Address,
            "neg" => Self::Negate,
            "abs" => Self::Absolute,
            "not" => Self::Not,
            "sqrt" => Self::SquareRoot,
            "rsqrt" => Self::ReciprocalRoot,
            "rcp" => Self::Reciprocal,
            "ex2" => Self::PowerOfTwo,
            "lg2" => Self::Logarithm,
            "add" => Self::Add,
            "sub" => Self::Subtract,
            "mul" => Self::Multiply(Part::Low),
            "div" => Self::Divide,
            "rem" => Self::Remainder,
            "min" => Self::Min,
            "max" => Self::Max,
            "and" => Self::And,
            "or" => Self::Or,
            "xor" => Self::Xor,
            "shl" => Self::ShiftLeft,
            "shr" => Self::ShiftRight,
            "mad" => Self::MultiplyAdd(Part::Low),
            "fma" => Self::FusedMultiplyAdd,
            "selp" => Self::Select,
            "bfe" => Self::ExtractBits,
            "prmt" => Self::Permute,
            _ => return None,
        })
    }

    /// How many numbers it takes.
    pub(crate) fn operands(self) -> usize {
        match self {
            Self::Move
            | Self::Address
            | Self::Negate
            | Self::Absolute
            | Self::Not
            | Self::SquareRoot
            | Self::ReciprocalRoot
            | Self::Reciprocal
            | Self::PowerOfTwo
            | Self::Logarithm => 1,
            Self::MultiplyAdd(_)
            | Self::FusedMultiplyAdd
            | Self::Select
            | Self::ExtractBits
            | Self::Permute => 3,
            _ => 2,
        }
    }

    /// The number it makes of `a`, `b` and `c`.
    pub(crate) fn of(self, ty: Type, [a, b, c]: [u64; 3]) -> u64 {
        match self {
            Self::Move | Self::Address => ty.cut(a),
            Self::Select => ty.cut(if c & 1 == 1 { a } else { b }),
            _ if ty == Type::Pred => self.predicate(a, b) & 1,
            _ if ty.is_float() => self.float(ty, a, b, c),
            _ => self.integer(ty, a, b, c),
        }
    }

    /// [`of`](Self::of) in every lane; what kernels do most without a choice in each.
    pub(crate) fn of_lanes(self, ty: Type, [a, b, c]: &[Lanes; 3]) -> Lanes {
        let float = |bits: u64| f32::from_bits(bits as u32);
        let floats = |of: &dyn Fn(usize) -> f32| core::array::from_fn(|i| of(i).to_bits().into());
        match (self, ty) {
            (Self::FusedMultiplyAdd, Type::F32) => {
                floats(&|i| float(a[i]).mul_add(float(b[i]), float(c[i])))
            }
            (Self::Add, Type::F32) => floats(&|i| float(a[i]) + float(b[i])),
            (Self::Multiply(_), Type::F32) => floats(&|i| float(a[i]) * float(b[i])),
            (Self::Add, Type::U(_) | Type::S(_)) => {
                core::array::from_fn(|i| ty.cut(a[i].wrapping_add(b[i])))
            }
            (Self::And, Type::B(_)) => core::array::from_fn(|i| ty.cut(a[i] & b[i])),
            (Self::Move | Self::Address, _) => core::array::from_fn(|i| ty.cut(a[i])),
            _ => core::array::from_fn(|i| self.of(ty, [a[i], b[i], c[i]])),
        }
    }

    fn predicate(self, a: u64, b: u64) -> u64 {
        match self {
            Self::Not => !a,
            Self::And => a & b,
            Self::Or => a | b,
            _ => a ^ b,
        }
    }

    /// Sums, products, quotients and roots in f64 and then rounded are what one rounding gives.
    fn float(self, ty: Type, a: u64, b: u64, c: u64) -> u64 {
        let (x, y, z) = (ty.float(a), ty.float(b), ty.float(c));
        if self == Self::FusedMultiplyAdd && ty == Type::F32 {
            return u64::from((x as f32).mul_add(y as f32, z as f32).to_bits());
        }
        ty.bits(match self {
            Self::Negate => -x,
            Self::Absolute => x.abs(),
            Self::SquareRoot => x.sqrt(),
            Self::ReciprocalRoot => 1.0 / x.sqrt(),
            Self::Reciprocal => 1.0 / x,
            Self::PowerOfTwo => x.exp2(),
            Self::Logarithm => x.log2(),
            Self::Add => x + y,
            Self::Subtract => x - y,
            Self::Multiply(_) => x * y,
            Self::Divide => x / y,
            Self::Min => x.min(y),
            Self::Max => x.max(y),
            Self::FusedMultiplyAdd => x.mul_add(y, z),
            _ => f64::NAN,
        })
    }

    fn integer(self, ty: Type, a: u64, b: u64, c: u64) -> u64 {
        let bits = 8 * ty.size() as u32;
        let (x, y) = (ty.integer(a), ty.integer(b));
        let product = |part: Part, c: u64| match part {
            Part::Low => ty.cut(((x * y) as u64).wrapping_add(c)),
            Part::High => ty.cut((((x * y) >> bits) as u64).wrapping_add(c)),
            Part::Wide if bits < 32 => ((x * y) as u32).wrapping_add(c as u32).into(),
            Part::Wide => ((x * y) as u64).wrapping_add(c),
        };
        let count = (b as u32).min(bits);
        let value = match self {
            Self::Multiply(part) => return product(part, 0),
            Self::MultiplyAdd(part) => return product(part, c),
            Self::Negate => -x,
            Self::Absolute => x.abs(),
            Self::Not => !x,
            Self::Add => x + y,
            Self::Subtract => x - y,
            // What the hardware makes of a division by zero is not defined; all ones are seen.
            Self::Divide => x.checked_div(y).unwrap_or(-1),
            Self::Remainder => x.checked_rem(y).unwrap_or(x),
            Self::Min => x.min(y),
            Self::Max => x.max(y),
            Self::And => x & y,
            Self::Or => x | y,
            Self::Xor => x ^ y,
            Self::ShiftLeft => x << count,
            Self::ShiftRight => x >> count,
            Self::ExtractBits => extract(ty, x, b, c),
            Self::Permute => i128::from(permute(a, b, c)),
            _ => 0,
        };
        ty.cut(value as u64)
    }
}

/// `length` bits of x from `position` on, with the sign that the type has.
fn extract(ty: Type, x: i128, position: u64, length: u64) -> i128 {
    let (position, length) = (position & 255, (length & 255).min(64));
    let field = (x >> position.min(127)) & ((1i128 << length) - 1);
    let is_negative = length > 0 && field >> (length - 1) & 1 == 1;
    if matches!(ty, Type::S(_)) && is_negative { field - (1i128 << length) } else { field }
}

/// Four bytes of the eight of a and b, chosen by the low four nibbles of `which`.
fn permute(a: u64, b: u64, which: u64) -> u32 {
    let bytes = (a & 0xffff_ffff | b << 32).to_le_bytes();
    u32::from_le_bytes(core::array::from_fn(|i| {
        let nibble = which >> (4 * i) & 15;
        let byte = bytes[nibble as usize & 7];
        // The highest bit asks for the byte's sign instead.
        if nibble & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, ty: &str, numbers: [u64; 3]) -> u64 {
        Compute::named(name).unwrap().of(Type::named(ty).unwrap(), numbers)
    }

    #[test]
    fn integers_wrap_and_shift_as_ptx_says() {
        assert_eq!(of("add", "u32", [u32::MAX.into(), 1, 0]), 0);
        assert_eq!(of("shr", "s32", [0x8000_0000, 40, 0]), 0xffff_ffff);
        assert_eq!(of("shr", "u32", [0x8000_0000, 32, 0]), 0);
        assert_eq!(of("shl", "b32", [1, 32, 0]), 0);
        assert_eq!(of("max", "s32", [0xffff_ffff, 3, 0]), 3);
        assert_eq!(of("bfe", "u32", [0xabcd, 4, 8]), 0xbc);
        assert_eq!(of("bfe", "s32", [0xabcd, 4, 8]), 0xffff_ffbc);
        assert_eq!(of("prmt", "b32", [0x0403_0201, 0x8877_6655, 0xf740]), 0xff88_5501);
        let wide = Compute::Multiply(Part::Wide);
        assert_eq!(wide.of(Type::S(4), [u32::MAX.into(), 2, 0]), -2i64 as u64);
        let high = Compute::Multiply(Part::High);
        assert_eq!(high.of(Type::U(4), [u32::MAX.into(), 2, 0]), 1);
    }

    #[test]
    fn floats_round_once() {
        let bits = |x: f32| u64::from(x.to_bits());
        let x = 1.0 + f32::EPSILON;
        assert_eq!(of("fma", "f32", [bits(x), bits(x), bits(-1.0)]), bits(x.mul_add(x, -1.0)));
        assert_eq!(of("div", "f32", [bits(1.0), bits(3.0), 0]), bits(1.0 / 3.0));
        assert_eq!(of("selp", "f32", [7, 9, 0]), 9);
        assert_eq!(of("not", "pred", [1, 0, 0]), 0);
    }
}
