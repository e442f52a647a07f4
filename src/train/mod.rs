//! Training adapters, and whole models, on the device. `std` only.

mod attention;
mod body;
pub mod data;
mod eight_bit;
mod error;
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
pub mod schedule;
mod step;
mod trainer;

pub use error::TrainError;
pub use method::Method;
pub use optimizer::OptimizerKind;
pub use options::{Init, Options, PatternValue, Targets};
pub use plan::Part;
pub use schedule::Shape;
pub use trainer::{Parameter, StepFacts, Trainable, Trainer};
