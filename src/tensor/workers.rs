//! Buffers shared out among the workers of an [`Executor`]: every worker gets parts that no other
//! has, so work on them needs no `unsafe`. What parts there are depends on numbers alone, not on
//! who runs them.

use core::marker::PhantomData;
use core::ops::Range;

use super::columns::Columns;
use crate::exec::Executor;

/// Buffers that can be shared out.
///
/// # Safety
/// Parts of different workers do not overlap and may be written on different threads, as long as
/// the buffers are borrowed.
pub(crate) unsafe trait Share: Sync {
    /// What one worker gets.
    type Part;

    /// The part of worker `worker` of `workers`.
    ///
    /// # Safety
    /// Called once at most for every `worker < workers`, and always with the same `workers`.
    unsafe fn part(&self, worker: usize, workers: usize) -> Self::Part;
}

/// `work(worker, its part)` for every worker.
pub(crate) fn for_each<S: Share>(
    executor: &dyn Executor,
    workers: usize,
    buffers: S,
    work: impl Fn(usize, S::Part) + Sync,
) {
    executor.run(workers, &|worker| {
        // SAFETY: an executor calls no task twice, and nobody else has `buffers`.
        work(worker, unsafe { buffers.part(worker, workers) });
    });
}

/// Which of `count` things, in nearly equal shares, belong to a worker.
pub(crate) fn share(count: usize, worker: usize, workers: usize) -> Range<usize> {
    // What cannot be 0 needs no check, nor a place to panic.
    let workers = workers.max(1);
    count * worker / workers..count * (worker + 1) / workers
}

// SAFETY: the parts of each member are disjoint.
unsafe impl<A: Share, B: Share> Share for (A, B) {
    type Part = (A::Part, B::Part);

    unsafe fn part(&self, worker: usize, workers: usize) -> Self::Part {
        // SAFETY: the caller's promise.
        unsafe { (self.0.part(worker, workers), self.1.part(worker, workers)) }
    }
}

/// A slice in rows of one width; every worker gets consecutive ones, as [`share`] says.
#[derive(Debug)]
pub(crate) struct Parts<'a, T> {
    data: *mut T,
    rows: usize,
    width: usize,
    slice: PhantomData<&'a mut [T]>,
}

impl<'a, T> Parts<'a, T> {
    /// Rows of `width` elements; elements behind the last whole row are left alone.
    pub(crate) fn new(slice: &'a mut [T], width: usize) -> Self {
        let rows = slice.len().checked_div(width).unwrap_or(0);
        Self { data: slice.as_mut_ptr(), rows, width, slice: PhantomData }
    }
}

// SAFETY: `part` is the only access.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

// SAFETY: shares do not overlap and lie inside the slice.
unsafe impl<'a, T: Send> Share for Parts<'a, T> {
    type Part = &'a mut [T];

    unsafe fn part(&self, worker: usize, workers: usize) -> &'a mut [T] {
        let rows = share(self.rows, worker, workers);
        // SAFETY: inside the slice; the caller asks for every share once.
        unsafe {
            core::slice::from_raw_parts_mut(
                self.data.add(rows.start * self.width),
                rows.len() * self.width,
            )
        }
    }
}

/// An output matrix and what computes it.
pub(crate) struct Output<'y, L> {
    /// What computes it.
    pub(crate) of: L,
    whole: Columns<'y>,
}

impl<'y, L> Output<'y, L> {
    /// The outputs of `of`, `[n, width]`.
    pub(crate) fn new(of: L, y: &'y mut [f32], width: usize) -> Self {
        Self { of, whole: Columns::of(y, width) }
    }
}

// SAFETY: the columns are reached through `Outputs` alone.
unsafe impl<L: Sync> Sync for Output<'_, L> {}

/// Output matrices of as many rows. Every worker gets columns of each: as many parts as there are
/// workers, each a multiple of 8 columns wide but the last.
pub(crate) struct Outputs<'j, 'y, L>(&'j [Output<'y, L>]);

