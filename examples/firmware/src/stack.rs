//! How much RAM is taken: by statics, from the linker's symbols; by the stack, from the paint that is left.

use cortex_m_rt::STACK_PAINT_VALUE;

unsafe extern "C" {
    /// The first word that the stack may reach: the end of the statics.
    static _stack_end: u32;
    /// One past the last word of RAM, where the stack begins.
    static _stack_start: u32;
    /// The first word of RAM.
    static __sdata: u32;
}

/// The bytes of all statics.
pub fn static_bytes() -> u32 {
    ((&raw const _stack_end).addr() - (&raw const __sdata).addr()) as u32
}

/// The most bytes of stack that were in use since reset. `paint-stack` filled the stack's room with a pattern before `main`.
pub fn high_water() -> u32 {
    let (mut lowest, start) = (&raw const _stack_end, &raw const _stack_start);
    // SAFETY: the linker gives two word-aligned addresses of RAM with nothing but stack between; reads are volatile because the
    // words are not Rust objects, and stop at the first one that was written.
    while lowest < start && unsafe { lowest.read_volatile() } == STACK_PAINT_VALUE {
        lowest = lowest.wrapping_add(1);
    }
    (start.addr() - lowest.addr()) as u32
}
