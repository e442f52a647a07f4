//! What a training run takes of memory, before it runs.
//!
//! With P numbers in the arena, in bytes:
//! ```text
//! held        4P values + 4P gradients + 4P kept by the guard + optimizer (AdamW: 8 a trained
//! number)
//!             + early stopping 4P + DoRA 8 a row of its layers
//! step        held + DoRA 4 a row + what the step itself takes on the meta device validation  held
//! + the archive + the factors twice, while it is written, or the runtime's workspace checkpoint
//! held + 4P values + early stopping 4P + optimizer peak        the largest of the three, beside
//! what the caller holds (tokenizer, index of the data)
//! ```
//! A step is not described here: the code of training runs on a [`device`](super::device) that does
//! no work and counts. What the system's allocator adds is not counted.

use std::sync::Arc;

use super::TrainError;
use super::body::{Back, Network};
use super::course::Course;
use super::data::{Batch, Dataset, Inputs, Targets, Task};
use super::device::{Machine, Pool};
use super::method::Part;
use super::options::Options;
use super::plan::Plan;
use super::planner::{self, Planned};
use super::run::{RunOptions, check_run};
use super::start::Start;
use super::step::{Dropout, Step};
use super::trainer::{Trainable, check_task, sealed::Sealed};
use crate::file::Kind;

/// What a run will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Estimate {
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
    /// Threads of the executor.
    pub threads: usize,
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
        threads: usize,
    ) -> Result<Self, TrainError> {
        most("batch-size", batch_size, MOST_SEQUENCES)?;
        most("max-length", length, MOST_ROWS)?;
        most("batch-size times max-length", batch_size * length, MOST_ROWS)?;
        let batches = vec![vec![length; batch_size]];
        Ok(Self { batches, steps: None, validation: None, labels, threads })
    }

    /// The batches that a run of `options` with `seed` makes of `training`.
    pub fn of(
        training: &Dataset<'_>,
        validation: Option<&Dataset<'_>>,
        options: &RunOptions,
        seed: u64,
        threads: usize,
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
            threads,
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
pub fn estimate<'a>(
    base: impl Trainable<'a>,
    options: &Options,
    run: &RunOptions,
    workload: &Workload,
) -> Result<Estimate, TrainError> {
    let mut described = options.clone();
    if let Some(start) = &options.start {
        start.describe(&mut described);
    }
    let options = &described;
    check_run(run, workload.validation.is_some())?;
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
    Ok(Estimate {
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

/// What a step takes on the largest of the batches: it is run on the meta device.
fn step_bytes(
    network: &dyn Network,
    plan: &Plan,
    options: &Options,
    workload: &Workload,
) -> Result<u64, TrainError> {
    let refused = |bytes| {
        TrainError::options(format!(
            "the estimate needs {bytes} bytes of address space at once, which the system refuses; a smaller batch-size or max-length needs less"
        ))
    };
    // The arena and its gradients are counted elsewhere.
    let beside = Arc::default();
    let arena = Arc::new(Pool::meta(&beside));
    let (values, mut gradients) = (arena.alone(plan.len()), arena.alone(plan.len()));
    beside.max().map_err(refused)?;
    let account = Arc::default();
    let pool = Arc::new(Pool::meta(&account));
    let step = Step {
        machine: Machine::meta(workload.threads, &pool),
        plan,
        values: &values,
        prepared: &vec![Vec::new(); plan.layers.len()],
        rank: None,
        dropout: (options.dropout > 0.0).then_some(Dropout { p: options.dropout, seed: 0 }),
        precision: options.precision,
    };
    for lengths in largest(&workload.batches, network.input_spec().context)? {
        let (batch, bytes) = batch(network, plan, &lengths);
        let _batch = step.machine.hold(bytes);
        let back = Back { weight: 1.0, label_smoothing: 0.0, gradients: &mut gradients };
        network.run(&step, &batch, Some(back));
    }
    account.max().map_err(refused)
}

/// A batch of sequences of these lengths that has no tokens, and the bytes of one that has.
fn batch(network: &dyn Network, plan: &Plan, lengths: &[usize]) -> (Batch, usize) {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    let starts: Vec<usize> = std::iter::once(0).chain(ends).collect();
    let (rows, width) = (starts[starts.len() - 1], network.input_spec().features);
    // Tokens or features, targets, starts.
    let bytes = 8 * (rows + starts.len()) + 4 * rows * width;
    let inputs = match width {
        0 => Inputs::Tokens(Vec::new()),
        _ => Inputs::Features { values: Vec::new(), width },
    };
    let targets = match plan.classifier {
        Some(_) => Targets::Class(Vec::new()),
        None => Targets::Next(Vec::new()),
    };
    (Batch { inputs, starts, targets }, bytes)
}

/// The batches, with sequences no longer than `context`, the one of most rows first, but for those
/// that have no more rows and sequences than another, and none that is longer.
fn largest(batches: &[Vec<usize>], context: usize) -> Result<Vec<Vec<usize>>, TrainError> {
    let mut sizes = Vec::new();
    for batch in batches {
        most("sequences of a batch", batch.len(), MOST_SEQUENCES)?;
        let batch: Vec<usize> = batch.iter().map(|length| (*length).min(context).max(1)).collect();
        let rows = batch.iter().fold(0usize, |rows, length| rows.saturating_add(*length));
        most("rows of a batch", rows, MOST_ROWS)?;
        sizes.push(([rows, batch.len(), batch.iter().copied().max().unwrap_or(0)], batch));
    }
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let mut kept: Vec<([usize; 3], Vec<usize>)> = Vec::new();
    for (size, batch) in sizes {
        if !kept.iter().any(|(other, _)| size.iter().zip(other).all(|(a, b)| a <= b)) {
            kept.push((size, batch));
        }
    }
    Ok(kept.into_iter().map(|(_, batch)| batch).collect())
}

/// The numbers as an archive, and the runtime on top.
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
            writing.max(archive + network.measure_bytes(longest, workload.threads, rank))
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

/// The bytes of `count` f32.
pub(crate) fn floats(count: usize) -> u64 {
    4 * count as u64
}

#[cfg(test)]
mod tests {
    use super::largest;

    #[test]
    fn batches_are_left_out_that_are_smaller_in_every_way() {
        let batches = [vec![10; 8], vec![9; 8], vec![30; 4], vec![1, 100], vec![100], vec![200, 1]];
        let kept = largest(&batches, 150).unwrap();
        assert_eq!(kept, [vec![150, 1], vec![30; 4], vec![10; 8]]);
        assert!(largest(&[vec![]], 150).is_err() && largest(&[vec![1], vec![]], 1).is_err());
    }
}
