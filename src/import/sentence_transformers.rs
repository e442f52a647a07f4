//! What sentence-transformers says beside an encoder: modules, pooling, prompts, the longest text.
//!
//! Everything that changes a vector is honoured or refused by name. Keys that sentence-transformers
//! ignores are ignored.

use std::path::Path;

use serde_json::{Value, json};

use super::json::{Json, is_neutral};
use crate::file::FileError;
use crate::model::bert::Pooling;

/// What becomes of the hidden states of a text.
pub(crate) struct Pipeline {
    pub(crate) pooling: Pooling,
    /// Is the vector made one of length 1?
    pub(crate) normalize: bool,
}

/// How a folder makes one vector of `dim` numbers from a text. Without modules.json: the mean, as
/// it is.
pub(crate) fn read(directory: &Path, dim: usize) -> Result<Pipeline, FileError> {
    module_settings(directory)?;
    let path = directory.join("modules.json");
    if !path.exists() {
        let pooling = Json::read_if_there(&directory.join("1_Pooling/config.json"))?;
        let pooling = pooling.map_or(Ok(Pooling::Mean), |json| pooling_mode(&json))?;
        return Ok(Pipeline { pooling, normalize: false });
    }
    let has_prompts = check_model(directory, dim)?;
    let bytes = std::fs::read(&path).map_err(|error| FileError::io(&path, error))?;
    let wrong = |place: &str, reason: &str| FileError::format(&path, place, reason);
    let modules: Value = serde_json::from_slice(&bytes)
        .map_err(|error| wrong("", &format!("not valid JSON: {error}")))?;
    let modules = modules.as_array().ok_or_else(|| wrong("", "a list of modules was expected"))?;
    let (mut pooling, mut normalize) = (None, false);
    for module in modules {
        let text = |key: &str| module[key].as_str().unwrap_or_default();
        let (kind, folder) = (text("type"), text("path"));
        let name = kind.rsplit('.').next().unwrap_or_default();
        let name = if kind.starts_with("sentence_transformers.") { name } else { "" };
        if folder.contains(['/', '\\']) || folder == ".." {
            return Err(wrong(kind, &format!("a folder's name was expected, found \"{folder}\"")));
        }
        match name {
            "Transformer" if folder.is_empty() => {}
            "Transformer" => {
                let reason = format!("the model lies in the folder {folder}: import that one");
                return Err(wrong(kind, &reason));
            }
            "Pooling" if pooling.is_none() => {
                let json = Json::read(&directory.join(folder).join("config.json"))?;
                if has_prompts {
                    // The prompts' tokens would have to be told from the text's.
                    json.refuse_unless("include_prompt", &true.into())?;
                }
                pooling = Some(pooling_mode(&json)?);
            }
            "Normalize" => {
                let json = Json::read_or_empty(&directory.join(folder).join("config.json"))?;
                let vector = "sentence_embedding".into();
                if !folder.is_empty() {
                    json.refuse_unless("module_input_name", &vector)?;
                    json.refuse_unless("module_output_name", &vector)?;
                }
                normalize |= pooling.is_some();
            }
            "Dropout" => {}
            _ => {
                let reason = "the module is not supported; Transformer, one Pooling, Normalize and Dropout are";
                return Err(wrong(kind, reason));
            }
        }
    }
    let pooling = pooling.ok_or_else(|| {
        wrong("", "there is no Pooling: a model of one vector per text was expected")
    })?;
    Ok(Pipeline { pooling, normalize })
}

/// config_sentence_transformers.json; says whether it has prompts that a caller may ask for.
fn check_model(directory: &Path, dim: usize) -> Result<bool, FileError> {
    let json = Json::read_or_empty(&directory.join("config_sentence_transformers.json"))?;
    json.refuse_unless("model_type", &"SentenceTransformer".into())?;
    if let Some(cut) = json.count("truncate_dim")?
        && cut < dim
    {
        let reason = format!(
            "{cut} is not supported: embed gives all {dim} numbers; set the key to null and cut the vectors behind it"
        );
        return Err(json.error("truncate_dim", reason));
    }
    let prompts = json.object("prompts")?;
    let prompt = |name: &str| prompts.as_ref().map_or(Ok(None), |prompts| prompts.text(name));
    if let Some(name) = json.text("default_prompt_name")? {
        // sentence-transformers itself has these two, empty.
        let known = prompts.as_ref().is_some_and(|prompts| prompts.fields.contains_key(name));
        if !known && !["query", "document"].contains(&name) {
            let reason = format!("\"{name}\" is none of the prompts");
            return Err(json.error("default_prompt_name", reason));
        }
        if let Some(prompt) = prompt(name)?.filter(|prompt| !prompt.is_empty()) {
            let reason = format!(
                "\"{name}\" is not supported: embed puts no prompt before a text; set the key to null and begin each text with {}",
                Value::from(prompt)
            );
            return Err(json.error("default_prompt_name", reason));
        }
    }
    Ok(prompts.is_some_and(|prompts| prompts.fields.values().any(|prompt| !is_neutral(prompt))))
}

