//! Running models: memory known beforehand, sessions, sampling, lanes.

mod encoder;
mod encoder_limits;
mod executor;
mod limits;
mod sample;
mod selection;
mod session;
#[cfg(feature = "std")]
#[allow(unsafe_code)]
mod threads;
#[allow(unsafe_code)]
mod workspace;

pub use encoder::Encoder;
pub use encoder_limits::{EncoderLimits, encoder_need};
pub use executor::{Executor, Serial};
pub use limits::{KvFormat, Limits, Need, need, need_on_32_bits};
pub use sample::{Candidate, Sampler, SamplerOptions};
pub use session::Session;
#[cfg(feature = "std")]
pub use threads::Threads;
#[cfg(feature = "alloc")]
pub use workspace::Memory;
