//! LSTM layers, trained: `model::lstm::forward` with its activations kept, and the backward pass
//! through time.
//!
//! A layer's input product serves all rows at once, forth and back. The recurrent product goes
//! token by token, each time for all sequences of the batch that have one, through the frozen base
//! and its adapter. Gradients go back to the beginning of each sequence.
//!
//! ```text
//! c = f ⊙ c' + i ⊙ g    h = o ⊙ tanh(c) do = dh ⊙ tanh(c)    dc += dh ⊙ o ⊙ (1 − tanh²(c))    di =
//! dc ⊙ g    dg = dc ⊙ i    df = dc ⊙ c'    dc' = dc ⊙ f
//! ```
//! and through the functions of the gates: σ' = σ(1 − σ), tanh' = 1 − tanh².
//!
//! Of a layer are kept: what it reads, its gates, c and h. With checkpointing only what it reads is
//! kept, and the layer runs again in the backward pass. Dropout before a recurrent matrix's A drops
//! the same elements at every token.

mod layer;

use layer::Kept;

use crate::adapter::Base;
use crate::archive::Buffer;
use crate::error::{Error, Result};
use crate::kernel::Precision;
use crate::model::lstm::{Config, Head, Lstm, Site};
use crate::nn::{Embedding, Linear};
use crate::runtime::{Executor, Memory, Recurrent, RecurrentLimits, recurrent_need};
use crate::train::TrainError;
use crate::train::body::{Body, InputSpec, Network, last_rows};
use crate::train::data::{Batch, Inputs};
use crate::train::device::Floats;
use crate::train::evaluate::{Listener, measure_sequences, with_adapters};
use crate::train::ops;
use crate::train::plan::Plan;
use crate::train::rebuilt;
use crate::train::step::Step;
use crate::train::trainer::sealed::Sealed;

/// The longest sequence of a batch: a state has no limit, memory has.
const LONGEST: usize = 1 << 20;

/// LSTM layers in training.
pub(crate) struct LstmBody<'a> {
    model: Lstm<'a>,
    checkpointing: bool,
}

impl<'a> Sealed<'a> for Lstm<'a> {
    #[allow(private_interfaces, reason = "sealed")]
    fn network(self, checkpointing: bool) -> Box<dyn Network + Send + Sync + 'a> {
        Box::new(LstmBody { model: self, checkpointing })
    }
}

impl<'a> LstmBody<'a> {
    fn embedding(&self) -> Embedding<'a> {
        Embedding {
            table: self.model.embedding(),
            site: Site::Embedding.number(self.model.config().layers),
        }
    }

    /// The lowest layer that the backward pass has to reach, and whether it goes on to the
    /// embedding.
    fn lowest(&self, plan: &Plan) -> (usize, bool) {
        let layers = self.model.config().layers;
        let trains = |index: &usize| {
            [Site::Ih(*index), Site::Hh(*index)].iter().any(|site| plan.trains(site.number(layers)))
        };
        let embeds = plan.trains(self.embedding().site);
        (if embeds { 0 } else { (0..layers).find(trains).unwrap_or(layers) }, embeds)
    }

    /// Under what limits the runtime measures.
    fn limits(
        longest: usize,
        precision: Precision,
        threads: usize,
        adapters: usize,
        rank: usize,
    ) -> RecurrentLimits {
        RecurrentLimits {
            precision,
            prefill_chunk: longest.clamp(1, 64),
            threads,
            max_active: adapters,
            max_total_rank: rank,
            ..RecurrentLimits::new()
        }
    }
}

