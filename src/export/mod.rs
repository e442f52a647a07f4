//! Exporting adapters and bases for other programs. `std` only.

use std::path::Path;

use crate::adapter::Adapter;
use crate::file::FileError;
use crate::model::llama::Llama;

/// Refuses: not built yet.
///
/// # Errors
/// Always.
pub fn export_peft(_: &Adapter<'_>, _: &Llama<'_>, directory: &Path) -> Result<(), FileError> {
    Err(FileError::format(directory, "", "this build cannot export PEFT directories yet"))
}

/// Refuses: not built yet.
///
/// # Errors
/// Always.
pub fn export_bitsandbytes(_: &Llama<'_>, directory: &Path) -> Result<(), FileError> {
    Err(FileError::format(directory, "", "this build cannot export bitsandbytes checkpoints yet"))
}
