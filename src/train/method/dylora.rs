//! DyLoRA (arXiv 2210.07558): every step trains the first b rows of A and columns of B at the scale
//! alpha / b, with b drawn uniformly from 1 to r for the whole model. Any rank can be used
//! afterwards. A layer with a rank of its own (`rank_pattern`) has the same share of it, rounded up:
//! at b = r it has all of it.
//!
//! With `dylora_frozen` only row and column b learn, the ones before them are constants (the form
//! of the authors' script).

use super::Rules;
use crate::random;
use crate::train::options::Options;
use crate::train::plan::{Change, Plan};

pub(super) struct DyLora;

/// The stream of random numbers that ranks are drawn from.
const STREAM: u64 = 0x6479;

impl Rules for DyLora {
    fn rank(&self, options: &Options, step: u64) -> Option<usize> {
        let most = options.rank.max(1) as u64;
        Some((random::bits(options.seed, STREAM, step) % most) as usize + 1)
    }

    fn adjust(&self, plan: &Plan, options: &Options, rank: Option<usize>, gradients: &mut [f32]) {
        if !options.dylora_frozen {
            return;
        }
        for change in &plan.changes {
            if let Change::LowRank(low) = change {
                // Where ranks differ, one more of the common rank is several rows, or none.
                let before = match rank {
                    Some(drawn) if drawn > 1 => low.rank(Some(drawn - 1)).min(low.rank(rank) - 1),
                    _ => 0,
                };
                let (a, b) = (low.a.clone(), low.b.clone());
                gradients[b.start..b.start + b.len() / low.rank * before].fill(0.0);
                if low.embedding {
                    gradients[a]
                        .chunks_exact_mut(low.rank)
                        .for_each(|column| column[..before].fill(0.0));
                } else {
                    gradients[a.start..a.start + a.len() / low.rank * before].fill(0.0);
                }
            }
        }
    }
}
