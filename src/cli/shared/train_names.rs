//! The choices that options of training offer, by their names on the command line.

use clap::ValueEnum;
use lowrank::train::Init;
use lowrank::train::data::Task;
use lowrank::train::optimizer::OptimizerKind;
use lowrank::train::schedule::ScheduleShape;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TaskName {
    /// Language modelling: the next token
    Lm,
    /// One label for a whole text or row of numbers
    Classify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScheduleName {
    Constant,
    Linear,
    Cosine,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OptimizerName {
    /// Two f32 a parameter
    Adamw,
    /// The same in 8 bits
    Adamw8bit,
    /// One f32 a parameter with momentum
    Sgd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum InitName {
    Kaiming,
    Gaussian,
}

impl From<ScheduleName> for ScheduleShape {
    fn from(name: ScheduleName) -> Self {
        match name {
            ScheduleName::Constant => Self::Constant,
            ScheduleName::Linear => Self::Linear,
            ScheduleName::Cosine => Self::Cosine,
        }
    }
}

impl From<OptimizerName> for OptimizerKind {
    fn from(name: OptimizerName) -> Self {
        match name {
            OptimizerName::Adamw => Self::adamw(),
            OptimizerName::Adamw8bit => Self::adamw_8bit(),
            OptimizerName::Sgd => Self::Sgd { momentum: 0.9 },
        }
    }
}

impl From<TaskName> for Task {
    fn from(name: TaskName) -> Self {
        match name {
            TaskName::Lm => Self::LanguageModel,
            TaskName::Classify => Self::Classify,
        }
    }
}

impl From<InitName> for Init {
    fn from(name: InitName) -> Self {
        match name {
            InitName::Kaiming => Self::Kaiming,
            InitName::Gaussian => Self::Gaussian,
        }
    }
}
