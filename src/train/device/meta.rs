//! The device without work: buffers have their length and no storage, and their bytes are counted
//! as a heap would see them.
//!
//! A buffer is a range of addresses that the system reserves and nobody touches. It is not a model
//! of time, and no numbers come out of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{MmapMut, MmapOptions};

/// Up to this many numbers a buffer is on the heap: addresses come in whole pages.
const SMALL: usize = 4096;

/// Bytes that are held on the device.
#[derive(Debug, Default)]
pub(crate) struct Account(Mutex<Bytes>);

#[derive(Debug, Default)]
struct Bytes {
    held: u64,
    max: u64,
    refused: Option<u64>,
}

impl Account {
    fn lock(&self) -> MutexGuard<'_, Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most bytes that were held at once; the number of those that the system would not
    /// reserve, if there were any.
    pub(crate) fn max(&self) -> Result<u64, u64> {
        let bytes = self.lock();
        bytes.refused.map_or(Ok(bytes.max), Err)
    }
}

/// Bytes in an account until it is dropped; none on a device that works.
#[derive(Debug, Default)]
pub(crate) struct Held(Option<(Arc<Account>, u64)>);

impl Held {
    pub(crate) fn new(account: Option<&Arc<Account>>, bytes: usize) -> Self {
        Self(account.map(|account| {
            let mut counted = account.lock();
            counted.held = counted.held.saturating_add(bytes as u64);
            counted.max = counted.max.max(counted.held);
            (Arc::clone(account), bytes as u64)
        }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((account, bytes)) = &self.0 {
            let mut counted = account.lock();
            counted.held = counted.held.saturating_sub(*bytes);
        }
    }
}

/// The numbers of a buffer: zeros on the heap, or addresses.
#[derive(Debug)]
pub(crate) struct Storage {
    values: Values,
    _held: Held,
}

#[derive(Debug)]
enum Values {
    Heap(Vec<f32>),
    Addresses(MmapMut),
}

impl Default for Storage {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl From<Vec<f32>> for Storage {
    fn from(values: Vec<f32>) -> Self {
        Self { values: Values::Heap(values), _held: Held::default() }
    }
}

impl Storage {
    /// `len` zeros; with an account, as many addresses. Addresses that the system refuses are noted
    /// in the account, and the storage is empty.
    pub(crate) fn new(account: Option<&Arc<Account>>, len: usize) -> Self {
        let bytes = len.saturating_mul(size_of::<f32>());
        let values = match account {
            Some(account) if len > SMALL => {
                match MmapOptions::new().len(bytes).no_reserve_swap().map_anon() {
                    Ok(addresses) => Values::Addresses(addresses),
                    Err(_) => {
                        account.lock().refused.get_or_insert(bytes as u64);
                        Values::Heap(Vec::new())
                    }
                }
            }
            _ => Values::Heap(vec![0.0; len]),
        };
        Self { values, _held: Held::new(account, bytes) }
    }

    pub(crate) fn values(&self) -> &[f32] {
        match &self.values {
            Values::Heap(values) => values,
            Values::Addresses(addresses) => bytemuck::try_cast_slice(addresses).unwrap_or_default(),
        }
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        match &mut self.values {
            Values::Heap(values) => values,
            Values::Addresses(addresses) => {
                bytemuck::try_cast_slice_mut(addresses).unwrap_or_default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool::Pool;
    use super::*;

    #[test]
    fn bytes_are_held_as_long_as_a_heap_would_hold_them() {
        let account = Arc::default();
        let pool = Arc::new(Pool::meta(&account));
        pool.begin(100);
        let (small, large) = (pool.take(8), pool.take(100 * 64));
        let bytes = 4 * (8 + 100 * 64 + super::super::LINE as u64);
        assert_eq!((small.len(), large.len(), account.lock().held), (8, 100 * 64, bytes));
        drop((small, large));
        assert_eq!(account.lock().held, bytes - 4 * 8, "the pool keeps the large one");
        drop(pool.hold(100));
        pool.clear();
        assert_eq!(account.lock().held, 0);
        assert_eq!(account.max(), Ok(bytes + 68));
    }

    #[test]
    fn what_the_system_refuses_is_an_empty_buffer_and_noted() {
        let account = Arc::default();
        let pool = Arc::new(Pool::meta(&account));
        pool.begin(1);
        assert!(pool.take(1 << 56).is_empty() && pool.alone(1 << 57).is_empty());
        assert_eq!(account.max(), Err(4 * ((1 << 56) + super::super::LINE as u64)), "the first");
    }
}
