//! Exporting adapters and bases for other programs. `std` only.

mod bitsandbytes;
mod peft;
mod transformers_text;

pub use bitsandbytes::export_bitsandbytes;
pub use peft::export_peft;
