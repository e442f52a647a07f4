//! PEFT adapter directories: adapter_config.json and adapter_model.safetensors.
//!
//! Every field of the configuration that changes the mathematics is honoured or refused by name, unknown ones included. Which
//! layers are adapted is read from the tensors, not from `target_modules`.

use std::collections::BTreeMap;
use std::path::Path;

use regex::Regex;
use serde_json::Value;

use super::json::{Json, is_neutral};
use super::safetensors::{Shards, Stored};
use crate::adapter::{AdapterBuilder, FactorFormat, Numbers, Place, TargetParts};
use crate::file::FileError;
use crate::model::llama::{Llama, Site};
use crate::quant::Format;

/// How an adapter is imported.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdapterOptions {
    /// The adapter's name; the folder's if `None`.
    pub name: Option<String>,
    /// How factors are stored.
    pub format: FactorFormat,
}

/// Reads the adapter in `directory` for `base`.
///
/// # Errors
/// A [`FileError`] that names the file and the key or tensor.
pub fn import_peft(directory: impl AsRef<Path>, base: &Llama<'_>, options: &AdapterOptions) -> Result<AdapterBuilder, FileError> {
    let directory = directory.as_ref();
    let json = Json::read(&directory.join("adapter_config.json"))?;
    let settings = Settings::read(&json)?;
    let file = directory.join("adapter_model.safetensors");
    let shards = Shards::open(std::slice::from_ref(&file))?;
    let folder = directory.file_name().map(|name| name.to_string_lossy().into_owned());
    let name = options.name.clone().or(folder).unwrap_or_default();
    let mut builder = AdapterBuilder::new(name, settings.method());
    builder.format = options.format;
    for (module, tensors) in group(&shards, &file)? {
        let site = site(&module, base).ok_or_else(|| {
            FileError::format(&file, &module, "the base has no such linear layer or embedding; was the adapter made for another model?")
        })?;
        let target = target(&file, &module, site, &tensors, &settings, base)?;
        builder.targets.insert(Place(site.number(base.config().layers)), target);
    }
    if builder.targets.is_empty() {
        return Err(FileError::format(&file, "", "the file holds no LoRA tensors"));
    }
    Ok(builder)
}

/// What adapter_config.json says about the mathematics.
struct Settings {
    path: std::path::PathBuf,
    rank: usize,
    alpha: f32,
    rank_stabilized: bool,
    dora: bool,
    bias: bool,
    rank_pattern: Vec<(Regex, f64)>,
    alpha_pattern: Vec<(Regex, f64)>,
}

/// Keys that name the adapter, its training or how its tensors are found: they change no output.
const HARMLESS: [&str; 24] = [
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "task_type",
    "inference_mode",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "lora_bias",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "megatron_core",
    "qalora_group_size",
    "eva_config",
    "init_lora_weights",
    "runtime_config",
];

impl Settings {
    fn read(json: &Json) -> Result<Self, FileError> {
        match json.text("peft_type")? {
            Some("LORA") => {}
            other => return Err(json.error("peft_type", format!("\"{}\" is not supported; LORA is", other.unwrap_or("")))),
        }
        for (key, value) in &json.fields {
            let fine =
                is_neutral(value) || HARMLESS.contains(&key.as_str()) || key == "bias" && value == "none" || key == "ensure_weight_tying";
            if !fine {
                return Err(json.error(key, format!("{value} is not supported: it would change what the adapter computes")));
            }
        }
        // PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA and the like change the base; the others only choose where training starts.
        let harmless = |value: &Value| value == true || matches!(value.as_str(), Some("gaussian" | "eva" | "orthogonal" | "true"));
        json.refuse("init_lora_weights", harmless)?;
        Ok(Self {
            path: json.path.clone(),
            rank: json.count("r")?.unwrap_or(8),
            alpha: json.number("lora_alpha")?.unwrap_or(8.0),
            rank_stabilized: json.flag("use_rslora")?,
            dora: json.flag("use_dora")?,
            bias: json.flag("lora_bias")?,
            rank_pattern: patterns(json, "rank_pattern")?,
            alpha_pattern: patterns(json, "alpha_pattern")?,
        })
    }

