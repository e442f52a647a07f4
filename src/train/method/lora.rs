//! LoRA (arXiv 2106.09685): `y = W x + s·B A x`, s = alpha / r; and QLoRA (arXiv 2305.14314), the
//! same with W in NF4, through which the gradient flows.

use super::Rules;
use crate::quant::Format;
use crate::train::TrainError;

pub(super) struct Lora;

impl Rules for Lora {}

pub(super) struct QLora;

impl Rules for QLora {
    fn check(&self, targets: &[Format]) -> Result<(), TrainError> {
        match targets.iter().find(|format| !matches!(format, Format::Nf4 | Format::Nf4Plain)) {
            None => Ok(()),
            Some(format) => Err(TrainError::options(format!(
                "qlora trains on an nf4 base, a target of this one is {}; import it with --weights nf4, or take lora",
                format.name()
            ))),
        }
    }
}
