//! The training methods, one file each: what is trained of a layer, from which values on, the
//! formula forward and backward, and what is left behind. The loop around them is in `trainer` and
//! `run`, the product with frozen weights and dropout in `step`.
//!
//! | method | file | differs from LoRA in |
//! |---|---|---|
//! | `lora`, `qlora` | `lora` | nothing; `qlora` insists on an NF4 base |
//! | `rslora` | `rslora` | s = alpha / √r |
//! | `lora+` | `lora_plus` | B learns λ times as fast |
//! | `dylora` | `dylora` | the rank is drawn anew every step |
//! | `lora-fa` | `lora_fa` | A is frozen |
//! | `dora` | `dora` | a trained magnitude per output row |
//! | `ia3` | `ia3` | a trained vector that scales outputs or inputs, no factors |
//! | `full` | `full` | the weights themselves are trained |

mod dora;
mod dylora;
mod full;
mod ia3;
mod lora;
mod lora_fa;
mod lora_plus;
mod rslora;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::TrainError;
use super::device::Floats;
use super::device::Machine;
use super::optimizer::Optimizer;
use super::options::{Options, TargetModules};
use super::plan::{Plan, Tensor};
use super::step::Step;
use crate::adapter::{Adapter, LowRank, TargetParts};
use crate::file::Kind;
use crate::nn::Linear;

use lora::Factors;

/// What a tensor of the arena is to its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Part {
    /// A, `[r, in]`; an embedding's transposed, `[vocab, r]`.
    A,
    /// B transposed, `[r, out]`.
    B,
    /// DoRA's m, `[out]`.
    Magnitude,
    /// IA3's l, `[out]` or `[in]`.
    Scale,
    /// A whole weight, `[out, in]`.
    Weight,
    /// A bias, `[out]`.
    Bias,
    /// A vector of the model beside its linear layers (a norm's weight), numbered by its family.
    Vector,
    /// The classifier's weight, `[labels, dim]`.
    ClassifierWeight,
    /// The classifier's bias, `[labels]`; decoders' have none.
    ClassifierBias,
}

impl Part {
    /// The name that messages have for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::Magnitude => "magnitude",
            Self::Scale => "scale",
            Self::Weight | Self::ClassifierWeight => "weight",
            Self::Bias | Self::ClassifierBias => "bias",
            Self::Vector => "vector",
        }
    }
}

/// A layer that a method is asked to train.
#[derive(Clone, Copy)]
pub(crate) struct Layer<'l> {
    /// The layer; an embedding as W `[vocab, dim]` without bias.
    pub(crate) linear: Linear<'l>,
    /// Its module path.
    pub(crate) name: &'l str,
    pub(crate) is_embedding: bool,
    /// The rank and alpha that are asked for here.
    pub(crate) rank: usize,
    pub(crate) alpha: f32,
    /// The rank of layers for which none of their own is asked.
    pub(crate) common_rank: usize,
    /// What training goes on from, if it does.
    pub(crate) start: Option<LowRank<'l>>,
}

/// The streams of random numbers that first values are drawn from: one per site from here on.
const SITES: u64 = 0x1000_0000;

impl Layer<'_> {
    /// The stream that first values are drawn from.
    pub(crate) fn stream(&self) -> u64 {
        SITES + u64::from(self.linear.site)
    }

    /// Numbers that go in: columns of W, or the vocabulary.
    pub(crate) fn inputs(&self) -> usize {
        let weight = &self.linear.weight;
        if self.is_embedding { weight.rows() } else { weight.cols() }
    }

    /// Numbers that come out: rows of W, or an embedding's dimension.
    pub(crate) fn outputs(&self) -> usize {
        let weight = &self.linear.weight;
        if self.is_embedding { weight.cols() } else { weight.rows() }
    }
}

/// What a layer's backward pass needs beside its input: saved activations, `[n, …]` each.
pub(crate) type Saved = Vec<Floats>;

