//! Has a run diverged? Watches its losses, keeps the last good numbers, and decides.
//!
//! The loss of a step is the loss of the numbers before it, so numbers are good only after a later
//! loss has been seen. Two questions are asked:
//!
//! 1. After every step, from the losses alone: is the mean of the last steps above the level that
//!    this run has held, by more than its noise explains? This costs nothing and may be wrong.
//! 2. If so: what do the numbers of now and the last good ones lose on the same batches, those seen
//!    last? Easy and hard batches fall out of this comparison; it costs a few forward passes.
//!
//! Only the second question counts against a run. Numbers that are clearly worse twice, some steps
//! apart, or a little worse many times in a row, have diverged; a spike that comes back has not.
//! While a run is in doubt nothing is kept and no checkpoint is written.

use std::collections::VecDeque;

use super::TrainError;
use super::data::Dataset;
use super::trainer::Trainer;
use crate::runtime::Executor;

/// Losses whose mean is compared with the level of the run.
const WINDOW: usize = 10;
/// Losses whose mean may lower the level.
const LONG: usize = 30;
/// Losses before the window from which the noise is estimated.
const NOISE: usize = 50;
/// Batches that numbers are compared on: at least so many, and so many sequences.
const BATCHES: usize = 8;
const SEQUENCES: usize = 32;
/// Steps between two comparisons while a run is in doubt, and at first and at most after one that
/// found nothing.
const RECHECK: u64 = 8;
const PAUSE: u64 = 10;
const MOST_PAUSE: u64 = 80;
/// Steps after which the good numbers are renewed; the first ten are kept one by one.
const RENEW: u64 = 10;
/// What clearly and slightly worse numbers count, and the sum at which a run has diverged.
const CLEAR: u32 = 4;
const SLIGHT: u32 = 1;
const DIVERGED: u32 = 8;

/// What a step's loss says about the numbers before the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They may be kept.
    Good,
    /// Not known yet.
    InDoubt,
}

/// Keeps the last good numbers and counts what speaks against the present ones.
pub(super) struct Guard {
    good: Vec<f32>,
    good_step: u64,
    /// The loss of guessing all tokens or labels alike.
    uniform: f64,
    /// The mean loss that this run has held; `None` before its first step.
    level: Option<f64>,
    /// Validations say which numbers are good, no longer single batches.
    is_validated: bool,
    /// Examples of the last batches, the newest last.
    recent: VecDeque<Vec<u32>>,
    /// Losses seen.
    seen: usize,
    strikes: u32,
    next_comparison: u64,
    pause: u64,
}

impl Guard {
    /// A run begins, or goes on after the steps with these losses.
    pub(super) fn new(trainer: &Trainer<'_>, losses: &[f32]) -> Self {
        let level = (!losses.is_empty()).then(|| mean(tail(losses, LONG)));
        Self {
            good: trainer.values().to_vec(),
            good_step: trainer.steps(),
            uniform: trainer.uniform_loss(),
            level,
            is_validated: false,
            recent: VecDeque::new(),
            seen: losses.len(),
            strikes: 0,
            next_comparison: 0,
            pause: PAUSE,
        }
    }

    /// These batches are seen next.
    pub(super) fn remember(&mut self, batches: &[Vec<u32>]) {
        self.recent.extend(batches.iter().cloned());
        let sequences =
            |kept: &VecDeque<Vec<u32>>| kept.iter().skip(1).map(Vec::len).sum::<usize>();
        while self.recent.len() > BATCHES && sequences(&self.recent) >= SEQUENCES
            || self.recent.len() > SEQUENCES
        {
            self.recent.pop_front();
        }
    }