impl<'j, 'y, L> Outputs<'j, 'y, L> {
    pub(crate) fn new(outputs: &'j mut [Output<'y, L>]) -> Self {
        Self(outputs)
    }

    /// All of them.
    pub(crate) fn list(&self) -> &'j [Output<'y, L>] {
        self.0
    }
}

// SAFETY: workers get different columns.
unsafe impl<'j, 'y, L: Sync> Share for Outputs<'j, 'y, L> {
    type Part = OutputColumns<'j, 'y, L>;

    unsafe fn part(&self, worker: usize, workers: usize) -> Self::Part {
        OutputColumns { outputs: self.0, worker, workers }
    }
}

/// One worker's columns of some [`Outputs`].
pub(crate) struct OutputColumns<'j, 'y, L> {
    outputs: &'j [Output<'y, L>],
    worker: usize,
    workers: usize,
}

impl<L> OutputColumns<'_, '_, L> {
    /// The columns of output `index`.
    pub(crate) fn of(&mut self, index: usize) -> Columns<'_> {
        let whole = &self.outputs[index].whole;
        let all = whole.range().end;
        let width = all.div_ceil(self.workers.max(1)).next_multiple_of(8);
        let (first, end) = ((self.worker * width).min(all), ((self.worker + 1) * width).min(all));
        // SAFETY: they are this worker's, and this value is borrowed while they are used.
        unsafe { whole.alias(0..whole.rows(), first..end) }
    }
}

/// Rows `first .. first + rows` belong to one sequence.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Segment {
    pub(crate) first: usize,
    pub(crate) rows: usize,
    pub(crate) sequence: usize,
}

/// How a matrix `[n, heads · width]` is cut into blocks: the rows of every segment `height` at a
/// time, the heads into `ranges` nearly equal ranges.
#[derive(Clone, Copy)]
pub(crate) struct Cut<'a> {
    pub(crate) segments: &'a [Segment],
    pub(crate) height: usize,
    pub(crate) heads: usize,
    pub(crate) ranges: usize,
}

impl Cut<'_> {
    /// How many heights of rows there are; each has a block for every range of heads.
    pub(crate) fn tiles(&self) -> usize {
        let tiles = self.segments.iter().map(|segment| segment.rows.div_ceil(self.height.max(1)));
        tiles.sum()
    }

    /// Segment, rows and heads of block `index`.
    fn place(&self, index: usize) -> Option<(Segment, Range<usize>, Range<usize>)> {
        let (ranges, height) = (self.ranges.max(1), self.height.max(1));
        let (mut tile, range) = (index / ranges, index % ranges);
        for &segment in self.segments {
            let count = segment.rows.div_ceil(height);
            if tile < count {
                let first = segment.first + tile * height;
                let rows = first..first.saturating_add(height).min(segment.first + segment.rows);
                return Some((segment, rows, share(self.heads, range, self.ranges)));
            }
            tile -= count;
        }
        None
    }
}

/// A matrix cut into blocks. Worker w gets blocks w, w + workers, w + 2 · workers …
pub(crate) struct Grid<'a> {
    whole: Columns<'a>,
    cut: Cut<'a>,
}

impl<'a> Grid<'a> {
    /// Cuts `matrix`. Segments follow each other inside it: the first that does not, and all behind
    /// it, get no block.
    pub(crate) fn new(matrix: &'a mut [f32], width: usize, mut cut: Cut<'a>) -> Self {
        let (whole, mut end) = (Columns::of(matrix, width), 0);
        let fits = |segment: &&Segment| {
            let follows = segment.first >= end;
            end = segment.first.saturating_add(segment.rows);
            follows && end <= whole.rows()
        };
        let count = cut.segments.iter().take_while(fits).count();
        cut.segments = cut.segments.get(..count).unwrap_or_default();
        Self { whole, cut }
    }
}

// SAFETY: `part` is the only access.
unsafe impl Sync for Grid<'_> {}

// SAFETY: a block belongs to one worker, and blocks do not overlap.
unsafe impl<'a> Share for Grid<'a> {
    type Part = Blocks<'a>;

