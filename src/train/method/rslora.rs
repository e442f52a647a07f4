//! Rank-stabilized LoRA (arXiv 2312.03732): s = alpha / √r, so that larger ranks learn as fast as
//! small ones.

use std::sync::Arc;

use super::lora::{Factors, is_lora};
use super::{Layer, Parametrized, Technique};
use crate::adapter::Adapter;
use crate::train::plan::Plan;

pub(super) struct RsLora;

impl Technique for RsLora {
    fn continues(&self, adapter: &Adapter<'_>) -> bool {
        is_lora(adapter, true)
    }

    fn parametrize(&mut self, layer: &Layer<'_>, plan: &mut Plan) -> Parametrized {
        let mut factors = Factors::new(layer, plan);
        factors.rank_stabilized |= layer.start.is_none();
        Ok(Arc::new(factors))
    }
}
