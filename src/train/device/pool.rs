//! The buffers of training steps, used again.
//!
//! Activations and their gradients come and go in the same few widths, block after block and step
//! after step. An allocator gives their pages back and faults them in anew, which took a sixth of
//! the time of a small encoder's steps.
//!
//! Buffers are kept by their width, with room for the rows of the largest batch so far. Free ones
//! are given up where they and those in use would take more than were ever in use at once: reuse
//! costs no memory. What is small, or no whole number of rows, is an ordinary vector.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::meta::{Account, Held, Storage};

/// Below this many numbers an allocator does not ask the system.
const SMALL: usize = 4096;

/// Numbers of a cache line. Every buffer begins on one, with as many numbers to spare: else every
/// vector of a row lies in two.
pub(crate) const LINE: usize = 16;

/// The first number of `values` that begins a cache line, among the first [`LINE`].
pub(crate) fn line(values: &[f32]) -> usize {
    values.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE)
}

/// Buffers that nobody uses at the moment.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    free: Mutex<Free>,
    /// Of the meta device.
    account: Option<Arc<Account>>,
}

#[derive(Debug, Default)]
struct Free {
    /// Of the batch at hand.
    rows: usize,
    /// Of the largest batch so far.
    most: usize,
    /// All of them `most` rows long, but for what they have to spare.
    buffers: Vec<Storage>,
    /// Numbers in `buffers`, without what they have to spare.
    held: usize,
    /// Numbers in use, and the most that ever were at once.
    used: usize,
    peak: usize,
}

impl Free {
    fn clear(&mut self) {
        self.buffers = Vec::new();
        self.held = 0;
    }

    /// A free buffer of exactly `len` numbers, or a new one.
    fn take(&mut self, account: Option<&Arc<Account>>, len: usize) -> Storage {
        self.used += len;
        self.peak = self.peak.max(self.used);
        if let Some(at) = self.buffers.iter().position(|values| room(values) == len) {
            self.held -= len;
            return self.buffers.swap_remove(at);
        }
        while self.used + self.held > self.peak {
            let largest = self
                .buffers
                .iter()
                .enumerate()
                .max_by_key(|(_, values)| room(values))
                .map(|(at, _)| at);
            let Some(at) = largest else { break };
            self.held -= room(&self.buffers.swap_remove(at));
        }
        Storage::new(account, len + LINE)
    }

    fn give(&mut self, values: Storage) {
        self.used -= room(&values);
        // Else it is left over from a smaller batch.
        if room(&values).is_multiple_of(self.most.max(1)) {
            self.held += room(&values);
            self.buffers.push(values);
        }
    }
}

/// Numbers of a buffer that are meant to be used.
fn room(values: &Storage) -> usize {
    values.values().len() - LINE
}

impl Pool {
    /// The buffers of the meta device, in `account`.
    pub(crate) fn meta(account: &Arc<Account>) -> Self {
        Self { account: Some(Arc::clone(account)), ..Self::default() }
    }

    pub(crate) fn is_meta(&self) -> bool {
        self.account.is_some()
    }

    /// Bytes beside its buffers, until what is returned is dropped.
    pub(crate) fn hold(&self, bytes: usize) -> Held {
        Held::new(self.account.as_ref(), bytes)
    }

    /// `len` zeros that do not return.
    pub(crate) fn alone(&self, len: usize) -> Floats {
        let values = Storage::new(self.account.as_ref(), len);
        Floats { start: 0, len: values.values().len(), values, pool: None }
    }

    /// What follows is about a batch of `rows` rows.
    pub(crate) fn begin(&self, rows: usize) {
        let mut free = self.lock();
        free.rows = rows;
        if rows > free.most {
            free.most = rows;
            free.peak = free.used;
            free.clear();
        }
    }

    /// Gives all free buffers back: what follows needs the memory more.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// `len` numbers of any value.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Floats {
        let mut free = self.lock();
        if len < SMALL || free.rows == 0 || !len.is_multiple_of(free.rows) {
            return self.alone(len);
        }
        let whole = len / free.rows * free.most;
        let values = free.take(self.account.as_ref(), whole);
        if values.values().is_empty() {
            free.used -= whole;
            return Floats::default();
        }
        Floats { start: line(values.values()), values, len, pool: Some(Arc::clone(self)) }
    }

    fn lock(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Numbers from a [`Pool`], to which they return.
#[derive(Debug, Default)]
pub(crate) struct Floats {
    values: Storage,
    start: usize,
    len: usize,
    pool: Option<Arc<Pool>>,
}

impl Drop for Floats {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.lock().give(std::mem::take(&mut self.values));
        }
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values.values()[self.start..self.start + self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values.values_mut()[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(pool: &Pool) -> usize {
        pool.lock().buffers.len()
    }

    #[test]
    fn buffers_of_a_width_return_and_are_used_again() {
        let pool = Arc::new(Pool::default());
        pool.begin(100);
        let (a, b) = (pool.take(100 * 64), pool.take(100 * 65));
        let at = a.as_ptr();
        assert!(at.addr().is_multiple_of(64));
        drop((a, b));
        assert_eq!(held(&pool), 2);
        // A smaller batch has the front of it.
        pool.begin(80);
        let again = pool.take(80 * 64);
        assert_eq!((again.as_ptr(), again.len(), held(&pool)), (at, 80 * 64, 1));
    }

    #[test]
    fn free_buffers_make_room_for_other_widths() {
        let pool = Arc::new(Pool::default());
        pool.begin(100);
        drop((pool.take(100 * 64), pool.take(100 * 65)));
        // 129 columns were in use: beside 100, neither has room; beside 64, the other has.
        let wide = pool.take(100 * 100);
        assert_eq!(held(&pool), 0);
        drop(wide);
        drop((pool.take(100 * 64), pool.take(100 * 65)));
        let narrow = pool.take(100 * 63);
        assert_eq!(held(&pool), 1);
        drop(narrow);
        let free = pool.lock();
        assert_eq!((free.used, free.peak), (0, 100 * 129));
        assert_eq!(free.held, free.buffers.iter().map(room).sum::<usize>());
    }

    #[test]
    fn a_larger_batch_starts_anew() {
        let pool = Arc::new(Pool::default());
        pool.begin(99);
        let kept = pool.take(99 * 64);
        drop(pool.take(99 * 64));
        pool.begin(101);
        assert_eq!(held(&pool), 0);
        drop(kept);
        assert_eq!(held(&pool), 0);
        drop(pool.take(101 * 64));
        assert_eq!(held(&pool), 1);
    }

    #[test]
    fn what_is_small_or_no_whole_rows_is_nobodys() {
        let pool = Arc::new(Pool::default());
        drop(pool.take(SMALL));
        pool.begin(64);
        drop((pool.take(SMALL - 64), pool.take(64 * 1024 + 1)));
        assert_eq!(held(&pool), 0);
    }
}