/// What a layer's backward pass is given.
pub(crate) struct Backward<'b> {
    pub(crate) linear: &'b Linear<'b>,
    pub(crate) saved: &'b Saved,
    /// The input, `[n, in]`.
    pub(crate) x: &'b [f32],
    /// The gradient of the output, `[n, out]`.
    pub(crate) dy: &'b [f32],
    /// Gets the gradient of the input added, `[n, in]`, if somebody asks for it.
    pub(crate) dx: Option<&'b mut [f32]>,
    /// The gradients of the arena, to be added to.
    pub(crate) gradients: &'b mut [f32],
}

/// One layer as a method trains it. Its numbers are ranges of the arena.
pub(crate) trait Parametrization: fmt::Debug + Send + Sync {
    /// Writes the first values of its tensors into the arena: drawn, or those to go on from.
    fn init(&self, layer: &Layer<'_>, options: &Options, values: &mut [f32]);

    /// What a pass computes once from the arena, before its batch (DoRA's norms).
    fn prepare(&self, _machine: &Machine<'_>, _linear: &Linear<'_>, _values: &[f32]) -> Vec<f32> {
        Vec::new()
    }

    /// The layer with what is trained in place of its own weight and bias.
    fn layer<'v>(&self, linear: Linear<'v>, _values: &'v [f32]) -> Linear<'v> {
        linear
    }

    /// y of x, `[n, in]`; y is `[n, out]`.
    fn forward(&self, step: &Step<'_>, linear: &Linear<'_>, x: &[f32], y: &mut [f32]) -> Saved;

    /// What [`forward`](Self::forward) saves, when nobody needs y.
    fn save(&self, step: &Step<'_>, linear: &Linear<'_>, x: &[f32]) -> Saved {
        let len = x.len() / linear.weight.cols() * linear.weight.rows();
        self.forward(step, linear, x, &mut step.machine.unset(len))
    }

    /// Adds to the gradients of its tensors and of x.
    fn backward(&self, step: &Step<'_>, pass: Backward<'_>);

    /// Adds what is trained beside an embedding to its vectors y, `[n, dim]`.
    fn embed(&self, _step: &Step<'_>, _tokens: &[u32], _y: &mut [f32]) {}

    /// Adds to the gradients of its tensors, of an embedding, those of dy, `[n, dim]`.
    fn embed_backward(&self, step: &Step<'_>, tokens: &[u32], dy: &[f32], gradients: &mut [f32]);

    /// The rank of its factors; 0 without any.
    fn rank(&self) -> usize {
        0
    }

    /// What it leaves for an adapter, at `rank` of the common rank if one is given (DyLoRA); `None`
    /// if the weights themselves were trained.
    fn finish(&self, values: &[f32], rank: Option<usize>) -> Option<TargetParts>;
}

/// Where a run is between a gradient and the optimizer's step.
pub(crate) struct Update<'u> {
    pub(crate) options: &'u Options,
    /// The arena.
    pub(crate) values: &'u [f32],
    pub(crate) gradients: &'u mut [f32],
    pub(crate) optimizer: &'u mut Optimizer,
    /// The optimizer's step to come, from 1.
    pub(crate) step: u64,
}

/// How a layer is trained, or why it is not.
pub(crate) type Parametrized = Result<Arc<dyn Parametrization>, TrainError>;

/// A method for a whole run. The defaults are LoRA's.
pub(crate) trait Technique: Send + Sync {
    /// Does the option of this name on the command line act with it? Those that act with every
    /// method are not asked about.
    fn takes(&self, option: &str) -> bool {
        lora::OPTIONS.contains(&option)
    }

    /// The layers that it trains unless others are named.
    fn targets(&self) -> TargetModules {
        TargetModules::AllLinear
    }

    /// Refuses numbers of its own options.
    fn check(&self, _options: &Options) -> Result<(), TrainError> {
        Ok(())
    }

    /// Refuses what does not go together with what is trained: called when all layers are planned.
    fn check_plan(&self, _options: &Options, _plan: &Plan) -> Result<(), TrainError> {
        Ok(())
    }

    /// What is written in the end: an adapter, or the base itself, all of whose vectors are then
    /// trained too.
    fn result(&self) -> Kind {
        Kind::Adapter
    }

    /// Is the adapter of the kind that it trains, so that it can go on with it?
    fn continues(&self, adapter: &Adapter<'_>) -> bool {
        lora::is_lora(adapter, false)
    }

    /// Puts the tensors of one layer into `plan`.
    fn parametrize(&mut self, layer: &Layer<'_>, plan: &mut Plan) -> Parametrized {
        Ok(Arc::new(Factors::new(layer, plan)))
    }

    /// The factor of a tensor's learning rate, and its weight decay.
    fn group(&self, tensor: &Tensor, options: &Options) -> (f32, f32) {
        match tensor.part {
            Part::Bias | Part::Vector | Part::ClassifierBias => (1.0, 0.0),
            _ => (1.0, options.weight_decay),
        }
    }

    /// The common rank of optimizer step `step`, from 0; `None` for all of it.
    fn rank(&self, _options: &Options, _step: u64) -> Option<usize> {
        None
    }

    /// Changes the gradients of a step that ran at `rank`, before they are clipped, and returns
    /// what it adds to the loss.
    fn regularize(
        &self,
        _options: &Options,
        _rank: Option<usize>,
        _values: &[f32],
        _gradients: &mut [f32],
    ) -> f64 {
        0.0
    }

    /// What happens between clipping and the optimizer; `false` if the gradients are no numbers
    /// any more.
    fn before_step(&mut self, _update: Update<'_>) -> bool {
        true
    }

    /// What happens to the arena after the optimizer's step.
    fn after_step(&mut self, _values: &mut [f32]) {}

    /// What it remembers between steps, for a checkpoint: as many bytes as before the first step.
    fn state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Goes on from a [`state`](Self::state) of that length; on an error nothing has changed.
    fn restore(&mut self, _state: &[u8]) -> Result<(), TrainError> {
        Ok(())
    }
}

/// The one list of methods: variant, name, how its technique begins, what it does in a line.
macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $technique:expr, $summary:literal;)*) => {
        /// A method of fine-tuning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Method {
            $($(#[$doc])* $variant,)*
        }

        impl Method {
            /// All methods.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// The name on the command line and in archives.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What it does, in a line.
            pub const fn summary(self) -> &'static str {
                match self {
                    $(Self::$variant => $summary,)*
                }
            }

            /// The method before its first step.
            pub(crate) fn technique(self) -> Box<dyn Technique> {
                match self {
                    $(Self::$variant => Box::new($technique),)*
                }
            }
        }
    };
}

