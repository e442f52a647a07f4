//! Importing models and adapters from the formats they are published in. `std` only.
//!
//! [`import()`] takes any model that is supported, and says what it is by itself; [`import_peft`] and
//! [`import_gguf_adapter`] take adapters. A [`Source`] is a decoder in a foreign format, seen through
//! transformers' names; [`write_base`] turns it into an archive.

mod any;
mod base;
mod bert;
mod bert_config;
mod bitsandbytes;
mod fresh;
mod fresh_keys;
mod fresh_tensors;
mod gguf;
mod huggingface;
mod huggingface_config;
mod huggingface_text;
mod json;
mod lstm;
mod mlp;
mod peft;
mod peft_base;
pub(crate) mod peft_classifier;
mod peft_config;
mod peft_names;
mod peft_targets;
mod pytorch;
mod reader;
mod safetensors;
mod sentence_transformers;
mod source;
mod tokenizer;

pub use any::{AnySource, import};
pub use base::{BaseOptions, Progress, base_to_buffer, write_base};
pub use bert::{HuggingFaceBert, bert_to_buffer, write_bert};
pub use fresh::{fresh_to_buffer, write_fresh};
pub use gguf::{Gguf, GgufAdapter, GgufTarget, import_gguf_adapter};
pub use huggingface::{HuggingFace, directory_kind};
pub(crate) use huggingface_text::leading_token;
pub use peft::{AdapterOptions, import_peft};
pub use pytorch::{PyTorch, pytorch_to_buffer, write_pytorch};
pub use source::{Pieces, Source, Tensor, TextParts};
