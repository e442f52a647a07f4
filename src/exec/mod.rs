//! Who runs the parts of a product: one after the other, on threads, or whoever the caller brings.

mod executor;
#[cfg(feature = "std")]
mod threads;

pub use executor::{Executor, Serial};
#[cfg(all(feature = "std", feature = "capi"))]
pub(crate) use threads::MOST as MOST_THREADS;
#[cfg(feature = "std")]
pub use threads::Threads;
