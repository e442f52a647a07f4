//! The classifier of a checkpoint that classifies texts (`…ForSequenceClassification`), as an
//! adapter of the base that was imported from the same directory. It changes no layer.

use std::path::Path;

use super::names::CLASSIFIER;
use super::{HuggingFaceBert, Site};
use crate::adapter::{AdapterBuilder, Base, ClassifierParts};
use crate::file::FileError;
use crate::import::AdapterOptions;
use crate::import::base::BaseOptions;
use crate::import::json::folder_name;
use crate::import::peft_base::check_base;
use crate::import::peft_classifier;
use crate::import::reader::Reader;
use crate::quant::{Format, Values};

/// The classifier in `directory` for `base`.
pub(crate) fn import(
    directory: &Path,
    base: &dyn Base,
    options: &AdapterOptions,
) -> Result<AdapterBuilder, FileError> {
    let source = HuggingFaceBert::open(directory)?;
    let error = |place: &str, reason: String| FileError::format(directory, place, reason);
    let config = source.config();
    if base.root() != config.architecture.kind() || base.sites() as usize != config.sites() {
        let kind = base.root();
        return Err(error("", format!("the base is {kind} of another model than this one")));
    }
    if !source.holds_classifier() {
        let path = config.architecture.head_classifier();
        return Err(error(path, "the checkpoint holds no classifier of texts".into()));
    }
    check_encoder(&source, base)?;
    let rows = labels(&source)?;
    let name = options.name.clone().or_else(|| folder_name(directory)).unwrap_or_default();
    let mut builder = AdapterBuilder::new(name, "classifier");
    let (reading, quiet) = (BaseOptions::default(), &mut |_: crate::import::Progress<'_>| ());
    let mut reader = Reader::new(&source, &reading, quiet);
    let bias = reader.vector(&format!("{CLASSIFIER}.bias"), rows)?;
    let weight = reader.weight(CLASSIFIER, (rows, base.dim()), Format::F32)?;
    let Values::F32(weight) = weight.view().values() else { return Ok(builder) };
    let names = peft_classifier::names(&source.json, rows).unwrap_or_else(|note| {
        builder.notes.push(note);
        None
    });
    let labels = names.unwrap_or_else(|| (0..rows).map(peft_classifier::default_name).collect());
    builder.classifier = Some(ClassifierParts { weight: weight.to_vec(), bias, labels });
    Ok(builder)
}

/// How many labels there are, each text having one of them.
pub(super) fn labels(source: &HuggingFaceBert) -> Result<usize, FileError> {
    let json = &source.json;
    peft_classifier::check_problem(json)?;
    let (key, rows) = match json.object("id2label")? {
        Some(names) => ("id2label", names.fields.len()),
        None => ("num_labels", json.count("num_labels")?.unwrap_or(2)),
    };
    match rows {
        0 | 1 => Err(json.error(key, "a classifier of one label or none says nothing")),
        rows => Ok(rows),
    }
}

/// The classifier reads what this checkpoint's encoder and pooler make: the base has to be of it. Of
/// the layers the first and the last are compared.
fn check_encoder(source: &HuggingFaceBert, base: &dyn Base) -> Result<(), FileError> {
    let layers = source.config().layers;
    let last = Site::Down(layers.saturating_sub(1));
    [Site::Pooler, Site::Q(0), last].iter().try_for_each(|&site| check_layer(source, base, site))
}

fn check_layer(source: &HuggingFaceBert, base: &dyn Base, site: Site) -> Result<(), FileError> {
    let config = source.config();
    let path = config.architecture.path(site);
    let Some(stored) = source.names.get(&format!("{path}.weight")) else { return Ok(()) };
    let error = |reason: String| FileError::format(&source.directory, stored, reason);
    let ours = base
        .weight_at(site.number(config.layers))
        .ok_or_else(|| error("the base has no pooler: import it from this directory too".into()))?;
    match source.shards.get(stored) {
        // bitsandbytes' codes are taken over as they are.
        Some((theirs, _)) if theirs.to_f32().is_some() => check_base(&theirs, &ours).map_err(error),
        _ => Ok(()),
    }
}
