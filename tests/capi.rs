//! The C interface as Rust sees it. What C sees is in `examples/c`.
