//! A training run of C from its options to its result, as the command line makes it.

use super::failure::{Failure, Outcome, Refusal};
use super::file::start;
use super::job::Job;
use super::measure::estimate_of;
use super::train::{lowrank_train_progress, lowrank_train_report};
use crate::archive::{Buffer, Header};
use crate::file::Output;
use crate::runtime::Executor;
use crate::text::Tokenizer;
use crate::train::data::{DataOptions, Dataset, Task, Tokenize};
use crate::train::{
    AnyBase, Control, Event, Options, Report, Start, TrainError, Trainer, kind, run, save,
};

impl From<TrainError> for Failure {
    /// What core and files say keeps its code; everything else is `LOWRANK_ERROR_TRAIN` with a
    /// sentence.
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Core(error) => error.into(),
            TrainError::File(error) => error.into(),
            TrainError::Text(error) => error.into(),
            TrainError::Diverged { step, .. } => {
                Self::Said(Refusal::Diverged { step }, error.to_string())
            }
            other => Self::Said(Refusal::Train, other.to_string()),
        }
    }
}

/// The tokenizer of a base that has one.
pub(super) fn tokenizer(base: &AnyBase<'_>) -> Option<Tokenizer> {
    match base {
        AnyBase::Llama(model) => Tokenizer::new(model).ok(),
        AnyBase::Bert(model) => Tokenizer::for_encoder(model).ok(),
        AnyBase::Lstm(model) => Tokenizer::for_lstm(model).ok(),
        AnyBase::Mlp(_) => None,
    }
}

/// Where the result goes.
enum Place {
    File(Output),
    /// Of the kind of the method, in memory.
    Memory,
}

/// The place of the result, tried before the work begins. The base is memory here: that it came
/// from the file of this name can be told by its fingerprint alone.
fn place_of(archive: &[u8], job: &Job<'_>, is_file: bool) -> Outcome<Place> {
    let Some(output) = job.output.filter(|_| is_file) else { return Ok(Place::Memory) };
    let checkpoint = job.run.checkpoint.as_ref().map(|(path, _)| path.as_path());
    let inputs: Vec<_> = [job.data, job.validation, checkpoint].into_iter().flatten().collect();
    let output = Output::new(output, kind(job.trainer.method), &inputs, false)?;
    output.refuse_base(Header::parse(archive)?.fingerprint)?;
    Ok(Place::File(output))
}

/// What a run learns from.
pub(super) struct Data<'t> {
    pub(super) training: Dataset<'t>,
    pub(super) validation: Option<Dataset<'t>>,
    /// The classes; none of a language model.
    labels: Vec<String>,
}

impl<'t> Data<'t> {
    pub(super) fn open(
        base: &AnyBase<'_>,
        job: &Job<'_>,
        options: &Options,
        tokenizer: Option<&'t dyn Tokenize>,
    ) -> Outcome<Self> {
        let known = options.start.as_ref().map(Start::labels).filter(|labels| !labels.is_empty());
        let is_classifier = job.task == Task::Classify;
        let options = for_model(&job.data_options, base);
        let with = |labels| DataOptions { labels, ..options.clone() };
        let training = job.training(tokenizer, with(known.filter(|_| is_classifier)))?;
        let labels = is_classifier.then(|| training.labels().to_vec());
        let validation = job
            .validation
            .map(|path| Dataset::open(path, job.task, tokenizer, with(labels.clone())))
            .transpose()?;
        Ok(Self { training, validation, labels: labels.unwrap_or_default() })
    }
}

/// How data is read for a base.
pub(super) fn for_model(options: &DataOptions, base: &AnyBase<'_>) -> DataOptions {
    let usual = DataOptions::for_model(base.input());
    let max_length = if options.max_length == 0 { usual.max_length } else { options.max_length };
    DataOptions { max_length, input: usual.input, ..options.clone() }
}

