//! DyLoRA (arXiv 2210.07558): every step trains the first b rows of A and columns of B at the scale
//! alpha / b, with b drawn uniformly from 1 to r for the whole model. Any rank can be used
//! afterwards. A layer with a rank of its own (`rank_pattern`) has the same share of it, rounded up:
//! at b = r it has all of it.
//!
//! With `dylora_frozen` only row and column b learn, the ones before them are constants (the form
//! of the authors' script).

use std::sync::Arc;

use super::lora::{Factors, Lora};
use super::{Layer, Parametrized, Technique};
use crate::random;
use crate::train::options::Options;
use crate::train::plan::Plan;

#[derive(Default)]
pub(super) struct DyLora {
    layers: Vec<Factors>,
}

/// The stream of random numbers that ranks are drawn from.
const STREAM: u64 = 0x6479;

impl Technique for DyLora {
    fn takes(&self, option: &str) -> bool {
        ["dylora-frozen", "rank-tolerance"].contains(&option) || Lora.takes(option)
    }

    fn parametrize(&mut self, layer: &Layer<'_>, plan: &mut Plan) -> Parametrized {
        let factors = Factors::new(layer, plan);
        self.layers.push(factors.clone());
        Ok(Arc::new(factors))
    }

    fn rank(&self, options: &Options, step: u64) -> Option<usize> {
        let most = options.rank.max(1) as u64;
        Some((random::bits(options.seed, STREAM, step) % most) as usize + 1)
    }

    /// Silences what comes before the drawn row and column.
    fn regularize(
        &self,
        options: &Options,
        rank: Option<usize>,
        _: &[f32],
        gradients: &mut [f32],
    ) -> f64 {
        let Some(drawn) = rank.filter(|drawn| options.dylora_frozen && *drawn > 1) else {
            return 0.0;
        };
        for low in &self.layers {
            // Where ranks differ, one more of the common rank is several rows, or none.
            let before = low.rank_at(Some(drawn - 1)).min(low.rank_at(rank) - 1);
            gradients[low.rows(&low.b, before)].fill(0.0);
            if low.is_embedding {
                let columns = gradients[low.a.clone()].chunks_exact_mut(low.rank);
                columns.for_each(|column| column[..before].fill(0.0));
            } else {
                gradients[low.rows(&low.a, before)].fill(0.0);
            }
        }
        0.0
    }
}
