//! A base with what was trained in place of its own numbers: what `full` leaves behind. One function
//! for all families; what a family has is in its folder.

use std::ops::Range;

use super::plan::Plan;
use super::step::trained;
use crate::adapter::Base;
use crate::archive::{Buffer, schema, to_buffer};
use crate::error::Result;
use crate::model::stored::Parts;
use crate::model::{Family, Opened};
use crate::nn::Linear;
use crate::quant::{Matrix, Values};

/// The vectors of `model` beside its linear layers, by the numbers that a [`Plan`] has for them:
/// first the family's own, then its tables where they are f32.
pub(crate) fn vectors<'m, F: Family>(model: &'m Opened<'_, F>) -> Vec<(u32, &'m [f32])> {
    let own = (0..model.vectors()).map(|number| (number, model.vector(number)));
    let tables = (0..F::TABLES).filter_map(|table| {
        match model.own_linear(model.sites() + table)?.weight.values() {
            Values::F32(values) => Some((model.vectors() + table, values)),
            _ => None,
        }
    });
    own.chain(tables).filter(|(_, vector)| !vector.is_empty()).collect()
}

/// Of a base that has a classifier of its own: where the trained one takes its place, and the
/// numbers with which the base is stored then.
pub(crate) type Replaced<F> = Option<(u32, <F as Family>::StoredConfig)>;

/// The base with what was trained in place of its own numbers.
pub(crate) fn write_base<F: Family>(
    model: &Opened<'_, F>,
    name: &str,
    plan: &Plan,
    values: &[f32],
    replaced: Replaced<F>,
) -> Result<Buffer> {
    let mut parts = Trained { model, plan, values, classifier: None };
    let (stop, labels): (Vec<u32>, String);
    stop = model.stop_tokens().collect();
    let mut frame = model.frame(&stop);
    frame.name = name;
    if let (Some((place, config)), Some(classifier)) = (replaced, &plan.classifier) {
        let weight = Values::F32(&values[classifier.weight.clone()]);
        let weight = Matrix::new(classifier.labels.len(), model.dim(), weight)?.into();
        let bias = &values[classifier.bias.clone()];
        parts.classifier = Some((place, schema::Linear { weight, bias }));
        labels = classifier.labels.join("\n");
        (frame.config, frame.labels) = (config, &labels);
    }
    F::with_root(&frame, &parts, |root| to_buffer(root, 1))
}

struct Trained<'v, F: Family> {
    model: &'v Opened<'v, F>,
    plan: &'v Plan,
    values: &'v [f32],
    classifier: Option<(u32, schema::Linear<'v>)>,
}

impl<F: Family> Trained<'_, F> {
    fn trained_vector(&self, number: u32) -> Option<&[f32]> {
        self.plan.vectors.get(&number).map(|range: &Range<usize>| &self.values[range.clone()])
    }
}

impl<F: Family> Parts for Trained<'_, F> {
    fn linear(&self, place: u32) -> Option<schema::Linear<'_>> {
        if let Some((_, classifier)) = self.classifier.filter(|(at, _)| *at == place) {
            return Some(classifier);
        }
        let own = self.model.own_linear(place)?;
        let Some(table) = place.checked_sub(self.model.sites()) else {
            return Some(trained(self.plan, self.values, own));
        };
        let Linear { weight, bias, .. } = own;
        let values = self.trained_vector(self.model.vectors() + table);
        let weight = values.map_or(weight, |values| weight.with_floats(values));
        Some(schema::Linear { weight: weight.into(), bias })
    }

    fn vector(&self, number: u32) -> &[f32] {
        self.trained_vector(number).unwrap_or_else(|| self.model.vector(number))
    }
}
