//! Llama-family models and BERT-family encoders on an NVIDIA GPU, through the CUDA driver and the
//! kernels in `ptx/`. Needs the feature `cuda`; a program with it starts on any machine and says at
//! run time if there is no driver.
//!
//! [`Device::open`] finds a card and loads the kernels; [`Model::upload`] copies a base to it,
//! once; adapters follow when they are first chosen and stay.
//! [`CudaSession`](crate::runtime::CudaSession) then runs sequences, with the books of any other
//! session; [`EncoderModel::upload`] and [`CudaEncoder`](crate::runtime::CudaEncoder) are the same
//! for encoders. `Frozen` is what training asks of a card: the products with frozen weights. Other
//! families run on the CPU.
//!
//! ```no_run
//! # fn run(base: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! use lowrank::cuda::{Device, Model};
//! use lowrank::model::llama::Llama;
//! use lowrank::runtime::{CudaSession, Limits, Memory, Sampler};
//!
//! let model = Model::upload(&Device::open(0)?, Llama::open(base)?)?;
//! let limits = Limits { batch: 8, prefill_chunk: 64, ..Limits::new(2048) };
//! let mut books = Memory::new(CudaSession::need(model.llama().config(), &limits));
//! let mut session = CudaSession::new(&model, &limits, books.as_mut())?;
//! session.prefill(0, &[1, 2, 3])?;
//! let token = session.sample(0, &mut Sampler::greedy())?;
//! session.step(&[(0, token)])?;
//! # Ok(()) }
//! ```
//!
//! The parts: `device` (driver, launches), `buffer` (device memory), `parameters` and `kernels` (what
//! each takes, how it is launched), `weights`, `adapter` and `upload` (how a model lies on the
//! device), `chosen` (which adapters a sequence has), `pass` (layers), `llama` and `bert` (models,
//! their memory and their forward passes), `frozen` and `rows` (products of training, and what goes
//! there and back).

mod adapter;
mod bert;
#[allow(unsafe_code)]
mod buffer;
mod chosen;
#[allow(unsafe_code)]
mod device;
mod error;
#[cfg(feature = "train")]
mod frozen;
mod kernels;
mod llama;
mod parameters;
mod pass;
#[cfg(feature = "train")]
mod rows;
mod upload;
mod weights;

pub use bert::EncoderModel;
pub(crate) use bert::{EncoderState, Wanted};
pub use device::Device;
pub use error::CudaError;
#[cfg(feature = "train")]
pub(crate) use frozen::Frozen;
pub use llama::Model;
pub(crate) use llama::{MOST_CANDIDATES, State};

/// The start of each row of activations: `width` rounded up to what kernels read at once.
const fn stride(width: usize) -> usize {
    width.next_multiple_of(8)
}
