//! Training adapters, and whole models, on the device. Feature `train`.

mod against;
pub(crate) mod attention;
pub(crate) mod body;
pub(crate) mod calibrate;
#[cfg(feature = "cuda")]
mod card;
mod checkpoint;
mod compare;
mod course;
pub mod data;
pub(crate) mod device;
mod divergence;
mod eight_bit;
pub(crate) mod error;
pub(crate) mod evaluate;
mod facts;
pub(crate) mod memory;
mod method;
#[cfg(feature = "cuda")]
mod on_device;
pub(crate) mod ops;
pub mod optimizer;
mod options;
pub(crate) mod plan;
mod planner;
pub(crate) mod product;
mod progress;
pub(crate) mod rebuilt;
mod run;
pub mod schedule;
mod settings;
mod start;
pub(crate) mod step;
mod targets;
pub(crate) mod trainer;

pub use crate::model::AnyBase;
pub use against::{Divergence, bits_per_weight, evaluate_against};
pub use calibrate::{
    CalibrateOptions, CalibrateProgress, Calibrated, LEAST_TOKENS, calibrate, calibration_text,
    own_text,
};
pub use checkpoint::unfinished;
pub use compare::{Meter, Row, Run, Spread, rows, run_method, smoothed};
pub use error::TrainError;
pub use evaluate::{Measures, classify, evaluate, labels};
pub use memory::{Estimate, Workload, estimate};
pub use method::{Method, Part};
#[cfg(feature = "cuda")]
pub use on_device::DeviceBase;
pub use optimizer::OptimizerKind;
pub use options::{Init, MethodOption, Options, PatternValue, TargetModules};
pub use run::{Control, Event, Length, Report, RunOptions, Warmup, finish, kind, run, save};
pub use schedule::ScheduleShape;
pub use start::Start;
pub use trainer::{Parameter, StepFacts, Trainable, Trainer};
