//! Calibrated NF4: weights rounded so that layers do to the inputs they really get what they did before.
//!
//! Layer after layer, of a float base. What a layer reads is computed by the layers before it as they
//! are after rounding, so it makes good what these do wrong as far as it can. Stored is plain NF4: any
//! codes, any scales.
//!
//! ```text
//! min Σ ‖W' x − W x‖² over the inputs x,  W' in NF4     (`hessian`, `rows`, `scales`, `layer`)
//! ```
//!
//! In memory are the stream of all tokens, what one stage of layers reads, one layer in f32 and what is
//! finished. The result does not depend on the number of threads.

mod hessian;
mod layer;
mod rows;
mod scales;
mod stages;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) use stages::{Flow, Stages, product};
pub use text::{calibration_text, own_text};

use super::TrainError;
use super::device::{Machine, Pool};
use super::plan::Plan;
use super::step::Step;
use super::trainer::sealed::Sealed;
use crate::archive::Buffer;
use crate::kernel::Precision;
use crate::model::{AnyBase, converted, rewritten, with_family};
use crate::nn::Linear;
use crate::quant::{BLOCK, BlockScale, Format, OwnedMatrix, Quantization};
use crate::runtime::Executor;
use hessian::Sum;

/// How a base is calibrated.
#[derive(Debug, Clone, PartialEq)]
pub struct CalibrateOptions {
    /// The format of the embedding of tokens and the output head. In NF4 their scales are fitted
    /// ([`BlockScale::Fitted`]), not calibrated. Default: [`Format::Int8`].
    pub embedding: Format,
    /// Weights per block: a power of two from 32 to 4096. Default: [`BLOCK`].
    pub block: usize,
    /// The content version in the header. Default: 1.
    pub content_version: u64,
}

impl Default for CalibrateOptions {
    fn default() -> Self {
        Self { embedding: Format::Int8, block: BLOCK, content_version: 1 }
    }
}

/// A calibrated base.
#[derive(Debug)]
pub struct Calibrated {
    /// Its archive.
    pub archive: Buffer,
    /// The paths of layers whose rows are not whole blocks: their scales are fitted
    /// ([`BlockScale::Fitted`]), not calibrated.
    pub fitted: Vec<String>,
}

/// How far a calibration is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CalibrateProgress<'p> {
    /// Layers done.
    pub done: usize,
    /// Layers in all.
    pub total: usize,
    /// The layer that comes next.
    pub name: &'p str,
}

/// Rows that go through a stage together: enough for every thread to have many.
const ROWS: usize = 2048;

/// The fewest tokens that say something of a model's inputs.
pub const LEAST_TOKENS: usize = 512;

/// The float base `base` with its linear layers in NF4, calibrated with `sequences` of tokens, in
/// memory.
///
/// # Errors
/// A sequence that is empty, longer than the model reads or has a token that it does not know; fewer
/// than [`LEAST_TOKENS`] tokens; a base whose layers are no floats, or that is neither a decoder nor an
/// encoder; activations that are not finite; those of the writers.
pub fn calibrate(
    base: &AnyBase<'_>,
    sequences: &[Vec<u32>],
    options: &CalibrateOptions,
    executor: &dyn Executor,
    progress: &mut dyn FnMut(CalibrateProgress<'_>),
) -> Result<Calibrated, TrainError> {
    let network = Sealed::network(*base, false);
    let Some(stages) = network.stages() else {
        return Err(TrainError::options(
            "only decoders and encoders can be calibrated: this base is neither",
        ));
    };
    check(base, sequences)?;
    let mut weights = rest(base, stages, options)?;
    let table = (0..base.as_base().sites())
        .find(|&site| base.as_base().site(site).is_some_and(|(_, _, is_embedding)| is_embedding));
    let Some(table) = table.and_then(|site| weights.get(&site)) else {
        return Err(TrainError::options("the base has no embedding of tokens"));
    };
    let pool = Arc::new(Pool::default());
    let step = Step {
        machine: Machine::new(executor, &pool),
        plan: &Plan::default(),
        values: &[],
        prepared: &[],
        rank: None,
        dropout: None,
        precision: Precision::Exact,
    };
    let mut flows = Vec::new();
    for group in groups(sequences) {
        let tokens = group.concat();
        let ends = group.iter().scan(0, |end, sequence| {
            *end += sequence.len();
            Some(*end)
        });
        let starts: Vec<usize> = std::iter::once(0).chain(ends).collect();
        step.machine.begin(tokens.len());
        let x = stages.begin(&step, table.view(), &tokens, &starts);
        flows.push(Flow { starts, x, inputs: Default::default() });
    }
    let block = options.block;
    let mut run = Run { step, stages, base, block, progress, done: 0, fitted: Vec::new() };
    weights.extend(run.layers(&mut flows)?);
    let fitted = run.fitted;
    let archive = with_family!(base, model => rewritten(model, weights, options.content_version))?;
    Ok(Calibrated { archive, fitted })
}

/// Checks that a base is made of floats and knows the tokens of `sequences`.
fn check(base: &AnyBase<'_>, sequences: &[Vec<u32>]) -> Result<(), TrainError> {
    let first = base.as_base().weight_at(0);
    if !first.is_some_and(|weight| matches!(weight.format(), Format::F32 | Format::F16)) {
        return Err(TrainError::options(
            "its linear layers are quantized already: float ones were expected",
        ));
    }
    let input = base.input();
    let tokens: usize = sequences.iter().map(Vec::len).sum();
    if tokens < LEAST_TOKENS {
        return Err(TrainError::options(format!(
            "the text to calibrate with has {tokens} tokens, at least {LEAST_TOKENS} were expected"
        )));
    }
    for sequence in sequences {
        if sequence.is_empty() || sequence.len() > input.context {
            return Err(TrainError::options(format!(
                "a sequence to calibrate with has {} tokens, 1 to {} were expected",
                sequence.len(),
                input.context
            )));
        }
        if let Some(token) = sequence.iter().find(|&&token| token as usize >= input.vocab) {
            return Err(TrainError::options(format!(
                "token {token} is not in the vocabulary of {} tokens",
                input.vocab
            )));
        }
    }
    Ok(())
}

/// Consecutive sequences of [`ROWS`] tokens together, or one that is longer.
fn groups(sequences: &[Vec<u32>]) -> Vec<&[Vec<u32>]> {
    let (mut groups, mut first, mut rows) = (Vec::new(), 0, 0);
    for (i, sequence) in sequences.iter().enumerate() {
        if i > first && rows + sequence.len() > ROWS {
            groups.push(&sequences[first..i]);
            (first, rows) = (i, 0);
        }
        rows += sequence.len();
    }
    groups.push(&sequences[first..]);
    groups
}

/// The weights that no stage has: embedding and output head in their format, others in NF4 with
/// fitted scales.
fn rest(
    base: &AnyBase<'_>,
    stages: &dyn Stages,
    options: &CalibrateOptions,
) -> Result<BTreeMap<u32, OwnedMatrix>, TrainError> {
    let calibrated: BTreeSet<u32> = (0..stages.blocks())
        .flat_map(|block| stages.stages(block).into_iter().flatten())
        .map(|linear| linear.site)
        .collect();
    let mut weights = BTreeMap::new();
    for site in (0..base.as_base().sites()).filter(|site| !calibrated.contains(site)) {
        let own = with_family!(base, model => model.own_weight(site));
        if let Some((weight, is_edge)) = own {
            let format = if is_edge { options.embedding } else { Format::Nf4 };
            weights.insert(site, converted(weight, &fitted(format, options.block))?);
        }
    }
    Ok(weights)
}

/// A format with scales that are chosen without looking at inputs.
fn fitted(format: Format, block: usize) -> Quantization {
    Quantization { format, block, scale: BlockScale::Fitted }
}

/// A calibration under way.
struct Run<'r> {
    step: Step<'r>,
    stages: &'r dyn Stages,
    base: &'r AnyBase<'r>,
    block: usize,
    progress: &'r mut dyn FnMut(CalibrateProgress<'_>),
    done: usize,
    fitted: Vec<String>,
}

