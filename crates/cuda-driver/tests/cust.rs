//! `cust` over this crate, with a driver or without one: it starts, and says what is wrong.

use cust::error::CudaError;

#[test]
fn cust_starts_and_says_what_is_wrong() {
    let initialized = cust::init(cust::CudaFlags::empty());
    match lowrank_cuda_driver::driver() {
        Ok(()) => assert!(!matches!(initialized, Err(CudaError::SharedObjectInitFailed))),
        Err(why) => {
            assert!(!why.is_empty());
            let error = initialized.unwrap_err();
            assert_eq!(error, CudaError::SharedObjectInitFailed);
            assert!(error.to_string().contains("no CUDA driver"), "{error}");
        }
    }
}

#[test]
fn every_error_has_a_text() {
    for error in [CudaError::UnknownError, CudaError::InvalidValue, CudaError::IllegalAddress] {
        assert!(!error.to_string().is_empty());
    }
}
