//! temporary
#![allow(missing_docs)]
pub const IGNORE: u32 = u32::MAX;
#[derive(Debug, Clone, PartialEq)]
pub enum Inputs {
    Tokens(Vec<u32>),
    Features { values: Vec<f32>, width: usize },
}
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    Next(Vec<u32>),
    Class(Vec<u32>),
}
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub inputs: Inputs,
    pub starts: Vec<usize>,
    pub targets: Targets,
}
