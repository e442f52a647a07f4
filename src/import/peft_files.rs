//! Where a PEFT directory has its weights, and what is said of a directory that has none.

use std::path::{Path, PathBuf};

use crate::file::FileError;

/// Refuses pickled weights where there are no others.
pub(super) fn refuse_pickle(directory: &Path, file: &Path) -> Result<(), FileError> {
    let pickle = directory.join("adapter_model.bin");
    if pickle.exists() && !file.exists() {
        let reason = "weights in pickles are not read, because pickles can run code; convert them: \
                      safetensors.torch.save_file(torch.load(\"adapter_model.bin\", weights_only=True), \
                      \"adapter_model.safetensors\")";
        return Err(FileError::format(pickle, "", reason));
    }
    Ok(())
}

/// Where the weights in `directory` are; adapters of another kind or place are named, with what to
/// do.
pub(super) fn weights(directory: &Path) -> Result<PathBuf, FileError> {
    let file = directory.join("adapter_model.safetensors");
    if file.exists() {
        return Ok(file);
    }
    let mlx = directory.join("adapters.safetensors");
    if mlx.exists() {
        return Err(FileError::format(mlx, "", MLX));
    }
    // PEFT keeps each further adapter of a model in a folder of its name.
    let mut folders: Vec<String> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().join("adapter_config.json").exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    folders.sort();
    if !folders.is_empty() {
        let reason =
            format!("the adapters are in its folders, give one of them: {}", folders.join(", "));
        return Err(FileError::format(directory, "", reason));
    }
    Ok(file)
}

/// What is said of an adapter of MLX.
pub(super) const MLX: &str = "an adapter of MLX, which is not read; make it one of PEFT: lora_A.weight is lora_a transposed, \
                   lora_B.weight is lora_b transposed, and adapter_config.json has peft_type \"LORA\", r, and \
                   lora_alpha = scale times r";
