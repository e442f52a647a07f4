//! What can go wrong with a device: a sentence, and the driver's number.

use core::fmt;

use crate::error::Error;

/// What the driver, the device or a limit of the kernels refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaError {
    code: u32,
    text: String,
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for CudaError {}

impl CudaError {
    /// The driver's result code; 0 where the driver was not asked.
    pub fn code(&self) -> u32 {
        self.code
    }

    /// Something that this crate refuses.
    pub(super) fn refused(text: impl Into<String>) -> Self {
        Self { code: 0, text: text.into() }
    }

    /// What the driver said when it was asked to do `what`.
    pub(super) fn driver(what: &str, code: u32) -> Self {
        let hint = match code {
            2 => "; use a smaller context, batch or model, or free memory of the card",
            218 | 222 => "; the driver is too old for the kernels: CUDA 11.0 or newer is needed",
            _ => "",
        };
        let error = lowrank_cuda_driver::error_text(code);
        Self { code, text: format!("CUDA: {what}: {error} (driver error {code}){hint}") }
    }

    /// The result of a function of the driver.
    pub(super) fn check(what: &str, result: cust::sys::CUresult) -> Result<(), Self> {
        if result as u32 == 0 { Ok(()) } else { Err(Self::driver(what, result as u32)) }
    }
}

/// A limit or a workspace that does not fit.
impl From<Error> for CudaError {
    fn from(error: Error) -> Self {
        Self::refused(error.to_string())
    }
}
