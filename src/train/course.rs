//! The steps of a run, and where each epoch begins: found as far as they are needed, so that a run
//! of any number of steps begins at once.

use super::data::Dataset;
use super::run::{Length, RunOptions};

/// More epochs than these are refused: all of them are planned before the first.
pub(crate) const MOST_EPOCHS: u64 = 1_000_000;

/// The steps of a run and where each epoch begins.
pub(crate) struct Course<'d> {
    data: &'d Dataset<'d>,
    batch_size: usize,
    accumulation: usize,
    sort_by_length: bool,
    seed: u64,
    /// The first step of each epoch that was looked at, then that of the next one.
    starts: Vec<u64>,
    total: u64,
}

impl<'d> Course<'d> {
    /// The course of a run with `seed` on `data`.
    pub(crate) fn new(data: &'d Dataset<'d>, options: &RunOptions, seed: u64) -> Self {
        let mut course = Self {
            data,
            batch_size: options.batch_size,
            accumulation: options.accumulation.max(1),
            sort_by_length: options.sort_by_length,
            seed,
            starts: vec![0],
            total: 0,
        };
        course.total = match options.length {
            Length::Steps(steps) => steps,
            Length::Epochs(epochs) => {
                (0..epochs.min(MOST_EPOCHS)).for_each(|_| course.look_ahead());
                course.found()
            }
        };
        course
    }

    /// Optimizer steps of the whole run.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Epochs, the last perhaps not whole; `most` if there are more.
    pub(crate) fn epochs(&mut self, most: u64) -> u64 {
        while self.found() < self.total && (self.starts.len() as u64 - 1) < most {
            self.look_ahead();
        }
        most.min(self.starts.len() as u64 - 1)
    }

    /// The epoch of a step, and the step inside it.
    pub(crate) fn locate(&mut self, step: u64) -> (u64, u64) {
        while self.found() <= step {
            self.look_ahead();
        }
        let epoch = self.starts.partition_point(|&start| start <= step) - 1;
        (epoch as u64, step - self.starts[epoch])
    }

    /// Does an epoch end after so many steps, the last of which was looked at?
    pub(crate) fn ends_epoch(&self, steps: u64) -> bool {
        self.starts.binary_search(&steps).is_ok()
    }

    /// The batches of an epoch.
    pub(crate) fn batches(&self, epoch: u64) -> Vec<Vec<u32>> {
        self.data.plan(self.batch_size, self.seed, epoch, self.sort_by_length)
    }

    /// Steps of the epochs that were looked at.
    fn found(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    fn look_ahead(&mut self) {
        let epoch = self.starts.len() as u64 - 1;
        let batches =
            self.data.batches(self.batch_size, self.seed, epoch, self.sort_by_length) as u64;
        let steps = batches.div_ceil(self.accumulation as u64).max(1);
        self.starts.push(self.found().saturating_add(steps));
    }
}
