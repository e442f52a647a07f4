//! Training: adapters fine-tuned on the device. `std` only.

mod eight_bit;
pub mod optimizer;
pub mod random;
pub mod schedule;
