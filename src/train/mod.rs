//! Training adapters, and whole models, on the device. `std` only.

mod any;
mod attention;
mod bert;
mod body;
mod checkpoint;
pub mod data;
mod eight_bit;
mod error;
mod evaluate;
mod llama;
mod lstm;
mod method;
mod mlp;
mod norms;
mod ops;
pub mod optimizer;
mod options;
mod parallel;
mod plan;
mod planner;
mod product;
pub mod random;
mod run;
pub mod schedule;
mod step;
mod trainer;

pub use any::AnyBase;
pub use error::TrainError;
pub use evaluate::{Measures, evaluate};
pub use method::Method;
pub use optimizer::OptimizerKind;
pub use options::{Init, Options, PatternValue, Targets};
pub use plan::Part;
pub use run::{Control, Event, Length, Report, RunOptions, Warmup, finish, run};
pub use schedule::Shape;
pub use trainer::{Parameter, StepFacts, Trainable, Trainer};
