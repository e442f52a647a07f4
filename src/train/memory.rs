//! What a training run takes of memory, before it runs. Nothing is allocated here: the books are
//! kept that the code would fill.
//!
//! With P numbers in the arena, n rows in a batch, r the rank, all in bytes:
//! ```text
//! held        4P values + 4P gradients + 4P kept by the guard + optimizer (AdamW: 8 a trained number)
//!             + early stopping 4P + DoRA 8 a row of its layers
//! step        held + DoRA 4 a row + the family's walk: what forward keeps, then the most of loss and way back
//! validation  held + the archive + the factors twice, while it is written, or the core's workspace
//! checkpoint  held + 4P values + early stopping 4P + optimizer
//! peak        the largest of the three, beside what the caller holds (tokenizer, index of the data)
//! ```
//! A family's walk stands beside its code ([`Body::predict`](super::body::Body::predict)) and takes
//! and gives back in the same order. What layers share is here: low-rank factors, tiles of
//! dequantized weights, the packing buffers of matrix products.

use super::TrainError;
use super::attention::Shape;
use super::body::Network;
use super::course::Course;
use super::data::{Dataset, Task};
use super::method::Part;
use super::options::Options;
use super::plan::{Plan, Tensor};
use super::planner::{self, Planned};
use super::product::{SKINNY, part_rows, tile_rows};
use super::run::RunOptions;
use super::start::Start;
use super::trainer::{Trainable, check_task, sealed::Sealed};
use crate::file::Kind;
use crate::kernel::{GROUP, Precision, kernels};
use crate::nn::Linear;
use crate::quant::Format;

/// What a run will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forecast {
    /// Numbers that are trained.
    pub trainable_parameters: usize,
    /// Values, gradients and the copies that divergence and early stopping fall back on.
    pub parameter_bytes: u64,
    /// The optimizer's state.
    pub optimizer_bytes: u64,
    /// The most that a step takes beside them: activations, their gradients, tiles.
    pub step_bytes: u64,
    /// The most that a validation, or writing the result, takes beside them.
    pub validation_bytes: u64,
    /// What writing a checkpoint takes beside them; 0 if none is written.
    pub checkpoint_bytes: u64,
    /// Their high-water mark together.
    pub heap_bytes: u64,
}

/// What a run will meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Rows of every sequence, batch by batch.
    pub batches: Vec<Vec<usize>>,
    /// Optimizer steps, if they are known.
    pub steps: Option<u64>,
    /// The longest sequence of the validation data, if there is any.
    pub validation: Option<usize>,
    /// Labels of a classifier; 0 for a language model.
    pub labels: usize,
    /// Lanes of the executor.
    pub lanes: usize,
}

impl Workload {
    /// Full batches: `batch_size` sequences of `length` rows.
    ///
    /// # Errors
    /// [`TrainError::Options`] for none, and for more than a batch can be.
    pub fn full(
        batch_size: usize,
        length: usize,
        labels: usize,
        lanes: usize,
    ) -> Result<Self, TrainError> {
        most("batch-size", batch_size, MOST_SEQUENCES)?;
        most("max-length", length, MOST_ROWS)?;
        most("batch-size times max-length", batch_size * length, MOST_ROWS)?;
        let batches = vec![vec![length; batch_size]];
        Ok(Self { batches, steps: None, validation: None, labels, lanes })
    }

    /// The batches that a run of `options` with `seed` makes of `training`.
    pub fn of(
        training: &Dataset<'_>,
        validation: Option<&Dataset<'_>>,
        options: &RunOptions,
        seed: u64,
        lanes: usize,
    ) -> Self {
        let mut course = Course::new(training, options, seed);
        let epochs = 0..course.epochs(EPOCHS);
        let plans = epochs.flat_map(|epoch| course.batches(epoch));
        // A run of few steps does not see every batch.
        let most = usize::try_from(course.total())
            .unwrap_or(usize::MAX)
            .saturating_mul(options.accumulation);
        let lengths =
            |batch: Vec<u32>| batch.into_iter().map(|example| training.length(example)).collect();
        let labels = if training.task() == Task::Classify { training.labels().len() } else { 0 };
        Self {
            batches: plans.take(most).map(lengths).collect(),
            steps: Some(course.total()),
            validation: validation.map(Dataset::longest),
            labels,
            lanes,
        }
    }
}

/// The most sequences and rows of a batch, and labels of a classifier, that are counted with: no
/// machine trains more, and their bytes do not overflow.
const MOST_SEQUENCES: usize = 1 << 20;
const MOST_ROWS: usize = 1 << 31;
const MOST_LABELS: usize = 1 << 20;

