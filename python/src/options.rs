//! The keywords of training, which `train`, `compare` and `train_memory` share: names, defaults and
//! meaning are those of the command line, with `_` for `-`.

use std::sync::Arc;

use lowrank::kernel::Precision;
use lowrank::text::{TemplateVariables, Tokenizer};
use lowrank::train::data::{DataOptions, ModelInput, Task};
use lowrank::train::optimizer::OptimizerKind;
use lowrank::train::schedule::ScheduleShape;
use lowrank::train::{
    Init, Length, Method, MethodOption, Options, PatternValue, RunOptions, Start, TargetModules,
    Warmup,
};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString};

use crate::base::Opened;
use crate::data;
use crate::error::{Fault, Outcome};
use crate::machine::precision;
use crate::named::{Keywords, named};
use crate::tokenizer::variables;

/// What is said of training, before a method is chosen.
pub(crate) struct Settings {
    pub(crate) task: Task,
    pub(crate) batch_size: usize,
    pub(crate) max_length: Option<usize>,
    pub(crate) threads: usize,
    pub(crate) seed: u64,
    /// The options of all methods; `targets` are those of `named_targets`.
    options: Options,
    named_targets: Option<TargetModules>,
    run: RunOptions,
    completions_only: bool,
    packing: bool,
    variables: TemplateVariables,
    /// Options that an adapter to go on from says itself, and that were given.
    of_adapter: Vec<&'static str>,
}

impl Settings {
    /// Reads them; `finish` the keywords afterwards.
    pub(crate) fn read(keywords: &mut Keywords<'_>) -> Outcome<Self> {
        let rank: Option<usize> = keywords.get("rank")?;
        let alpha: Option<f32> = keywords.get("alpha")?;
        let targets: Option<Bound<'_, PyAny>> = keywords.get("target_modules")?;
        let rank_pattern = keywords.get_dict("rank_pattern")?;
        let alpha_pattern = keywords.get_dict("alpha_pattern")?;
        let init: Option<String> = keywords.get("init")?;
        let given = [
            ("rank", rank.is_some()),
            ("alpha", alpha.is_some()),
            ("target_modules", targets.is_some()),
            ("rank_pattern", rank_pattern.is_some()),
            ("alpha_pattern", alpha_pattern.is_some()),
            ("init", init.is_some()),
        ];
        let given = given.into_iter().filter(|(_, is_given)| *is_given).map(|(name, _)| name);
        let (rank, default) = (rank.unwrap_or(8), Options::new(Method::Lora));
        let seed = keywords.or("seed", 0)?;
        let exact = keywords.or("precision", String::from("exact"))?;
        let mut options = Options {
            rank,
            alpha: alpha.unwrap_or(2.0 * rank as f32),
            rank_pattern: patterns("rank_pattern", rank_pattern)?,
            alpha_pattern: patterns("alpha_pattern", alpha_pattern)?,
            init: init.map_or(Ok(Init::Kaiming), |name| self::init(&name))?,
            dropout: keywords.or("dropout", 0.0)?,
            optimizer: optimizer(&keywords.or("optimizer", String::from("adamw"))?)?,
            learning_rate: keywords.or("learning_rate", default.learning_rate)?,
            weight_decay: keywords.or("weight_decay", 0.0)?,
            schedule: schedule(&keywords.or("schedule", String::from("linear"))?)?,
            max_norm: keywords.or("max_norm", 1.0)?,
            label_smoothing: keywords.or("label_smoothing", 0.0)?,
            seed,
            checkpointing: keywords.or("checkpointing", false)?,
            precision: precision(Some(&exact))?.unwrap_or(Precision::Exact),
            ..default
        };
        own(keywords, &mut options)?;
        let given_variables = keywords.get_dict("template_variables")?;
        Ok(Self {
            task: data::task(&keywords.or("task", String::from("lm"))?)?,
            batch_size: keywords.or("batch_size", 8)?,
            max_length: keywords.get("max_length")?,
            threads: keywords.or("threads", 0)?,
            seed,
            named_targets: targets.map(|targets| self::targets(&targets)).transpose()?,
            options,
            run: run(keywords)?,
            completions_only: keywords.or("completions_only", false)?,
            packing: keywords.or("packing", false)?,
            variables: variables(given_variables.as_ref())?,
            of_adapter: given.collect(),
        })
    }

    /// What the trainer is told.
    pub(crate) fn trainer(&self, method: Method) -> Options {
        let usual = Options::new(method).targets;
        let targets = self.named_targets.clone().unwrap_or(usual);
        Options { method, targets, ..self.options.clone() }
    }

    /// The same, to go on from an adapter, whose layers, rank, alpha and scale stay.
    pub(crate) fn going_on(&self, method: Option<Method>, start: Start) -> Outcome<Options> {
        if let Some(name) = self.of_adapter.first() {
            return Err(Fault::input(format!(
                "{name} has no effect beside adapter: training goes on with what the adapter has"
            )));
        }
        Ok(self.trainer(method.unwrap_or(start.method())).going_on(start))
    }

    /// What one of several methods is told: options of other methods have their defaults.
    pub(crate) fn contestant(&self, method: Method) -> Options {
        self.trainer(method).with_method(method)
    }

    /// What the run is told; no checkpoints.
    pub(crate) fn run(&self) -> RunOptions {
        RunOptions { batch_size: self.batch_size, ..self.run.clone() }
    }

    /// Optimizer steps, where they and not epochs are given.
    pub(crate) fn steps(&self) -> Option<u64> {
        match self.run.length {
            Length::Steps(steps) => Some(steps),
            Length::Epochs(_) => None,
        }
    }

