//! Importing models and adapters from the formats they are published in. `std` only.
//!
//! A [`Source`] is a model in a foreign format, seen through transformers' names; [`base`] turns any source into an archive.

mod gguf;
mod source;

pub use gguf::{Gguf, GgufAdapter, GgufTarget};
pub use source::{Source, Tensor, TextParts};