fn most(name: &str, found: usize, most: usize) -> Result<(), TrainError> {
    if (1..=most).contains(&found) {
        return Ok(());
    }
    Err(TrainError::options(format!("{name} is {found}, 1 to {most} was expected")))
}

/// Epochs whose batches are looked at: later ones are shuffled otherwise, not larger.
const EPOCHS: u64 = 4;

/// What a run of `options` and `run` on `base` will take on the heap, beside what is held before it
/// begins and the base itself.
///
/// # Errors
/// [`TrainError::Options`] for options that cannot be or do not fit the base.
pub fn forecast<'a>(
    base: impl Trainable<'a>,
    options: &Options,
    run: &RunOptions,
    workload: &Workload,
) -> Result<Forecast, TrainError> {
    let mut described = options.clone();
    if let Some(start) = &options.start {
        start.describe(&mut described);
    }
    let options = &described;
    let network = Sealed::network(base, options.checkpointing);
    most("labels", workload.labels.max(1), MOST_LABELS)?;
    check_task(network.as_ref(), workload.labels)?;
    let own = options.start.as_ref().map(Start::labels).unwrap_or_default();
    let labels: Vec<String> = match own.len() == workload.labels {
        true => own,
        false => (0..workload.labels).map(|label| label.to_string()).collect(),
    };
    let Planned { plan, technique } = planner::layout(network.as_ref(), options, &labels)?;
    let is_full = technique.result() == Kind::Base;
    let norms = dora_rows(&plan);
    let copies = if run.patience.is_some() { 2 } else { 1 };
    let parameter_bytes = (2 + copies) * floats(plan.len()) + 8 * norms;
    let optimizer_bytes: u64 =
        plan.trained().map(|tensor| options.optimizer.state_bytes(tensor.range.len())).sum();
    let step_bytes = 4 * norms + step_bytes(network.as_ref(), &plan, options, workload)?;
    let validation_bytes = measure_bytes(network.as_ref(), &plan, is_full, workload, copies);
    let is_saved = |every| workload.steps.is_none_or(|steps| steps >= every);
    let checkpoint_bytes = match &run.checkpoint {
        Some((_, every)) if is_saved(*every) => {
            copies * floats(plan.len()) + optimizer_bytes + FILE_BUFFER
        }
        _ => 0,
    };
    let most = step_bytes.max(validation_bytes).max(checkpoint_bytes);
    Ok(Forecast {
        trainable_parameters: plan.trainable(),
        parameter_bytes,
        optimizer_bytes,
        step_bytes,
        validation_bytes,
        checkpoint_bytes,
        heap_bytes: parameter_bytes + optimizer_bytes + most,
    })
}

/// The buffer between an archive and its file.
const FILE_BUFFER: u64 = 1 << 20;

/// The largest batch's walk.
fn step_bytes(
    network: &dyn Network,
    plan: &Plan,
    options: &Options,
    workload: &Workload,
) -> Result<u64, TrainError> {
    let mut most = 0;
    for lengths in &workload.batches {
        let mut starts = vec![0];
        starts.extend(lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        }));
        let rows = starts.last().copied().unwrap_or(0);
        let mut books = Books::new(plan, options, workload.lanes);
        // Tokens, targets, starts.
        books.take(8 * (rows + starts.len()) as u64);
        let walked = network.predict(&mut books, &starts);
        walked.ok_or_else(|| TrainError::options("a batch without rows takes nothing"))?;
        most = most.max(books.most());
    }
    Ok(most)
}

/// The numbers as an archive, and the core on top.
fn measure_bytes(
    network: &dyn Network,
    plan: &Plan,
    is_full: bool,
    workload: &Workload,
    copies: u64,
) -> u64 {
    let archive = if is_full {
        full_archive(network, plan)
    } else {
        floats(plan.len()) + 8 * u64::from(network.base().sites())
    };
    // On the way into its archive an adapter is copied once as the builder takes it and once as it
    // is stored.
    let writing = if is_full { archive } else { archive + 2 * floats(plan.len()) };
    let rank = plan.largest_rank();
    match workload.validation {
        Some(longest) => {
            writing.max(archive + network.measure_bytes(longest, workload.lanes, rank))
        }
        // Then it is written when the run is over, and its copies of the values are gone.
        None => writing.saturating_sub(copies * floats(plan.len())),
    }
}

