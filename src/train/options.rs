//! What a training run is told, with PEFT's and torch's defaults, and the check of it.

use serde_json::{Value, json};

use super::TrainError;
use super::method::Method;
use super::optimizer::OptimizerKind;
use super::schedule::ScheduleShape;
use super::start::Start;
use crate::kernel::Precision;

/// Which layers get adapters (full fine-tuning: are trained).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetModules {
    /// Every linear layer but the output head (PEFT's `all-linear`).
    AllLinear,
    /// Layers whose module path is one of these names or ends in `.name`.
    Names(Vec<String>),
    /// Layers whose whole module path matches the regular expression.
    Pattern(String),
}

impl TargetModules {
    /// What people write: `all-linear`, names separated by commas, or a regular expression for
    /// whole module paths.
    pub fn parse(text: &str) -> Self {
        let is_name = |part: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.')
        };
        match text {
            "all-linear" => Self::AllLinear,
            _ if text.split(',').all(|part| is_name(part.trim())) => {
                Self::Names(text.split(',').map(|part| part.trim().into()).collect())
            }
            _ => Self::Pattern(text.into()),
        }
    }
}

/// How A is drawn; B starts at zero. An embedding's A starts at zero and its B is drawn from N(0,
/// 1), as PEFT has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Init {
    /// U(−1/√in, 1/√in).
    Kaiming,
    /// N(0, 1/r²).
    Gaussian,
}

impl Init {
    /// The name on the command line and in checkpoints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kaiming => "kaiming",
            Self::Gaussian => "gaussian",
        }
    }
}

/// A number for layers whose module path matches: PEFT's `rank_pattern` and `alpha_pattern`.
#[derive(Debug, Clone, PartialEq)]
pub struct PatternValue {
    /// A regular expression; matches the end of a path, at a dot.
    pub pattern: String,
    /// The rank or alpha of these layers.
    pub value: f32,
}

/// What a training run is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The method.
    pub method: Method,
    /// r. Default: 8.
    pub rank: usize,
    /// alpha: the factors count alpha / r (rsLoRA: alpha / √r). Default: 16, twice the default
    /// rank.
    pub alpha: f32,
    /// Which layers. Default: all linear ones; of IA3 those that PEFT scales (keys, values, the last
    /// of a feed-forward part).
    pub targets: TargetModules,
    /// Other ranks for some layers. Default: none.
    pub rank_pattern: Vec<PatternValue>,
    /// Other alphas for some layers. Default: none.
    pub alpha_pattern: Vec<PatternValue>,
    /// How A is drawn. Default: [`Init::Kaiming`].
    pub init: Init,
    /// The probability that an activation is dropped before A, in `[0, 1)`. Default: 0.
    pub dropout: f32,
    /// LoRA+: λ, how much faster B learns than A. Default: 16.
    pub lora_plus_ratio: f32,
    /// LoRA+: the learning rate of factors of embeddings. Default: 1e-6.
    pub lora_plus_embedding_rate: f32,
    /// DyLoRA: only the drawn rank's row and column learn.
    pub dylora_frozen: bool,
    /// LoRA-FA: train as PEFT's optimizer does: the gradient of B preconditioned after clipping,
    /// weight decay after the step and on everything, and ε 1e-6 where the optimizer has torch's
    /// 1e-8.
    pub lora_fa_preconditioned: bool,
    /// The optimizer. Default: AdamW.
    pub optimizer: OptimizerKind,
    /// The learning rate at the top of the schedule. Default: 2e-4.
    pub learning_rate: f32,
    /// Weight decay; biases and norms have none. Default: 0.
    pub weight_decay: f32,
    /// How the learning rate falls in a [`run`](super::run). Default: [`ScheduleShape::Linear`].
    pub schedule: ScheduleShape,
    /// The global norm that gradients are clipped to; 0 for no clipping. Default: 1.
    pub max_norm: f32,
    /// ε of label smoothing, in `[0, 1)`. Default: 0.
    pub label_smoothing: f32,
    /// Everything random follows from it. Default: 0.
    pub seed: u64,
    /// Keep only the inputs of blocks and compute the rest again in the backward pass: less memory,
    /// a third more time. Default: no.
    pub checkpointing: bool,
    /// How forward products with what stays frozen treat their activations. `Fast` trains the
    /// adapter on the 8-bit activations that it will be served with, in less time, where the
    /// base is NF4 or int8. The backward pass, and validation, are in f32 all the same.
    /// Default: `Exact`.
    pub precision: Precision,
    /// The adapter that training goes on from: its layers, ranks, alphas and scales stay, and what
    /// is said of them here is not used. `None` begins anew. See [`Options::continuing`].
    pub start: Option<Start>,
}

