//! A PEFT adapter that is in memory: what adapter_config.json would say, and the bytes that
//! adapter_model.safetensors would have. For adapters that come from another process or over a
//! network; directories are `peft`'s.

use std::path::Path;

use super::json::Json;
use super::peft::{AdapterOptions, read};
use super::safetensors::Shards;
use crate::adapter::{AdapterBuilder, Base};
use crate::file::FileError;

/// What messages call the configuration and the tensors.
const CONFIG: &str = "adapter_config";
const STATE: &str = "adapter state";

/// Reads the adapter in memory for `base`: `config` is the JSON of adapter_config.json, `weights` are
/// the bytes of a safetensors file. As [`import_peft`](super::import_peft) of a directory with these
/// two files and no others; an adapter without a name has an empty one.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use lowrank::adapter::Adapter;
/// use lowrank::archive::ArchiveFile;
/// use lowrank::export::peft_state;
/// use lowrank::import::{AdapterOptions, import_peft_state};
/// use lowrank::model::llama::Llama;
///
/// let (base, style) = (ArchiveFile::open("assets/tiny.lrk")?, ArchiveFile::open("assets/tiny-pirate.lrk")?);
/// let model = Llama::open(&base)?;
/// let state = peft_state(&Adapter::open(&style)?, &model)?;
/// let again = import_peft_state(&state.config, state.weights, &model, &AdapterOptions::default())?;
/// assert_eq!(again.targets.len(), Adapter::open(&style)?.targets().len());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// A [`FileError`] whose path is `adapter_config` or `adapter state`, with the key or the tensor.
pub fn import_peft_state(
    config: &str,
    weights: Vec<u8>,
    base: &dyn Base,
    options: &AdapterOptions,
) -> Result<AdapterBuilder, FileError> {
    let json = Json::parse(Path::new(CONFIG), config.as_bytes())?;
    let file = Path::new(STATE);
    let shards = Shards::from_bytes(file, weights)?;
    read(&json, file, &shards, base, options.name.clone().unwrap_or_default(), options.format)
}
