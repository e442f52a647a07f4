//! temporary
#![allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape { Constant, Linear, Cosine }
