//! A card: its context, the kernels in it, and the stream that all work of this crate goes through.
//!
//! Here and in `buffer` is what cannot be proven to the compiler: calls of the driver.

use core::ffi::{CStr, c_void};
use std::ffi::CString;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use cust::context::{Context, CurrentContext};
use cust::device::Device as Card;
use cust::stream::{Stream, StreamFlags};
use cust::sys::{
    CUfunction, CUjit_option, CUmodule, CUstream, cuLaunchKernel, cuModuleGetFunction,
    cuModuleLoadDataEx, cuModuleUnload,
};

use super::CudaError;
use super::buffer::Buffer;

/// The kernels as they are committed in `ptx/`.
const SOURCES: [(&str, &str); 12] = [
    ("activation", include_str!("../../ptx/activation.ptx")),
    ("argmax", include_str!("../../ptx/argmax.ptx")),
    ("attention", include_str!("../../ptx/attention.ptx")),
    ("best", include_str!("../../ptx/best.ptx")),
    ("dense", include_str!("../../ptx/dense.ptx")),
    ("low_rank", include_str!("../../ptx/low_rank.ptx")),
    ("nf4", include_str!("../../ptx/nf4.ptx")),
    ("norm", include_str!("../../ptx/norm.ptx")),
    ("pool", include_str!("../../ptx/pool.ptx")),
    ("rotary", include_str!("../../ptx/rotary.ptx")),
    ("swiglu", include_str!("../../ptx/swiglu.ptx")),
    ("tensor", include_str!("../../ptx/tensor.ptx")),
];

/// Those of training, which are compiled when something is trained.
const TRAINING: (&str, &str) = ("training", include_str!("../../ptx/training.ptx"));

/// A kernel of a loaded module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel(CUfunction);

// SAFETY: a handle of the driver, which may be used by any thread whose context is the module's.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// Loaded PTX. Not `cust`'s: that knows no "unsupported PTX version" and asks for no log.
#[derive(Debug)]
struct Module(CUmodule);

// SAFETY: as of a kernel.
unsafe impl Send for Module {}
// SAFETY: as of a kernel.
unsafe impl Sync for Module {}

/// Room for what the driver's compiler has to say.
const LOG: usize = 1024;

impl Module {
    fn load(file: &str, source: &str) -> Result<Self, CudaError> {
        let source = CString::new(source).map_err(|_| CudaError::refused("a NUL in the PTX"))?;
        let (mut module, mut log) = (core::ptr::null_mut(), [0u8; LOG]);
        let mut options = [
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let size = core::ptr::without_provenance_mut::<c_void>(LOG - 1);
        let mut values = [log.as_mut_ptr().cast::<c_void>(), size];
        // SAFETY: text that ends with a NUL, a place for the module, two options and their values:
        // a buffer, and its size without the NUL at the end.
        let result = unsafe {
            cuModuleLoadDataEx(
                &mut module,
                source.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        let said = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
        let said = said.lines().next().unwrap_or_default();
        let what =
            format!("loading ptx/{file}.ptx{}{said}", if said.is_empty() { "" } else { ", " });
        CudaError::check(&what, result)?;
        Ok(Self(module))
    }

    fn function(&self, name: &CStr) -> Option<Kernel> {
        let mut function = core::ptr::null_mut();
        // SAFETY: a loaded module, a name that ends with a NUL, a place for the answer.
        let result = unsafe { cuModuleGetFunction(&mut function, self.0, name.as_ptr()) };
        (result as u32 == 0).then_some(Kernel(function))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded in `load`, unloaded once; the device has entered its context.
        let _ = unsafe { cuModuleUnload(self.0) };
    }
}

/// A card with the kernels loaded.
#[derive(Debug)]
pub struct Device {
    modules: Vec<Module>,
    training: OnceLock<Module>,
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
            modules.push(Module::load(file, source)?);
        }
        let stream = Stream::new(StreamFlags::NON_BLOCKING, None).map_err(refused("a stream"))?;
        let training = OnceLock::new();
        Ok(Arc::new(Self { modules, training, stream, context, name }))
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
        let missing = || CudaError::refused(format!("no kernel {name} in ptx/"));
        let symbol = CString::new(name).map_err(|_| missing())?;
        let mut modules = self.modules.iter().chain(self.training.get());
        modules.find_map(|module| module.function(&symbol)).ok_or_else(missing)
    }

    /// Loads the kernels of training, if they are not there.
    pub(super) fn load_training(&self) -> Result<(), CudaError> {
        self.enter()?;
        if self.training.get().is_none() {
            // Of two threads at once one is first; the other's is unloaded.
            let _ = self.training.set(Module::load(TRAINING.0, TRAINING.1)?);
        }
        Ok(())
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

    /// Bytes per second that the card copies from one place of its memory to another, read and
    /// written: the best of three, each some copies of `bytes`.
    ///
    /// # Errors
    /// What the driver says, most often that there is too little memory for two times `bytes`.
    pub fn copy_bandwidth(self: &Arc<Self>, bytes: usize) -> Result<f64, CudaError> {
        const COPIES: usize = 8;
        let buffer = Buffer::of(self, &[2, bytes.max(1)])?;
        let mut best = f64::INFINITY;
        for _ in 0..4 {
            self.wait()?;
            let start = Instant::now();
            (0..COPIES).try_for_each(|_| buffer.copy(0, bytes, bytes))?;
            self.wait()?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(2.0 * (COPIES * bytes) as f64 / best.max(1e-9))
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
