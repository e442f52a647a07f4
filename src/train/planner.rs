//! From options and a model to a plan: how each chosen layer is trained, and the first values of the
//! arena. Which layers are chosen is in `targets`.

use super::TrainError;
use super::body::Network;
use super::method::Rules;
use super::options::{Init, Options};
use super::plan::{Change, Classifier, LowRank, Part, Plan};
use super::targets::{choose, pattern_value};
use crate::adapter::label_fault;
use crate::nn::Linear;
use crate::quant::Matrix;
use crate::random;

/// The streams of random numbers that first values are drawn from: one per site from here on.
const SITES: u64 = 0x1000_0000;
const CLASSIFIER: u64 = 0x0fff_ffff;

/// The plan of a run on `body`, with a classifier for `labels` unless there are none, and the
/// arena's first values.
pub(crate) fn plan(
    body: &dyn Network,
    options: &Options,
    labels: &[String],
) -> Result<(Plan, Vec<f32>), TrainError> {
    let plan = layout(body, options, labels)?;
    let mut values = first_values(body, &plan, options);
    if let Some(start) = &options.start {
        start.fill(&plan, &mut values);
    }
    Ok((plan, values))
}

/// The plan alone, without a number of the arena.
pub(crate) fn layout(
    body: &dyn Network,
    options: &Options,
    labels: &[String],
) -> Result<Plan, TrainError> {
    options.check()?;
    if let Some((label, fault)) = labels
        .iter()
        .enumerate()
        .find_map(|(index, label)| Some((label, label_fault(labels, index)?)))
    {
        return Err(TrainError::options(format!("label {label:?} {fault}")));
    }
    let rules = options.method.rules();
    let chosen = match &options.start {
        Some(start) => start.places(body, options, labels)?,
        None => choose(body, options, !labels.is_empty())?,
    };
    let weights: Vec<_> = chosen.iter().filter_map(|&(site, _)| body.layer_at(site)).collect();
    rules.check(&weights.iter().map(|linear| linear.weight.format()).collect::<Vec<_>>())?;
    let mut plan =
        Plan { changes: vec![Change::Frozen; body.base().sites() as usize], ..Plan::default() };
    for ((site, name), linear) in chosen.iter().zip(&weights) {
        let embedding = is_embedding(body, *site);
        plan.changes[*site as usize] = if rules.is_full() {
            full(&mut plan, body, *site, &linear.weight, linear.bias.len(), embedding)
        } else if let Some(start) = &options.start {
            start.change(&mut plan, *site, rules.freezes_a())
        } else {
            low_rank(&mut plan, *site, name, &linear.weight, options, rules, embedding)?
        };
    }
    if let (true, Some((embedding, head))) = (rules.is_full(), body.base().tied()) {
        // One weight: `choose` has taken one of the two.
        let [embedding, head] = [embedding, head].map(|site| site as usize);
        let taken = if plan.changes[head] == Change::Frozen { embedding } else { head };
        let change = plan.changes[taken].clone();
        (plan.changes[embedding], plan.changes[head]) = (change.clone(), change);
    }
    if rules.is_full() {
        for (id, vector) in body.vectors() {
            let range = plan.push(id, Part::Vector, vector.len(), false);
            plan.vectors.insert(id, range);
        }
    }
    if !labels.is_empty() {
        let weight = plan.push(0, Part::ClassifierWeight, labels.len() * body.base().dim(), false);
        let bias = if body.borders().classifier_bias { labels.len() } else { 0 };
        let bias = plan.push(0, Part::ClassifierBias, bias, false);
        plan.classifier = Some(Classifier { weight, bias, labels: labels.to_vec() });
    }
    Ok(plan)
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

fn full(
    plan: &mut Plan,
    body: &dyn Network,
    site: u32,
    weight: &Matrix<'_>,
    bias: usize,
    embedding: bool,
) -> Change {
    debug_assert!(site < body.base().sites());
    let weight = plan.push(site, Part::Weight, weight.rows() * weight.cols(), embedding);
    let bias = plan.push(site, Part::Bias, bias, false);
    Change::Full { weight, bias }
}

fn low_rank(
    plan: &mut Plan,
    site: u32,
    name: &str,
    weight: &Matrix<'_>,
    options: &Options,
    rules: &dyn Rules,
    embedding: bool,
) -> Result<Change, TrainError> {
    let rank = pattern_value("rank-pattern", &options.rank_pattern, name)?
        .map_or(options.rank, |rank| rank as usize);
    let alpha =
        pattern_value("alpha-pattern", &options.alpha_pattern, name)?.unwrap_or(options.alpha);
    let (outputs, inputs) =
        if embedding { (weight.cols(), weight.rows()) } else { (weight.rows(), weight.cols()) };
    if embedding && rules.has_magnitude() {
        return Err(TrainError::options(format!(
            "dora cannot train {name}: embeddings take A and B only"
        )));
    }
    let a = plan.push(site, Part::A, rank * inputs, embedding);
    let b = plan.push(site, Part::B, rank * outputs, embedding);
    let magnitude =
        plan.push(site, Part::Magnitude, if rules.has_magnitude() { outputs } else { 0 }, false);
    let (rank_stabilized, a_frozen) = (rules.rank_stabilized(), rules.freezes_a());
    Ok(Change::LowRank(LowRank {
        rank,
        common: options.rank,
        alpha,
        rank_stabilized,
        a,
        b,
        magnitude,
        embedding,
        a_frozen,
    }))
}

/// What the arena starts with.
fn first_values(body: &dyn Network, plan: &Plan, options: &Options) -> Vec<f32> {
    let mut values = vec![0.0; plan.len()];
    let vectors = body.vectors();
    for tensor in &plan.tensors {
        let out = &mut values[tensor.range.clone()];
        let stream = SITES + u64::from(tensor.place);
        match tensor.part {
            Part::A if !tensor.embedding => {
                let Change::LowRank(low) = plan.change(tensor.place) else { continue };
                let inputs = (out.len() / low.rank) as f32;
                for (i, v) in out.iter_mut().enumerate() {
                    *v = match options.init {
                        Init::Kaiming => {
                            (2.0 * random::uniform(options.seed, stream, i as u64) - 1.0)
                                / inputs.sqrt()
                        }
                        Init::Gaussian => {
                            random::normal(options.seed, stream, i as u64) / low.rank as f32
                        }
                    };
                }
            }
            Part::B if tensor.embedding => {
                out.iter_mut()
                    .enumerate()
                    .for_each(|(i, v)| *v = random::normal(options.seed, stream, i as u64));
            }
            Part::A | Part::B => {}
            Part::ClassifierBias => {
                if let Some((own, rows)) =
                    own_classifier(body, plan).filter(|(own, _)| !own.bias.is_empty())
                {
                    out.iter_mut().zip(rows).for_each(|(out, row)| *out = own.bias[row]);
                }
            }
            Part::Magnitude => {
                if let Some(linear) = body.layer_at(tensor.place) {
                    let norms = super::norms::squared(&linear.weight);
                    out.iter_mut().zip(norms).for_each(|(m, squared)| *m = squared.sqrt() as f32);
                }
            }
            Part::Weight => {
                if let Some(linear) = body.layer_at(tensor.place) {
                    let cols = linear.weight.cols();
                    out.chunks_exact_mut(cols)
                        .enumerate()
                        .for_each(|(row, out)| linear.weight.read(row, 0, out));
                }
            }
            Part::Bias => {
                if let Some(linear) = body.layer_at(tensor.place) {
                    out.copy_from_slice(linear.bias);
                }
            }
            Part::Vector => {
                if let Some((_, vector)) = vectors.iter().find(|(id, _)| *id == tensor.place) {
                    out.copy_from_slice(vector);
                }
            }
            Part::ClassifierWeight => match own_classifier(body, plan) {
                Some((own, rows)) => {
                    let cols = own.weight.cols();
                    out.chunks_exact_mut(cols)
                        .zip(rows)
                        .for_each(|(out, row)| own.weight.read(row, 0, out));
                }
                None => {
                    let draw = |i: usize| 0.02 * random::normal(options.seed, CLASSIFIER, i as u64);
                    out.iter_mut().enumerate().for_each(|(i, v)| *v = draw(i));
                }
            },
        }
    }
    values
}

/// The base's own classifier, if it has the same labels, and its rows in the order of the new one,
/// which goes on from it.
fn own_classifier<'b>(body: &'b dyn Network, plan: &Plan) -> Option<(Linear<'b>, Vec<usize>)> {
    let (own, labels) = body.classifier()?;
    let wanted = &plan.classifier.as_ref()?.labels;
    let row = |label: &String| labels.iter().position(|own| own == label);
    let rows = wanted.iter().map(row).collect::<Option<Vec<_>>>()?;
    (rows.len() == labels.len()).then_some((own, rows))
}