/// The bytes of the base that full fine-tuning writes.
fn full_archive(network: &dyn Network, plan: &Plan) -> u64 {
    let kept = |site: &u32| {
        !plan.trains(*site) && network.base().tied().is_none_or(|(head, _)| *site != head)
    };
    let others: u64 = (0..network.base().sites())
        .filter(kept)
        .filter_map(|site| Some(network.base().weight_at(site)?.bytes()))
        .sum();
    floats(plan.len()) + others + network.text_bytes()
}

/// Output rows of the layers that have a magnitude.
fn dora_rows(plan: &Plan) -> u64 {
    let magnitudes = plan.tensors.iter().filter(|tensor| tensor.part == Part::Magnitude);
    magnitudes.map(|tensor| tensor.range.len() as u64).sum()
}

/// What the books have to know of a layer that is trained.
struct Trained {
    /// The rank of its factors; `None` if its weight is trained itself.
    rank: Option<usize>,
    has_magnitude: bool,
    a_frozen: bool,
}

fn trained(plan: &Plan, site: u32) -> Option<Trained> {
    let rank = plan.layer(site)?.rank();
    let has = |wanted| move |tensor: &&Tensor| tensor.place == site && tensor.part == wanted;
    Some(Trained {
        rank: (rank > 0).then_some(rank),
        has_magnitude: plan.tensors.iter().any(|tensor| has(Part::Magnitude)(&tensor)),
        a_frozen: plan.tensors.iter().find(has(Part::A)).is_some_and(|a| a.frozen),
    })
}

/// The bytes of `count` f32.
pub(crate) fn floats(count: usize) -> u64 {
    4 * count as u64
}

/// What is held while a step goes on, and the most there was.
pub(crate) struct Books<'p> {
    pub(crate) plan: &'p Plan,
    has_dropout: bool,
    precision: Precision,
    lanes: usize,
    held: u64,
    most: u64,
}

impl<'p> Books<'p> {
    fn new(plan: &'p Plan, options: &Options, lanes: usize) -> Self {
        Self {
            plan,
            has_dropout: options.dropout > 0.0,
            precision: options.precision,
            lanes: lanes.max(1),
            held: 0,
            most: 0,
        }
    }

    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    fn most(&self) -> u64 {
        self.most
    }

    /// Something is allocated; returns its bytes.
    pub(crate) fn take(&mut self, bytes: u64) -> u64 {
        self.held = self.held.saturating_add(bytes);
        self.most = self.most.max(self.held);
        bytes
    }

    /// And freed.
    pub(crate) fn give(&mut self, bytes: u64) {
        self.held = self.held.saturating_sub(bytes);
    }

    /// Everything since `before` is freed.
    pub(crate) fn back_to(&mut self, before: u64) {
        self.held = before;
    }

    /// Allocated and freed.
    pub(crate) fn pass(&mut self, bytes: u64) {
        self.take(bytes);
        self.give(bytes);
    }

    /// [`Step::linear`](super::step::Step::linear) on n rows; returns what its trace keeps, which
    /// stays in the books.
    pub(crate) fn linear(&mut self, linear: &Linear<'_>, n: usize) -> u64 {
        let (outputs, inputs) = (linear.weight.rows(), linear.weight.cols());
        let trained = trained(self.plan, linear.site);
        let is_frozen = trained.as_ref().is_none_or(|trained| trained.rank.is_some());
        if is_frozen && self.precision == Precision::Fast && kernels().has_fast(&linear.weight) {
            self.pass((n * inputs) as u64 + floats(n * inputs / GROUP));
        }
        let Some(Trained { rank: Some(rank), has_magnitude, .. }) = trained else { return 0 };
        let dropped = if self.has_dropout { self.take(floats(n * inputs)) } else { 0 };
        let mut kept = self.take(floats(n * rank));
        self.product(n, inputs, rank);
        if has_magnitude {
            kept += self.take(floats(n * outputs));
            self.pass(floats(outputs));
        }
        self.product(n, rank, outputs);
        self.give(dropped);
        kept
    }

    /// [`Step::linear_back`](super::step::Step::linear_back).
    pub(crate) fn linear_back(&mut self, linear: &Linear<'_>, n: usize, input: bool) {
        let (outputs, inputs) = (linear.weight.rows(), linear.weight.cols());
        let before = self.held;
        match trained(self.plan, linear.site) {
            None => {}
            Some(Trained { rank: None, .. }) => self.outer(outputs, n, inputs),
            Some(Trained { rank: Some(rank), has_magnitude, a_frozen }) => {
                if has_magnitude {
                    self.take(floats(outputs + n * outputs));
                }
                self.outer(rank, n, outputs);
                self.take(floats(n * rank));
                self.product(n, outputs, rank);
                if !a_frozen {
                    let dropped = if self.has_dropout { self.take(floats(n * inputs)) } else { 0 };
                    self.outer(rank, n, inputs);
                    self.give(dropped);
                }
                if input {
                    self.product(n, rank, inputs);
                }
                if input && self.has_dropout {
                    self.take(floats(n * inputs));
                    let rest = if has_magnitude { self.take(floats(n * outputs)) } else { 0 };
                    self.back_through(linear, n);
                    self.give(rest);
                }
            }
        }
        if input {
            self.back_through(linear, n);
        }
        self.back_to(before);
    }