    /// Judges the numbers of `trainer` by the last of `losses`, which is theirs.
    ///
    /// # Errors
    /// [`TrainError::Diverged`]; what the data says.
    pub(super) fn judge(
        &mut self,
        trainer: &mut Trainer<'_>,
        losses: &[f32],
        data: &Dataset<'_>,
        executor: &dyn Executor,
    ) -> Result<Verdict, TrainError> {
        let loss = losses.last().map_or(f64::NAN, |&loss| f64::from(loss));
        if !loss.is_finite() {
            return Err(self.diverged(trainer.steps() + 1, self.level.unwrap_or(loss), loss));
        }
        self.seen = losses.len();
        let level = self.level.unwrap_or(loss);
        if self.strikes == 0 && !self.is_high(losses) {
            let long = mean(tail(losses, LONG));
            // A few first losses may be lucky.
            self.level = Some(if losses.len() <= WINDOW { long } else { level.min(long) });
            if !self.is_validated && self.is_due(trainer.steps()) && self.is_usual(losses) {
                self.keep(trainer);
            }
            return Ok(Verdict::Good);
        }
        let recent = mean(tail(losses, WINDOW));
        let is_far = recent > 3.0 * level + 1.0;
        if trainer.steps() < self.next_comparison && (self.strikes > 0 || !is_far) {
            return Ok(Verdict::InDoubt);
        }
        let compared = self.compare(trainer, data, executor)?;
        let strike = self.strike(compared);
        if strike == 0 {
            // The batches were hard: such a level is healthy for this run.
            self.level = Some(level.max(recent));
            self.next_comparison = trainer.steps() + self.pause;
            self.pause = (2 * self.pause).min(MOST_PAUSE);
            self.strikes = 0;
            return Ok(Verdict::Good);
        }
        self.strikes += strike;
        self.next_comparison = trainer.steps() + RECHECK;
        self.pause = PAUSE;
        if self.strikes >= DIVERGED {
            let (now, good) = compared;
            return Err(self.diverged(trainer.steps() + 1, good, now));
        }
        Ok(Verdict::InDoubt)
    }

    /// Judges numbers that no later step will judge: the last of a run, or those before a stop.
    /// `batches` are those of the last step.
    ///
    /// # Errors
    /// [`TrainError::Diverged`]; what the data says.
    pub(super) fn settle(
        &mut self,
        trainer: &mut Trainer<'_>,
        losses: &[f32],
        batches: usize,
        data: &Dataset<'_>,
        executor: &dyn Executor,
    ) -> Result<(), TrainError> {
        let last = self.recent.len().saturating_sub(batches);
        let mut total = (0.0, 0);
        for examples in self.recent.iter().skip(last) {
            let facts = trainer.loss(executor, &data.batch_on(executor, examples)?, None)?;
            total = (total.0 + facts.loss * facts.scored as f64, total.1 + facts.scored);
        }
        let now = total.0 / total.1.max(1) as f64;
        let before = losses.last().map_or(now, |&loss| f64::from(loss));
        let mut seen = tail(losses, WINDOW + NOISE).to_vec();
        seen.push(now as f32);
        let is_worse = is_clearly_worse(now, before);
        if self.strikes == 0 && !is_worse && !self.is_high(&seen) {
            return Ok(());
        }
        let (now, good) = self.compare(trainer, data, executor)?;
        let strike = self.strike((now, good));
        if strike >= CLEAR || (strike > 0 && self.strikes > 0) {
            return Err(self.diverged(trainer.steps(), good, now));
        }
        Ok(())
    }

    /// Judges the numbers of `trainer` by their validation loss; `known` is the best one before, or
    /// the level of the training losses.
    ///
    /// # Errors
    /// [`TrainError::Diverged`]; what the data says.
    pub(super) fn judge_validation(
        &mut self,
        trainer: &mut Trainer<'_>,
        (loss, known): (f64, f64),
        losses: &[f32],
        data: &Dataset<'_>,
        executor: &dyn Executor,
    ) -> Result<(), TrainError> {
        // No overfitting does the first. It may do the second: then the training data is learnt.
        let is_lost = loss.is_nan() || loss > 10.0 * known + 10.0;
        if !is_lost && is_clearly_worse(loss, known) {
            let compared = self.compare(trainer, data, executor)?;
            self.strikes += self.strike(compared);
        }
        if is_lost || self.strikes >= DIVERGED {
            return Err(self.diverged(trainer.steps(), known, loss));
        }
        if self.strikes == 0 && !is_clearly_worse(loss, known) && !self.is_high(losses) {
            self.keep(trainer);
            self.is_validated = true;
        }
        Ok(())
    }

    /// Brings the last good numbers back.
    pub(super) fn restore(&self, trainer: &mut Trainer<'_>) -> Result<(), TrainError> {
        trainer.set_values(&self.good)
    }

    /// The step whose numbers are kept.
    pub(super) fn good_step(&self) -> u64 {
        self.good_step
    }

    /// The error of a run whose loss went from `from` to `loss` in `step`.
    pub(super) fn diverged(&self, step: u64, from: f64, loss: f64) -> TrainError {
        let kept = (self.good_step > 0).then_some(self.good_step);
        TrainError::Diverged { step, from, loss, kept }
    }

    /// What the run costs when it is healthy, as far as it is known.
    pub(super) fn level(&self) -> f64 {
        self.level.unwrap_or(f64::NAN)
    }

