//! How products treat their activations, and which way is the default where.

use super::Kernels;
use crate::quant::Format;

/// How a product treats its activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Precision {
    /// f32 activations against the weights as their format defines them: within 1e-6 of f64,
    /// relative to Σ|wᵢxᵢ|.
    #[default]
    Exact,
    /// Activations rounded to 8 bits per block of 64, weights as 8-bit integers: within 1e-2 of
    /// f64, relative to Σ|wᵢxᵢ|. For NF4 and int8 matrices whose rows are whole blocks
    /// ([`Kernels::has_fast`]); all others are computed exactly.
    Fast,
}

impl Precision {
    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Fast => "fast",
        }
    }

    /// The default for a base whose linear layers have this format, on this instruction set: `Fast`
    /// only where its perplexity on SmolLM2-135M was measured within 0.5 % of `Exact` (the
    /// README has the figures), `Exact` everywhere else. NEON and simd128 compute the same
    /// integers and scales as AVX2, but add the groups of a row in another order, which
    /// moves the perplexity by about a tenth of a percent: the README's measurement is yet to be
    /// repeated on them.
    pub fn default_for(kernels: &Kernels, weights: Format) -> Self {
        match (kernels.name(), weights) {
            ("avx2" | "avx512vnni", Format::Nf4) => Self::Fast,
            _ => Self::Exact,
        }
    }
}
