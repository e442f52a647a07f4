//! Products of small matrices that a warp makes together.

use crate::Result;
use crate::operand::Value;
use crate::types::Type;
use crate::warp::{Lanes, Warp};

/// The two f16 in a register.
fn halves(number: u64) -> [f64; 2] {
    [number, number >> 16].map(|half| Type::F16.float(half & 0xffff))
}

/// C + A B of what lane 4 g + t holds: of A [16, 8] row g and row g + 8, columns 2 t and 2 t + 1; of B
/// [8, 8] column g, rows 2 t and 2 t + 1; of C row g and row g + 8, columns 2 t and 2 t + 1. Sums are
/// rounded once; a card rounds each in some order.
fn multiply(a: &[Lanes; 2], b: &Lanes, c: &[Lanes; 4]) -> [Lanes; 4] {
    let (mut rows, mut columns) = ([[0.0; 8]; 16], [[0.0; 8]; 8]);
    for (half, lanes) in a.iter().enumerate() {
        for (lane, &number) in lanes.iter().enumerate() {
            rows[lane / 4 + 8 * half][lane % 4 * 2..][..2].copy_from_slice(&halves(number));
        }
    }
    for (lane, &number) in b.iter().enumerate() {
        columns[lane / 4][lane % 4 * 2..][..2].copy_from_slice(&halves(number));
    }
    std::array::from_fn(|part| {
        std::array::from_fn(|lane| {
            let (row, column) = (rows[lane / 4 + part / 2 * 8], columns[lane % 4 * 2 + part % 2]);
            let terms = row.iter().zip(column).map(|(a, b)| a * b);
            Type::F32.bits(Type::F32.float(c[part][lane]) + terms.sum::<f64>())
        })
    })
}

impl Warp {
    /// `mma` of all 32 lanes.
    pub(crate) fn matrix(
        &mut self,
        to: [u32; 4],
        a: [Value; 2],
        b: Value,
        c: [Value; 4],
    ) -> Result<()> {
        let fetch = |value| self.fetch(value, u32::MAX, None);
        let a = [fetch(a[0])?, fetch(a[1])?];
        let c = [fetch(c[0])?, fetch(c[1])?, fetch(c[2])?, fetch(c[3])?];
        let sums = multiply(&a, &fetch(b)?, &c);
        for (to, sums) in to.into_iter().zip(sums) {
            self.put(to, u32::MAX, |lane| sums[lane]);
        }
        Ok(())
    }
}
