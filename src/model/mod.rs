//! Model families: what each is made of and its forward pass.

pub mod bert;
pub mod llama;
pub mod lstm;
pub mod mlp;
