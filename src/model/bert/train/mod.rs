//! The BERT family, trained: `model::bert::forward` with its activations kept, and the backward
//! pass.
//!
//! The norms stand behind the residuals, so a block is seen from sum to sum: `x = norm(s)`, `m =
//! norm(x + O attention(x))`, `s' = m + Down f(Up m)`. Norm 0 is the embeddings', norms 2i + 1 and
//! 2i + 2 are block i's; block i reads norm 2i.
//!
//! Of a block are kept: s, q, k and v, the attended values, the sum between the halves and what the
//! activation reads. Norms and activations are computed again from these. With checkpointing only s
//! is kept, and the block runs again in the backward pass.

mod block;
mod pool;
mod stages;
mod vectors;

use std::ops::Range;

use block::Kept;
use pool::Pool;

use crate::adapter::{AdapterSet, Base, Choice};
use crate::archive::Buffer;
use crate::error::Result;
use crate::kernel::Precision;
use crate::model::bert::{Bert, Layer, Site};
use crate::nn::{Embedding, Linear};
use crate::runtime::{Encode, Encoder, EncoderLimits, Executor, Memory, Texts, encoder_need};
use crate::train::TrainError;
use crate::train::attention::Shape;
use crate::train::body::{Body, InputSpec, Network};
use crate::train::calibrate::Stages;
use crate::train::data::{Batch, Inputs, Targets};
use crate::train::device::Floats;
use crate::train::evaluate::{Listener, with_adapters};
use crate::train::ops;
use crate::train::plan::Plan;
use crate::train::rebuilt;
use crate::train::step::Step;
use crate::train::trainer::sealed::Sealed;

/// A BERT-family encoder in training.
pub(crate) struct BertBody<'a> {
    model: Bert<'a>,
    checkpointing: bool,
}

impl<'a> Sealed<'a> for Bert<'a> {
    #[allow(private_interfaces, reason = "sealed")]
    fn network(self, checkpointing: bool) -> Box<dyn Network + Send + Sync + 'a> {
        Box::new(BertBody { model: self, checkpointing })
    }
}

/// What the backward pass needs of a pass.
#[derive(Default)]
pub(crate) struct BertSaved {
    blocks: Vec<Kept>,
    /// The sum behind the last block.
    last: Floats,
}

impl<'a> BertBody<'a> {
    fn embedding(&self) -> Embedding<'a> {
        Embedding {
            table: self.model.embedding(),
            site: Site::Embedding.number(self.model.config().layers),
        }
    }

    fn shape(&self) -> Shape {
        let c = self.model.config();
        Shape { heads: c.heads, kv_heads: c.heads, head_dim: c.head_dim(), causal: false }
    }

    /// Is a linear layer of block `index` trained?
    fn trains(&self, plan: &Plan, index: usize) -> bool {
        linears(&self.model.layer(index)).iter().any(|linear| plan.trains(linear.site))
    }

    /// The lowest block that the backward pass has to reach, and whether it goes on to the
    /// embeddings.
    fn lowest(&self, plan: &Plan) -> Option<(usize, bool)> {
        // Vectors are trained all or none.
        if !plan.vectors.is_empty() || plan.trains(self.embedding().site) {
            return Some((0, true));
        }
        (0..self.model.config().layers)
            .find(|&index| self.trains(plan, index))
            .map(|index| (index, false))
    }
}

/// Under what limits the runtime measures.
pub(crate) fn measure_limits(
    longest: usize,
    precision: Precision,
    threads: usize,
    adapters: usize,
    rank: usize,
) -> EncoderLimits {
    EncoderLimits {
        batch: TEXTS,
        tokens: longest.max(TOKENS),
        precision,
        threads,
        max_active: adapters,
        max_total_rank: rank,
        ..EncoderLimits::new(longest)
    }
}

/// Lets an encoder classify every sequence of `batches`, under `choices` each: `listener` hears the
/// logits.
pub(crate) fn measure_texts<'m, R: Encode<'m>>(
    encoder: &mut Texts<'_, 'm, R>,
    set: &AdapterSet<'_, 'm>,
    choices: &[Choice],
    batches: &mut dyn Iterator<Item = Result<Batch, TrainError>>,
    listener: &mut dyn Listener,
) -> Result<(), TrainError> {
    (0..TEXTS).try_for_each(|sequence| encoder.select(sequence, set, choices))?;
    let mut logits = vec![0.0; encoder.classifier(0)?.len()];
    for batch in batches {
        let batch = batch?;
        let (Inputs::Tokens(tokens), Targets::Class(classes)) = (&batch.inputs, &batch.targets)
        else {
            return Err(TrainError::options(
                "an encoder is measured as a classifier (--task classify)",
            ));
        };
        for sequences in groups(&batch.starts, encoder.limits().tokens) {
            let texts: Vec<&[u32]> = sequences
                .clone()
                .map(|sequence| &tokens[batch.starts[sequence]..batch.starts[sequence + 1]])
                .collect();
            encoder.encode(&texts)?;
            for (sequence, &class) in classes[sequences].iter().enumerate() {
                encoder.classify(sequence, &mut logits)?;
                listener.class(&logits, class)?;
            }
        }
    }
    Ok(())
}

