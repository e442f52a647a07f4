//! The C interface: `lowrank_*` functions over objects in the caller's memory. `include/lowrank.h`
//! is generated from these files; its first comment states the rules that hold for every function.
//! Nothing is computed here: pointers become references once they have been checked, and the
//! crate's own types do the work.
//!
//! `memory` checks pointers, `object` keeps objects in foreign memory, `options` reads structs that
//! carry their size, `place` is where sessions run, `running` is what sessions, encoders, recurrent sessions and predictors share,
//! `family` tells families apart, `failure` turns errors into codes and numbers; every other file
//! is one chapter of the header. Files and threads need `std`, text, import and training the features of those names.
//!
//! What cannot be checked is the caller's promise: that a pointer which is not null is valid for
//! the length that comes with it, that archives stay where they are and unchanged as long as
//! anything opened from them is used, and that an object is not closed while another thread uses
//! it.
#![allow(non_camel_case_types, reason = "the names are C's")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the safety contract of all functions is the one above"
)]

mod about;
mod adapter;
mod base;
#[cfg(feature = "text")]
mod chat;
mod choice;
mod classified;
mod encoder;
#[cfg(feature = "train")]
mod example;
mod executor;
mod failure;
mod family;
#[cfg(feature = "std")]
mod file;
#[cfg(feature = "text")]
mod generate;
#[cfg(feature = "import")]
mod import;
#[cfg(feature = "train")]
mod job;
mod limits;
#[cfg(feature = "train")]
mod measure;
mod memory;
mod object;
mod options;
#[cfg(all(feature = "panic-handler", not(feature = "std"), not(test)))]
mod panic;
mod place;
mod predictor;
mod recurrent;
mod requests;
mod running;
mod sampler;
mod session;
mod set;
#[cfg(feature = "text")]
mod text;
#[cfg(feature = "train")]
mod train;
#[cfg(feature = "train")]
mod train_options;
#[cfg(feature = "train")]
mod train_run;

pub use about::*;
pub use adapter::*;
pub use base::*;
#[cfg(feature = "text")]
pub use chat::*;
pub use choice::*;
pub use encoder::*;
#[cfg(feature = "train")]
pub use example::*;
pub use executor::*;
pub use failure::*;
#[cfg(feature = "std")]
pub use file::*;
#[cfg(feature = "text")]
pub use generate::*;
#[cfg(feature = "import")]
pub use import::*;
pub use limits::*;
#[cfg(feature = "train")]
pub use measure::*;
#[cfg(all(feature = "panic-handler", not(feature = "std"), not(test)))]
pub use panic::*;
pub use predictor::*;
pub use recurrent::*;
pub use requests::*;
pub use sampler::*;
pub use session::*;
pub use set::*;
#[cfg(feature = "text")]
pub use text::*;
#[cfg(feature = "train")]
pub use train::*;
#[cfg(feature = "train")]
pub use train_options::*;
