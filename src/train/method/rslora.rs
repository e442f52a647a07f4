//! Rank-stabilized LoRA (arXiv 2312.03732): s = alpha / √r, so that larger ranks learn as fast as
//! small ones.

use super::Rules;

pub(super) struct RsLora;

impl Rules for RsLora {
    fn rank_stabilized(&self) -> bool {
        true
    }
}
