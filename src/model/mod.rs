//! Model families: what each is made of and its forward pass.

mod base;
pub mod bert;
pub(crate) mod family;
pub mod llama;
pub mod lstm;
pub mod mlp;
mod opened;
#[cfg(feature = "std")]
mod rewritten;
#[cfg(feature = "alloc")]
pub(crate) mod stored;

pub use base::AnyBase;
#[cfg(feature = "std")]
pub use base::has_fast;
#[cfg(feature = "std")]
pub(crate) use base::with_family;
pub use family::Family;
pub use opened::Opened;
#[cfg(feature = "std")]
pub(crate) use rewritten::{converted, rewritten};
