//! Exporting adapters and bases for other programs. `std` only.

mod peft;

use std::path::Path;

use crate::file::FileError;
use crate::model::llama::Llama;

pub use peft::export_peft;

/// Refuses: not built yet.
///
/// # Errors
/// Always.
pub fn export_bitsandbytes(_: &Llama<'_>, directory: &Path) -> Result<(), FileError> {
    Err(FileError::format(directory, "", "this build cannot export bitsandbytes checkpoints yet"))
}
