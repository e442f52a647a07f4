//! The Llama family, trained: `model::llama::forward` with its activations kept, and the backward
//! pass.
//!
//! Of a block are kept: its input, q, k and v as attention sees them, the attended values, the
//! residual stream between the halves, gate and up. Norms and the SwiGLU product are computed again
//! from these. With checkpointing only the input of each block is kept, and the block runs again on
//! the backward pass.

mod block;
mod stages;

use block::Kept;

use crate::adapter::Base;
use crate::archive::Buffer;
use crate::error::Result;
use crate::kernel::Precision;
use crate::model::llama::{Layer, Llama, Site};
use crate::nn::{Embedding, Linear, angles};
use crate::runtime::{Executor, KvFormat, Limits, Memory, Session, need};
use crate::train::TrainError;
use crate::train::attention::Shape;
use crate::train::body::{Body, InputSpec, Network, last_rows};
use crate::train::calibrate::Stages;
use crate::train::data::{Batch, Inputs};
use crate::train::device::Floats;
use crate::train::evaluate::{Listener, measure_sequences, with_adapters};
use crate::train::ops;
use crate::train::plan::Plan;
use crate::train::rebuilt;
use crate::train::step::Step;
use crate::train::trainer::sealed::Sealed;

/// A Llama-family model in training.
pub(crate) struct LlamaBody<'a> {
    model: Llama<'a>,
    checkpointing: bool,
}

impl<'a> Sealed<'a> for Llama<'a> {
    #[allow(private_interfaces, reason = "sealed")]
    fn network(self, checkpointing: bool) -> Box<dyn Network + Send + Sync + 'a> {
        Box::new(LlamaBody { model: self, checkpointing })
    }
}

/// What the backward pass needs of a pass.
#[derive(Default)]
pub(crate) struct LlamaSaved {
    blocks: Vec<Kept>,
    /// The residual stream behind the last block.
    last: Floats,
    /// cos and sin, `[n, head_dim]`.
    turns: Floats,
}

/// The family's numbers of its vectors.
fn vector_id(layer: usize, which: Norm) -> u32 {
    (layer * 4 + which as usize) as u32
}

#[derive(Clone, Copy)]
enum Norm {
    Attention = 0,
    FeedForward = 1,
    Q = 2,
    K = 3,
}

impl<'a> LlamaBody<'a> {
    fn embedding(&self) -> Embedding<'a> {
        Embedding {
            table: self.model.embedding(),
            site: Site::Embedding.number(self.model.config().layers),
        }
    }

    fn shape(&self) -> Shape {
        let c = self.model.config();
        Shape { heads: c.heads, kv_heads: c.kv_heads, head_dim: c.head_dim, causal: true }
    }

    fn final_norm_id(&self) -> u32 {
        vector_id(self.model.config().layers, Norm::Attention)
    }

    /// cos and sin of every row.
    fn turns(&self, step: &Step<'_>, starts: &[usize]) -> Floats {
        let c = self.model.config();
        let mut frequencies = vec![0.0; c.head_dim / 2];
        c.frequencies(&mut frequencies);
        let rows = starts.last().copied().unwrap_or(0);
        let mut turns = step.machine.unset(rows * c.head_dim);
        let positions = starts.windows(2).flat_map(|pair| 0..pair[1] - pair[0]);
        step.machine.compute(|| {
            for (turn, position) in turns.chunks_exact_mut(c.head_dim).zip(positions) {
                angles(position, &frequencies, turn);
            }
        });
        turns
    }

    /// Is anything in block `index` trained?
    fn trains(&self, plan: &Plan, index: usize) -> bool {
        linears(&self.model.layer(index)).iter().any(|linear| plan.trains(linear.site))
            || [Norm::Attention, Norm::FeedForward, Norm::Q, Norm::K]
                .iter()
                .any(|&which| plan.vectors.contains_key(&vector_id(index, which)))
    }

    /// The lowest block that the backward pass has to reach.
    fn lowest(&self, plan: &Plan) -> usize {
        let layers = self.model.config().layers;
        if plan.trains(self.embedding().site) {
            0
        } else {
            (0..layers).find(|&index| self.trains(plan, index)).unwrap_or(layers)
        }
    }
}

/// Under what limits the runtime measures.
pub(crate) fn measure_limits(
    longest: usize,
    precision: Precision,
    threads: usize,
    adapters: usize,
    rank: usize,
) -> Limits {
    Limits {
        kv_format: KvFormat::F32,
        precision,
        prefill_chunk: longest.min(64),
        threads,
        max_active: adapters,
        max_total_rank: rank,
        ..Limits::new(longest)
    }
}