/// A run as the command line makes it.
pub(super) struct Run<'a, 'w> {
    pub(super) archive: &'a [u8],
    pub(super) job: &'a Job<'a>,
    pub(super) watch: &'w mut dyn FnMut(lowrank_train_progress) -> Control,
}

/// What came of a run; with the result if that stays in memory.
pub(super) type Trained = (lowrank_train_report, Option<Buffer>);

impl Run<'_, '_> {
    /// Trains, and keeps the result where it belongs.
    pub(super) fn train(self, is_file: bool) -> Outcome<Trained> {
        let Self { archive, job, watch } = self;
        job.check_checkpoint()?;
        let base = AnyBase::open(archive)?;
        let place = place_of(archive, job, is_file)?;
        let tokenizer = tokenizer(&base);
        let options = job.options()?;
        let tokenizer = tokenizer.as_ref().map(|tokenizer| tokenizer as &dyn Tokenize);
        let data = Data::open(&base, job, &options, tokenizer)?;
        let executor = start(job.threads)?;
        if job.memory_limit > 0 {
            let need = estimate_of(archive, base, job, &options, Some(&data), executor.threads())?;
            if need.peak_bytes > job.memory_limit {
                let (need, limit) = (need.peak_bytes, job.memory_limit);
                return Err(TrainError::Memory { need, limit }.into());
            }
        }
        let mut trainer = Trainer::new(base, options, data.labels.clone())?;
        if let Place::File(output) = &place {
            output.check_room(4 * trainer.trainable_parameters() as u64)?;
        }
        let outcome = run(
            &mut trainer,
            &data.training,
            data.validation.as_ref(),
            &job.run,
            &executor,
            &mut told(watch),
        );
        let keep = |rank| match &place {
            Place::File(output) => save(&trainer, rank, &job.name, output).map(|()| None),
            Place::Memory => trainer.archive(&job.name, rank).map(Some),
        };
        match outcome {
            Ok(report) if report.stopped => Ok((tell(&data.training, &trainer, &report), None)),
            Ok(report) => {
                let kept = keep(report.rank)?;
                if let Some((checkpoint, _)) = &job.run.checkpoint {
                    // The run is complete: a later one has nothing to go on from.
                    let _ = std::fs::remove_file(checkpoint);
                }
                Ok((tell(&data.training, &trainer, &report), kept))
            }
            Err(error @ TrainError::Diverged { kept: Some(_), .. }) => {
                keep(None)?;
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Events as C is told of them.
fn told(
    watch: &mut dyn FnMut(lowrank_train_progress) -> Control,
) -> impl FnMut(Event) -> Control + '_ {
    let mut all = 0;
    move |event| {
        let (step, loss, accuracy, is_validation) = match event {
            Event::Step { step, total, loss } => {
                all = total;
                (step, loss, None, 0)
            }
            Event::Validation { step, loss, accuracy } => (step, loss, accuracy, 1),
        };
        let accuracy = accuracy.unwrap_or(f64::NAN);
        watch(lowrank_train_progress { step, total: all, loss, accuracy, is_validation })
    }
}

fn tell(training: &Dataset<'_>, trainer: &Trainer<'_>, report: &Report) -> lowrank_train_report {
    let measures = report.validation.as_ref();
    lowrank_train_report {
        steps: report.steps,
        rows: report.rows,
        trainable_parameters: trainer.trainable_parameters() as u64,
        loss: report.loss,
        seconds: report.seconds,
        validation_loss: measures.map_or(f64::NAN, |measures| measures.loss),
        validation_accuracy: measures.and_then(|measures| measures.accuracy).unwrap_or(f64::NAN),
        rank: report.rank.unwrap_or(trainer.options().rank) as u32,
        stopped: report.stopped.into(),
        examples: training.len() as u64,
        cut: training.truncated() as u64,
        left_out: training.skipped() as u64,
        labels: training.labels().len() as u32,
        reserved: 0,
    }
}
