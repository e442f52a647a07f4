//! Running models: memory known beforehand, sessions, sampling, lanes.

mod executor;
mod limits;
mod sample;
mod session;
#[allow(unsafe_code)]
mod workspace;

#[cfg(feature = "std")]
pub use executor::Threads;
pub use executor::{Executor, Serial};
pub use limits::{KvFormat, Limits, Need, need};
pub use sample::{Candidate, Sampler, SamplerOptions};
pub use session::Session;
#[cfg(feature = "alloc")]
pub use workspace::Memory;
