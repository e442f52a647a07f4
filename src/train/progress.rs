//! What a run has seen between two steps, and how checkpoints keep it.

use serde_json::{Value, json};

use super::TrainError;
use super::checkpoint::Saved;
use super::run::Report;
use super::trainer::Trainer;

/// What a run keeps between steps.
#[derive(Default)]
pub(super) struct Progress {
    /// The loss of every step.
    pub(super) losses: Vec<f32>,
    /// Every validation: step, loss, accuracy of classes.
    pub(super) validations: Vec<(u64, f64, Option<f64>)>,
    pub(super) rows: u64,
    pub(super) seconds: f64,
    /// The best validation loss with its numbers, of early stopping.
    pub(super) best: Option<(f64, Vec<f32>)>,
    /// Validations since the best.
    worse: u32,
}

impl Progress {
    /// Counts a validation; is it time to stop?
    pub(super) fn is_enough(
        &mut self,
        loss: f64,
        patience: Option<u32>,
        trainer: &Trainer<'_>,
    ) -> bool {
        let Some(patience) = patience else { return false };
        if self.best.as_ref().is_none_or(|(best, _)| loss < *best) {
            self.best = Some((loss, trainer.values().to_vec()));
            self.worse = 0;
        } else {
            self.worse += 1;
        }
        self.worse >= patience.max(1)
    }

    /// The best validation loss so far.
    pub(super) fn best_validation(&self) -> Option<f64> {
        self.validations.iter().map(|(_, loss, _)| *loss).reduce(f64::min)
    }

    /// The run after `trainer`'s steps: a loss that belongs to a later one is left out.
    pub(super) fn saved(&self, trainer: &Trainer<'_>) -> Saved {
        let bits = |value: f64| value.to_bits().to_string();
        let validation = |(step, loss, accuracy): &(u64, f64, Option<f64>)| {
            json!([step, bits(*loss), accuracy.map(bits)])
        };
        let steps = usize::try_from(trainer.steps()).unwrap_or(usize::MAX).min(self.losses.len());
        let losses = self.losses[..steps].iter().map(|loss| loss.to_bits());
        let progress = json!({
            "losses": losses.collect::<Vec<u32>>(),
            "validations": self.validations.iter().map(validation).collect::<Vec<_>>(),
            "rows": self.rows,
            "seconds": self.seconds,
            "best": self.best.as_ref().map(|(loss, _)| bits(*loss)),
            "worse": self.worse,
        });
        // First: it frees the buffers of steps, which would be held beside the copies.
        let state = trainer.state();
        Saved {
            progress: progress.to_string(),
            steps: trainer.steps(),
            values: trainer.values().to_vec(),
            best: self.best.as_ref().map(|(_, values)| values.clone()).unwrap_or_default(),
            state,
        }
    }

    /// Brings `trainer` and what was seen back.
    ///
    /// # Errors
    /// If `saved` is not what [`saved`](Self::saved) made; then `trainer` is as it was.
    pub(super) fn restore(trainer: &mut Trainer<'_>, saved: Saved) -> Result<Self, TrainError> {
        let damaged = || TrainError::options("the checkpoint's progress cannot be read");
        let progress: Value = serde_json::from_str(&saved.progress).map_err(|_| damaged())?;
        let bits =
            |value: &Value| value.as_str().and_then(|text| text.parse().ok()).map(f64::from_bits);
        let validation =
            |entry: &Value| Some((entry[0].as_u64()?, bits(&entry[1])?, bits(&entry[2])));
        let list = |name: &str| progress[name].as_array().ok_or_else(damaged);
        let loss = |value: &Value| Some(f32::from_bits(u32::try_from(value.as_u64()?).ok()?));
        let losses: Option<Vec<f32>> = list("losses")?.iter().map(loss).collect();
        let validations: Option<_> = list("validations")?.iter().map(validation).collect();
        let worse = progress["worse"].as_u64().and_then(|worse| u32::try_from(worse).ok());
        let best = bits(&progress["best"]).map(|loss| (loss, saved.best.clone()));
        let fits = |(_, values): &(f64, Vec<f32>)| values.len() == trainer.values().len();
        if losses.as_ref().is_none_or(|losses| losses.len() as u64 != saved.steps)
            || !best.as_ref().is_none_or(fits)
        {
            return Err(damaged());
        }
        let state = Self {
            losses: losses.ok_or_else(damaged)?,
            validations: validations.ok_or_else(damaged)?,
            rows: progress["rows"].as_u64().ok_or_else(damaged)?,
            seconds: progress["seconds"].as_f64().ok_or_else(damaged)?,
            best,
            worse: worse.ok_or_else(damaged)?,
        };
        trainer.restore(saved.steps, &saved.values, saved.state)?;
        Ok(state)
    }

    pub(super) fn report(self, steps: u64, stopped: bool) -> Report {
        let last = self.losses.len() - self.losses.len().div_ceil(20).min(self.losses.len());
        let loss = mean(&self.losses[last..]);
        Report {
            steps,
            stopped,
            loss,
            seconds: self.seconds,
            rows: self.rows,
            losses: self.losses,
            validations: self.validations,
            validation: None,
            ranks: Vec::new(),
            rank: None,
        }
    }
}

fn mean(losses: &[f32]) -> f64 {
    losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / losses.len().max(1) as f64
}
