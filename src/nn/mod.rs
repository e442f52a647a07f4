//! Layers: the few operations models are made of, over borrowed weights.

mod linear;

pub use linear::Linear;
