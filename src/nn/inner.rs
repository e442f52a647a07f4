//! `u = s·A x` of the active adapters, made by all lanes together.
//!
//! A lane computes its share of every u, says that it has, and multiplies with the base, which takes much longer; then it takes the
//! others' shares. It waits for nobody: what another lane has not made by then (its thread sleeps, or all lanes run one after the
//! other), it computes itself, to the same bits.

use core::sync::atomic::{AtomicBool, Ordering};

use super::Pass;
use super::linear::Job;
use crate::kernel::Input;
use crate::tensor::columns::Parts;

/// Layers that can be computed side by side.
pub(crate) const SIDE_BY_SIDE: usize = 3;

/// Lanes that share what they have made; more only use it.
const LANES: usize = 32;

/// Numbers that [`Scratch::low_rank`](super::Scratch) must have: `[rows, layers, width]` for every lane, and once for what they share.
pub(crate) const fn need(rows: usize, layers: usize, width: usize, lanes: usize) -> usize {
    let copies = if lanes > 1 { lanes.saturating_add(1) } else { 1 };
    rows.saturating_mul(layers).saturating_mul(width).saturating_mul(copies)
}

/// The u of some layers that read the same x, `[n, layers, width]`: of a row and a layer, those of all adapters side by side.
pub(super) struct Inner<'c> {
    pass: &'c Pass<'c, 'c>,
    jobs: &'c [Job<'c, 'c>],
    input: &'c Input<'c>,
    width: usize,
    /// The u of every lane.
    own: Parts<'c, f32>,
    /// What lanes made, number by number.
    shared: Parts<'c, f32>,
    /// Has a lane made its share?
    made: [AtomicBool; LANES],
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
        let (own, shared) = low_rank.split_at_mut(size * pass.lanes);
        let own = Parts::new(own, size.max(1));
        Self { pass, jobs, input, width, own, shared: Parts::new(shared, 1), made: [const { AtomicBool::new(false) }; LANES] }
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
    pub(super) fn share(&self, lane: usize, u: &mut [f32]) {
        let made = if self.pass.lanes > 1 { self.made.get(lane) } else { None };
        self.fill(lane, if made.is_some() { From::Making } else { From::Itself }, u);
        if let Some(made) = made {
            made.store(true, Ordering::Release);
        }
    }

    /// Adds the shares of all lanes but `lane` to u.
    pub(super) fn gather(&self, lane: usize, u: &mut [f32]) {
        for other in (0..self.pass.lanes).filter(|&other| other != lane) {
            let made = self.made.get(other).is_some_and(|made| made.load(Ordering::Acquire));
            self.fill(other, if made { From::Shared } else { From::Itself }, u);
        }
    }

    /// Fills in `lane`'s share: some rows of A of every adapter.
    #[allow(unsafe_code)]
    fn fill(&self, lane: usize, from: From, u: &mut [f32]) {
        for segment in self.pass.segments {
            for (i, job) in self.jobs.iter().enumerate() {
                let mut first = i * self.width;
                for (active, target, rank) in job.linear.targets(self.pass, segment) {
                    let mine = self.pass.share_rows(rank, lane);
                    let scale = target.scale(rank) * active.weight;
                    for row in segment.first..segment.first + segment.rows {
                        let at = row * self.jobs.len() * self.width + first + mine.start;
                        let u = &mut u[at..at + mine.len()];
                        if let From::Shared = from {
                            // SAFETY: `lane` has written these numbers and does not any more.
                            u.iter_mut().zip(at..).for_each(|(u, at)| *u = unsafe { self.shared.read(at) });
                            continue;
                        }
                        // Where the rows of B have scales, they are multiplied in here, once for all outputs.
                        target.a.dots(self.pass.kernels, mine.start, self.input.vector(row), u);
                        u.iter_mut().for_each(|u| *u *= scale);
                        for scales in [target.a.scales(), target.b.scales()].into_iter().flatten() {
                            u.iter_mut().zip(&scales[mine.start..]).for_each(|(u, scale)| *u *= scale);
                        }
                        if let From::Making = from {
                            // SAFETY: only this lane writes its share, and nobody reads it before `made` says so.
                            u.iter().zip(at..).for_each(|(u, at)| unsafe { self.shared.part(at)[0] = *u });
                        }
                    }
                    first += rank;
                }
            }
        }
    }
}

/// Where a share comes from.
#[derive(Clone, Copy)]
enum From {
    /// Computed.
    Itself,
    /// Computed, and laid out for the others.
    Making,
    /// What its lane laid out.
    Shared,
}
