//! Exporting adapters and bases for other programs. Feature `import`.

mod bitsandbytes;
mod peft;
mod peft_head;
mod peft_ia3;
mod peft_tensors;
mod transformers_text;

use std::path::Path;

use serde_json::{Map, Value};

pub use bitsandbytes::{BITSANDBYTES, export_bitsandbytes};
pub use peft::{PEFT, PeftState, export_peft, peft_state};

/// Did this crate write the configuration at `path`, and so the folder that it is the key of? PEFT
/// and transformers sort the keys of what they write, this crate begins with `keys`.
fn is_own(path: &Path, keys: &[&str]) -> bool {
    let fields = || match serde_json::from_slice(&crate::file::read(path).ok()?).ok()? {
        Value::Object(fields) => Some(fields),
        _ => None,
    };
    fields().is_some_and(|fields: Map<String, Value>| {
        fields.keys().map(String::as_str).take(keys.len()).eq(keys.iter().copied())
    })
}