impl Run<'_> {
    /// All layers of all stages, from the first on.
    fn layers(&mut self, flows: &mut [Flow]) -> Result<BTreeMap<u32, OwnedMatrix>, TrainError> {
        let mut weights = BTreeMap::new();
        let mut before: Vec<Linear<'_>> = Vec::new();
        for block in 0..self.stages.blocks() {
            for (stage, layers) in self.stages.stages(block).into_iter().enumerate() {
                let finished = self.stage(flows, (block, stage), &before, &weights, &layers)?;
                weights.extend(finished);
                before = layers;
            }
        }
        Ok(weights)
    }

    /// The layers of one stage: what they read, and what they become.
    fn stage(
        &mut self,
        flows: &mut [Flow],
        (block, stage): (usize, usize),
        before: &[Linear<'_>],
        weights: &BTreeMap<u32, OwnedMatrix>,
        layers: &[Linear<'_>],
    ) -> Result<Vec<(u32, OwnedMatrix)>, TrainError> {
        let weight = |linear: &Linear<'_>| weights.get(&linear.site).map(OwnedMatrix::view);
        let before: Vec<Linear<'_>> = before
            .iter()
            .map(|linear| Linear { weight: weight(linear).unwrap_or(linear.weight), ..*linear })
            .collect();
        let size = layers.first().map_or(0, |layer| layer.weight.cols());
        let mut sum = Sum::new(size);
        for flow in flows {
            self.step.machine.begin(flow.starts.last().copied().unwrap_or(0));
            self.stages.advance(&self.step, block, stage, &before, flow);
            sum.add(&self.step.machine, &flow.inputs);
        }
        let hessian = sum.finish();
        let mut finished = Vec::new();
        for layer in layers {
            let mut name = String::new();
            let _ = self.base.as_base().write_path(layer.site, &mut name);
            let Some(hessian) = &hessian else {
                return Err(TrainError::options(format!(
                    "{name}: what the layer reads is not finite: the weights before it are too large"
                )));
            };
            self.tell(&name);
            let weight = if size.is_multiple_of(self.block) {
                layer::quantize(&self.step.machine, hessian, &layer.weight, self.block)
            } else {
                self.fitted.push(name.clone());
                converted(layer.weight, &fitted(Format::Nf4, self.block))
            };
            let weight = weight.map_err(|error| TrainError::options(format!("{name}: {error}")))?;
            finished.push((layer.site, weight));
        }
        Ok(finished)
    }

    /// The layer `name` comes next.
    fn tell(&mut self, name: &str) {
        let total = (0..self.stages.blocks())
            .map(|block| self.stages.stages(block).iter().map(Vec::len).sum::<usize>())
            .sum();
        (self.progress)(CalibrateProgress { done: self.done, total, name });
        self.done += 1;
    }
}
