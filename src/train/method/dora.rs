//! DoRA (arXiv 2402.09353): `W' = m ⊙ V / ‖V‖`, V = W + s·B A, norms per output row, m trained from
//! ‖W‖.
//!
//! The norm is a constant on the way back, as the paper proposes (section 4.3); it is computed anew
//! every step, without V: `‖V‖² = ‖W‖² + 2s·Σ (W Aᵀ) ⊙ B + s²·Σ (B (A Aᵀ)) ⊙ B`, row by row. See
//! [`crate::train::norms`].

use super::Rules;

pub(super) struct Dora;

impl Rules for Dora {
    fn has_magnitude(&self) -> bool {
        true
    }
}
