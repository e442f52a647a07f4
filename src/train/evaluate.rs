//! Asking a model with the runtime's own forward pass: measures of data with known answers (what
//! training validates with, in `Exact`, and what `lowrank evaluate` prints), and the labels of
//! texts without.

use super::body::Network;
use super::data::{Batch, Dataset, IGNORE, Inputs, Targets};
use super::trainer::{Trainable, sealed::Sealed};
use super::{AnyBase, TrainError};
use crate::adapter::{Adapter, AdapterSet, Base, Choice, Slot};
use crate::engine::{negative_log_likelihood, probabilities};
use crate::error::Result;
use crate::kernel::Precision;
use crate::runtime::{Executor, Runner, Sequences};

/// Who takes what a model says of a batch.
pub(crate) trait Listener {
    /// The logits of a sequence of class `class`.
    ///
    /// # Errors
    /// If the model does not know the class.
    fn class(&mut self, logits: &[f32], class: u32) -> Result<(), TrainError>;

    /// The logits of one position and the token that came.
    fn next(&mut self, logits: &[f32], next: u32);
}

/// Counts over a data set.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tally {
    /// The sum of the losses `−log p` of everything scored.
    pub(crate) loss: f64,
    /// Tokens or sequences that were scored.
    pub(crate) scored: usize,
    /// Examples.
    pub(crate) examples: usize,
    /// Of classes: how often `[true][predicted]` was seen.
    pub(crate) confusion: Vec<Vec<usize>>,
}

/// What a model does on a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Measures {
    /// The mean loss of everything scored.
    pub loss: f64,
    /// exp(loss).
    pub perplexity: f64,
    /// Tokens or sequences that were scored.
    pub scored: usize,
    /// Examples.
    pub examples: usize,
    /// Classification: the share of classes that were right.
    pub accuracy: Option<f64>,
    /// Classification: 2·precision·recall / (precision + recall) of the second of two classes; of
    /// more the mean over those that occur, in the data or in what the model says (scikit-learn's
    /// macro F1).
    pub f1: Option<f64>,
}

impl Listener for Tally {
    fn class(&mut self, logits: &[f32], class: u32) -> Result<(), TrainError> {
        let class = class as usize;
        if class >= logits.len() {
            let labels = logits.len();
            return Err(TrainError::options(format!(
                "the data has class {class}, the model has {labels} labels (counted from 0)"
            )));
        }
        self.confusion.resize(logits.len(), vec![0; logits.len()]);
        let best = logits
            .iter()
            .enumerate()
            .fold(0, |best, (i, logit)| if *logit > logits[best] { i } else { best });
        self.confusion[class][best] += 1;
        self.next(logits, class as u32);
        Ok(())
    }

    fn next(&mut self, logits: &[f32], next: u32) {
        self.loss += negative_log_likelihood(logits, next);
        self.scored += 1;
    }
}

impl Tally {
    /// The means.
    pub(crate) fn measures(&self) -> Measures {
        let loss = self.loss / self.scored.max(1) as f64;
        let classes = self.confusion.len();
        let right: usize = (0..classes).map(|class| self.confusion[class][class]).sum();
        Measures {
            loss,
            perplexity: loss.exp(),
            scored: self.scored,
            examples: self.examples,
            accuracy: (classes > 0).then(|| right as f64 / self.scored.max(1) as f64),
            f1: match classes {
                0 => None,
                2 => Some(self.f1(1).unwrap_or(0.0)),
                _ => {
                    let each: Vec<f64> = (0..classes).filter_map(|class| self.f1(class)).collect();
                    Some(each.iter().sum::<f64>() / each.len().max(1) as f64)
                }
            },
        }
    }

    /// 2·true positives / (predicted + actual) of one class; `None` if it never occurs.
    fn f1(&self, class: usize) -> Option<f64> {
        let predicted: usize = self.confusion.iter().map(|row| row[class]).sum();
        let actual: usize = self.confusion[class].iter().sum();
        let right = self.confusion[class][class];
        (predicted + actual > 0).then(|| 2.0 * right as f64 / (predicted + actual) as f64)
    }
}

