//! Going on from an adapter: one that was trained here, or imported. What it is (its layers, ranks,
//! alphas and scales, DoRA's magnitudes, its labels) stays; its numbers are the first values.
//!
//! Only the numbers are taken over: the optimizer begins anew. A run that was interrupted goes on
//! from its checkpoint instead.

use std::fmt;
use std::sync::Arc;

use super::TrainError;
use super::body::Network;
use super::method::Method;
use super::options::{Options, PatternValue, Targets};
use super::plan::{Change, LowRank, Part, Plan};
use super::planner::path;
use crate::adapter::{Adapter, Base, Factor, SharedAdapter, check_fit};

/// An adapter that training goes on from.
#[derive(Clone)]
pub struct Start(Arc<SharedAdapter>);

impl fmt::Debug for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Start").field(&self.adapter()).finish()
    }
}

impl PartialEq for Start {
    /// Equal content.
    fn eq(&self, other: &Self) -> bool {
        self.adapter().fingerprint() == other.adapter().fingerprint()
    }
}

impl From<Arc<SharedAdapter>> for Start {
    fn from(adapter: Arc<SharedAdapter>) -> Self {
        Self(adapter)
    }
}

impl Start {
    /// The adapter.
    pub fn adapter(&self) -> Adapter<'_> {
        self.0.adapter()
    }

    /// The method that made it; of an adapter from elsewhere the one of its kind: DoRA, rsLoRA or
    /// LoRA.
    pub fn method(&self) -> Method {
        let adapter = self.adapter();
        match adapter.method().parse() {
            Ok(Method::Full) | Err(_) => self.kind(),
            Ok(method) if fits(method, &adapter) => method,
            Ok(_) => self.kind(),
        }
    }

    /// The labels of its classifier in the order of its rows; none if it brings none.
    pub fn labels(&self) -> Vec<String> {
        let classifier = self.adapter().classifier();
        classifier.map_or_else(Vec::new, |c| c.labels().map(str::to_owned).collect())
    }

    fn kind(&self) -> Method {
        let adapter = self.adapter();
        if adapter.is_dora() {
            Method::Dora
        } else if adapter.targets().any(|target| target.rank_stabilized) {
            Method::RsLora
        } else {
            Method::Lora
        }
    }

    /// Puts its rank and alpha into `options`: those of the largest rank.
    pub(super) fn describe(&self, options: &mut Options) {
        let adapter = self.adapter();
        let largest = adapter.targets().find(|target| target.rank == adapter.max_rank());
        if let Some(largest) = largest {
            (options.rank, options.alpha) = (largest.rank, largest.alpha);
        }
        (options.rank_pattern, options.alpha_pattern) = (Vec::new(), Vec::new());
    }

    /// Puts the names of its layers into `options`, and the ranks and alphas of those that have
    /// others.
    pub(super) fn describe_layers(&self, base: &dyn Base, options: &mut Options) {
        let path = |site: u32| {
            let mut path = String::new();
            // Writing to a string cannot fail.
            let _ = base.write_path(site, &mut path);
            path
        };
        let end = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
        let adapter = self.adapter();
        let chosen: Vec<String> = adapter.targets().map(|target| path(target.site)).collect();
        let mut ends: Vec<String> = Vec::new();
        for name in chosen.iter().map(|path| end(path)) {
            if !ends.contains(&name) {
                ends.push(name);
            }
        }
        let sites = (0..base.sites()).filter(|site| base.site(*site).is_some());
        let named = sites.filter(|site| ends.contains(&end(&path(*site)))).count();
        for (target, name) in adapter.targets().zip(&chosen) {
            let entry = |value: f32| PatternValue { pattern: name.clone(), value };
            if target.rank != options.rank {
                options.rank_pattern.push(entry(target.rank as f32));
            }
            if target.alpha != options.alpha {
                options.alpha_pattern.push(entry(target.alpha));
            }
        }
        options.targets = Targets::Names(if named == chosen.len() { ends } else { chosen });
    }

    /// Its layers with their paths, if `options` and `labels` can go on with it on `body`.
    pub(super) fn places(
        &self,
        body: &dyn Network,
        options: &Options,
        labels: &[String],
    ) -> Result<Vec<(u32, String)>, TrainError> {
        let adapter = self.adapter();
        check_fit(&adapter, body.base())?;
        if !fits(options.method, &adapter) {
            return Err(TrainError::options(format!(
                "the adapter is one of {}: training cannot go on with {}",
                self.kind(),
                options.method
            )));
        }
        self.check_labels(labels)?;
        let unread = body.head_site().filter(|_| !labels.is_empty());
        let place = |target: crate::adapter::LowRank<'_>| {
            let name = path(body, target.site);
            let refused = |why: &str| {
                Err(TrainError::options(format!("training cannot go on with {name}: {why}")))
            };
            if Some(target.site) == unread {
                return refused("a classifier does not read the language-model head");
            }
            if body.layer_at(target.site).is_none() {
                return refused("the base's own classifier is not trained through an adapter");
            }
            if !target.bias.is_empty() {
                return refused("the adapter has a bias beside B there, which is not trained");
            }
            if target.is_embedding && options.method.rules().freezes_a() {
                return refused("lora-fa would keep the A of an embedding as it is");
            }
            Ok((target.site, name))
        };
        adapter.targets().map(place).collect()
    }

    fn check_labels(&self, labels: &[String]) -> Result<(), TrainError> {
        let own = self.labels();
        if own.is_empty() {
            return Ok(());
        }
        if labels.is_empty() {
            return Err(TrainError::options(
                "the adapter is a classifier: going on to learn the next token would lose it",
            ));
        }
        let same = own.len() == labels.len() && own.iter().all(|label| labels.contains(label));
        if !same {
            return Err(TrainError::options(format!(
                "the adapter knows the labels {}, this run has {}: both must be the same",
                own.join(", "),
                labels.join(", ")
            )));
        }
        Ok(())
    }

    /// How the layer at `site` goes on.
    pub(super) fn change(&self, plan: &mut Plan, site: u32, a_frozen: bool) -> Change {
        let adapter = self.adapter();
        let Some(target) = adapter.target(site) else { return Change::Frozen };
        let (rank, embedding) = (target.rank, target.is_embedding);
        let a = plan.push(site, Part::A, rank * target.inputs, embedding);
        let b = plan.push(site, Part::B, rank * target.outputs, embedding);
        let magnitude = plan.push(site, Part::Magnitude, target.magnitude.len(), false);
        let (alpha, rank_stabilized) = (target.alpha, target.rank_stabilized);
        Change::LowRank(LowRank {
            rank,
            common: adapter.max_rank(),
            alpha,
            rank_stabilized,
            a,
            b,
            magnitude,
            embedding,
            a_frozen,
        })
    }

    /// Puts its numbers into the arena; those of labels are found by their names.
    pub(super) fn fill(&self, plan: &Plan, values: &mut [f32]) {
        let adapter = self.adapter();
        let classifier = adapter.classifier();
        let own = self.labels();
        let labels = plan.classifier.as_ref().map_or(&[][..], |classifier| &classifier.labels);
        let rows = labels.iter().filter_map(|label| own.iter().position(|own| own == label));
        for tensor in &plan.tensors {
            let out = &mut values[tensor.range.clone()];
            match (tensor.part, adapter.target(tensor.place), &classifier) {
                (Part::A, Some(target), _) => read(&target.a, out),
                (Part::B, Some(target), _) => read(&target.b, out),
                (Part::Magnitude, Some(target), _) => out.copy_from_slice(target.magnitude),
                (Part::ClassifierWeight, _, Some(classifier)) => {
                    let weight = classifier.weight();
                    let out = out.chunks_exact_mut(weight.cols()).zip(rows.clone());
                    out.for_each(|(out, row)| weight.read(row, 0, out));
                }
                (Part::ClassifierBias, _, Some(classifier)) => {
                    let bias = |row: usize| classifier.bias().get(row).copied().unwrap_or(0.0);
                    out.iter_mut().zip(rows.clone()).for_each(|(out, row)| *out = bias(row));
                }
                _ => {}
            }
        }
    }
}

/// Are adapters of this method of the adapter's kind?
fn fits(method: Method, adapter: &Adapter<'_>) -> bool {
    let rules = method.rules();
    if rules.is_full() || adapter.is_dora() != rules.has_magnitude() {
        // A classifier alone is of every kind.
        return !rules.is_full() && adapter.targets().len() == 0;
    }
    let stabilized = adapter.targets().any(|target| target.rank_stabilized);
    adapter.is_dora() || adapter.targets().len() == 0 || stabilized == rules.rank_stabilized()
}

/// A whole factor, row after row.
fn read(factor: &Factor<'_>, out: &mut [f32]) {
    for (row, out) in out.chunks_exact_mut(factor.width()).enumerate() {
        out.iter_mut().enumerate().for_each(|(col, out)| *out = factor.get(row, col));
    }
}
