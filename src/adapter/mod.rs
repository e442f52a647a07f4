//! Adapters: opened archives, and the sets that sessions choose from.
//!
//! | set | slots | changed by | adapters |
//! |---|---|---|---|
//! | [`AdapterSet`] | the caller's | whoever has it `&mut` | borrow their archive |
//! | `SharedSet` (`std`) | its own | any thread, compare-and-swap on generations | own their archive |
//!
//! ```
//! use lowrank::adapter::Adapter;
//! # use lowrank::archive::ArchiveFile;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let file = ArchiveFile::open("assets/tiny-pirate.lrk")?;
//! let adapter = Adapter::open(&file)?;
//! let layer = adapter.targets().next().unwrap();
//! println!("{}: {}, rank {}", adapter.name(), adapter.method(), layer.rank);
//! # Ok(())
//! # }
//! ```

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
pub use lora::{Adapter, LowRank, Scaled};
#[cfg(feature = "std")]
pub use numbers::{FactorFormat, Numbers};
pub use selection::Chosen;
pub(crate) use selection::{Handle, Rules, Selection};
#[cfg(feature = "alloc")]
pub use set::AttachError;
pub use set::{Active, AdapterSet, Base, Choice, Generation, Resolve, Slot, check_fit};
#[cfg(feature = "std")]
pub use shared::{Bytes, Pinned, SharedAdapter, SharedSet};
