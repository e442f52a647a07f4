//! What commands share: options, opened files, printing. No command is here.

pub(crate) mod attach;
#[cfg(feature = "cuda")]
pub(crate) mod card;
pub(crate) mod estimate;
pub(crate) mod files;
pub(crate) mod methods;
pub(crate) mod model;
pub(crate) mod output;
pub(crate) mod progress;
pub(crate) mod prompt;
pub(crate) mod reply;
pub(crate) mod results;
pub(crate) mod sampling;
pub(crate) mod template;
pub(crate) mod train_names;
pub(crate) mod train_options;