    unsafe fn part(&self, worker: usize, workers: usize) -> Blocks<'a> {
        // SAFETY: the copy hands out the blocks of its worker alone.
        let whole = unsafe { self.whole.alias(0..self.whole.rows(), self.whole.range()) };
        Blocks { whole, cut: self.cut, next: worker, step: workers }
    }
}

/// One worker's blocks of a [`Grid`].
pub(crate) struct Blocks<'a> {
    whole: Columns<'a>,
    cut: Cut<'a>,
    next: usize,
    step: usize,
}

/// One block of a [`Grid`].
pub(crate) struct Block<'a> {
    /// The segment it lies in.
    pub(crate) segment: Segment,
    /// Its rows, numbered as the matrix's.
    pub(crate) rows: Range<usize>,
    /// Its heads.
    pub(crate) heads: Range<usize>,
    /// What of the matrix is to be written.
    pub(crate) out: Columns<'a>,
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Block<'a>;

    fn next(&mut self) -> Option<Block<'a>> {
        let (segment, rows, heads) = self.cut.place(self.next)?;
        self.next += self.step;
        let width = self.whole.range().end / self.cut.heads.max(1);
        let columns = heads.start * width..heads.end * width;
        // SAFETY: heads and segments lie in the matrix; every number comes once, and different ones
        // differ in rows or in columns.
        let out = unsafe { self.whole.alias(rows.clone(), columns) };
        Some(Block { segment, rows, heads, out })
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::exec::{Serial, Threads};

    #[test]
    fn every_number_belongs_to_one_worker() {
        let threads = Threads::new(3).unwrap();
        let executors: [&dyn Executor; 2] = [&Serial, &threads];
        for (executor, workers) in executors.into_iter().flat_map(|e| [(e, 1), (e, 3), (e, 7)]) {
            let mut slice = [0.0; 50];
            for_each(executor, workers, Parts::new(&mut slice, 8), |_, part| {
                part.iter_mut().for_each(|x| *x += 1.0)
            });
            assert!(slice[..48].iter().all(|&x| x == 1.0) && slice[48..] == [0.0; 2]);

            let (mut wide, mut narrow) = ([0.0; 3 * 37], [0.0; 3 * 5]);
            let mut outputs = [Output::new(1.0, &mut wide, 37), Output::new(2.0, &mut narrow, 5)];
            for_each(executor, workers, Outputs::new(&mut outputs), |_, mut columns| {
                for (i, value) in [1.0, 2.0].into_iter().enumerate() {
                    columns.of(i).all_rows().flatten().for_each(|y| *y += value);
                }
            });
            assert!(wide == [1.0; 3 * 37] && narrow == [2.0; 3 * 5]);
        }
    }

    #[test]
    fn blocks_cover_the_segments_and_nothing_else() {
        let segments = [(0, 5), (5, 1), (8, 2), (7, 2), (10, 1)].map(|(first, rows)| Segment {
            first,
            rows,
            sequence: first,
        });
        for (height, ranges, workers) in [(1, 1, 1), (2, 3, 2), (9, 4, 30), (3, 5, 3)] {
            let mut matrix = [0.0; 11 * 12];
            let cut = Cut { segments: &segments, height, heads: 4, ranges };
            for_each(
                &Threads::new(2).unwrap(),
                workers,
                Grid::new(&mut matrix, 12, cut),
                |_, blocks| {
                    for mut block in blocks {
                        assert_eq!(block.out.range(), 3 * block.heads.start..3 * block.heads.end);
                        assert!(
                            block.rows.len() <= height && block.segment.first <= block.rows.start
                        );
                        block.out.all_rows().flatten().for_each(|y| *y += 1.0);
                    }
                },
            );
            // The fourth segment does not follow the third.
            let inside = |row: usize| row < 6 || (8..10).contains(&row);
            assert!(
                (0..11)
                    .all(|row| matrix[12 * row..][..12] == [f32::from(u8::from(inside(row))); 12])
            );
        }
    }
}