/// Measures `base` under the adapter archives in `adapters`, each with its weight (their
/// classifier, where there is one to be read; no weight scales it), on all of `data`.
///
/// # Errors
/// What the runtime says of the archives, and what is wrong with the data; a loss that is not a
/// number.
pub fn evaluate<'a>(
    base: impl Trainable<'a>,
    adapters: &[(&[u8], f32)],
    data: &Dataset<'_>,
    precision: Precision,
    executor: &dyn Executor,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Measures, TrainError> {
    let network = Sealed::network(base, false);
    measure(network.as_ref(), None, adapters, data, precision, executor, progress)
}

/// Sequences that are read and measured at a time.
pub(super) const BATCH: usize = 16;

/// Runs `measure` with the adapters in `archives`, each at its weight, chosen together: the set,
/// the choices, and the sum of their ranks.
pub(crate) fn with_adapters<'m, T>(
    base: &dyn Base,
    archives: &[(&'m [u8], f32)],
    measure: impl FnOnce(&AdapterSet<'_, 'm>, &[Choice], usize) -> Result<T, TrainError>,
) -> Result<T, TrainError> {
    let open = |&(archive, weight)| Ok((Adapter::open(archive)?, weight));
    let adapters: Vec<_> = archives.iter().map(open).collect::<Result<_>>()?;
    let rank = adapters.iter().map(|(adapter, _)| adapter.max_rank()).sum();
    let mut slots = vec![Slot::EMPTY; adapters.len()];
    let mut set = AdapterSet::new(&mut slots, base);
    let choices = set.attach_all(adapters).map_err(|refused| refused.error)?;
    measure(&set, &choices, rank)
}

/// Lets a session read every sequence of `batches` as sequence 0: `listener` hears the logits of
/// every next token, or what `class` tells it of a sequence's tokens and class.
pub(crate) fn measure_sequences<'w, 'm, R: Runner>(
    session: &mut Sequences<'w, 'm, R>,
    batches: &mut dyn Iterator<Item = Result<Batch, TrainError>>,
    listener: &mut dyn Listener,
    mut class: impl FnMut(
        &mut Sequences<'w, 'm, R>,
        &[u32],
        u32,
        &mut dyn Listener,
    ) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    for batch in batches {
        let batch = batch?;
        let Inputs::Tokens(tokens) = &batch.inputs else {
            return Err(TrainError::options("the model reads text, this data holds numbers"));
        };
        for (sequence, pair) in batch.starts.windows(2).enumerate() {
            let tokens = &tokens[pair[0]..pair[1]];
            session.reset(0)?;
            match &batch.targets {
                Targets::Next(next) => session.score(0, tokens, |position, logits| {
                    let next = next[pair[0] + position];
                    if next != IGNORE {
                        listener.next(logits, next);
                    }
                })?,
                Targets::Class(classes) => class(session, tokens, classes[sequence], listener)?,
            }
        }
    }
    Ok(())
}

/// As [`evaluate`], with a base archive in place of the network's own if one is given.
pub(crate) fn measure(
    network: &dyn Network,
    base: Option<&[u8]>,
    adapters: &[(&[u8], f32)],
    data: &Dataset<'_>,
    precision: Precision,
    executor: &dyn Executor,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Measures, TrainError> {
    data.check_input(network.input_spec().input())?;
    measure_by(data, executor, progress, |batches, listener| {
        network.measure(base, adapters, data.longest(), batches, precision, executor, listener)
    })
}

/// What a model is asked.
pub(super) type Batches<'b> = dyn Iterator<Item = Result<Batch, TrainError>> + 'b;

/// The measures of all of `data`, of a model that `ask` asks.
pub(super) fn measure_by(
    data: &Dataset<'_>,
    executor: &dyn Executor,
    progress: &mut dyn FnMut(usize, usize),
    ask: impl FnOnce(&mut Batches<'_>, &mut dyn Listener) -> Result<(), TrainError>,
) -> Result<Measures, TrainError> {
    let plan = data.plan_in_order(BATCH);
    let total = plan.len();
    let mut batches = plan.iter().enumerate().map(|(done, examples)| {
        progress(done, total);
        data.batch_on(executor, examples).map_err(TrainError::from)
    });
    let mut tally = Tally { examples: data.len(), ..Tally::default() };
    ask(&mut batches, &mut tally)?;
    let measures = tally.measures();
    if measures.loss.is_finite() { Ok(measures) } else { Err(TrainError::NotANumber) }
}

/// The probabilities of a classifier's labels for texts without a known one, in their order.
struct Answers(Vec<Vec<f32>>);

impl Listener for Answers {
    fn class(&mut self, logits: &[f32], _: u32) -> Result<(), TrainError> {
        self.0.push(probabilities(logits));
        Ok(())
    }

    fn next(&mut self, _: &[f32], _: u32) {}
}

/// The names of the labels that [`classify`] and [`evaluate`] tell apart: those of the last of
/// `adapters` that brings a classifier, else the base's own.
///
/// # Errors
/// [`TrainError::Options`] if there is no classifier.
pub fn labels<'a>(
    base: &AnyBase<'_>,
    adapters: impl IntoIterator<Item = Adapter<'a>>,
) -> Result<Vec<String>, TrainError> {
    let brought = adapters.into_iter().filter_map(|adapter| adapter.classifier()).last();
    let labels = brought.map_or_else(
        || base.labels(),
        |classifier| classifier.labels().map(str::to_owned).collect(),
    );
    if labels.is_empty() {
        return Err(TrainError::options(
            "neither the base nor an adapter brings a classifier: train one with lowrank train \
             --task classify",
        ));
    }
    Ok(labels)
}

/// The probability of every label, for every text in `texts` (token ids as
/// [`Tokenize::classified`](super::data::Tokenize::classified) gives them): what `base` under the
/// adapter archives in `adapters`, each with its weight, says, of which one brings the classifier
/// unless the base has its own.
///
/// # Errors
/// What the runtime says of archives and tokens; that there is no classifier; that the base reads
/// no text; a result that is not a number.
pub fn classify<'a>(
    base: impl Trainable<'a>,
    adapters: &[(&[u8], f32)],
    texts: &[Vec<u32>],
    precision: Precision,
    executor: &dyn Executor,
) -> Result<Vec<Vec<f32>>, TrainError> {
    let network = Sealed::network(base, false);
    let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
    classify_by(texts, |batches, listener| {
        network.measure(None, adapters, longest, batches, precision, executor, listener)
    })
}

/// The probabilities of the labels of `texts`, of a model that `ask` asks.
pub(super) fn classify_by(
    texts: &[Vec<u32>],
    ask: impl FnOnce(&mut Batches<'_>, &mut dyn Listener) -> Result<(), TrainError>,
) -> Result<Vec<Vec<f32>>, TrainError> {
    let mut batches = texts.chunks(BATCH).map(|texts| {
        let ends = texts.iter().scan(0, |end, text| {
            *end += text.len();
            Some(*end)
        });
        let starts = std::iter::once(0).chain(ends).collect();
        Ok(Batch {
            inputs: Inputs::Tokens(texts.concat()),
            starts,
            targets: Targets::Class(vec![0; texts.len()]),
        })
    });
    let mut answers = Answers(Vec::with_capacity(texts.len()));
    ask(&mut batches, &mut answers)?;
    if answers.0.iter().flatten().all(|probability| probability.is_finite()) {
        Ok(answers.0)
    } else {
        Err(TrainError::NotANumber)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The F1 of what a model with `classes` labels said, `[true, predicted]` each.
    fn f1(classes: usize, said: &[[u32; 2]]) -> f64 {
        let mut tally = Tally::default();
        for [class, predicted] in said {
            let logits: Vec<f32> =
                (0..classes as u32).map(|label| f32::from(u8::from(label == *predicted))).collect();
            tally.class(&logits, *class).unwrap();
        }
        tally.measures().f1.unwrap()
    }

    /// The expected numbers are `sklearn.metrics.f1_score(true, predicted, average="macro")`, of
    /// two classes without `average`.
    #[test]
    fn f1_is_scikit_learns() {
        let close =
            |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found}");
        // Class 1 of 4 and class 3 never occur: they take no part in the mean.
        close(f1(4, &[[0, 0], [0, 2], [2, 2], [2, 2], [2, 0]]), 0.583_333_333_333_333_3);
        // Class 1 is only predicted: it counts, as 0.
        close(f1(4, &[[0, 0], [0, 1], [2, 2]]), 0.555_555_555_555_555_5);
        close(f1(3, &[[1, 1], [1, 1]]), 1.0);
        close(f1(4, &[[0, 0], [1, 0], [2, 0], [3, 0]]), 0.1);
        close(f1(2, &[[0, 0], [1, 1], [1, 0]]), 0.666_666_666_666_666_6);
        close(f1(2, &[[0, 0], [0, 0]]), 0.0);
    }
}