impl Body for BertBody<'_> {
    type Saved = BertSaved;
    type Pool = Pool;

    fn base(&self) -> &dyn Base {
        &self.model
    }

    fn input_spec(&self) -> InputSpec {
        let c = self.model.config();
        InputSpec { tokens: c.vocab, features: 0, context: c.context, classifier_bias: true }
    }

    fn head(&self) -> Option<Linear<'_>> {
        None
    }

    fn layer_at(&self, site: u32) -> Option<Linear<'_>> {
        self.model.linear(site)
    }

    fn vectors(&self) -> Vec<(u32, &[f32])> {
        rebuilt::vectors(&self.model)
    }

    fn write_base(&self, name: &str, plan: &Plan, values: &[f32]) -> Result<Buffer> {
        rebuilt::write_base(&self.model, name, plan, values, None)
    }

    fn reopen<'b>(&self, archive: &'b [u8]) -> Result<Box<dyn Base + 'b>> {
        Ok(Box::new(Bert::open(archive)?))
    }

    fn measure(
        &self,
        base: Option<&[u8]>,
        adapters: &[(&[u8], f32)],
        longest: usize,
        batches: &mut dyn Iterator<Item = Result<Batch, TrainError>>,
        precision: Precision,
        executor: &dyn Executor,
        listener: &mut dyn Listener,
    ) -> Result<(), TrainError> {
        let model = base.map_or(Ok(self.model), Bert::open)?;
        with_adapters(&model, adapters, |set, choices, rank| {
            let (threads, adapters) = (executor.threads(), choices.len());
            let limits = measure_limits(longest, precision, threads, adapters, rank);
            let mut memory = Memory::new(encoder_need(model.config(), &limits));
            let mut encoder = Encoder::new(model, &limits, memory.as_mut(), executor)?;
            measure_texts(&mut encoder, set, choices, batches, listener)
        })
    }

    fn forward(
        &self,
        step: &Step<'_>,
        inputs: &Inputs,
        starts: &[usize],
        keep: bool,
    ) -> (Floats, BertSaved) {
        let Inputs::Tokens(tokens) = inputs else { return Default::default() };
        let c = self.model.config();
        let mut sum = step.machine.unset(starts[starts.len() - 1] * c.dim);
        step.embed(&self.embedding(), tokens, &mut sum);
        self.add_places(step, starts, &mut sum);
        let mut blocks = Vec::with_capacity(c.layers);
        for index in 0..c.layers {
            let (out, inner) = self.block(step, index, starts, &sum);
            let before = std::mem::replace(&mut sum, out);
            if keep {
                blocks.push(Kept { sum: before, inner: (!self.checkpointing).then_some(inner) });
            }
        }
        let hidden = ops::layer_norm(&step.machine, &sum, &self.norm(step, self.last_norm()));
        (hidden, BertSaved { blocks, last: sum })
    }

    fn backward(
        &self,
        step: &Step<'_>,
        inputs: &Inputs,
        starts: &[usize],
        saved: BertSaved,
        d_hidden: Floats,
        gradients: &mut [f32],
    ) {
        let Inputs::Tokens(tokens) = inputs else { return };
        let layers = self.model.config().layers;
        let Some((lowest, everything)) = self.lowest(step.plan) else { return };
        let BertSaved { mut blocks, last } = saved;
        let mut d = d_hidden;
        self.norm_back(step, self.last_norm(), &last, &mut d, gradients);
        drop(last);
        for index in (lowest..layers).rev() {
            let Some(kept) = blocks.pop() else { return };
            self.block_back(
                step,
                index,
                starts,
                kept,
                &mut d,
                everything || index > lowest,
                gradients,
            );
        }
        if everything {
            self.add_places_back(step, starts, &d, gradients);
            step.embed_back(&self.embedding(), tokens, &d, gradients);
        }
    }

    fn measure_bytes(&self, longest: usize, threads: usize, rank: usize) -> u64 {
        let limits = measure_limits(longest, Precision::Exact, threads, 1, rank);
        encoder_need(self.model.config(), &limits).bytes as u64
    }

    fn stages(&self) -> Option<&dyn Stages> {
        Some(self)
    }

    fn text_bytes(&self) -> u64 {
        self.model.tokenizer_json().len() as u64
    }

    fn pool(&self, step: &Step<'_>, hidden: &[f32], starts: &[usize]) -> (Floats, Pool) {
        self.pooled(step, hidden, starts)
    }

    fn pool_back(
        &self,
        step: &Step<'_>,
        starts: &[usize],
        pool: Pool,
        d_pooled: &[f32],
        d_hidden: &mut [f32],
        gradients: &mut [f32],
    ) {
        self.pooled_back(step, starts, pool, d_pooled, d_hidden, gradients);
    }
}

/// Texts that are measured at a time, and the tokens of all of them unless one alone has more.
const TEXTS: usize = 16;
const TOKENS: usize = 512;

/// Consecutive sequences that fit into the encoder together.
fn groups(starts: &[usize], tokens: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for sequence in 0..starts.len().saturating_sub(1) {
        match groups.last_mut() {
            Some(group)
                if group.len() < TEXTS && starts[sequence + 1] - starts[group.start] <= tokens =>
            {
                group.end = sequence + 1
            }
            _ => groups.push(sequence..sequence + 1),
        }
    }
    groups
}

fn linears<'a>(layer: &Layer<'a>) -> [Linear<'a>; 6] {
    [layer.q, layer.k, layer.v, layer.o, layer.up, layer.down]
}
