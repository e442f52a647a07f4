//! Importing models and adapters from the formats they are published in. Feature `import`.
//!
//! [`import()`] takes any model that is supported, and says what it is by itself; [`import_peft`],
//! [`import_peft_state`] and [`import_gguf_adapter`] take adapters. A [`Source`] is a decoder in a foreign format, seen through
//! transformers' names; [`write_base`] turns it into an archive.

mod any;
pub(crate) mod base;
pub(crate) mod bitsandbytes;
mod fresh;
mod fresh_keys;
mod fresh_tensors;
mod gguf;
pub(crate) mod huggingface;
pub(crate) mod huggingface_text;
pub(crate) mod json;
mod peft;
pub(crate) mod peft_base;
pub(crate) mod peft_classifier;
mod peft_config;
mod peft_files;
mod peft_ia3;
mod peft_names;
mod peft_state;
mod peft_targets;
pub(crate) mod pytorch;
pub(crate) mod reader;
mod requantize;
pub(crate) mod safetensors;
pub(crate) mod sentence_transformers;
mod source;
mod tokenizer;

pub use crate::model::bert::import::{HuggingFaceBert, bert_to_buffer, write_bert};
pub use crate::model::llama::import::{base_to_buffer, write_base};
pub use any::{AnySource, import};
pub use base::{BaseOptions, Progress};
pub use fresh::{fresh_to_buffer, write_fresh};
pub use gguf::{Gguf, GgufAdapter, GgufTarget, import_gguf_adapter};
pub use huggingface::{HuggingFace, directory_kind};
pub use peft::{AdapterOptions, import_peft};
pub use peft_state::import_peft_state;
pub use pytorch::{PyTorch, pytorch_to_buffer, write_pytorch};
pub use requantize::with_nf4;
pub use source::{Pieces, Source, Tensor, TextParts};