    fn keep(&mut self, trainer: &Trainer<'_>) {
        self.good.copy_from_slice(trainer.values());
        self.good_step = trainer.steps();
    }

    fn is_due(&self, step: u64) -> bool {
        step > self.good_step && (step <= RENEW || step - self.good_step >= RENEW)
    }

    /// Is the mean of the last losses above the level of the run, beyond its noise? Or do all of
    /// them say that everything is guessed alike, where it was not before?
    fn is_high(&self, losses: &[f32]) -> bool {
        let (level, recent) = (self.level.unwrap_or(f64::INFINITY), tail(losses, WINDOW));
        let noise = noise(losses) / (recent.len() as f64).sqrt();
        let guesses = |&loss: &f32| (f64::from(loss) - self.uniform).abs() < 0.03 * self.uniform;
        mean(recent) > 1.2 * level + 0.1 + 3.0 * noise
            || (recent.len() == WINDOW && level < 0.8 * self.uniform && recent.iter().all(guesses))
    }

    /// Are the last losses such as this run has in health, every single one, and the newest no
    /// surprise? A few examples can be all that numbers get wrong, so one loss proves little.
    fn is_usual(&self, losses: &[f32]) -> bool {
        let (recent, noise) = (tail(losses, WINDOW), noise(losses));
        let newest = recent.last().map_or(f64::NAN, |&loss| f64::from(loss));
        let level = self.level.unwrap_or(newest);
        let usual = 1.2 * level + 0.1;
        let guesses = newest > 0.97 * self.uniform && level < 0.8 * self.uniform;
        newest <= usual + noise
            && !guesses
            && recent.iter().all(|&loss| f64::from(loss) <= usual + 3.0 * noise)
    }

    /// Is a loss beyond everything that this run has had in health? The first losses don't say what
    /// that is.
    fn is_lost(&self, loss: f64) -> bool {
        let level = self.level.unwrap_or(loss);
        loss.is_nan() || (self.seen > WINDOW && loss > 3.0 * level + 3.0)
    }

    /// The mean losses of the present and of the good numbers on the last batches.
    fn compare(
        &mut self,
        trainer: &mut Trainer<'_>,
        data: &Dataset<'_>,
        executor: &dyn Executor,
    ) -> Result<(f64, f64), TrainError> {
        let (mut now, mut good, mut scored) = (0.0, 0.0, 0);
        for examples in &self.recent {
            let batch = data.batch_on(executor, examples)?;
            let facts = trainer.loss(executor, &batch, None)?;
            trainer.swap_values(&mut self.good);
            let before = trainer.loss(executor, &batch, None);
            trainer.swap_values(&mut self.good);
            now += facts.loss * facts.scored as f64;
            good += before?.loss * facts.scored as f64;
            scored += facts.scored;
        }
        let scored = scored.max(1) as f64;
        let (now, good) = (now / scored, good / scored);
        if self.is_lost(good) && !self.is_validated {
            // They had been kept before the batch came that shows what they are.
            self.good_step = 0;
        }
        Ok((now, good))
    }

    /// How much the comparison counts against the present numbers.
    fn strike(&self, (now, good): (f64, f64)) -> u32 {
        let guesses = now >= 0.95 * self.uniform && good <= 0.7 * self.uniform;
        if is_clearly_worse(now, good) || self.is_lost(now) || guesses {
            CLEAR
        } else if now > 1.25 * good + 0.25 {
            SLIGHT
        } else {
            0
        }
    }
}

/// Not a number is worse than every number.
fn is_clearly_worse(now: f64, before: f64) -> bool {
    now.is_nan() || now > 1.5 * before + 0.5
}

/// The last `count` of them, or all.
fn tail(losses: &[f32], count: usize) -> &[f32] {
    &losses[losses.len().saturating_sub(count)..]
}

fn mean(losses: &[f32]) -> f64 {
    losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len().max(1) as f64
}

/// The standard deviation of a single loss, from neighbours before the window: a trend and what
/// happens inside the window do not count. 0 if there are too few.
fn noise(losses: &[f32]) -> f64 {
    let before = tail(&losses[..losses.len().saturating_sub(WINDOW)], NOISE);
    if before.len() < 5 {
        return 0.0;
    }
    let squares = before.windows(2).map(|pair| f64::from(pair[1] - pair[0]).powi(2)).sum::<f64>();
    (squares / (2 * (before.len() - 1)) as f64).sqrt()
}