    /// [`Machine::back_through`](super::parallel::Machine::back_through): a tile on every lane.
    fn back_through(&mut self, linear: &Linear<'_>, n: usize) {
        let (outputs, inputs) = (linear.weight.rows(), linear.weight.cols());
        let is_float = linear.weight.format() == Format::F32
            || trained(self.plan, linear.site).is_some_and(|trained| trained.rank.is_none());
        if !is_float {
            self.pass(self.lanes_of(n) * floats(tile_rows(outputs, inputs) * inputs));
        }
    }

    /// [`Machine::outer`](super::parallel::Machine::outer): the gradient of an `[outputs, inputs]`
    /// matrix from n rows.
    fn outer(&mut self, outputs: usize, n: usize, inputs: usize) {
        if outputs < SKINNY {
            self.pass(
                floats(n.div_ceil(part_rows(n)) * outputs * inputs)
                    + self.lanes_of(n) * floats(part_rows(n) * outputs),
            );
        } else {
            self.packed(outputs, n, inputs);
        }
    }

    /// Vectors of `n` tokens, there or back, of an embedding of `dim` numbers.
    pub(crate) fn embed(&mut self, site: u32, n: usize) {
        if let Some(Trained { rank: Some(rank), .. }) = trained(self.plan, site) {
            self.pass(2 * floats(n * rank));
        }
    }

    /// [`attention::forward`](super::attention::forward); leaves its output, whose bytes it
    /// returns.
    pub(crate) fn attention(&mut self, shape: Shape, starts: &[usize]) -> u64 {
        let n = starts.last().copied().unwrap_or(0);
        let queries = self.take(floats(n * shape.heads * shape.head_dim));
        self.pass(self.attention_tasks(shape, starts, 1, |length| shape.forward_room(length)));
        queries
    }

    /// [`attention::backward`](super::attention::backward).
    pub(crate) fn attention_back(&mut self, shape: Shape, starts: &[usize]) {
        self.pass(self.attention_tasks(shape, starts, 3, |length| shape.backward_room(length)));
    }

    /// Where the rows of the tasks' `outputs` are, and the room of the largest tasks that the lanes
    /// work on together.
    fn attention_tasks(
        &self,
        shape: Shape,
        starts: &[usize],
        outputs: usize,
        room: impl Fn(usize) -> usize,
    ) -> u64 {
        let groups =
            shape.kv_heads / shape.heads_together(starts.len().saturating_sub(1), self.lanes);
        let rows = outputs * starts.last().copied().unwrap_or(0) * groups * size_of::<&mut [f32]>();
        let mut lengths: Vec<usize> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        let tasks = lengths
            .iter()
            .flat_map(|&length| std::iter::repeat_n(length, shape.kv_heads))
            .take(self.lanes);
        rows as u64 + tasks.map(|length| floats(room(length))).sum::<u64>()
    }

    /// A product `[m, k] · [k, n]` whose rows are shared out among lanes; with few columns or a
    /// small depth it packs nothing.
    fn product(&mut self, m: usize, k: usize, n: usize) {
        if n >= SKINNY && k >= SKINNY {
            self.packed(m, k, n);
        }
    }

    fn packed(&mut self, m: usize, k: usize, n: usize) {
        let (lanes, share) = (self.lanes_of(m), m.div_ceil(self.lanes));
        self.pass(lanes * packing(share, k, n));
    }

    /// Lanes that have a part of `rows` rows.
    fn lanes_of(&self, rows: usize) -> u64 {
        self.lanes.min(rows) as u64
    }
}

/// The packing buffers of a product by `matrixmultiply`: blocks of 64 rows, 256 deep, 1024 columns,
/// in panels of at least 8.
fn packing(m: usize, k: usize, n: usize) -> u64 {
    let panel = |length: usize, most: usize| length.min(most).next_multiple_of(8);
    floats((panel(m, 64) + panel(n, 1024)) * k.min(256))
}
