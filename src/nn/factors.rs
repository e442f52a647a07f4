//! Low-rank factors as training has them: floats, B transposed.
#![cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "a card reads them"))]

/// What factors add to a layer: `s·B A`, A `[rank, in]`, B transposed, `[rank, out]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factors<'v> {
    pub(crate) rank: usize,
    /// s.
    pub(crate) scale: f32,
    pub(crate) a: &'v [f32],
    pub(crate) b: &'v [f32],
}

/// What the gradients of factors are made of, and where they are added: with u = s·A x,
/// `dB += uᵀ dy` and `dA += (s·dy B)ᵀ x`.
#[derive(Debug)]
pub(crate) struct FactorGradients<'v> {
    pub(crate) factors: Factors<'v>,
    /// `[n, in]`.
    pub(crate) x: &'v [f32],
    /// `[n, rank]`.
    pub(crate) u: &'v [f32],
    /// None where A keeps its values.
    pub(crate) da: Option<&'v mut [f32]>,
    pub(crate) db: &'v mut [f32],
}
