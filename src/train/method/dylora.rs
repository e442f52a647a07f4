//! DyLoRA (arXiv 2210.07558): every step trains the first b rows of A and columns of B at the scale
//! alpha / b, with b drawn uniformly from 1 to r for the whole model. Any rank can be used
//! afterwards. Where layers have ranks of their own (`rank_pattern`), r is the largest of them, and
//! a layer never has more than its own.
//!
//! With `dylora_frozen` only row and column b learn, the ones before them are constants (the form
//! of the authors' script).

use super::Rules;
use crate::train::options::Options;
use crate::train::plan::{Change, Plan};
use crate::train::random;

pub(super) struct DyLora;

/// The stream of random numbers that ranks are drawn from.
const STREAM: u64 = 0x6479;

impl Rules for DyLora {
    fn rank(&self, options: &Options, most: usize, step: u64) -> Option<usize> {
        let most = most.max(1) as u64;
        Some((random::bits(options.seed, STREAM, step) % most) as usize + 1)
    }

    fn adjust(&self, plan: &Plan, options: &Options, rank: Option<usize>, gradients: &mut [f32]) {
        if !options.dylora_frozen {
            return;
        }
        for change in &plan.changes {
            if let Change::LowRank(low) = change {
                let before = low.rank(rank) - 1;
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