methods! {
    /// LoRA (arXiv 2106.09685).
    Lora, "lora", lora::Lora,
    "Two small factors beside each layer, alpha / rank times";
    /// LoRA on an NF4 base (QLoRA, arXiv 2305.14314).
    QLora, "qlora", lora::QLora,
    "The same on a base that has to be in nf4";
    /// Rank-stabilized LoRA (arXiv 2312.03732).
    RsLora, "rslora", rslora::RsLora,
    "Rank-stabilized: alpha / √rank times, for large ranks";
    /// LoRA+ (arXiv 2402.12354).
    LoraPlus, "lora+", lora_plus::LoraPlus,
    "B learns --lora-plus-ratio times as fast as A";
    /// DyLoRA (arXiv 2210.07558).
    DyLora, "dylora", dylora::DyLora::default(),
    "Every rank up to --rank is usable; the smallest good one is kept";
    /// LoRA-FA (arXiv 2308.03303).
    LoraFa, "lora-fa", lora_fa::LoraFa::default(),
    "A stays as it was drawn: less memory";
    /// DoRA (arXiv 2402.09353).
    Dora, "dora", dora::Dora,
    "A trained magnitude for each output row, and LoRA for the direction";
    /// IA3 (arXiv 2205.05638).
    Ia3, "ia3", ia3::Ia3,
    "A vector scales keys, values and feed-forward inputs: least to store";
    /// Full fine-tuning of a float base; the result is a base.
    Full, "full", full::Full,
    "The weights of a float base themselves; a base is written";
}

impl Method {
    /// Does the option of this name on the command line act with it? Options that act with every
    /// method are not asked about.
    pub fn takes(self, option: &str) -> bool {
        self.technique().takes(option)
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
