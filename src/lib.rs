//! One 4-bit base model, many small adapters beside it, and a forward pass that allocates nothing.
//!
//! `lowrank` runs a QLoRA-quantized language model (NF4, double quantization) from a zero-copy
//! archive and applies low-rank adapters to it at run time, unmerged. Swapping an adapter writes
//! one slot and copies no weights; a session that is generating keeps the adapters it started with.
//!
//! # The walk of a weight
//!
//! 1. `import` reads GGUF, Hugging Face and bitsandbytes models and PEFT or GGUF adapters.
//! 2. [`quant`] says what 4-bit, 8-bit and 16-bit weights mean and makes them.
//! 3. [`archive`] writes them into a file that is used in place: [`archive::ArchiveFile`] maps it,
//!    [`model::llama::Llama::open`] checks it in microseconds.
//! 4. [`adapter`] opens adapters and keeps them in slots.
//! 5. [`runtime::Session`] continues sequences of tokens in memory that the caller lends;
//!    [`runtime::need`] says beforehand how much. [`runtime::Encoder`], [`runtime::Recurrent`] and
//!    [`runtime::Predictor`] do the same for encoders, LSTM and MLP.
//!    [`engine::Engine`] puts tokenizer, adapters by name and a session together.
//! 6. [`nn`] and [`model`] are the forward pass; base and adapter meet in one place,
//!    [`nn::Linear`].
//! 7. [`kernel`] has the inner loops, one table per instruction set.
//!
//! # Example
#![doc = include_str!("../examples/quickstart.md")]
//!
//! # Features
//!
//! | feature | adds | needs |
//! |---|---|---|
//! | none | opening archives, adapters, sessions, sampling, kernels | `core` |
//! | `alloc` | writing archives, quantizing, owned workspaces | an allocator |
//! | `std` | memory maps, threads, making adapters, shared adapter sets | an operating system |
//! | `text` | tokenizer, chat templates, [`engine`] | |
//! | `import` (default) | bases and adapters of other programs, and back; with `text` | |
//! | `train` (default) | training, evaluation, estimates of memory; with `text` | |
//! | `cli` | the `lowrank` program | |
//! | `serve` | an HTTP server with an adapter per request; with `cli`, `lowrank serve` | |
//! | `cuda` | Llama-family models and BERT-family encoders on NVIDIA GPUs; training's products | at run time the CUDA driver |
//! | `capi` | the C interface, `include/lowrank.h`, of what the other features have | |
//! | `panic-handler` | a panic handler for static C libraries without `std` | no other panic handler |
//!
//! Features only add. None changes the archive format. The instruction set is chosen at run time;
//! `LOWRANK_ISA=scalar` (or `--cfg lowrank_isa="scalar"`) forces one.
//!
//! # Safety of untrusted files
//!
//! A damaged or hostile archive gives an error, wrong numbers or NaN logits (which the sampler
//! refuses), never a panic and never an access outside its bytes. `verify` finds every damage, also
//! where somebody corrected the checksum: it computes the fingerprint again. Tokenizers and chat
//! templates pass one gate (`text/gate`) before the libraries that run them. Mapped files must not
//! be changed in place.
#![cfg_attr(not(feature = "std"), no_std)]
#![deny(unsafe_code)]
// What `import` and `train` call of the rooms below them stays unused without them.
#![cfg_attr(
    all(feature = "std", not(all(feature = "import", feature = "train"))),
    allow(dead_code, unused_imports)
)]

#[cfg(feature = "alloc")]
extern crate alloc;

pub mod adapter;
pub mod archive;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "text")]
pub mod engine;
pub mod error;
pub mod exec;
#[cfg(feature = "import")]
pub mod export;
#[cfg(feature = "capi")]
#[allow(unsafe_code)]
pub mod ffi;
#[cfg(feature = "std")]
pub mod file;
#[cfg(feature = "std")]
mod foreign;
mod header;
#[cfg(feature = "import")]
pub mod import;
#[allow(unsafe_code)]
pub mod kernel;
pub mod model;
#[cfg(any(feature = "import", feature = "train"))]
mod nearest;
pub mod nn;
pub mod quant;
#[cfg(feature = "std")]
pub mod random;
pub mod runtime;
#[cfg(feature = "serve")]
pub mod serve;
pub mod tensor;
#[cfg(feature = "text")]
pub mod text;
#[cfg(feature = "train")]
pub mod train;

/// The guide: from the first model to training, C and firmware.
#[cfg(all(feature = "import", feature = "train", any(doc, doctest)))]
#[doc = include_str!("../docs/guide.md")]
pub mod guide {}

pub use error::{Error, Field, Result, RootKind};
