//! bitsandbytes 4-bit weights inside a Hugging Face directory: taken over code for code, scale for
//! scale.
//!
//! Beside `P.weight` (packed codes, whatever their declared type) lie `P.weight.absmax` (f32, or
//! 8-bit codes if nested), `.quant_map`, `.nested_absmax`, `.nested_quant_map` and
//! `.quant_state.bitsandbytes__nf4` (JSON in a byte tensor).

use std::path::Path;

use serde_json::Value;

use super::json::Json;
use super::safetensors::{Shards, dense};
use crate::file::FileError;
use crate::quant::{Format, Layout, OwnedMatrix, OwnedScales, OwnedValues, Values, double, nf4};

const STATE: &str = ".quant_state.bitsandbytes__nf4";
const FP4_STATE: &str = ".quant_state.bitsandbytes__fp4";

/// A supported `quantization_config`.
#[derive(Debug)]
pub(crate) struct Quantization {
    /// `llm_int8_skip_modules`: modules that were left as they are. Without the key the output head
    /// was.
    skipped: Vec<String>,
}

impl Quantization {
    pub(crate) fn read(json: &Json) -> Result<Self, FileError> {
        let method = json.text("quant_method")?.unwrap_or("bitsandbytes");
        if method != "bitsandbytes" {
            return Err(json
                .error("quant_method", format!("\"{method}\" is not supported; bitsandbytes is")));
        }
        if json.flag("load_in_8bit")? || !json.flag("load_in_4bit")? {
            return Err(
                json.error("load_in_4bit", "only 4-bit checkpoints of bitsandbytes are supported")
            );
        }
        let kind = json.text("bnb_4bit_quant_type")?.unwrap_or("fp4");
        if kind != "nf4" {
            return Err(
                json.error("bnb_4bit_quant_type", format!("\"{kind}\" is not supported; nf4 is"))
            );
        }
        let skipped = match json.get("llm_int8_skip_modules") {
            None => Vec::new(),
            Some(value) => {
                let names = value.as_array().and_then(|names| {
                    names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
                });
                names.ok_or_else(|| {
                    let reason = format!("a list of module names was expected, found {value}");
                    json.error("llm_int8_skip_modules", reason)
                })?
            }
        };
        Ok(Self { skipped })
    }

    /// Is the module at `path` named among those that were left as they are?
    pub(crate) fn names(&self, path: &str) -> bool {
        self.skipped.iter().any(|name| path == name || path.ends_with(&format!(".{name}")))
    }

    /// The format of a weight beside packed ones that was left as it is, if it is not packed.
    pub(crate) fn kept(&self, shards: &Shards, name: &str) -> Option<Format> {
        if self.is_packed(shards, name) { None } else { shards.get(name)?.0.format() }
    }

    /// Has the weight called `name` a state beside it?
    pub(crate) fn is_packed(&self, shards: &Shards, name: &str) -> bool {
        [STATE, FP4_STATE].iter().any(|state| shards.get(&format!("{name}{state}")).is_some())
    }

    /// Does `name` belong to a packed weight?
    pub(crate) fn is_companion(name: &str) -> bool {
        let parts = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", STATE];
        parts
            .iter()
            .any(|part| name.strip_suffix(part).is_some_and(|weight| weight.ends_with(".weight")))
    }

    /// The packed weight called `name`, or `None` if it is not packed.
    pub(crate) fn packed(
        &self,
        shards: &Shards,
        name: &str,
    ) -> Result<Option<OwnedMatrix>, FileError> {
        if let Some((_, path)) = shards.get(&format!("{name}{FP4_STATE}")) {
            return Err(FileError::format(
                path,
                name,
                "the weight is packed as fp4; nf4 is supported",
            ));
        }
        let state_name = format!("{name}{STATE}");
        let (Some((codes, path)), Some((state, state_path))) =
            (shards.get(name), shards.get(&state_name))
        else {
            return Ok(None);
        };
        let state = State::read(state.bytes)
            .map_err(|reason| FileError::format(state_path, state_name, reason))?;
        let parts = Companions { shards, path, weight: name };
        let codes = parts.bytes("", codes.bytes, state.count.div_ceil(2))?;
        parts.table(".quant_map", &nf4::CODEBOOK)?;
        let blocks = state.count.div_ceil(state.block);
        let scales = match state.nested_offset {
            None => OwnedScales::Plain(parts.floats(".absmax", blocks)?),
            Some(offset) => {
                parts.table(".nested_quant_map", &double::MAP)?;
                let absmax_name = format!("{name}.absmax");
                let (absmax, _) = shards
                    .get(&absmax_name)
                    .ok_or_else(|| parts.error(".absmax", "the tensor is missing"))?;
                OwnedScales::Double {
                    codes: parts.bytes(".absmax", absmax.bytes, blocks)?,
                    nested: parts.floats(".nested_absmax", blocks.div_ceil(double::GROUP))?,
                    offset,
                }
            }
        };
        let values =
            OwnedValues::Nf4 { codes, scales, block: state.block, layout: Layout::Sequential };
        let matrix = OwnedMatrix::new(state.rows, state.cols, values)
            .map_err(|core| FileError::core(path, name, core))?;
        if let Values::Nf4(nf4) = matrix.view().values()
            && let Some(index) = (0..blocks).find(|&index| !nf4.scales.get(index).is_finite())
        {
            return Err(parts.error(
                ".absmax",
                format!("the scale of block {index} decodes to {}", nf4.scales.get(index)),
            ));
        }
        Ok(Some(matrix))
    }
}

