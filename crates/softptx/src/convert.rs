//! Conversions between types, and comparisons.

use crate::types::Type;

/// How a float becomes an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rounding {
    Nearest,
    Zero,
    Down,
    Up,
}

/// The bits of `value`, of type `from`, as a `to`. Floats become the nearest integer that there is.
pub(crate) fn convert(from: Type, to: Type, rounding: Rounding, value: u64) -> u64 {
    match (from.is_float(), to.is_float()) {
        (false, false) => extended(to, from.integer(value)),
        (false, true) => to.bits(from.integer(value) as f64),
        (true, true) if from == to => to.bits(rounded(from.float(value), rounding)),
        (true, true) => to.bits(from.float(value)),
        (true, false) => {
            let bits = 8 * to.size() as u32;
            let (least, most) = match to {
                Type::S(_) => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
                _ => (0, (1i128 << bits) - 1),
            };
            let integer = rounded(from.float(value), rounding) as i128;
            extended(to, integer.clamp(least, most))
        }
    }
}

/// An integer as a register keeps it: of signed types with its sign in all bits.
fn extended(to: Type, value: i128) -> u64 {
    match to {
        Type::S(_) => to.integer(value as u64) as u64,
        _ => to.cut(value as u64),
    }
}

fn rounded(value: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::Nearest => value.round_ties_even(),
        Rounding::Zero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
    }
}

/// A comparison; those with `Or` are true of NaN as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    EqualOrNan,
    NotEqualOrNan,
    LessOrNan,
    LessEqualOrNan,
    GreaterOrNan,
    GreaterEqualOrNan,
    IsNumber,
    IsNan,
}

impl Compare {
    /// By the names that PTX has for them.
    pub(crate) const ALL: [(&str, Self); 18] = [
        ("eq", Self::Equal),
        ("ne", Self::NotEqual),
        ("lt", Self::Less),
        ("le", Self::LessEqual),
        ("gt", Self::Greater),
        ("ge", Self::GreaterEqual),
        ("lo", Self::Less),
        ("ls", Self::LessEqual),
        ("hi", Self::Greater),
        ("hs", Self::GreaterEqual),
        ("equ", Self::EqualOrNan),
        ("neu", Self::NotEqualOrNan),
        ("ltu", Self::LessOrNan),
        ("leu", Self::LessEqualOrNan),
        ("gtu", Self::GreaterOrNan),
        ("geu", Self::GreaterEqualOrNan),
        ("num", Self::IsNumber),
        ("nan", Self::IsNan),
    ];

    /// Is it true of `a` and `b`?
    pub(crate) fn of(self, ty: Type, a: u64, b: u64) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let order = if ty.is_float() {
            ty.float(a).partial_cmp(&ty.float(b))
        } else {
            Some(ty.integer(a).cmp(&ty.integer(b)))
        };
        let Some(order) = order else {
            return matches!(
                self,
                Self::EqualOrNan
                    | Self::NotEqualOrNan
                    | Self::LessOrNan
                    | Self::LessEqualOrNan
                    | Self::GreaterOrNan
                    | Self::GreaterEqualOrNan
                    | Self::IsNan
            );
        };
        match self {
            Self::Equal | Self::EqualOrNan => order == Equal,
            Self::NotEqual | Self::NotEqualOrNan => order != Equal,
            Self::Less | Self::LessOrNan => order == Less,
            Self::LessEqual | Self::LessEqualOrNan => order != Greater,
            Self::Greater | Self::GreaterOrNan => order == Greater,
            Self::GreaterEqual | Self::GreaterEqualOrNan => order != Less,
            Self::IsNumber => true,
            Self::IsNan => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const F32: Type = Type::F32;

    fn bits(x: f32) -> u64 {
        x.to_bits().into()
    }

    #[test]
    fn conversions() {
        assert_eq!(convert(Type::S(4), F32, Rounding::Nearest, u32::MAX.into()), bits(-1.0));
        assert_eq!(convert(Type::U(4), Type::U(8), Rounding::Nearest, u64::MAX), 0xffff_ffff);
        assert_eq!(convert(Type::S(4), Type::S(8), Rounding::Nearest, 0xffff_ffff), u64::MAX);
        assert_eq!(convert(F32, Type::S(4), Rounding::Zero, bits(-2.7)), -2i64 as u64);
        assert_eq!(convert(Type::S(4), Type::S(1), Rounding::Nearest, 0x1ff), u64::MAX);
        assert_eq!(convert(F32, Type::U(1), Rounding::Nearest, bits(300.0)), 255);
        assert_eq!(convert(F32, Type::F16, Rounding::Nearest, bits(1e9)), 0x7c00);
        assert_eq!(convert(F32, F32, Rounding::Nearest, bits(2.5)), bits(2.0));
    }

    #[test]
    fn comparisons_know_nan() {
        let nan = bits(f32::NAN);
        assert!(!Compare::Less.of(F32, nan, 0) && Compare::LessOrNan.of(F32, nan, 0));
        assert!(!Compare::NotEqual.of(F32, nan, nan) && Compare::IsNan.of(F32, nan, nan));
        assert!(Compare::Less.of(Type::S(4), 0xffff_ffff, 0));
        assert!(Compare::Greater.of(Type::U(4), 0xffff_ffff, 0));
    }
}