impl Options {
    /// `method` with the usual numbers, those of the command line: r 8, alpha 16, the layers
    /// that it trains by default, AdamW at 2e-4 that falls in a straight line, clipped at 1.
    pub fn new(method: Method) -> Self {
        Self {
            method,
            rank: 8,
            alpha: 16.0,
            targets: method.technique().targets(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            init: Init::Kaiming,
            dropout: 0.0,
            lora_plus_ratio: 16.0,
            lora_plus_embedding_rate: 1e-6,
            dylora_frozen: false,
            lora_fa_preconditioned: false,
            optimizer: OptimizerKind::default(),
            learning_rate: 2e-4,
            weight_decay: 0.0,
            schedule: ScheduleShape::default(),
            max_norm: 1.0,
            label_smoothing: 0.0,
            seed: 0,
            checkpointing: false,
            precision: Precision::Exact,
            start: None,
        }
    }

    /// The usual numbers, to go on from `start` with the method, rank, alpha and layers that it
    /// has. Another method may be set if its adapters are of the same kind (LoRA, rsLoRA or DoRA). A
    /// classifier alone leaves all of them free.
    pub fn continuing(start: Start) -> Self {
        let mut options = Self::new(start.method());
        start.describe(&mut options);
        Self { start: Some(start), ..options }
    }

    /// These options, to go on from `start`: rank, alpha and layers are those that it has. A
    /// classifier alone leaves them as they are.
    pub fn going_on(self, start: Start) -> Self {
        if start.is_bare() {
            return Self { start: Some(start), ..self };
        }
        let Self { rank, alpha, targets, start, .. } = Self::continuing(start);
        Self { rank, alpha, targets, start, ..self }
    }

    /// Refuses an option that is set (has another value than the default) and acts with none of
    /// `methods`.
    ///
    /// # Errors
    /// [`TrainError::Options`] with its name.
    pub fn check_effects(&self, methods: &[Method]) -> Result<(), TrainError> {
        let default = Self::new(self.method);
        for MethodOption { name, text, .. } in METHOD_OPTIONS {
            if text(self) != text(&default) {
                check_effect(name, methods)?;
            }
        }
        Ok(())
    }

    /// The same for another method: an option that does not act with it has its default, and if no
    /// layers were named, those are trained that it trains by default.
    pub fn with_method(&self, method: Method) -> Self {
        let (mut options, default) = (Self { method, ..self.clone() }, Self::new(method));
        if self.targets == Self::new(self.method).targets {
            options.targets.clone_from(&default.targets);
        }
        for MethodOption { name, copy, .. } in METHOD_OPTIONS {
            if !method.takes(name) {
                copy(&mut options, &default);
            }
        }
        options
    }

    /// Checks every number, and that what is set has an effect with the method.
    ///
    /// # Errors
    /// [`TrainError::Options`] with the name, the number and what is allowed.
    pub fn check(&self) -> Result<(), TrainError> {
        self.check_effects(&[self.method])?;
        let ranks = std::iter::once(self.rank as f64)
            .chain(self.rank_pattern.iter().map(|pattern| f64::from(pattern.value)));
        let most = crate::adapter::MAX_RANK;
        for rank in ranks {
            if rank.fract() != 0.0 || !(1.0..=f64::from(most)).contains(&rank) {
                return Err(TrainError::options(format!(
                    "rank is {rank}, a whole number from 1 to {most} was expected"
                )));
            }
        }
        let alphas = std::iter::once(self.alpha)
            .chain(self.alpha_pattern.iter().map(|pattern| pattern.value));
        for alpha in alphas {
            // An adapter that goes on may have any; it is checked when it is opened.
            if self.start.is_none() && !(alpha > 0.0 && alpha.is_finite()) {
                return Err(TrainError::options(format!(
                    "alpha is {alpha}, a number above 0 was expected"
                )));
            }
        }
        within("dropout", self.dropout, 0.0, 0.999)?;
        self.method.technique().check(self)?;
        if !(self.learning_rate > 0.0 && self.learning_rate <= 1e3) {
            return Err(TrainError::options(format!(
                "learning-rate is {}, a number above 0, at most 1000, was expected",
                self.learning_rate
            )));
        }
        within("weight-decay", self.weight_decay, 0.0, 1e3)?;
        if !(self.max_norm >= 0.0 && self.max_norm.is_finite()) {
            return Err(TrainError::options(format!(
                "max-norm is {}, a number above 0, or 0 for no clipping, was expected",
                self.max_norm
            )));
        }
        within("label-smoothing", self.label_smoothing, 0.0, 0.999)
    }
}

/// An option that acts with some methods only.
pub struct MethodOption {
    /// The name on the command line.
    pub name: &'static str,
    /// What it does, in a line; empty for those of all low-rank methods, which programs know.
    pub help: &'static str,
    /// What its value is; empty for a switch, which is set by `true`.
    pub value: &'static str,
    /// The name in checkpoints, which stays.
    pub(crate) setting: &'static str,
    /// The value that checkpoints leave out, which stays too; `None` if they always have it.
    pub(crate) usual: Option<&'static str>,
    /// The value as text.
    pub(crate) text: fn(&Options) -> String,
    /// Takes the value from other options.
    copy: fn(&mut Options, &Options),
    /// Takes the value from text, unless it is none.
    parse: fn(&mut Options, &str) -> bool,
}

impl MethodOption {
    /// Those that belong to single methods.
    pub fn own() -> impl Iterator<Item = &'static Self> {
        METHOD_OPTIONS.iter().filter(|option| !option.help.is_empty())
    }