impl Body for LlamaBody<'_> {
    type Saved = LlamaSaved;
    type Pool = ();

    fn base(&self) -> &dyn Base {
        &self.model
    }

    fn head(&self) -> Option<Linear<'_>> {
        Some(Linear {
            weight: self.model.head(),
            bias: &[],
            site: Site::Head.number(self.model.config().layers),
        })
    }

    fn layer_at(&self, site: u32) -> Option<Linear<'_>> {
        self.model.linear(site)
    }

    fn vectors(&self) -> Vec<(u32, &[f32])> {
        rebuilt::vectors(&self.model)
    }

    fn input_spec(&self) -> InputSpec {
        let c = self.model.config();
        InputSpec { tokens: c.vocab, features: 0, context: c.context, classifier_bias: false }
    }

    fn write_base(&self, name: &str, plan: &Plan, values: &[f32]) -> Result<Buffer> {
        rebuilt::write_base(&self.model, name, plan, values, None)
    }

    fn reopen<'b>(&self, archive: &'b [u8]) -> Result<Box<dyn Base + 'b>> {
        Ok(Box::new(Llama::open(archive)?))
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
        let model = base.map_or(Ok(self.model), Llama::open)?;
        with_adapters(&model, adapters, |set, choices, rank| {
            let (threads, adapters) = (executor.threads(), choices.len());
            let limits = measure_limits(longest, precision, threads, adapters, rank);
            let mut memory = Memory::new(need(model.config(), &limits));
            let mut session = Session::new(model, &limits, memory.as_mut(), executor)?;
            session.select(0, set, choices)?;
            measure_sequences(
                &mut session,
                batches,
                listener,
                |session, tokens, class, listener| {
                    let mut logits = vec![0.0; session.classifier(0)?.len()];
                    session.classify(0, tokens, &mut logits)?;
                    listener.class(&logits, class)
                },
            )
        })
    }

    fn forward(
        &self,
        step: &Step<'_>,
        inputs: &Inputs,
        starts: &[usize],
        keep: bool,
    ) -> (Floats, LlamaSaved) {
        let Inputs::Tokens(tokens) = inputs else { return Default::default() };
        let c = self.model.config();
        let turns = self.turns(step, starts);
        let mut x = step.machine.unset(starts[starts.len() - 1] * c.dim);
        step.embed(&self.embedding(), tokens, &mut x);
        let mut blocks = Vec::with_capacity(c.layers);
        for index in 0..c.layers {
            let (out, inner) = self.block(step, index, starts, &turns, &x);
            let x_before = std::mem::replace(&mut x, out);
            if keep {
                blocks.push(Kept { x: x_before, inner: (!self.checkpointing).then_some(inner) });
            }
        }
        let weight = step.vector(self.final_norm_id(), self.model.norm());
        let hidden = ops::rms_norm(&step.machine, &x, weight, c.norm_epsilon);
        (hidden, LlamaSaved { blocks, last: x, turns })
    }

    fn backward(
        &self,
        step: &Step<'_>,
        inputs: &Inputs,
        starts: &[usize],
        saved: LlamaSaved,
        d_hidden: Floats,
        gradients: &mut [f32],
    ) {
        let Inputs::Tokens(tokens) = inputs else { return };
        let c = self.model.config();
        let LlamaSaved { mut blocks, last, turns } = saved;
        let weight = step.vector(self.final_norm_id(), self.model.norm());
        let mut d = step.machine.zeros(last.len());
        let dw = match step.plan.vectors.get(&self.final_norm_id()) {
            Some(range) => &mut gradients[range.clone()],
            None => &mut [][..],
        };
        ops::rms_norm_back(&step.machine, &last, weight, c.norm_epsilon, &d_hidden, &mut d, dw);
        drop((last, d_hidden));
        let embeds = step.plan.trains(self.embedding().site);
        let lowest = self.lowest(step.plan);
        for index in (lowest..c.layers).rev() {
            let Some(kept) = blocks.pop() else { return };
            let full = step.plan.vectors.contains_key(&vector_id(index, Norm::Attention));
            self.block_back(
                step,
                index,
                starts,
                &turns,
                &kept,
                &mut d,
                embeds || full || index > lowest,
                gradients,
            );
        }
        if embeds {
            step.embed_back(&self.embedding(), tokens, &d, gradients);
        }
    }

    fn measure_bytes(&self, longest: usize, threads: usize, rank: usize) -> u64 {
        let limits = measure_limits(longest, Precision::Exact, threads, 1, rank);
        need(self.model.config(), &limits).bytes as u64
    }

    fn stages(&self) -> Option<&dyn Stages> {
        Some(self)
    }

    fn text_bytes(&self) -> u64 {
        (self.model.tokenizer_json().len() + self.model.chat_template().len()) as u64
    }

    /// The last token's, as [`Session::classify`] takes it.
    fn pool(&self, step: &Step<'_>, hidden: &[f32], starts: &[usize]) -> (Floats, ()) {
        let width = self.model.config().dim;
        (ops::gather(&step.machine, hidden, width, last_rows(starts)), ())
    }

    fn pool_back(
        &self,
        step: &Step<'_>,
        starts: &[usize],
        (): (),
        d_pooled: &[f32],
        d_hidden: &mut [f32],
        _: &mut [f32],
    ) {
        let width = self.model.config().dim;
        ops::scatter(&step.machine, d_pooled, width, last_rows(starts), d_hidden);
    }
}

fn linears<'a>(layer: &Layer<'a>) -> [Linear<'a>; 7] {
    [layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down]
}
