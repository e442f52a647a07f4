//! The methods: what each does differently from plain LoRA, one file per method.
//!
//! | method | file | differs in |
//! |---|---|---|
//! | `lora`, `qlora` | `lora` | nothing; `qlora` insists on an NF4 base |
//! | `rslora` | `rslora` | s = alpha / √r |
//! | `lora+` | `lora_plus` | B learns λ times as fast |
//! | `dylora` | `dylora` | the rank is drawn anew every step |
//! | `lora-fa` | `lora_fa` | A is frozen |
//! | `dora` | `dora` | a trained magnitude per output row |
//! | `full` | `full` | the weights themselves are trained |

mod dora;
mod dylora;
mod full;
mod lora;
mod lora_fa;
mod lora_plus;
mod rslora;

use std::fmt;
use std::str::FromStr;

use super::TrainError;
use super::options::Options;
use super::plan::{Plan, Tensor};
use crate::quant::Format;

/// What a method does differently from LoRA (arXiv 2106.09685). The defaults are LoRA's.
pub(crate) trait Rules {
    /// Refuses a base whose targets have formats that the method does not train on.
    fn check(&self, _targets: &[Format]) -> Result<(), TrainError> {
        Ok(())
    }

    /// Are the weights themselves trained, without factors?
    fn is_full(&self) -> bool {
        false
    }

    /// s = alpha / √r instead of alpha / r?
    fn rank_stabilized(&self) -> bool {
        false
    }

    /// Does A keep what it was drawn as?
    fn freezes_a(&self) -> bool {
        false
    }

    /// Does every output row get a trained magnitude?
    fn has_magnitude(&self) -> bool {
        false
    }

    /// What the learning rate of a tensor is multiplied by.
    fn rate(&self, _tensor: &Tensor, _options: &Options) -> f32 {
        1.0
    }

    /// The rank of optimizer step `step`; `None` for all of it.
    fn rank(&self, _options: &Options, _step: u64) -> Option<usize> {
        None
    }

    /// Another ε for Adam in its step `step`, from 1.
    fn epsilon(&self, _options: &Options, _step: u64) -> Option<f64> {
        None
    }

    /// Does Adam's weight decay come after the step, and to biases too?
    fn decays_after(&self, _options: &Options) -> bool {
        false
    }

    /// Changes the gradients before they are clipped.
    fn adjust(
        &self,
        _plan: &Plan,
        _options: &Options,
        _rank: Option<usize>,
        _gradients: &mut [f32],
    ) {
    }

    /// Changes the gradients between clipping and the optimizer.
    fn precondition(
        &self,
        _plan: &Plan,
        _options: &Options,
        _values: &[f32],
        _gradients: &mut [f32],
    ) {
    }
}

/// A method of fine-tuning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// LoRA (arXiv 2106.09685).
    Lora,
    /// LoRA on an NF4 base (QLoRA, arXiv 2305.14314).
    QLora,
    /// Rank-stabilized LoRA (arXiv 2312.03732).
    RsLora,
    /// LoRA+ (arXiv 2402.12354).
    LoraPlus,
    /// DyLoRA (arXiv 2210.07558).
    DyLora,
    /// LoRA-FA (arXiv 2308.03303).
    LoraFa,
    /// DoRA (arXiv 2402.09353).
    Dora,
    /// Full fine-tuning of a float base; the result is a base.
    Full,
}

impl Method {
    /// All methods.
    pub const ALL: [Self; 8] = [
        Self::Lora,
        Self::QLora,
        Self::RsLora,
        Self::LoraPlus,
        Self::DyLora,
        Self::LoraFa,
        Self::Dora,
        Self::Full,
    ];

    /// Those that train low-rank factors.
    pub(crate) const LOW_RANK: [Self; 7] = [
        Self::Lora,
        Self::QLora,
        Self::RsLora,
        Self::LoraPlus,
        Self::DyLora,
        Self::LoraFa,
        Self::Dora,
    ];

    /// The name on the command line and in archives.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lora => "lora",
            Self::QLora => "qlora",
            Self::RsLora => "rslora",
            Self::LoraPlus => "lora+",
            Self::DyLora => "dylora",
            Self::LoraFa => "lora-fa",
            Self::Dora => "dora",
            Self::Full => "full",
        }
    }

    /// What it does, in a line.
    pub const fn summary(self) -> &'static str {
        match self {
            Self::Lora => "Two small factors beside each layer, alpha / rank times",
            Self::QLora => "The same on a base that has to be in nf4",
            Self::RsLora => "Rank-stabilized: alpha / √rank times, for large ranks",
            Self::LoraPlus => "B learns --lora-plus-ratio times as fast as A",
            Self::DyLora => "Every rank up to --rank is usable; the smallest good one is kept",
            Self::LoraFa => "A stays as it was drawn: less memory",
            Self::Dora => "A trained magnitude for each output row, and LoRA for the direction",
            Self::Full => "The weights of a float base themselves; a base is written",
        }
    }

    pub(crate) fn rules(self) -> &'static dyn Rules {
        match self {
            Self::Lora => &lora::Lora,
            Self::QLora => &lora::QLora,
            Self::RsLora => &rslora::RsLora,
            Self::LoraPlus => &lora_plus::LoraPlus,
            Self::DyLora => &dylora::DyLora,
            Self::LoraFa => &lora_fa::LoraFa,
            Self::Dora => &dora::Dora,
            Self::Full => &full::Full,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|method| method.name() == name)
            .ok_or_else(|| format!("'{name}' is not one of {}", known()))
    }
}