impl Body for LstmBody<'_> {
    type Saved = Vec<Kept>;
    type Pool = ();

    fn base(&self) -> &dyn Base {
        &self.model
    }

    fn input_spec(&self) -> InputSpec {
        InputSpec {
            tokens: self.model.config().vocab,
            features: 0,
            context: LONGEST,
            classifier_bias: true,
        }
    }

    fn head(&self) -> Option<Linear<'_>> {
        self.model.head().filter(|_| self.model.config().head == Head::LanguageModel)
    }

    fn classifier(&self) -> Option<(Linear<'_>, Vec<String>)> {
        let head = self.model.head().filter(|_| self.model.config().head == Head::Labels)?;
        Some((head, self.model.labels().map(str::to_owned).collect()))
    }

    fn layer_at(&self, site: u32) -> Option<Linear<'_>> {
        match Site::from_number(site, self.model.config().layers)? {
            // A head of labels is the classifier, no layer.
            Site::Head => self.head(),
            _ => self.model.linear(site),
        }
    }

    fn vectors(&self) -> Vec<(u32, &[f32])> {
        Vec::new()
    }

    fn write_base(&self, name: &str, plan: &Plan, values: &[f32]) -> Result<Buffer> {
        let config = *self.model.config();
        let replaced = plan.classifier.as_ref().map(|classifier| {
            let outputs = classifier.labels.len();
            let config = Config { head: Head::Labels, outputs, ..config };
            (Site::Head.number(config.layers), config.to_schema())
        });
        rebuilt::write_base(&self.model, name, plan, values, replaced)
    }

    fn reopen<'b>(&self, archive: &'b [u8]) -> Result<Box<dyn Base + 'b>> {
        Ok(Box::new(Lstm::open(archive)?))
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
        let model = base.map_or(Ok(self.model), Lstm::open)?;
        with_adapters(&model, adapters, |set, choices, rank| {
            let limits = Self::limits(longest, precision, executor.threads(), choices.len(), rank);
            let mut memory = Memory::new(recurrent_need(model.config(), &limits));
            let mut session = Recurrent::new(model, &limits, memory.as_mut(), executor)?;
            session.select(0, set, choices)?;
            let own = model.labels().count();
            measure_sequences(
                &mut session,
                batches,
                listener,
                |session, tokens, class, listener| {
                    session.prefill(0, tokens)?;
                    match session.classifier(0) {
                        Ok(classifier) => {
                            let mut logits = vec![0.0; classifier.len()];
                            session.classify(0, &mut logits)?;
                            listener.class(&logits, class)
                        }
                        Err(Error::Classifiers { found: 0, .. }) if own > 0 => {
                            listener.class(session.logits(0)?, class)
                        }
                        Err(error) => Err(error.into()),
                    }
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
    ) -> (Floats, Vec<Kept>) {
        let Inputs::Tokens(tokens) = inputs else { return Default::default() };
        let c = self.model.config();
        let mut x = step.machine.alone(starts[starts.len() - 1] * c.dim);
        step.embed(&self.embedding(), tokens, &mut x);
        let mut saved = Vec::with_capacity(c.layers);
        for index in 0..c.layers {
            let inner = self.layer(step, &self.model.layer(index), starts, &x);
            if keep {
                let mut h = step.machine.alone(inner.h.len());
                step.machine.assign(&mut h, &inner.h);
                saved.push(Kept {
                    x: std::mem::replace(&mut x, h),
                    inner: (!self.checkpointing).then_some(inner),
                });
            } else {
                x = inner.h;
            }
        }
        (x, saved)
    }

    fn backward(
        &self,
        step: &Step<'_>,
        inputs: &Inputs,
        starts: &[usize],
        mut saved: Vec<Kept>,
        d_hidden: Floats,
        gradients: &mut [f32],
    ) {
        let Inputs::Tokens(tokens) = inputs else { return };
        let layers = self.model.config().layers;
        let (lowest, embeds) = self.lowest(step.plan);
        let mut d = d_hidden;
        for index in (lowest..layers).rev() {
            let Some(Kept { x, inner }) = saved.pop() else { return };
            let layer = self.model.layer(index);
            let inner = inner.unwrap_or_else(|| self.layer(step, &layer, starts, &x));
            let input = embeds || index > lowest;
            d = self.layer_back(step, &layer, starts, &x, &inner, &d, input, gradients);
        }
        if embeds {
            step.embed_back(&self.embedding(), tokens, &d, gradients);
        }
    }

    fn measure_bytes(&self, longest: usize, threads: usize, rank: usize) -> u64 {
        recurrent_need(
            self.model.config(),
            &Self::limits(longest, Precision::Exact, threads, 1, rank),
        )
        .bytes as u64
    }

    fn text_bytes(&self) -> u64 {
        self.model.tokenizer_json().len() as u64
    }

    /// The last token's.
    fn pool(&self, step: &Step<'_>, hidden: &[f32], starts: &[usize]) -> (Floats, ()) {
        let width = self.model.config().hidden;
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
        let width = self.model.config().hidden;
        ops::scatter(&step.machine, d_pooled, width, last_rows(starts), d_hidden);
    }
}
