//! From options and a model to a plan: how each chosen layer is trained, and the first values of the
//! arena. Which layers are chosen is in `targets`, what is trained of one in its method's file.

use super::TrainError;
use super::body::Network;
use super::method::{Layer, Part, Technique};
use super::options::Options;
use super::plan::{Classifier, Plan};
use super::targets::{Chosen, choose, pattern_value};
use crate::adapter::{Base, label_fault};
use crate::file::Kind;
use crate::kernel::Precision;
use crate::model::has_fast;
use crate::nn::Linear;
use crate::random;

/// A method and what it trains.
pub(crate) struct Planned {
    pub(crate) technique: Box<dyn Technique>,
    pub(crate) plan: Plan,
}

/// The plan of a run on `body`, with a classifier for `labels` unless there are none, and the
/// arena's first values.
pub(crate) fn plan(
    body: &dyn Network,
    options: &Options,
    labels: &[String],
) -> Result<(Planned, Vec<f32>), TrainError> {
    let (planned, layers) = planned(body, options, labels)?;
    let plan = &planned.plan;
    let mut values = vec![0.0; plan.len()];
    for layer in layers.iter().map(|chosen| chosen.layer(body, options)) {
        let layer = layer?;
        if let Some(trained) = plan.layer(layer.linear.site) {
            trained.init(&layer, options, &mut values);
        }
    }
    for (id, vector) in body.vectors() {
        if let Some(range) = plan.vectors.get(&id) {
            values[range.clone()].copy_from_slice(vector);
        }
    }
    init_classifier(body, plan, options, &mut values);
    Ok((planned, values))
}

/// The plan alone, without a number of the arena.
pub(crate) fn layout(
    body: &dyn Network,
    options: &Options,
    labels: &[String],
) -> Result<Planned, TrainError> {
    planned(body, options, labels).map(|(planned, _)| planned)
}

/// Refuses a precision that no product of this base knows.
fn check_precision(base: &dyn Base, precision: Precision) -> Result<(), TrainError> {
    if precision == Precision::Fast && !has_fast(base) {
        return Err(TrainError::options(
            "precision fast has no effect: no layer of this base is nf4 or int8",
        ));
    }
    Ok(())
}

fn planned(
    body: &dyn Network,
    options: &Options,
    labels: &[String],
) -> Result<(Planned, Vec<Chosen>), TrainError> {
    options.check()?;
    check_precision(body.base(), options.precision)?;
    if let Some((label, fault)) = labels
        .iter()
        .enumerate()
        .find_map(|(index, label)| Some((label, label_fault(labels, index)?)))
    {
        return Err(TrainError::options(format!("label {label:?} {fault}")));
    }
    let mut technique = options.method.technique();
    let is_whole = technique.result() == Kind::Base;
    let chosen = match &options.start {
        Some(start) => start.places(body, options, labels)?,
        None => choose(body, options, is_whole, !labels.is_empty())?,
    };
    let sites = body.base().sites() as usize;
    let mut plan = Plan { layers: vec![None; sites], ..Plan::default() };
    for chosen in &chosen {
        let layer = chosen.layer(body, options)?;
        plan.layers[chosen.site as usize] = Some(technique.parametrize(&layer, &mut plan)?);
    }
    technique.check_plan(options, &plan)?;
    if is_whole {
        if let Some((embedding, head)) = body.base().tied() {
            // One weight: `choose` has taken one of the two.
            let [embedding, head] = [embedding, head].map(|site| site as usize);
            let taken = plan.layers[head].clone().or_else(|| plan.layers[embedding].clone());
            (plan.layers[embedding], plan.layers[head]) = (taken.clone(), taken);
        }
        for (id, vector) in body.vectors() {
            let range = plan.push(id, Part::Vector, vector.len());
            plan.vectors.insert(id, range);
        }
    }
    if !labels.is_empty() {
        let weight = plan.push(0, Part::ClassifierWeight, labels.len() * body.base().dim());
        let bias = if body.input_spec().classifier_bias { labels.len() } else { 0 };
        let bias = plan.push(0, Part::ClassifierBias, bias);
        plan.classifier = Some(Classifier { weight, bias, labels: labels.to_vec() });
    }
    Ok((Planned { technique, plan }, chosen))
}

