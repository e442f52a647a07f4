//! `u = s·A x` of the active adapters, made by all lanes together.
//!
//! A lane computes its share of every u, says that it has, and multiplies with the base, which
//! takes much longer; then it takes the others' shares. It waits for nobody: what another lane has
//! not made by then (its thread sleeps, or all lanes run one after the other), it computes itself,
//! to the same bits.

use core::sync::atomic::{AtomicBool, Ordering};

use super::Pass;
use super::linear::Job;
use crate::kernel::Input;
use crate::tensor::columns::Parts;

/// Layers that can be computed side by side.
pub(crate) const SIDE_BY_SIDE: usize = 3;

/// Lanes that share what they have made; more only use it.
const LANES: usize = 16;

/// Numbers of a cache line: what two lanes write must not lie in one.
const LINE: usize = 16;

/// Numbers that [`Scratch::low_rank`](super::Scratch) must have: `[rows, layers, width]` for every
/// lane, and again for what it shares.
pub(crate) const fn need(rows: usize, layers: usize, width: usize, lanes: usize) -> usize {
    let size = rows.saturating_mul(layers).saturating_mul(width);
    if lanes > 1 { room(size).saturating_mul(lanes).saturating_mul(2) } else { size }
}

/// A lane's room for `size` numbers.
const fn room(size: usize) -> usize {
    size.div_ceil(LINE).saturating_mul(LINE)
}

/// Has a lane made its share?
#[cfg_attr(target_pointer_width = "64", repr(align(64)))]
struct Made(AtomicBool);

/// The u of some layers that read the same x, `[n, layers, width]`: of a row and a layer, those of
/// all adapters side by side.
pub(super) struct Inner<'c> {
    pass: &'c Pass<'c, 'c>,
    jobs: &'c [Job<'c, 'c>],
    input: &'c Input<'c>,
    width: usize,
    /// The u of every lane.
    own: Parts<'c, f32>,
    /// What every lane shares of it; none of a single lane.
    shared: Parts<'c, f32>,
    made: [Made; LANES],
}

impl<'c> Inner<'c> {
    /// For one call of `jobs`, with [`need`] numbers in `low_rank`.
    pub(super) fn new(
        pass: &'c Pass<'c, 'c>,
        jobs: &'c [Job<'c, 'c>],
        input: &'c Input<'c>,
        low_rank: &'c mut [f32],
        width: usize,
    ) -> Self {
        let size = input.n() * jobs.len() * width;
        let room = if pass.lanes > 1 { room(size) } else { size };
        let (own, shared) = low_rank.split_at_mut(room * pass.lanes);
        let (own, shared) = (Parts::new(own, room.max(1)), Parts::new(shared, room.max(1)));
        Self {
            pass,
            jobs,
            input,
            width,
            own,
            shared,
            made: [const { Made(AtomicBool::new(false)) }; LANES],
        }
    }

    /// The u of `lane`.
    ///
    /// # Safety
    /// Only one at a time.
    #[allow(unsafe_code, clippy::mut_from_ref, reason = "the caller promises exclusive access")]
    pub(super) unsafe fn of_lane(&self, lane: usize) -> &mut [f32] {
        // SAFETY: every lane has a part of its own; the caller's promise.
        if self.width == 0 { &mut [] } else { unsafe { self.own.part(lane) } }
    }

    /// The u of layer `job` and how far those of two rows are apart.
    pub(super) fn of_job<'u>(&self, u: &'u [f32], job: usize) -> (&'u [f32], usize) {
        (u.get(job * self.width..).unwrap_or_default(), self.jobs.len() * self.width)
    }

    /// Makes `lane`'s share of u.
    #[allow(unsafe_code)]
    pub(super) fn share(&self, lane: usize, u: &mut [f32]) {
        let made = if self.pass.lanes > 1 && self.width > 0 { self.made.get(lane) } else { None };
        // SAFETY: every lane has a part of its own, which nobody reads before `made` says so.
        let shared = made.map(|_| unsafe { self.shared.part(lane) });
        self.fill(lane, None, u, shared);
        if let Some(made) = made {
            made.0.store(true, Ordering::Release);
        }
    }

    /// Adds the shares of all lanes but `lane` to u.
    #[allow(unsafe_code)]
    pub(super) fn gather(&self, lane: usize, u: &mut [f32]) {
        for other in (0..self.pass.lanes).filter(|&other| other != lane) {
            let made = self.made.get(other).is_some_and(|made| made.0.load(Ordering::Acquire));
            // SAFETY: `other` has written its part and does not any more.
            let shared = made.then(|| unsafe { self.shared.read(other) });
            self.fill(other, shared, u, None);
        }
    }

    /// Fills in `lane`'s share, some rows of A of every adapter: from what it shared, or computed,
    /// and then also `to` what it shares.
    fn fill(&self, lane: usize, from: Option<&[f32]>, u: &mut [f32], mut to: Option<&mut [f32]>) {
        for segment in self.pass.segments {
            for (i, job) in self.jobs.iter().enumerate() {
                let mut first = i * self.width;
                for (active, target, rank) in job.linear.targets(self.pass, segment) {
                    let mine = self.pass.share_rows(rank, lane);
                    let scale = target.scale(rank) * active.weight;
                    for row in segment.first..segment.first + segment.rows {
                        let at = row * self.jobs.len() * self.width + first + mine.start;
                        let u = &mut u[at..at + mine.len()];
                        if let Some(from) = from {
                            u.copy_from_slice(&from[at..at + mine.len()]);
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
                            to[at..at + mine.len()].copy_from_slice(u);
                        }
                    }
                    first += rank;
                }
            }
        }
    }
}
