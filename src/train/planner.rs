//! From options and a model to a plan: which sites match, which rank and alpha each has, and the
//! first values of the arena.

use regex::Regex;

use super::TrainError;
use super::body::Network;
use super::method::Rules;
use super::options::{Init, Options, Targets};
use super::plan::{Change, Classifier, LowRank, Part, Plan};
use super::random;
use crate::nn::Linear;
use crate::quant::Matrix;

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
    if let (true, Some((head, embedding))) = (rules.is_full(), body.base().tied()) {
        plan.changes[head as usize] = plan.changes[embedding as usize].clone();
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

fn is_embedding(body: &dyn Network, site: u32) -> bool {
    body.base().site(site).is_some_and(|(_, _, embedding)| embedding)
}

/// The module path of a site, as PEFT knows it.
pub(crate) fn path(body: &dyn Network, site: u32) -> String {
    let mut path = String::new();
    // Writing to a string cannot fail.
    let _ = body.base().write_path(site, &mut path);
    path
}

/// The sites that options name, with their paths.
fn choose(
    body: &dyn Network,
    options: &Options,
    classifies: bool,
) -> Result<Vec<(u32, String)>, TrainError> {
    let tied_head = body.base().tied().map(|(head, _)| head);
    let full = options.method.rules().is_full();
    // A site without a layer takes no part in training: an absent one, and a base's own classifier,
    // whose place the new one takes. Nor does a language-model head beside a classifier:
    // nothing reads it.
    let unread = body.head_site().filter(|_| classifies);
    let takes_part = |site: &u32| {
        Some(*site) != unread && body.base().site(*site).is_some() && body.layer_at(*site).is_some()
    };
    let all = || (0..body.base().sites()).filter(takes_part).map(|site| (site, path(body, site)));
    let pattern = match &options.targets {
        Targets::Pattern(pattern) => Some(whole("target-modules", pattern)?),
        _ => None,
    };
    let wanted = |site: u32, name: &str| match &options.targets {
        // A full run trains everything; the tied head is the embedding.
        Targets::AllLinear if full => true,
        Targets::AllLinear => Some(site) != body.head_site() && !is_embedding(body, site),
        Targets::Names(names) => {
            names.iter().any(|wanted| name == wanted || name.ends_with(&format!(".{wanted}")))
        }
        Targets::Pattern(_) => pattern.as_ref().is_some_and(|pattern| pattern.is_match(name)),
    };
    let chosen: Vec<_> = all()
        .filter(|(site, name)| wanted(*site, name) && !(full && Some(*site) == tied_head))
        .collect();
    if chosen.is_empty() {
        let mut ends: Vec<String> =
            all().map(|(_, name)| name.rsplit('.').next().unwrap_or_default().to_owned()).collect();
        ends.sort();
        ends.dedup();
        return Err(TrainError::options(format!(
            "target-modules names no layer of this model; its layers are {}",
            ends.join(", ")
        )));
    }
    if options.method.rules().freezes_a()
        && let Some((_, name)) = chosen.iter().find(|(site, _)| is_embedding(body, *site))
    {
        return Err(TrainError::options(format!(
            "lora-fa cannot train {name}: an embedding's A starts at zero and would stay there"
        )));
    }
    Ok(chosen)
}

/// A pattern that has to match all of a path.
fn whole(option: &str, pattern: &str) -> Result<Regex, TrainError> {
    Regex::new(&format!("^(?:{pattern})$"))
        .map_err(|error| TrainError::options(format!("{option}: {error}")))
}

/// The number of the first pattern that matches the end of `name`, as PEFT matches.
fn pattern_value(
    option: &str,
    patterns: &[super::options::PatternValue],
    name: &str,
) -> Result<Option<f32>, TrainError> {
    for entry in patterns {
        if whole(option, &format!(r"(.*\.)?({})", entry.pattern))?.is_match(name) {
            return Ok(Some(entry.value));
        }
    }
    Ok(None)
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
