//! Runs PTX on the CPU and reports what hardware would not: accesses outside an allocation,
//! misaligned ones, reads of memory or registers that nothing wrote, barriers and shuffles that not
//! all threads reach, races in shared memory, instructions that are not known. Every report names
//! the PTX line.
//!
//! Two ways in: [`Module`] and [`launch`] for tests of kernels, and the C functions of `driver`,
//! which make this library a `libcuda.so.1` that unmodified host code runs on. Threads of a block
//! run warp by warp, blocks one after the other, so a result never depends on luck. It measures
//! nothing: no clock, no caches, no memory model across blocks. Only what the kernels of this
//! repository need is there; anything else is refused when a module is loaded.
#![deny(unsafe_code)]

mod block;
mod compute;
mod convert;
mod decode;
#[allow(unsafe_code)]
mod driver;
mod lexer;
mod matrix;
mod memory;
mod module;
mod operand;
mod shared;
mod types;
mod warp;

pub use block::{Launch, Stats, launch};
pub use memory::Memory;
pub use module::{Entry, Module};

/// What went wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line of the PTX source, from 1; 0 where no line is at fault.
    pub line: u32,
    /// The kind.
    pub kind: Kind,
    /// The rest of the sentence.
    pub text: String,
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The source is no PTX, or PTX that is not known here.
    Unknown,
    /// An access outside any allocation, the block's shared memory or the parameters.
    OutOfBounds,
    /// An address that is no multiple of the access's size.
    Misaligned,
    /// A read of memory or of a register that nothing wrote.
    Uninitialized,
    /// A barrier or shuffle that not all of its threads reach together.
    Divergent,
    /// Two warps access shared memory, one of them writing, with no barrier between.
    Race,
    /// A launch that the kernel does not allow.
    Launch,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

impl std::error::Error for Fault {}

impl Fault {
    pub(crate) fn new(line: u32, kind: Kind, text: impl Into<String>) -> Self {
        Self { line, kind, text: text.into() }
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Fault>;