    /// How data is read for a base with this input; a validation set takes the training set's labels.
    pub(crate) fn data(
        &self,
        input: ModelInput,
        labels: Option<Vec<String>>,
        is_training: bool,
    ) -> Outcome<DataOptions> {
        data_options(input, self.max_length, self.completions_only, labels)
            .map(|options| DataOptions { packing: self.packing && is_training, ..options })
    }

    /// The tokenizer, with the variables for its chat template; `None` of a base that has none.
    pub(crate) fn tokenizer(&self, base: &Opened) -> Outcome<Option<Arc<Tokenizer>>> {
        tokenizer(base, &self.variables)
    }

    /// Refuses variables that no conversation was rendered with.
    pub(crate) fn check_used(&self, tokenizer: Option<&Arc<Tokenizer>>) -> Outcome<()> {
        let is_used = tokenizer.is_some_and(|tokenizer| tokenizer.has_rendered());
        if self.variables.is_empty() || is_used {
            return Ok(());
        }
        Err(Fault::input("template_variables have no effect: the data has no conversations"))
    }
}

/// The base's tokenizer, of its own where there are template variables.
pub(crate) fn tokenizer(
    base: &Opened,
    variables: &TemplateVariables,
) -> Outcome<Option<Arc<Tokenizer>>> {
    if variables.is_empty() {
        return Ok(base.tokenizer().ok());
    }
    let made = base.make_tokenizer()?;
    if !made.has_template() {
        return Err(Fault::input(
            "template_variables have no effect: the base has no chat template",
        ));
    }
    Ok(Some(Arc::new(made.with_template_variables(variables.clone()))))
}

/// How data is read for a base with this input.
pub(crate) fn data_options(
    input: ModelInput,
    max_length: Option<usize>,
    completions_only: bool,
    labels: Option<Vec<String>>,
) -> Outcome<DataOptions> {
    if max_length.is_some() && input.features > 0 {
        return Err(Fault::input("max_length has no effect: the base reads numbers, not text"));
    }
    let usual = DataOptions::for_model(input);
    let max_length = max_length.unwrap_or(usual.max_length);
    Ok(DataOptions { max_length, completions_only, labels, ..usual })
}

/// Of the run: how long, in which batches, validated when.
fn run(keywords: &mut Keywords<'_>) -> Outcome<RunOptions> {
    let default = RunOptions::default();
    let (epochs, steps) = (keywords.get("epochs")?, keywords.get("steps")?);
    let length = match (epochs, steps) {
        (Some(_), Some(_)) => {
            return Err(Fault::input(
                "epochs and steps are both given: one says how long to train",
            ));
        }
        (_, Some(steps)) => Length::Steps(steps),
        (epochs, None) => Length::Epochs(epochs.unwrap_or(1)),
    };
    Ok(RunOptions {
        length,
        warmup: Warmup::from_number(keywords.or("warmup", 0.0)?)?,
        accumulation: keywords.or("accumulation", default.accumulation)?,
        sort_by_length: keywords.or("sort", true)?,
        validate_every: keywords.get("validate_every")?,
        patience: keywords.get("patience")?,
        rank_tolerance: keywords.or("rank_tolerance", default.rank_tolerance)?,
        ..default
    })
}

/// The options that single methods have, as the library lists them.
fn own(keywords: &mut Keywords<'_>, options: &mut Options) -> Outcome<()> {
    for option in MethodOption::own() {
        let given: Option<Bound<'_, PyAny>> = keywords.get(&option.name.replace('-', "_"))?;
        let Some(given) = given else { continue };
        let text = match given.is_instance_of::<PyBool>() {
            true => given.extract::<bool>()?.to_string(),
            false => given.str()?.to_string(),
        };
        option.set(options, &text)?;
    }
    Ok(())
}

/// `all-linear`, names, or a regular expression for whole module paths.
fn targets(given: &Bound<'_, PyAny>) -> Outcome<TargetModules> {
    Ok(match given.cast::<PyString>() {
        Ok(text) => TargetModules::parse(&text.to_string()),
        Err(_) => TargetModules::Names(given.extract()?),
    })
}

fn patterns(name: &str, given: Option<Bound<'_, PyDict>>) -> Outcome<Vec<PatternValue>> {
    let pattern = |(pattern, value): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
        let wrong = |_| Fault::input(format!("{name}: patterns with a number each were expected"));
        let value = value.extract::<f32>().map_err(wrong)?;
        Ok(PatternValue { pattern: pattern.extract()?, value })
    };
    given.into_iter().flatten().map(pattern).collect()
}

fn init(name: &str) -> Outcome<Init> {
    named("init", name, &[("kaiming", Init::Kaiming), ("gaussian", Init::Gaussian)])
}

fn optimizer(name: &str) -> Outcome<OptimizerKind> {
    let known = [
        ("adamw", OptimizerKind::adamw()),
        ("adamw8bit", OptimizerKind::adamw_8bit()),
        ("sgd", OptimizerKind::Sgd { momentum: 0.9 }),
    ];
    named("optimizer", name, &known)
}

fn schedule(name: &str) -> Outcome<ScheduleShape> {
    let known = [
        ("constant", ScheduleShape::Constant),
        ("linear", ScheduleShape::Linear),
        ("cosine", ScheduleShape::Cosine),
    ];
    named("schedule", name, &known)
}

/// A method by its name.
pub(crate) fn method(name: &str) -> Outcome<Method> {
    name.parse().map_err(|reason: String| Fault::input(reason))
}
