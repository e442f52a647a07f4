//! What training leaves behind: an adapter or a base as an archive, and what the runtime makes of
//! it.

use super::Trainer;
use crate::adapter::{AdapterBuilder, ClassifierParts, Place};
use crate::archive::Buffer;
use crate::file::Kind;
use crate::kernel::Precision;
use crate::runtime::Executor;
use crate::train::TrainError;
use crate::train::data::Dataset;
use crate::train::evaluate::{self, Measures};
use crate::train::facts;

impl Trainer<'_> {
    /// What the runtime makes of `data` with what is trained now, in `Exact`; at `rank` if one is
    /// given (DyLoRA).
    ///
    /// # Errors
    /// What the runtime or the data says.
    pub fn measure(
        &self,
        data: &Dataset<'_>,
        executor: &dyn Executor,
        rank: Option<usize>,
    ) -> Result<Measures, TrainError> {
        let archive = self.archive("validation", rank)?;
        let (base, adapter) = if self.trains_base() {
            let classifier = self.classifier_adapter(&archive)?;
            (Some(archive), classifier)
        } else {
            (None, Some(archive))
        };
        let adapters: Vec<(&[u8], f32)> =
            adapter.iter().map(|adapter| (&adapter[..], 1.0)).collect();
        evaluate::measure(
            self.network.as_ref(),
            base.as_deref(),
            &adapters,
            data,
            Precision::Exact,
            executor,
            &mut |_, _| (),
        )
    }

    /// With full fine-tuning, the trained classifier as an adapter of the trained base `archive`;
    /// `None` for a language model.
    ///
    /// # Errors
    /// What the writers say.
    pub fn classifier_adapter(&self, archive: &[u8]) -> Result<Option<Buffer>, TrainError> {
        let Some(classifier) = self.classifier() else { return Ok(None) };
        let mut builder = AdapterBuilder::new("classifier", self.options.method.name());
        builder.classifier = Some(classifier);
        builder.facts = facts::of(&self.options, self.steps, None, &self.facts);
        let base = self.network.reopen(archive)?;
        Ok(Some(builder.build(base.as_ref())?))
    }

    fn classifier(&self) -> Option<ClassifierParts> {
        self.plan.classifier.as_ref().map(|classifier| ClassifierParts {
            weight: self.values[classifier.weight.clone()].to_vec(),
            bias: self.values[classifier.bias.clone()].to_vec(),
            labels: self.labels.clone(),
        })
    }

    /// Are the weights themselves trained?
    fn trains_base(&self) -> bool {
        self.technique.result() == Kind::Base
    }

    /// The adapter as it is now, at `rank` if one is given (DyLoRA: alpha stays, so that the scale
    /// becomes alpha / rank). Its facts are those of the training: options, steps, and after
    /// [`run`](crate::train::run()) data, loss and validation.
    pub fn adapter(&self, name: &str, rank: Option<usize>) -> AdapterBuilder {
        let mut builder = AdapterBuilder::new(name, self.options.method.name());
        for (site, layer) in self.plan.layers.iter().enumerate() {
            let parts = layer.as_ref().and_then(|layer| layer.finish(&self.values, rank));
            builder.targets.extend(parts.map(|parts| (Place(site as u32), parts)));
        }
        builder.classifier = self.classifier();
        builder.facts = facts::of(&self.options, self.steps, rank, &self.facts);
        builder
    }

    /// What was trained, as an archive in memory: an adapter, or with full fine-tuning a base.
    ///
    /// # Errors
    /// What the writers say.
    pub fn archive(&self, name: &str, rank: Option<usize>) -> Result<Buffer, TrainError> {
        self.pool.clear();
        if self.trains_base() {
            return Ok(self.network.write_base(name, &self.plan, &self.values)?);
        }
        Ok(self.adapter(name, rank).build(self.network.base())?)
    }
}
