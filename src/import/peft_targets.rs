//! What `target_modules` of adapter_config.json names and the adapter's file does not have. Such
//! modules stay as the base has them; PEFT says so too, so it is no error.
//!
//! The rules are PEFT's: names match the end of a module path at a dot, a string is a regular
//! expression for the whole path or `all-linear`; `exclude_modules`, `layers_to_transform` and
//! `layers_pattern` take away.

use std::collections::HashMap;
use std::path::Path;

use regex::Regex;
use serde_json::Value;

use super::json::Json;
use super::peft_classifier::Head;
use crate::adapter::Base;
use crate::file::FileError;
use crate::model::bert::{Architecture, Site};

/// Module paths that a sentence lists.
const LISTED: usize = 4;

/// Which modules adapter_config.json names.
struct Stated<'j> {
    json: &'j Json,
    targets: &'j Value,
    prefix: &'static str,
}

impl<'j> Stated<'j> {
    fn of(json: &'j Json, base: &dyn Base) -> Option<Self> {
        let prefix = Architecture::of(base.root()).map_or("", Architecture::prefix);
        Some(Self { json, targets: json.get("target_modules")?, prefix })
    }

    fn names(&self, path: &str, is_embedding: bool) -> bool {
        let is_target = match self.targets.as_str() {
            Some("all-linear") => !is_embedding,
            _ => {
                named(self.targets, path) || named(self.targets, &format!("{}{path}", self.prefix))
            }
        };
        let excluded = self.json.get("exclude_modules");
        is_target
            && !excluded.is_some_and(|value| named(value, path))
            && is_transformed(self.json, path)
    }
}

/// Refuses a `file` with a module that is `there` although a list of names leaves it out: PEFT would
/// not apply it. (A regular expression may be about another program's paths.)
pub(super) fn check(
    json: &Json,
    base: &dyn Base,
    sites: &HashMap<String, u32>,
    there: impl Fn(u32) -> bool,
    file: &Path,
) -> Result<(), FileError> {
    let stated = Stated::of(json, base).filter(|stated| stated.targets.is_array());
    let Some(stated) = stated else { return Ok(()) };
    let is_embedding = |site: u32| base.site(site).is_some_and(|(_, _, embedding)| embedding);
    let left_out =
        |(path, site): &(&String, &u32)| there(**site) && !stated.names(path, is_embedding(**site));
    let Some((path, _)) = sites.iter().filter(left_out).min() else { return Ok(()) };
    let reason = "target_modules, exclude_modules or layers_to_transform of adapter_config.json \
                  leave this module out, and the file has it: PEFT would ignore it; correct the one \
                  or the other";
    Err(FileError::format(file, path, reason))
}

/// A sentence about modules that are named and not `there`, one about names that no module has.
/// With a `classifier` the base's own output head is no module.
pub(super) fn missing(
    json: &Json,
    base: &dyn Base,
    sites: &HashMap<String, u32>,
    classifier: bool,
    there: impl Fn(u32) -> bool,
) -> Vec<String> {
    let Some(stated) = Stated::of(json, base) else { return Vec::new() };
    let encoder = Architecture::of(base.root());
    let is_embedding = |site: u32| base.site(site).is_some_and(|(_, _, embedding)| embedding);
    let is_unread = |path: &str| {
        path == "lm_head" && (classifier || stated.targets == "all-linear")
            || classifier && encoder.is_some_and(|encoder| is_saved(encoder, path))
    };
    let mut modules: Vec<(&u32, &str)> = sites
        .iter()
        .filter(|(path, site)| {
            stated.names(path, is_embedding(**site)) && !is_unread(path) && !there(**site)
        })
        .map(|(path, site)| (site, path.as_str()))
        .collect();
    modules.sort_unstable();
    let mut notes = Vec::new();
    if !modules.is_empty() {
        let names: Vec<&str> = modules.iter().take(LISTED).map(|(_, path)| *path).collect();
        let more = if modules.len() > LISTED { ", …" } else { "" };
        notes.push(format!(
            "{}: target_modules names {} more than the file holds; they stay as the base has them: \
             {}{more}",
            json.path.display(),
            if modules.len() == 1 {
                "1 module".into()
            } else {
                format!("{} modules", modules.len())
            },
            names.join(", ")
        ));
    }
    notes.extend(unknown(json, base, sites, classifier));
    notes
}

/// Sentences about names that no module has.
fn unknown(
    json: &Json,
    base: &dyn Base,
    sites: &HashMap<String, u32>,
    classifier: bool,
) -> Vec<String> {
    let prefix = Architecture::of(base.root()).map_or("", Architecture::prefix);
    // Parts of the head are saved whole.
    let head = Head::of(base.root()).map(Head::module);
    let is_head = |name: &str| {
        let first = name.split('.').next().unwrap_or(name);
        matches!(first, "classifier" | "score") || classifier && head == Some(first)
    };
    // Full names may have the prefix of task models.
    let is_there = |name: &str| {
        let whole = name.strip_prefix(prefix);
        sites.keys().any(|path| ends_with(path, name) || whole == Some(path))
    };
    let stated = json.get("target_modules").and_then(Value::as_array);
    let names = stated.into_iter().flatten().filter_map(Value::as_str);
    names
        .filter(|name| !is_head(name) && !is_there(name))
        .map(|name| {
            let path = json.path.display();
            format!("{path}: target_modules names {name}, which the base does not have")
        })
        .collect()
}

/// A pooler that is part of the head is saved with it.
fn is_saved(encoder: Architecture, path: &str) -> bool {
    encoder.head_pooler().is_some() && path == encoder.path(Site::Pooler)
}

/// Is this the path, or the end of it at a dot?
fn ends_with(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Does a list of names, or a regular expression, name this module?
fn named(value: &Value, path: &str) -> bool {
    match value {
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).any(|name| ends_with(path, name))
        }
        Value::String(pattern) => {
            Regex::new(&format!("^(?:{pattern})$")).is_ok_and(|pattern| pattern.is_match(path))
        }
        _ => false,
    }
}

/// Is the module in a block that `layers_to_transform` lists, if it lists some?
fn is_transformed(json: &Json, path: &str) -> bool {
    let listed = |value: &Value| match value {
        Value::Array(items) => items.iter().filter_map(Value::as_u64).collect::<Vec<_>>(),
        other => other.as_u64().into_iter().collect(),
    };
    let Some(layers) = json.get("layers_to_transform").map(listed) else { return true };
    let patterns: Vec<&str> = match json.get("layers_pattern") {
        Some(Value::String(pattern)) => vec![pattern],
        Some(Value::Array(patterns)) => patterns.iter().filter_map(Value::as_str).collect(),
        _ => vec!["[^.]*"],
    };
    let layer = patterns.iter().find_map(|pattern| {
        let regex = Regex::new(&format!(r"^.*\.(?:{pattern})\.(\d+)\.")).ok()?;
        regex.captures(path)?.get(1)?.as_str().parse::<u64>().ok()
    });
    layer.is_some_and(|layer| layers.contains(&layer))
}
