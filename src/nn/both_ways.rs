//! Attention in both directions: every token of a text sees every token of the same text. No cache,
//! no mask; `attention` has the causal kind.
//!
//! Per row and head h of a text with keys K and values V: `out = softmax(q_h · K_hᵀ / √d) · V_h`.

use super::Pass;
use crate::tensor::columns::Parts;
use crate::tensor::math;

/// Attention of every row inside its segment: q, k, v and out `[n, heads · head_dim]`; scores is
/// scratch, `[lanes, longest segment]` or more.
#[allow(unsafe_code, reason = "the split among lanes")]
pub(crate) fn attend_both_ways(
    pass: &Pass<'_, '_>,
    head_dim: usize,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    scores: &mut [f32],
    out: &mut [f32],
) {
    let rows = pass.segments.iter().map(|segment| segment.rows).sum::<usize>();
    let (dim, longest) = (out.len() / rows, scores.len() / pass.lanes);
    let (heads, scale) = (dim / head_dim, 1.0 / math::sqrt(head_dim as f32));
    let (out, scores) = (Parts::new(out, head_dim), Parts::new(scores, longest));
    pass.executor.run(pass.lanes, &|lane| {
        // SAFETY: one lane, one part.
        let scores = unsafe { scores.part(lane) };
        let mine = rows * heads * lane / pass.lanes..rows * heads * (lane + 1) / pass.lanes;
        for segment in pass.segments {
            let (first, end) = (segment.first, segment.first + segment.rows);
            let scores = &mut scores[..segment.rows];
            for task in mine.start.max(first * heads)..mine.end.min(end * heads) {
                let at = task % heads * head_dim;
                let q = &q[task * head_dim..][..head_dim];
                for (score, row) in scores.iter_mut().zip(first..end) {
                    *score = scale * pass.kernels.dot(&k[row * dim + at..][..head_dim], q);
                }
                pass.kernels.softmax(scores);
                // SAFETY: every (row, head) belongs to one lane.
                let out = unsafe { out.part(task) };
                out.fill(0.0);
                for (&score, row) in scores.iter().zip(first..end) {
                    pass.kernels.axpy(score, &v[row * dim + at..][..head_dim], out);
                }
            }
        }
    });
}
