//! A card: its context, the kernels in it, and the stream that all work of this crate goes through.
//!
//! Here and in `buffer` is what cannot be proven to the compiler: calls of the driver.

use core::ffi::c_void;
use std::sync::Arc;

use cust::context::{Context, CurrentContext};
use cust::device::Device as Card;
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use cust::sys::{CUfunction, CUstream, cuLaunchKernel};

use super::CudaError;

/// The kernels as they are committed in `ptx/`.
const SOURCES: [(&str, &str); 10] = [
    ("activation", include_str!("../../ptx/activation.ptx")),
    ("argmax", include_str!("../../ptx/argmax.ptx")),
    ("attention", include_str!("../../ptx/attention.ptx")),
    ("dense", include_str!("../../ptx/dense.ptx")),
    ("low_rank", include_str!("../../ptx/low_rank.ptx")),
    ("nf4", include_str!("../../ptx/nf4.ptx")),
    ("norm", include_str!("../../ptx/norm.ptx")),
    ("pool", include_str!("../../ptx/pool.ptx")),
    ("rotary", include_str!("../../ptx/rotary.ptx")),
    ("swiglu", include_str!("../../ptx/swiglu.ptx")),
];

/// A kernel of a loaded module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel(CUfunction);

// SAFETY: a handle of the driver, which may be used by any thread whose context is the module's.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// A card with the kernels loaded.
#[derive(Debug)]
pub struct Device {
    modules: Vec<Module>,
    stream: Stream,
    context: Context,
    name: String,
}

impl Device {
    /// Opens card `ordinal`, 0 being the first, and loads the kernels.
    ///
    /// # Errors
    /// "no CUDA driver: …" where there is none; what the driver says otherwise.
    pub fn open(ordinal: usize) -> Result<Arc<Self>, CudaError> {
        lowrank_cuda_driver::driver()
            .map_err(|error| CudaError::refused(format!("no CUDA driver: {error}")))?;
        let refused = |what| move |error| CudaError::driver(what, error as u32);
        cust::init(cust::CudaFlags::empty()).map_err(refused("the driver does not start"))?;
        let count = Card::num_devices().map_err(refused("counting the cards"))?;
        if ordinal >= count as usize {
            return Err(CudaError::refused(format!("there is no card {ordinal}: {count} found")));
        }
        let card = Card::get_device(ordinal as u32).map_err(refused("opening the card"))?;
        let name = card.name().map_err(refused("the card's name"))?;
        let context = Context::new(card).map_err(refused("a context on the card"))?;
        let mut modules = Vec::with_capacity(SOURCES.len());
        for (file, source) in SOURCES {
            let module = Module::from_ptx(source, &[]);
            modules.push(module.map_err(|error| {
                CudaError::driver(&format!("loading ptx/{file}.ptx"), error as u32)
            })?);
        }
        let stream = Stream::new(StreamFlags::NON_BLOCKING, None).map_err(refused("a stream"))?;
        Ok(Arc::new(Self { modules, stream, context, name }))
    }

    /// What the card is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the card the calling thread's; every way in comes through here.
    pub(super) fn enter(&self) -> Result<(), CudaError> {
        CurrentContext::set_current(&self.context)
            .map_err(|error| CudaError::driver("entering the card's context", error as u32))
    }

    /// The kernel called `name`, in whichever file it is.
    pub(super) fn kernel(&self, name: &str) -> Result<Kernel, CudaError> {
        let found = self.modules.iter().find_map(|module| module.get_function(name).ok());
        found
            .map(|function| Kernel(function.to_raw()))
            .ok_or_else(|| CudaError::refused(format!("no kernel {name} in ptx/")))
    }

    pub(super) fn stream(&self) -> CUstream {
        self.stream.as_inner()
    }

    /// Starts a kernel, whose one parameter is `parameters`.
    pub(super) fn launch<P: Copy>(
        &self,
        kernel: Kernel,
        grid: (usize, usize),
        threads: u32,
        parameters: &P,
    ) -> Result<(), CudaError> {
        let mut pointers = [core::ptr::from_ref(parameters).cast_mut().cast::<c_void>()];
        // SAFETY: the kernel belongs to this context; the driver copies the parameters before it
        // returns. A kernel touches memory of the device only, of which no Rust object is made:
        // wrong numbers in `parameters` cost results or this context, never memory safety of the
        // host.
        let result = unsafe {
            cuLaunchKernel(
                kernel.0,
                grid.0 as u32,
                grid.1 as u32,
                1,
                threads,
                1,
                1,
                0,
                self.stream(),
                pointers.as_mut_ptr(),
                core::ptr::null_mut(),
            )
        };
        CudaError::check("a kernel", result)
    }

    /// Waits for all work.
    pub(crate) fn wait(&self) -> Result<(), CudaError> {
        self.stream
            .synchronize()
            .map_err(|error| CudaError::driver("waiting for the card", error as u32))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Modules and stream leave through their context; a lost card has nothing left to leave.
        let _ = self.enter();
    }
}
