//! `u = s·A x`, the down-projection of the active adapters, made by all workers together.
//!
//! A worker computes its share of every u, shows it, and multiplies with the base, which takes much
//! longer; then it takes the others' shares. It waits for nobody: what another worker has not shown
//! by then (its thread sleeps, or all run one after the other), it computes itself, to the same
//! bits.

use super::Pass;
use super::linear::Job;
use crate::kernel::Input;
use crate::tensor::exchange::{Exchange, Flags, Seat};
use crate::tensor::workers::{Parts, share};

/// Layers that can be computed side by side.
pub(crate) const SIDE_BY_SIDE: usize = 3;

/// Numbers of a cache line: what two workers write must not lie in one.
const LINE: usize = 16;

/// Numbers that [`Scratch::low_rank`](super::Scratch) must have: `[rows, layers, width]` for every
/// worker, and again for what it shows.
pub(crate) const fn need(rows: usize, layers: usize, width: usize, threads: usize) -> usize {
    let size = rows.saturating_mul(layers).saturating_mul(width);
    if threads > 1 { room(size).saturating_mul(threads).saturating_mul(2) } else { size }
}

/// A worker's room for `size` numbers.
const fn room(size: usize) -> usize {
    size.div_ceil(LINE).saturating_mul(LINE)
}

/// The u of some layers that read the same x, `[n, layers, width]`: of a row and a layer, those of
/// all adapters side by side.
pub(super) struct Inner<'c> {
    pub(super) pass: &'c Pass<'c, 'c>,
    pub(super) jobs: &'c [Job<'c, 'c>],
    pub(super) input: &'c Input<'c>,
    /// Room for the ranks of a row's adapters.
    pub(super) width: usize,
}

impl Inner<'_> {
    /// The u of every worker and what each shows of it, in [`need`] numbers.
    pub(super) fn buffers<'b>(
        &self,
        low_rank: &'b mut [f32],
        flags: &'b mut Flags,
    ) -> (Parts<'b, f32>, Exchange<'b>) {
        let size = self.input.n() * self.jobs.len() * self.width;
        let room = if self.pass.threads > 1 { room(size) } else { size };
        let (own, shown) = low_rank.split_at_mut(room * self.pass.threads);
        let shown = if self.pass.threads > 1 { shown } else { &mut [] };
        (Parts::new(own, room), Exchange::new(shown, room, flags))
    }

    /// The u of layer `job` and how far those of two rows are apart.
    pub(super) fn of_job<'u>(&self, u: &'u [f32], job: usize) -> (&'u [f32], usize) {
        (u.get(job * self.width..).unwrap_or_default(), self.jobs.len() * self.width)
    }

    /// Makes `worker`'s share of u.
    pub(super) fn share(&self, worker: usize, u: &mut [f32], seat: &mut Seat<'_>) {
        seat.show(|shown| self.fill(worker, None, u, shown));
    }

    /// Adds the shares of all workers but `worker` to u.
    pub(super) fn gather(&self, worker: usize, u: &mut [f32], seat: &Seat<'_>) {
        for other in (0..self.pass.threads).filter(|&other| other != worker) {
            self.fill(other, seat.read(other), u, None);
        }
    }

    /// Fills in `worker`'s share, some rows of A of every adapter: from what it has shown, or
    /// computed, and then also `to` what it shows.
    fn fill(&self, worker: usize, from: Option<&[f32]>, u: &mut [f32], mut to: Option<&mut [f32]>) {
        if !self.pass.has_factors {
            return;
        }
        for segment in self.pass.segments {
            for (i, job) in self.jobs.iter().enumerate() {
                let mut first = i * self.width;
                for (active, target, rank) in job.of.targets(self.pass, segment) {
                    let mine = share(rank, worker, self.pass.threads);
                    let scale = target.scale(rank) * active.weight;
                    for row in segment.first..segment.first + segment.rows {
                        let at = row * self.jobs.len() * self.width + first + mine.start;
                        let at = at..at + mine.len();
                        let u = &mut u[at.clone()];
                        if let Some(from) = from {
                            u.copy_from_slice(&from[at]);
                            continue;
                        }
                        // Where the rows of B have scales, they are multiplied in here, once for
                        // all outputs.
                        target.a.dots(self.pass.kernels, mine.start, self.input.vector(row), u);
                        u.iter_mut().for_each(|u| *u *= scale);
                        for scales in [target.a.scales(), target.b.scales()].into_iter().flatten() {
                            u.iter_mut()
                                .zip(&scales[mine.start..])
                                .for_each(|(u, scale)| *u *= scale);
                        }
                        if let Some(to) = &mut to {
                            to[at.clone()].copy_from_slice(u);
                        }
                    }
                    first += rank;
                }
            }
        }
    }
}
