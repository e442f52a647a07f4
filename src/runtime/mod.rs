//! Running models: memory known beforehand, sessions, sampling, threads.
//!
//! # Threads, tasks and interrupts
//!
//! Every type here, and [`Llama`](crate::model::llama::Llama), [`Bert`](crate::model::bert::Bert),
//! [`Lstm`](crate::model::lstm::Lstm), [`Mlp`](crate::model::mlp::Mlp),
//! [`Adapter`](crate::adapter::Adapter) and [`AdapterSet`](crate::adapter::AdapterSet), is `Send`
//! and `Sync` (`tests/send_sync.rs` holds the compiler to it). The objects of the C interface are
//! these types in the caller's memory, with a lock that makes a second use at the same time an
//! error. What that means in practice:
//!
//! - Bases and adapters are only read: share them freely, also between cores. They are a few words
//!   over the archive's bytes.
//! - A [`Session`], an [`Encoder`], a [`Recurrent`], a [`Predictor`] and a [`Sampler`] change with
//!   every call (`&mut`): one task each, or a lock of yours around them. Sessions of the same base
//!   share nothing that is written, so each core can run its own; or two cores share the work of
//!   one, by an [`Executor`] (`examples/two_cores.rs`).
//! - With `std`, `lowrank::train` only reads the base: sessions over it go on while an adapter is
//!   trained.
//! - An `AdapterSet` has no lock. The task that owns it swaps (`&mut`); others may look and choose
//!   (`&`) when it does not. A session copies what it chooses, so a swap never waits for one that
//!   is running, and the other way round. With `std`, [`SharedSet`](crate::adapter::SharedSet) is
//!   the set that threads share.
//! - Nothing blocks, spins, allocates or masks interrupts; only [`Threads`] and an executor of
//!   yours involve other threads, and only between the start and the end of one call. There is no
//!   global state but the choice of kernels, one atomic pointer that is written once with the same
//!   value by whoever comes first.
//! - From an interrupt handler, anything may be called on objects that the interrupted code does
//!   not use: a session of its own, or the slots of a set that only handlers touch. A forward pass
//!   in a handler takes as long as anywhere else; the usual way is to set a flag there and swap (a
//!   few thousand instructions) in the main loop between two tokens.
//! - Floating-point registers are used throughout: a handler or task that calls in must have them
//!   saved, as for any code with `f32`.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod cuda_encoder;
#[cfg(all(feature = "cuda", feature = "capi"))]
mod cuda_or_cpu;
#[cfg(all(feature = "cuda", feature = "capi"))]
mod cuda_or_cpu_encoder;
mod encoder;
mod encoder_limits;
mod limits;
mod lookup;
#[cfg(feature = "alloc")]
mod memory;
mod predictor;
mod recurrent;
mod recurrent_limits;
mod runner;
mod sample;
mod sequences;
mod session;
mod texts;

#[cfg(feature = "cuda")]
pub use cuda::{CudaSession, LlamaCuda};
#[cfg(feature = "cuda")]
pub use cuda_encoder::{BertCuda, CudaEncoder};
#[cfg(all(feature = "cuda", feature = "capi"))]
pub(crate) use cuda_or_cpu::AnySession;
#[cfg(all(feature = "cuda", feature = "capi"))]
pub(crate) use cuda_or_cpu_encoder::AnyEncoder;
pub use encoder::{BertCpu, Encoder};
pub use encoder_limits::{EncoderLimits, encoder_need};
pub use limits::{Limits, MOST_DRAFT, Need, need, need_on_32_bits};
pub use lookup::{Lookup, LookupCounts};
#[cfg(feature = "alloc")]
pub use memory::Memory;
pub use predictor::{Predictor, PredictorLimits, predictor_need};
pub use recurrent::{LstmCpu, Recurrent};
pub use recurrent_limits::{RecurrentLimits, recurrent_need};
#[cfg(feature = "std")]
pub(crate) use runner::{Encode, Runner};
pub use sample::{Candidate, Sampler, SamplerOptions};
pub use sequences::Sequences;
pub use session::{LlamaCpu, Session};
pub use texts::Texts;

#[cfg(all(feature = "std", feature = "capi"))]
pub(crate) use crate::exec::MOST_THREADS;
#[cfg(feature = "std")]
pub use crate::exec::Threads;
pub use crate::exec::{Executor, Serial};
pub use crate::nn::KvFormat;
