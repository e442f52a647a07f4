//! Sums of products of integers with the DSP extension of Arm's M profile (Cortex-M4, M7): `smlad`
//! multiplies two pairs of 16-bit integers and adds both to a 32-bit sum, `sxtb16` makes such pairs
//! of four bytes.
//!
//! Not a table: sums of integers are exact, so this is [`fast`](super::fast)'s inner loop in other
//! instructions and gives its results. `core::arch` has the intrinsics on nightly only, hence
//! assembly. Chosen when the crate is compiled, by `target_feature = "dsp"`.

use core::arch::asm;

use super::GROUP;

/// Σ qᵢ·pᵢ.
pub(super) fn sum(q: &[i8; GROUP], p: &[i8; GROUP]) -> i32 {
    let (q, p) = (q.as_chunks::<4>().0, p.as_chunks::<4>().0);
    let mut sum = 0;
    for (q, p) in q.iter().zip(p) {
        let (q, p) = (
            u32::from_le_bytes(q.map(i8::cast_unsigned)),
            u32::from_le_bytes(p.map(i8::cast_unsigned)),
        );
        // SAFETY: arithmetic on registers. No sum of 64 products of bytes overflows, so the sticky
        // flag of `smlad` is never set.
        unsafe {
            asm!(
                "sxtb16 {low}, {q}",
                "sxtb16 {high}, {p}",
                "smlad {sum}, {low}, {high}, {sum}",
                "sxtb16 {low}, {q}, ror #8",
                "sxtb16 {high}, {p}, ror #8",
                "smlad {sum}, {low}, {high}, {sum}",
                q = in(reg) q,
                p = in(reg) p,
                low = out(reg) _,
                high = out(reg) _,
                sum = inout(reg) sum,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
    sum
}
