//! Going on from an adapter: one that was trained here, or imported. What it is (its layers, ranks,
//! alphas and scales, DoRA's magnitudes, its labels) stays; its numbers are the first values. A
//! classifier alone gets layers, as if training began anew.
//!
//! Only the numbers are taken over: the optimizer begins anew. A run that was interrupted goes on
//! from its checkpoint instead.

use std::fmt;
use std::sync::Arc;

use super::TrainError;
use super::body::Network;
use super::method::Method;
use super::options::{Options, PatternValue, TargetModules};
use super::plan::Classifier;
use super::planner::path;
use super::targets::{Chosen, choose};
use crate::adapter::{Adapter, Base, LowRank, SharedAdapter, check_fit};
use crate::file::Kind;

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

    /// The method that made it; of an adapter from elsewhere the one of its kind: DoRA, IA3,
    /// rsLoRA or LoRA.
    pub fn method(&self) -> Method {
        match self.adapter().method().parse() {
            Ok(method) if fits(method, &self.adapter()) => method,
            _ => self.kind(),
        }
    }

    /// The labels of its classifier in the order of its rows; none if it brings none.
    pub fn labels(&self) -> Vec<String> {
        let classifier = self.adapter().classifier();
        classifier.map_or_else(Vec::new, |c| c.labels().map(str::to_owned).collect())
    }

    /// The first method that can go on with it.
    fn kind(&self) -> Method {
        let adapter = self.adapter();
        Method::ALL.into_iter().find(|method| fits(*method, &adapter)).unwrap_or(Method::Lora)
    }

    /// Is it a classifier alone?
    pub(crate) fn is_bare(&self) -> bool {
        self.adapter().targets().len() == 0
    }

    /// Puts its rank and alpha into `options`: those of the largest rank.
    pub(super) fn describe(&self, options: &mut Options) {
        if self.is_bare() {
            return;
        }
        let adapter = self.adapter();
        let is_largest = |target: &LowRank<'_>| target.rank == adapter.max_rank();
        let largest =
            adapter.targets().find(|target| target.scaled.is_none() && is_largest(target));
        if let Some(largest) = largest {
            (options.rank, options.alpha) = (largest.rank, largest.alpha);
        }
        (options.rank_pattern, options.alpha_pattern) = (Vec::new(), Vec::new());
    }

    /// Puts the names of its layers into `options`, and the ranks and alphas of those that have
    /// others.
    pub(super) fn describe_layers(&self, base: &dyn Base, options: &mut Options) {
        if self.is_bare() {
            return;
        }
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
        let targets = adapter.targets().zip(&chosen);
        for (target, name) in targets.filter(|(target, _)| target.scaled.is_none()) {
            let entry = |value: f32| PatternValue { pattern: name.clone(), value };
            if target.rank != options.rank {
                options.rank_pattern.push(entry(target.rank as f32));
            }
            if target.alpha != options.alpha {
                options.alpha_pattern.push(entry(target.alpha));
            }
        }
        options.targets = TargetModules::Names(if named == chosen.len() { ends } else { chosen });
    }

    /// Its layers with their paths, if `options` and `labels` can go on with it on `body`.
    pub(super) fn places(
        &self,
        body: &dyn Network,
        options: &Options,
        labels: &[String],
    ) -> Result<Vec<Chosen>, TrainError> {
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
        if adapter.pooler().is_some() {
            return Err(TrainError::options(
                "the adapter's classifier has a pooler of its own, which training does not keep",
            ));
        }
        if self.is_bare() {
            return choose(body, options, false, !labels.is_empty());
        }
        let unread = body.head_site().filter(|_| !labels.is_empty());
        let place = |target: LowRank<'_>| {
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
            Ok(Chosen { site: target.site, name })
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

    /// What it does at `site`, and its largest rank.
    pub(super) fn adapter_of(&self, site: u32) -> Option<(LowRank<'_>, usize)> {
        let adapter = self.adapter();
        Some((adapter.target(site)?, adapter.max_rank()))
    }

    /// Puts its classifier into the arena, if it brings one: rows are found by their labels' names.
    pub(super) fn fill(&self, plan: &Classifier, values: &mut [f32]) -> bool {
        let adapter = self.adapter();
        let Some(classifier) = adapter.classifier() else { return false };
        let own = self.labels();
        let rows = plan.labels.iter().filter_map(|label| own.iter().position(|own| own == label));
        let weight = classifier.weight();
        let out = values[plan.weight.clone()].chunks_exact_mut(weight.cols()).zip(rows.clone());
        out.for_each(|(out, row)| weight.read(row, 0, out));
        let bias = |row: usize| classifier.bias().get(row).copied().unwrap_or(0.0);
        let out = values[plan.bias.clone()].iter_mut().zip(rows);
        out.for_each(|(out, row)| *out = bias(row));
        true
    }
}

/// Can training with this method go on with the adapter? A classifier alone is of every kind.
fn fits(method: Method, adapter: &Adapter<'_>) -> bool {
    let technique = method.technique();
    let is_bare = adapter.targets().len() == 0 && technique.result() == Kind::Adapter;
    is_bare || technique.continues(adapter)
}
