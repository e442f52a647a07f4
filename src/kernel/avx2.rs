//! placeholder
use super::Kernels;
pub(super) static AVX2: Kernels = Kernels { name: "avx2", ..super::scalar::TABLE };
