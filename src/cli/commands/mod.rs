//! One file per command: its options, and what it makes the library do. A folder beside it holds
//! what that command alone needs.

pub(crate) mod adapter;
pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod classify;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod embed;
pub(crate) mod evaluate;
pub(crate) mod export;
pub(crate) mod generate;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod logits;
pub(crate) mod memory;
#[cfg(feature = "serve")]
pub(crate) mod serve;
pub(crate) mod tokenize;
pub(crate) mod train;
