//! Low-rank adapters: opened archives, and the sets that sessions choose from.

#[cfg(feature = "std")]
mod build;
mod classifier;
#[cfg(feature = "std")]
mod dora;
mod factor;
mod lora;
#[cfg(feature = "std")]
mod numbers;
mod selection;
mod set;
#[cfg(feature = "std")]
mod shared;
#[cfg(feature = "alloc")]
mod verify;

#[cfg(feature = "std")]
pub(crate) use build::label_fault;
#[cfg(feature = "std")]
pub use build::{AdapterBuilder, ClassifierParts, Orientation, Place, PoolerParts, TargetParts};
pub use classifier::Classifier;
pub(crate) use classifier::check_labels;
pub use factor::{Factor, FactorValues};
#[cfg(feature = "std")]
pub(crate) use lora::MAX_RANK;
pub use lora::{Adapter, LowRank};
#[cfg(feature = "std")]
pub use numbers::{FactorFormat, Numbers};
pub use selection::Chosen;
pub(crate) use selection::{Handle, Selection};
#[cfg(feature = "alloc")]
pub use set::AttachError;
pub use set::{Active, AdapterSet, Base, Choice, Generation, Resolve, Slot, check_fit};
#[cfg(feature = "std")]
pub use shared::{Bytes, Pinned, SharedAdapter, SharedSet};