/// What the state of a packed weight says.
struct State {
    rows: usize,
    cols: usize,
    /// rows · cols.
    count: usize,
    block: usize,
    /// Present if the scales are quantized themselves.
    nested_offset: Option<f32>,
}

impl State {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let state: Value =
            serde_json::from_slice(bytes).map_err(|error| format!("not valid JSON: {error}"))?;
        let whole = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
        let kind = &state["quant_type"];
        if !kind.is_null() && kind != "nf4" {
            return Err(format!("\"quant_type\": {kind} is not supported; \"nf4\" is"));
        }
        let shape: Option<Vec<usize>> =
            state["shape"].as_array().and_then(|dims| dims.iter().map(whole).collect());
        let product =
            |[rows, cols]: [usize; 2]| rows.checked_mul(cols).map(|count| (rows, cols, count));
        let shape = shape.and_then(|shape| <[usize; 2]>::try_from(shape).ok()).and_then(product);
        let (rows, cols, count) = shape.ok_or_else(|| {
            format!(
                "\"shape\": the two dimensions of a matrix were expected, found {}",
                state["shape"]
            )
        })?;
        let block = whole(&state["blocksize"]).filter(|&block| nf4::is_block_size(block));
        let block = block.ok_or_else(|| {
            format!(
                "\"blocksize\": a power of two from 32 to 4096 was expected, found {}",
                state["blocksize"]
            )
        })?;
        let nested = &state["nested_blocksize"];
        if !nested.is_null() && whole(nested) != Some(double::GROUP) {
            return Err(format!(
                "\"nested_blocksize\": {} was expected, found {nested}",
                double::GROUP
            ));
        }
        let offset = &state["nested_offset"];
        let finite =
            || offset.as_f64().map(|offset| offset as f32).filter(|offset| offset.is_finite());
        let nested_offset = match nested {
            Value::Null => None,
            _ => Some(finite().ok_or_else(|| {
                format!(
                    "\"nested_offset\": a number that f32 can hold was expected, found {offset}"
                )
            })?),
        };
        Ok(Self { rows, cols, count, block, nested_offset })
    }
}

/// The tensors beside a packed weight, by the end of their names.
struct Companions<'c> {
    shards: &'c Shards,
    path: &'c Path,
    weight: &'c str,
}

impl Companions<'_> {
    fn error(&self, suffix: &str, reason: impl Into<String>) -> FileError {
        FileError::format(self.path, format!("{}{suffix}", self.weight), reason)
    }

    fn check_len(&self, suffix: &str, found: usize, expected: usize) -> Result<(), FileError> {
        let reason = || {
            format!(
                "{expected} values were expected for the weight's shape and block size, found {found}"
            )
        };
        if found == expected { Ok(()) } else { Err(self.error(suffix, reason())) }
    }

    fn bytes(&self, suffix: &str, bytes: &[u8], expected: usize) -> Result<Vec<u8>, FileError> {
        self.check_len(suffix, bytes.len(), expected)?;
        Ok(bytes.to_vec())
    }

    fn any_floats(&self, suffix: &str) -> Result<Vec<f32>, FileError> {
        let found = dense(self.shards, &format!("{}{suffix}", self.weight))?;
        found.map(|(_, values)| values).ok_or_else(|| self.error(suffix, "the tensor is missing"))
    }

    /// Finite scales.
    fn floats(&self, suffix: &str, expected: usize) -> Result<Vec<f32>, FileError> {
        let values = self.any_floats(suffix)?;
        self.check_len(suffix, values.len(), expected)?;
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(index) => Err(self.error(
                suffix,
                format!("value {index} is {}, a finite scale was expected", values[index]),
            )),
        }
    }

    fn table(&self, suffix: &str, expected: &[f32]) -> Result<(), FileError> {
        check_map(&self.any_floats(suffix)?, expected).map_err(|reason| self.error(suffix, reason))
    }
}

/// Tables must be the ones this crate decodes with.
fn check_map(found: &[f32], expected: &[f32]) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    match found.iter().zip(expected).position(|(a, b)| a != b) {
        Some(i) => Err(format!(
            "entry {i} is {}, the table this build decodes with has {}",
            found[i], expected[i]
        )),
        None => Err(format!("{} entries were expected, found {}", expected.len(), found.len())),
    }
}
