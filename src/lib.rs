//! One 4-bit base model, many small adapters beside it, and a forward pass that allocates nothing.
#![cfg_attr(not(feature = "std"), no_std)]
#![deny(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;

pub mod adapter;
#[allow(unsafe_code)]
pub mod archive;
pub mod error;
#[cfg(feature = "std")]
pub mod file;
#[cfg(feature = "std")]
pub mod import;
#[allow(unsafe_code)]
pub mod kernel;
pub mod model;
pub mod nn;
pub mod quant;
pub mod runtime;
#[allow(unsafe_code)]
pub mod tensor;

pub use error::{Error, Field, Result, RootKind};
