//! Signals while Python waits: whoever computes without the interpreter asks from time to time
//! whether Ctrl-C was pressed.

use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use pyo3::{PyErr, Python};

use crate::error::Outcome;

/// The most time between two looks. To ask costs the interpreter's lock, for which one waits if
/// other threads run Python.
const EVERY: Duration = Duration::from_millis(50);

/// How long one sleeps between two tries for a lock.
const TRY: Duration = Duration::from_millis(1);

/// Looks for signals, not too often. Python handles them on its main thread only; elsewhere this
/// finds none.
#[derive(Debug)]
pub(crate) struct Watch {
    last: Instant,
    raised: Option<PyErr>,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self { last: Instant::now(), raised: None }
    }

    /// Has a handler raised an exception (KeyboardInterrupt)? To be called without the
    /// interpreter's lock.
    pub(crate) fn is_raised(&mut self) -> bool {
        if self.raised.is_none() && self.last.elapsed() >= EVERY {
            self.last = Instant::now();
            self.raised = Python::attach(|py| py.check_signals()).err();
        }
        self.raised.is_some()
    }

    /// Remembers an exception of a callback.
    pub(crate) fn raise(&mut self, error: PyErr) {
        self.raised.get_or_insert(error);
    }

    /// The exception, if there is one.
    pub(crate) fn result(self) -> Outcome<()> {
        self.raised.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Ends with the exception, if there is one by now.
    pub(crate) fn check(&mut self) -> Outcome<()> {
        if !self.is_raised() {
            return Ok(());
        }
        self.raised.take().map_or(Ok(()), |error| Err(error.into()))
    }
}

/// Waits for a lock; a signal ends the waiting. A panic while it was held has left nothing that
/// later calls build upon.
pub(crate) fn lock<'l, T>(lock: &'l Mutex<T>, watch: &mut Watch) -> Outcome<MutexGuard<'l, T>> {
    loop {
        match lock.try_lock() {
            Ok(guard) => return Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(TRY),
        }
        watch.check()?;
    }
}