    fn method(&self) -> &'static str {
        match (self.dora, self.rank_stabilized) {
            (true, _) => "dora",
            (false, true) => "rslora",
            (false, false) => "lora",
        }
    }

    fn rank_of(&self, module: &str) -> usize {
        first_match(&self.rank_pattern, module).map_or(self.rank, |rank| rank as usize)
    }

    fn alpha_of(&self, module: &str) -> f32 {
        first_match(&self.alpha_pattern, module).map_or(self.alpha, |alpha| alpha as f32)
    }
}

/// PEFT's rule: the key matches the end of the module path, at a dot; the first one that does wins.
fn patterns(json: &Json, key: &str) -> Result<Vec<(Regex, f64)>, FileError> {
    let Some(object) = json.object(key)? else { return Ok(Vec::new()) };
    let pattern = |(name, value): (&String, &Value)| {
        let number = value.as_f64().filter(|number| *number > 0.0);
        let number = number.ok_or_else(|| object.error(name, format!("a number above 0 was expected, found {value}")))?;
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{name})$")).map_err(|error| object.error(name, error.to_string()))?;
        Ok((regex, number))
    };
    object.fields.iter().map(pattern).collect()
}

fn first_match(patterns: &[(Regex, f64)], module: &str) -> Option<f64> {
    patterns.iter().find(|(regex, _)| regex.is_match(module)).map(|(_, number)| *number)
}

/// The tensors of one module.
#[derive(Default)]
struct Tensors<'s> {
    a: Option<Stored<'s>>,
    b: Option<Stored<'s>>,
    bias: Option<Stored<'s>>,
    magnitude: Option<Stored<'s>>,
    base: Option<Stored<'s>>,
    is_embedding: bool,
}

/// All tensors by module path.
fn group<'s>(shards: &'s Shards, file: &Path) -> Result<BTreeMap<String, Tensors<'s>>, FileError> {
    let mut modules = BTreeMap::<String, Tensors<'s>>::new();
    for name in shards.names() {
        let Some((stored, _)) = shards.get(name) else { continue };
        let path = name.strip_prefix("base_model.model.").unwrap_or(name);
        let ends = |suffixes: &[&str]| suffixes.iter().find_map(|suffix| path.strip_suffix(suffix)).map(str::to_owned);
        if let Some(module) = ends(&[".lora_A.weight", ".lora_A.default.weight"]) {
            modules.entry(module).or_default().a = Some(stored);
        } else if let Some(module) = ends(&[".lora_B.weight", ".lora_B.default.weight"]) {
            modules.entry(module).or_default().b = Some(stored);
        } else if let Some(module) = ends(&[".lora_B.bias", ".lora_B.default.bias"]) {
            modules.entry(module).or_default().bias = Some(stored);
        } else if let Some(module) = ends(&[".lora_embedding_A", ".lora_embedding_A.default"]) {
            let entry = modules.entry(module).or_default();
            (entry.a, entry.is_embedding) = (Some(stored), true);
        } else if let Some(module) = ends(&[".lora_embedding_B", ".lora_embedding_B.default"]) {
            modules.entry(module).or_default().b = Some(stored);
        } else if let Some(module) =
            ends(&[".lora_magnitude_vector", ".lora_magnitude_vector.weight", ".lora_magnitude_vector.default.weight"])
        {
            modules.entry(module).or_default().magnitude = Some(stored);
        } else if let Some(module) = ends(&[".base_layer.weight"]) {
            modules.entry(module).or_default().base = Some(stored);
        } else {
            return Err(FileError::format(file, name, "not a LoRA tensor: replaced layers (modules_to_save) are not supported"));
        }
    }
    Ok(modules)
}

/// The place of a module path in the base.
fn site(module: &str, base: &Llama<'_>) -> Option<Site> {
    let layers = base.config().layers;
    (0..base.config().sites() as u32).filter_map(|number| Site::from_number(number, layers)).find(|site| site.to_string() == module)
}

