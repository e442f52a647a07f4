//! bitsandbytes 4-bit weights inside a Hugging Face directory: taken over code for code, scale for scale.
//!
//! Beside `P.weight` (packed codes, whatever their declared type) lie `P.weight.absmax` (f32, or 8-bit codes if nested),
//! `.quant_map`, `.nested_absmax`, `.nested_quant_map` and `.quant_state.bitsandbytes__nf4` (JSON in a byte tensor).

use serde_json::Value;

use super::json::Json;
use super::safetensors::{Shards, dense};
use crate::file::FileError;
use crate::quant::{Layout, OwnedMatrix, OwnedScales, OwnedValues, double, nf4};

const STATE: &str = ".quant_state.bitsandbytes__nf4";

/// A supported `quantization_config`.
#[derive(Debug)]
pub(super) struct Quantization;

impl Quantization {
    pub(super) fn read(json: &Json) -> Result<Self, FileError> {
        let method = json.text("quant_method")?.unwrap_or("bitsandbytes");
        if method != "bitsandbytes" {
            return Err(json.error("quant_method", format!("\"{method}\" is not supported; bitsandbytes is")));
        }
        if json.flag("load_in_8bit")? || !json.flag("load_in_4bit")? {
            return Err(json.error("load_in_4bit", "only 4-bit checkpoints of bitsandbytes are supported"));
        }
        let kind = json.text("bnb_4bit_quant_type")?.unwrap_or("fp4");
        if kind != "nf4" {
            return Err(json.error("bnb_4bit_quant_type", format!("\"{kind}\" is not supported; nf4 is")));
        }
        Ok(Self)
    }

    /// Does `name` belong to a packed weight?
    pub(super) fn is_companion(name: &str) -> bool {
        let parts = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", STATE];
        parts.iter().any(|part| name.strip_suffix(part).is_some_and(|weight| weight.ends_with(".weight")))
    }

    /// The packed weight called `name`, or `None` if it is not packed.
    pub(super) fn packed(&self, shards: &Shards, name: &str) -> Result<Option<OwnedMatrix>, FileError> {
        let state_name = format!("{name}{STATE}");
        let (Some((codes, path)), Some((state, _))) = (shards.get(name), shards.get(&state_name)) else { return Ok(None) };
        let error = |place: &str, reason: String| FileError::format(path, place, reason);
        let state: Value = serde_json::from_slice(state.bytes).map_err(|e| error(&state_name, format!("not valid JSON: {e}")))?;
        let count = |key: &str| {
            let value = state[key].as_u64().and_then(|value| usize::try_from(value).ok());
            value.ok_or_else(|| error(&state_name, format!("\"{key}\": a whole number was expected, found {}", state[key])))
        };
        let shape: Option<Vec<usize>> =
            state["shape"].as_array().and_then(|dims| dims.iter().map(|d| d.as_u64().and_then(|d| usize::try_from(d).ok())).collect());
        let Some([rows, cols]) = shape.as_deref().and_then(|shape| <[usize; 2]>::try_from(shape).ok()) else {
            return Err(error(&state_name, format!("\"shape\": two numbers were expected, found {}", state["shape"])));
        };
        let block = count("blocksize")?;
        let absmax_name = format!("{name}.absmax");
        let vector = |suffix: &str| {
            let name = format!("{name}{suffix}");
            dense(shards, &name)?.map(|(_, values)| values).ok_or_else(|| error(&name, "the tensor is missing".into()))
        };
        check_map(&vector(".quant_map")?, &nf4::CODEBOOK).map_err(|reason| error(&format!("{name}.quant_map"), reason))?;
        let scales = if state.get("nested_blocksize").is_some_and(|value| !value.is_null()) {
            if count("nested_blocksize")? != double::GROUP {
                return Err(error(
                    &state_name,
                    format!("\"nested_blocksize\": {} was expected, found {}", double::GROUP, state["nested_blocksize"]),
                ));
            }
            check_map(&vector(".nested_quant_map")?, &double::MAP).map_err(|reason| error(&format!("{name}.nested_quant_map"), reason))?;
            let (absmax, _) = shards.get(&absmax_name).ok_or_else(|| error(&absmax_name, "the tensor is missing".into()))?;
            let offset = state["nested_offset"].as_f64().ok_or_else(|| error(&state_name, "\"nested_offset\" is missing".into()))?;
            OwnedScales::Double { codes: absmax.bytes.to_vec(), nested: vector(".nested_absmax")?, offset: offset as f32 }
        } else {
            OwnedScales::Plain(vector(".absmax")?)
        };
        let values = OwnedValues::Nf4 { codes: codes.bytes.to_vec(), scales, block, layout: Layout::Sequential };
        OwnedMatrix::new(rows, cols, values).map(Some).map_err(|core| FileError::core(path, name, core))
    }
}

/// Tables must be the ones this crate decodes with.
fn check_map(found: &[f32], expected: &[f32]) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    match found.iter().zip(expected).position(|(a, b)| a != b) {
        Some(i) => Err(format!("entry {i} is {}, the table this build decodes with has {}", found[i], expected[i])),
        None => Err(format!("{} entries were expected, found {}", expected.len(), found.len())),
    }
}
