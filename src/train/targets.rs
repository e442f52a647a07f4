//! Which layers a run trains: those that `target-modules` names, and the ranks and alphas that
//! patterns give them. What names or matches nothing is refused, with the nearest names.

use regex::Regex;

use super::TrainError;
use super::body::Network;
use super::options::{Options, PatternValue, TargetModules};
use super::planner::{is_embedding, path};
use crate::nearest::nearest;

/// A layer that can be trained.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) site: u32,
    /// Its module path.
    pub(super) name: String,
}

/// The layers that options name; with `whole`, a run trains the weights themselves, all of them
/// unless some are named.
pub(super) fn choose(
    body: &dyn Network,
    options: &Options,
    whole: bool,
    classifies: bool,
) -> Result<Vec<Chosen>, TrainError> {
    // A site without a layer takes no part in training: an absent one, and a base's own classifier,
    // whose place the new one takes. Nor does a language-model head beside a classifier:
    // nothing reads it.
    let unread = body.head_site().filter(|_| classifies);
    let takes_part = |site: &u32| {
        Some(*site) != unread && body.base().site(*site).is_some() && body.layer_at(*site).is_some()
    };
    let layer = |site| Chosen { site, name: path(body, site) };
    let layers: Vec<Chosen> = (0..body.base().sites()).filter(takes_part).map(layer).collect();
    let pattern = match &options.targets {
        TargetModules::Pattern(pattern) => Some(regex("target-modules", pattern)?),
        _ => None,
    };
    let wanted = |site: u32, name: &str| match &options.targets {
        TargetModules::AllLinear if whole => true,
        TargetModules::AllLinear => Some(site) != body.head_site() && !is_embedding(body, site),
        TargetModules::Names(names) => names.iter().any(|wanted| ends_with(name, wanted)),
        TargetModules::Pattern(_) => pattern.as_ref().is_some_and(|pattern| pattern.is_match(name)),
    };
    let mut chosen: Vec<_> =
        layers.iter().filter(|layer| wanted(layer.site, &layer.name)).cloned().collect();
    check_targets(body, &options.targets, &layers, &chosen)?;
    // Where weights themselves are trained, a tied embedding and head are one, whichever was named.
    if let (true, Some((embedding, head))) = (whole, body.base().tied())
        && Some(head) != unread
        && let Some(at) = chosen.iter().position(|layer| layer.site == embedding)
    {
        chosen.remove(at);
        if !chosen.iter().any(|layer| layer.site == head) {
            chosen.push(layer(head));
        }
    }
    check_patterns("rank-pattern", &options.rank_pattern, &layers, &chosen)?;
    check_patterns("alpha-pattern", &options.alpha_pattern, &layers, &chosen)?;
    Ok(chosen)
}

/// Is this the layer's path, or the end of it at a dot?
fn ends_with(path: &str, name: &str) -> bool {
    path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// Everything that `target-modules` names must be there.
fn check_targets(
    body: &dyn Network,
    targets: &TargetModules,
    layers: &[Chosen],
    chosen: &[Chosen],
) -> Result<(), TrainError> {
    let lost = match targets {
        TargetModules::Names(names) => {
            names.iter().find(|name| !chosen.iter().any(|layer| ends_with(&layer.name, name)))
        }
        TargetModules::Pattern(pattern) if chosen.is_empty() => Some(pattern),
        _ if chosen.is_empty() => {
            return Err(TrainError::options("the model has no layer that can be trained so"));
        }
        _ => None,
    };
    let Some(lost) = lost else { return Ok(()) };
    let is_there = |site: &u32| ends_with(&path(body, *site), lost);
    if let Some(site) = (0..body.base().sites()).find(is_there) {
        return Err(TrainError::options(format!(
            "target-modules {lost}: nothing reads {} in this run, which trains a classifier in its \
             place; {}",
            path(body, site),
            known(layers)
        )));
    }
    Err(TrainError::options(format!(
        "target-modules {lost} names no layer of this model; {}",
        suggestions(lost, layers)
    )))
}

/// The end of a path: so many parts of it, more if it would begin with the number of a layer.
fn end(path: &str, parts: usize) -> String {
    let cut = path.rmatch_indices('.').nth(parts - 1).map_or(0, |(at, _)| at + 1);
    match path[cut..].starts_with(|c: char| c.is_ascii_digit()) && cut > 0 {
        true => end(path, parts + 1),
        false => path[cut..].to_owned(),
    }
}

/// The ends of all layers' paths, each once.
fn known(layers: &[Chosen]) -> String {
    let mut names: Vec<String> = layers.iter().map(|layer| end(&layer.name, 1)).collect();
    names.sort();
    names.dedup();
    format!("its layers are {}", names.join(", "))
}

/// "the nearest: … ; its layers are …".
fn suggestions(wanted: &str, layers: &[Chosen]) -> String {
    // As many parts of the paths as were asked for.
    let parts = wanted.split('.').filter(|part| !part.is_empty()).count().max(1);
    let ends: Vec<String> = layers.iter().map(|layer| end(&layer.name, parts)).collect();
    let near = nearest(wanted, ends.iter().map(String::as_str), 3);
    format!("the nearest: {}; {}", near.join(", "), known(layers))
}

/// A pattern that has to match all of a path.
fn regex(option: &str, pattern: &str) -> Result<Regex, TrainError> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| {
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default();
        TrainError::options(format!("{option} {pattern} is no regular expression: {reason}"))
    })
}

/// A pattern that matches the end of a path at a dot, as PEFT matches.
fn ending(option: &str, pattern: &str) -> Result<Regex, TrainError> {
    // By itself first, so that an error shows what was written.
    regex(option, pattern)?;
    regex(option, &format!(r"(.*\.)?({pattern})"))
}

/// Every pattern must decide over a layer: the first that matches does, as in PEFT.
fn check_patterns(
    option: &str,
    patterns: &[PatternValue],
    layers: &[Chosen],
    chosen: &[Chosen],
) -> Result<(), TrainError> {
    let mut open: Vec<&Chosen> = chosen.iter().collect();
    for PatternValue { pattern, value } in patterns {
        let regex = ending(option, pattern)?;
        let before = open.len();
        open.retain(|layer| !regex.is_match(&layer.name));
        if open.len() < before {
            continue;
        }
        let entry = format!("{option} {pattern}={value}");
        let matches = |layers: &[Chosen]| layers.iter().any(|layer| regex.is_match(&layer.name));
        return Err(TrainError::options(if matches(chosen) {
            format!("{entry} has no effect: patterns before it decide over all layers it matches")
        } else if matches(layers) {
            format!("{entry} has no effect: target-modules names none of the layers it matches")
        } else {
            format!("{entry} matches no layer of this model; {}", suggestions(pattern, chosen))
        }));
    }
    Ok(())
}

/// The number of the first pattern that matches the end of `name`, as PEFT matches.
pub(super) fn pattern_value(
    option: &str,
    patterns: &[PatternValue],
    name: &str,
) -> Result<Option<f32>, TrainError> {
    for entry in patterns {
        if ending(option, &entry.pattern)?.is_match(name) {
            return Ok(Some(entry.value));
        }
    }
    Ok(None)
}