/// Checks and assembles one module.
fn target(
    file: &Path,
    module: &str,
    site: Site,
    tensors: &Tensors<'_>,
    settings: &Settings,
    base: &Llama<'_>,
) -> Result<TargetParts, FileError> {
    let error = |reason: String| FileError::format(file, module, reason);
    let (Some(a), Some(b)) = (&tensors.a, &tensors.b) else {
        let missing = if tensors.a.is_none() { "A" } else { "B" };
        return Err(error(format!("half a pair: {missing} is missing")));
    };
    let is_embedding = site == Site::Embedding;
    if tensors.is_embedding != is_embedding {
        return Err(error("embedding and linear tensors do not go with this layer".into()));
    }
    let rank = settings.rank_of(module);
    let (rows, cols) = site.shape(base.config());
    let (outputs, inputs) = if is_embedding { (cols, rows) } else { (rows, cols) };
    for (name, stored, expected) in [("A", a, [rank, inputs]), ("B", b, [outputs, rank])] {
        if stored.shape != expected {
            return Err(error(format!("{name} has shape {:?}, rank {rank} and this base ask for {expected:?}", stored.shape)));
        }
    }
    if settings.dora && is_embedding {
        return Err(error("DoRA on embeddings is not supported".into()));
    }
    if settings.dora != tensors.magnitude.is_some() {
        let (what, flag) = if settings.dora { ("is missing", "true") } else { ("is there", "false") };
        return Err(error(format!("the magnitude vector {what}, but use_dora is {flag} in {}", settings.path.display())));
    }
    if settings.bias != tensors.bias.is_some() && !is_embedding {
        let (what, flag) = if settings.bias { ("is missing", "true") } else { ("is there", "false") };
        return Err(error(format!("the bias of B {what}, but lora_bias is {flag} in {}", settings.path.display())));
    }
    if let Some(stored) = &tensors.base {
        check_base(stored, site, base).map_err(error)?;
    }
    let vector = |stored: &Option<Stored<'_>>| match stored {
        None => Ok(Vec::new()),
        Some(stored) if stored.shape.iter().product::<usize>() == outputs => {
            stored.to_f32().ok_or_else(|| error(format!("vectors of type {:?} are not supported", stored.dtype)))
        }
        Some(stored) => Err(error(format!("a vector has shape {:?}, [{outputs}] was expected", stored.shape))),
    };
    Ok(TargetParts {
        rank,
        alpha: settings.alpha_of(module),
        rank_stabilized: settings.rank_stabilized,
        a: numbers(a).map_err(error)?,
        b: numbers(b).map_err(error)?,
        bias: vector(&tensors.bias)?,
        magnitude: vector(&tensors.magnitude)?,
    })
}

/// f16 stays f16; f32 and bf16 become f32, exactly.
fn numbers(stored: &Stored<'_>) -> Result<Numbers, String> {
    if stored.dtype == safetensors::Dtype::F16 {
        return Ok(Numbers::F16(stored.bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect()));
    }
    stored.to_f32().map(Numbers::F32).ok_or_else(|| format!("factors of type {:?} are not supported; F32, F16 and BF16 are", stored.dtype))
}

/// PEFT stores the base's own embedding beside an adapter of it. A trained or resized one would be lost if it were ignored: its
/// values must be the base's, up to what the base's format has rounded away.
fn check_base(stored: &Stored<'_>, site: Site, base: &Llama<'_>) -> Result<(), String> {
    let weight = base.weight(site);
    if stored.shape != [weight.rows(), weight.cols()] {
        return Err(format!("the stored base layer has shape {:?}, the base has [{}, {}]", stored.shape, weight.rows(), weight.cols()));
    }
    let values = stored.to_f32().ok_or_else(|| format!("base layers of type {:?} are not supported", stored.dtype))?;
    // Relative to the row's largest weight: half a step of int8, half the widest gap of NF4's codebook, rounding of f16 and bf16.
    let tolerance = match weight.format() {
        Format::Nf4 | Format::Nf4Plain => 0.17,
        Format::Int8 => 0.01,
        _ => 0.005,
    };
    let mut row = vec![0.0; weight.cols()];
    for (i, values) in values.chunks_exact(weight.cols()).enumerate() {
        weight.read(i, 0, &mut row);
        let most = values.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        if let Some((stored, own)) = values.iter().zip(&row).find(|(stored, own)| (*stored - *own).abs() > tolerance * most) {
            return Err(format!("row {i} of the stored base layer has {stored}, the base {own}: replaced layers are not supported"));
        }
    }
    Ok(())
}
