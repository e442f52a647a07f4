//! Full fine-tuning: the yardstick. Trains every targeted weight with its bias, and all norms;
//! needs a float base and writes a base.

use super::Rules;
use crate::quant::Format;
use crate::train::TrainError;

pub(super) struct Full;

impl Rules for Full {
    fn check(&self, targets: &[Format]) -> Result<(), TrainError> {
        match targets.iter().find(|format| !matches!(format, Format::F32 | Format::F16)) {
            None => Ok(()),
            Some(format) => Err(TrainError::options(format!(
                "full fine-tuning trains a float base, a target of this one is {}; import it with --weights f32 --embedding f32",
                format.name()
            ))),
        }
    }

    fn is_full(&self) -> bool {
        true
    }
}
