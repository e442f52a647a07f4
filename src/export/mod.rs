//! Exporting adapters and bases for other programs. `std` only.

mod bitsandbytes;
mod peft;

pub use bitsandbytes::export_bitsandbytes;
pub use peft::export_peft;
