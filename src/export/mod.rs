//! Exporting adapters and bases for other programs. `std` only.

mod bitsandbytes;
mod peft;
mod transformers_text;

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

pub use bitsandbytes::{BITSANDBYTES, export_bitsandbytes};
pub use peft::{PEFT, export_peft};

/// The key in safetensors' metadata that says who wrote the file, so that only our own is replaced.
const WRITER: &str = "written_by";

/// What transformers and PEFT want to find in safetensors' metadata, and who wrote the file.
fn metadata() -> HashMap<String, String> {
    [("format", "pt"), (WRITER, env!("CARGO_PKG_NAME"))]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// The most bytes of a safetensors header that is looked into; the format allows no more.
const HEADER: u64 = 100_000_000;

/// Did this crate write the safetensors file at `path`?
fn is_own(path: &Path) -> bool {
    let header = || {
        let mut file = crate::file::open(path).ok()?;
        let mut length = [0; 8];
        file.read_exact(&mut length).ok()?;
        let length = Some(u64::from_le_bytes(length)).filter(|length| *length <= HEADER)?;
        serde_json::from_reader::<_, Value>(std::io::BufReader::new(file.take(length))).ok()
    };
    header().is_some_and(|header| header["__metadata__"][WRITER] == env!("CARGO_PKG_NAME"))
}