    /// The default as text, of an option of single methods.
    pub fn default(&self) -> &'static str {
        self.usual.unwrap_or_default()
    }

    /// Sets it in `options`.
    ///
    /// # Errors
    /// [`TrainError::Options`] for a text that is no value of it.
    pub fn set(&self, options: &mut Options, text: &str) -> Result<(), TrainError> {
        if (self.parse)(options, text) {
            return Ok(());
        }
        Err(TrainError::options(format!("'{text}' is no value of {}", self.name)))
    }
}

/// Names, the usual value, the field, the field as text; of an option of single methods also what
/// its value is and what it does.
macro_rules! option {
    ($name:literal, $setting:literal, $usual:expr, $field:ident, $text:expr) => {
        option!($name, $setting, $usual, $field, $text, "", "", |_, _| false)
    };
    ($name:literal, $setting:literal, $usual:expr, $field:ident, $text:expr,
     $value:literal, $help:literal) => {
        option!($name, $setting, $usual, $field, $text, $value, $help, |options, text| {
            text.parse().map(|value| options.$field = value).is_ok()
        })
    };
    ($name:literal, $setting:literal, $usual:expr, $field:ident, $text:expr,
     $value:literal, $help:literal, $parse:expr) => {
        MethodOption {
            name: $name,
            help: $help,
            value: $value,
            setting: $setting,
            usual: $usual,
            text: |options| $text(&options.$field),
            copy: |to, from| to.$field = from.$field.clone(),
            parse: $parse,
        }
    };
}

/// All of them.
#[rustfmt::skip]
pub(crate) const METHOD_OPTIONS: &[MethodOption] = &[
    option!("rank", "rank", None, rank, usize::to_string),
    option!("alpha", "alpha", None, alpha, f32::to_string),
    option!("rank-pattern", "rank pattern", Some("[]"), rank_pattern, patterns),
    option!("alpha-pattern", "alpha pattern", Some("[]"), alpha_pattern, patterns),
    option!("init", "init", Some("kaiming"), init, |init: &Init| init.name().to_owned()),
    option!("dropout", "dropout", Some("0"), dropout, f32::to_string),
    option!("lora-plus-ratio", "lora+ ratio", Some("16"), lora_plus_ratio, f32::to_string,
        "LAMBDA", "LoRA+: how much faster B learns than A"),
    option!("lora-plus-embedding-rate", "lora+ embedding rate", Some("0.000001"),
        lora_plus_embedding_rate, f32::to_string,
        "RATE", "LoRA+: the learning rate of factors of embeddings"),
    option!("dylora-frozen", "dylora frozen", Some("false"), dylora_frozen, bool::to_string,
        "", "DyLoRA: only the drawn rank's row and column learn"),
    option!("lora-fa-preconditioned", "lora-fa preconditioned", Some("false"),
        lora_fa_preconditioned, bool::to_string,
        "", "LoRA-FA: precondition gradients as PEFT's optimizer does"),
];

fn patterns(patterns: &[PatternValue]) -> String {
    let entry = |entry: &PatternValue| json!([entry.pattern, entry.value.to_string()]);
    patterns.iter().map(entry).collect::<Value>().to_string()
}

/// Refuses the option `name`, which was set, if it acts with none of `methods`.
pub(crate) fn check_effect(name: &str, methods: &[Method]) -> Result<(), TrainError> {
    if methods.iter().any(|method| method.takes(name)) {
        return Ok(());
    }
    let list = |methods: &mut dyn Iterator<Item = Method>| {
        methods.map(Method::name).collect::<Vec<_>>().join(", ")
    };
    Err(TrainError::options(format!(
        "{name} has no effect with {}: it belongs to {}",
        list(&mut methods.iter().copied()),
        list(&mut Method::ALL.into_iter().filter(|method| method.takes(name)))
    )))
}

/// Refuses a number outside of its bounds.
pub(crate) fn within(name: &str, found: f32, least: f32, most: f32) -> Result<(), TrainError> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(TrainError::options(format!("{name} is {found}, {least} to {most} was expected")))
}

#[cfg(test)]
mod tests;