/// The one mode of a pooling module.
fn pooling_mode(json: &Json) -> Result<Pooling, FileError> {
    const OLD: &str = "pooling_mode_";
    let mut found: Vec<(String, &str)> = Vec::new();
    match json.get("pooling_mode") {
        None => {
            let old =
                json.fields.iter().filter_map(|(key, value)| Some((key.strip_prefix(OLD)?, value)));
            let on = old.filter(|(_, value)| value.as_bool() == Some(true));
            found.extend(on.map(|(mode, _)| (format!("{OLD}{mode}"), mode)));
        }
        Some(Value::Array(modes)) => {
            found.extend(
                modes.iter().map(|mode| ("pooling_mode".into(), mode.as_str().unwrap_or_default())),
            );
        }
        Some(_) => {
            found.extend(json.text("pooling_mode")?.map(|mode| ("pooling_mode".into(), mode)))
        }
    }
    match found.as_slice() {
        [] => Ok(Pooling::Mean),
        [(_, "mean_tokens" | "mean")] => Ok(Pooling::Mean),
        [(_, "cls_token" | "cls")] => Ok(Pooling::Cls),
        [(key, mode)] => {
            let reason = format!("\"{mode}\" is not supported; the mean and the first token are");
            Err(json.error(key, reason))
        }
        [_, (key, _), ..] => {
            Err(json.error(key, "several poolings side by side are not supported"))
        }
    }
}

/// The settings of the Transformer module, from the first of its files that says something.
pub(crate) fn module_settings(directory: &Path) -> Result<Option<Json>, FileError> {
    let kinds = ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"];
    for kind in kinds {
        let json = Json::read_if_there(&directory.join(format!("sentence_{kind}_config.json")))?;
        if let Some(json) = json.filter(|json| !json.fields.is_empty()) {
            check_module(&json)?;
            return Ok(Some(json));
        }
    }
    Ok(None)
}

fn check_module(json: &Json) -> Result<(), FileError> {
    json.refuse_unless("transformer_task", &"feature-extraction".into())?;
    json.refuse_unless("module_output_name", &"token_embeddings".into())?;
    if let Some(modalities) = json.object("modality_config")? {
        let text = json!({ "method": "forward", "method_output_name": "last_hidden_state" });
        modalities.refuse_unless("text", &text)?;
    }
    for key in ["processing_kwargs", "query_length", "document_length", "query_expansion"] {
        json.refuse(key, |_| false)?;
    }
    // How the model is held in memory, not what it computes.
    let harmless = [
        "attn_implementation",
        "device_map",
        "dtype",
        "low_cpu_mem_usage",
        "torch_dtype",
        "trust_remote_code",
        "use_fast",
    ];
    let sections = [
        "model_args",
        "model_kwargs",
        "tokenizer_args",
        "processor_kwargs",
        "config_args",
        "config_kwargs",
    ];
    for section in sections {
        let Some(options) = json.object(section)? else { continue };
        let acts = |(key, value): &(&String, &Value)| {
            !harmless.contains(&key.as_str()) && !value.is_null()
        };
        if let Some((key, value)) = options.fields.iter().find(acts) {
            return Err(options.error(key, format!("{value} is not supported")));
        }
    }
    Ok(())
}

/// As sentence-transformers: its own setting, else the tokenizer's; never more than there are
/// positions.
pub(crate) fn max_length(directory: &Path, context: usize) -> Result<usize, FileError> {
    // Tokenizers without a limit state an enormous float.
    let stated =
        |json: &Json, key: &str| json.get(key).and_then(Value::as_u64).filter(|&length| length > 0);
    let own = module_settings(directory)?.and_then(|json| stated(&json, "max_seq_length"));
    let tokenizer = Json::read_or_empty(&directory.join("tokenizer_config.json"))?;
    let length = own
        .or_else(|| stated(&tokenizer, "model_max_length"))
        .or_else(|| stated(&tokenizer, "max_len"));
    Ok(length.map_or(context, |length| usize::try_from(length).unwrap_or(usize::MAX).min(context)))
}