impl Chosen {
    /// The layer with what is asked for it.
    fn layer<'l>(
        &'l self,
        body: &'l dyn Network,
        options: &'l Options,
    ) -> Result<Layer<'l>, TrainError> {
        let start = options.start.as_ref().and_then(|start| start.adapter_of(self.site));
        let pattern = |name, patterns| pattern_value(name, patterns, &self.name);
        let rank = || pattern("rank-pattern", &options.rank_pattern);
        let alpha = || pattern("alpha-pattern", &options.alpha_pattern);
        let (rank, alpha, common_rank) = match &start {
            Some((start, common)) => (start.rank, start.alpha, *common),
            None => (
                rank()?.map_or(options.rank, |rank| rank as usize),
                alpha()?.unwrap_or(options.alpha),
                options.rank,
            ),
        };
        let (linear, name) = (self.linear(body)?, self.name.as_str());
        let (is_embedding, start) = (is_embedding(body, self.site), start.map(|(start, _)| start));
        Ok(Layer { linear, name, is_embedding, rank, alpha, common_rank, start })
    }

    fn linear<'l>(&self, body: &'l dyn Network) -> Result<Linear<'l>, TrainError> {
        let absent =
            || TrainError::options(format!("{} is no layer that can be trained", self.name));
        body.layer_at(self.site).ok_or_else(absent)
    }
}

pub(crate) fn is_embedding(body: &dyn Network, site: u32) -> bool {
    body.base().site(site).is_some_and(|(_, _, embedding)| embedding)
}

/// The module path of a site, as PEFT knows it.
pub(crate) fn path(body: &dyn Network, site: u32) -> String {
    let mut path = String::new();
    // Writing to a string cannot fail.
    let _ = body.base().write_path(site, &mut path);
    path
}

/// The stream of random numbers that a classifier is drawn from.
const CLASSIFIER: u64 = 0x0fff_ffff;

/// The classifier goes on from the adapter's, or from the base's own; else it is drawn from
/// N(0, 0.02²), its bias zero.
fn init_classifier(body: &dyn Network, plan: &Plan, options: &Options, values: &mut [f32]) {
    let Some(classifier) = &plan.classifier else { return };
    if let Some(start) = &options.start
        && start.fill(classifier, values)
    {
        return;
    }
    let Some((own, rows)) = own_classifier(body, classifier) else {
        let draw = |i: usize| 0.02 * random::normal(options.seed, CLASSIFIER, i as u64);
        let weight = values[classifier.weight.clone()].iter_mut();
        return weight.enumerate().for_each(|(i, v)| *v = draw(i));
    };
    let weight = values[classifier.weight.clone()].chunks_exact_mut(own.weight.cols());
    weight.zip(&rows).for_each(|(out, row)| own.weight.read(*row, 0, out));
    if !own.bias.is_empty() {
        let bias = values[classifier.bias.clone()].iter_mut().zip(rows);
        bias.for_each(|(out, row)| *out = own.bias[row]);
    }
}

/// The base's own classifier, if it has the same labels, and its rows in the order of the new one,
/// which goes on from it.
fn own_classifier<'b>(
    body: &'b dyn Network,
    classifier: &Classifier,
) -> Option<(Linear<'b>, Vec<usize>)> {
    let (own, labels) = body.classifier()?;
    let wanted = &classifier.labels;
    let row = |label: &String| labels.iter().position(|own| own == label);
    let rows = wanted.iter().map(row).collect::<Option<Vec<_>>>()?;
    (rows.len() == labels.len()).then_some((own, rows))
}
