//! The token embedding: a row of the table, and what adapters add to it.
//!
//! `y = W[t] + Σ w·s · B (A[:, t])`

use super::Pass;
use super::linear::targets;
use crate::quant::Matrix;

/// The token embedding of a base.
#[derive(Debug, Clone, Copy)]
pub struct Embedding<'a> {
    /// `[vocab, dim]`.
    pub table: Matrix<'a>,
    /// Where adapters know it.
    pub site: u32,
}

impl Embedding<'_> {
    /// The vectors of `tokens` into y, `[n, dim]`. Every token is inside the vocabulary.
    pub(crate) fn forward(&self, pass: &Pass<'_, '_>, tokens: &[u32], y: &mut [f32]) {
        let dim = self.table.cols();
        for (&token, y) in tokens.iter().zip(y.chunks_exact_mut(dim)) {
            self.table.read(token as usize, 0, y);
        }
        if !pass.has_factors {
            return;
        }
        for segment in pass.segments {
            for (active, target, rank) in targets(pass, segment, self.site) {
                let scale = target.scale(rank) * active.weight;
                for row in segment.first..segment.first + segment.rows {
                    let y = &mut y[row * dim..][..dim];
                    for j in 0..rank {
                        target.b.axpy(
                            pass.kernels,
                            j,
                            0,
                            scale * target.a.get(tokens[row] as usize, j),
                            y,
                        );
                    }
                }
            }
        }
    }
}
