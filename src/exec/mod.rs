//! Who runs the parts of a product: one after the other, on threads, or whoever the caller brings.

#[allow(unsafe_code)]
mod executor;
#[cfg(feature = "std")]
#[allow(unsafe_code)]
mod threads;

pub use executor::{Executor, Serial};
#[cfg(all(feature = "std", feature = "capi"))]
pub(crate) use threads::MOST as MOST_THREADS;
#[cfg(feature = "std")]
pub use threads::Threads;
