//! A software `libcuda.so.1`: the driver functions that `cust` calls for contexts, memory, modules
//! and launches, over the interpreter. Load this library in the driver's place.
//!
//! One device; everything is done when a call returns, whatever the stream. The text of an error is
//! the whole report, line included. `SOFTPTX_MEMORY` is the device's memory in bytes,
//! `SOFTPTX_LOSE_AFTER` the number of launches after which the device is lost,
//! `SOFTPTX_REFUSE_LAUNCH` the number of a launch that is refused, `SOFTPTX_PTX` ten times the newest
//! version of PTX that is known.
#![allow(non_snake_case, clippy::missing_safety_doc, reason = "the driver's own")]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Fault, Kind, Launch, Memory, Module, launch};

const SUCCESS: c_uint = 0;
const INVALID_VALUE: c_uint = 1;
const OUT_OF_MEMORY: c_uint = 2;
const INVALID_PTX: c_uint = 218;
const UNSUPPORTED_PTX: c_uint = 222;
const NOT_FOUND: c_uint = 500;
const ILLEGAL_ADDRESS: c_uint = 700;
const OUT_OF_RESOURCES: c_uint = 701;
const LAUNCH_FAILED: c_uint = 719;

struct Device {
    memory: Memory,
    modules: Vec<Option<Module>>,
    launches: u64,
    /// The report of a fault: as on hardware, nothing works behind it.
    fault: Option<(c_uint, CString)>,
}

static DEVICE: Mutex<Option<Device>> = Mutex::new(None);

fn setting(name: &str) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(u64::MAX)
}

fn device() -> MutexGuard<'static, Option<Device>> {
    DEVICE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls `work` with the device, unless a fault has ended it.
fn with(work: impl FnOnce(&mut Device) -> Result<(), c_uint>) -> c_uint {
    let mut device = device();
    let device = device.get_or_insert_with(|| Device {
        memory: Memory::default(),
        modules: Vec::new(),
        launches: 0,
        fault: None,
    });
    match &device.fault {
        Some((code, _)) => *code,
        None => work(device).err().unwrap_or(SUCCESS),
    }
}

impl Device {
    /// Notes a fault that ends everything.
    fn fail(&mut self, code: c_uint, text: &str) -> c_uint {
        eprintln!("softptx: {text}");
        self.fault = Some((code, CString::new(text.replace('\0', " ")).unwrap_or_default()));
        code
    }

    fn launch(
        &mut self,
        function: usize,
        grid: [u32; 3],
        block: [u32; 3],
        parameters: impl FnOnce(&[(usize, usize)]) -> Vec<u8>,
    ) -> Result<(), c_uint> {
        self.launches += 1;
        if self.launches > setting("SOFTPTX_LOSE_AFTER") {
            return Err(self.fail(LAUNCH_FAILED, "the device was lost, as SOFTPTX_LOSE_AFTER asks"));
        }
        if self.launches == setting("SOFTPTX_REFUSE_LAUNCH") {
            return Err(OUT_OF_RESOURCES);
        }
        let module = self.modules.get(function >> 16).and_then(Option::as_ref).ok_or(NOT_FOUND)?;
        let entry = module.entries().get(function & 0xffff).ok_or(NOT_FOUND)?;
        let parameters = parameters(entry.parameters());
        let place = Launch { grid, block, parameters: &parameters };
        let result = launch(entry, &place, &mut self.memory);
        let name = entry.name().to_owned();
        result.map(|_| ()).map_err(|fault: Fault| match fault.kind {
            Kind::Launch => INVALID_VALUE,
            _ => self.fail(ILLEGAL_ADDRESS, &format!("{name}, {fault}")),
        })
    }
}

macro_rules! succeed {
    ($($name:ident($($argument:ident: $ty:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name($($argument: $ty),*) -> c_uint {
            with(|_| Ok(()))
        }
    )*};
}

succeed! {
    cuCtxSetCurrent(_context: usize);
    cuCtxSynchronize();
    cuDevicePrimaryCtxRelease_v2(_device: c_int);
    cuDevicePrimaryCtxSetFlags_v2(_device: c_int, _flags: c_uint);
    cuStreamDestroy_v2(_stream: usize);
    cuStreamSynchronize(_stream: usize);
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(_flags: c_uint) -> c_uint {
    SUCCESS
}

/// Functions that answer with one number.
macro_rules! answer {
    ($($name:ident($out:ident: *mut $ty:ty $(, $argument:ident: $other:ty)*) = $value:expr;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($out: *mut $ty $(, $argument: $other)*) -> c_uint {
            // SAFETY: callers of the driver hand in a place for the answer.
            unsafe { $out.write($value) };
            SUCCESS
        }
    )*};
}

answer! {
    cuDriverGetVersion(out: *mut c_int) = 13_000;
    cuDeviceGetCount(out: *mut c_int) = 1;
    cuDeviceGet(out: *mut c_int, _ordinal: c_int) = 0;
    cuDeviceGetAttribute(out: *mut c_int, _attribute: c_int, _device: c_int) = 8;
    cuDeviceTotalMem_v2(out: *mut usize, _device: c_int) = setting("SOFTPTX_MEMORY") as usize;
    cuDevicePrimaryCtxRetain(out: *mut usize, _device: c_int) = 16;
    cuStreamCreateWithPriority(out: *mut usize, _flags: c_uint, _priority: c_int) = 16;
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, _device: c_int) -> c_uint {
    let text = c"softptx".to_bytes_with_nul();
    if (length as usize) < text.len() {
        return INVALID_VALUE;
    }
    // SAFETY: `name` has room for `length` bytes, which is no less.
    unsafe { name.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len()) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(out: *mut u64, size: usize) -> c_uint {
    with(|device| {
        if size == 0 {
            return Err(INVALID_VALUE);
        }
        let most = setting("SOFTPTX_MEMORY");
        if device.memory.used().saturating_add(size) as u64 > most {
            return Err(OUT_OF_MEMORY);
        }
        // SAFETY: the caller's place for the address.
        unsafe { out.write(device.memory.allocate(size)) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: u64) -> c_uint {
    with(|device| if device.memory.free(address) { Ok(()) } else { Err(INVALID_VALUE) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoD_v2(to: u64, from: *const u8, size: usize) -> c_uint {
    // SAFETY: the caller's promise: `size` bytes that may be read.
    let bytes = unsafe { std::slice::from_raw_parts(from, size) };
    with(|device| device.memory.write(to, bytes).map_err(|_| INVALID_VALUE))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: u64,
    from: *const u8,
    size: usize,
    _stream: usize,
) -> c_uint {
    // SAFETY: the caller's promise.
    unsafe { cuMemcpyHtoD_v2(to, from, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut u8, from: u64, size: usize) -> c_uint {
    // SAFETY: the caller's promise: `size` bytes that may be written.
    let bytes = unsafe { std::slice::from_raw_parts_mut(to, size) };
    with(|device| {
        device.memory.read(from, bytes).map_err(|fault| match fault.kind {
            Kind::Uninitialized => device.fail(ILLEGAL_ADDRESS, &fault.text),
            _ => INVALID_VALUE,
        })
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut u8,
    from: u64,
    size: usize,
    _stream: usize,
) -> c_uint {
    // SAFETY: the caller's promise.
    unsafe { cuMemcpyDtoH_v2(to, from, size) }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, size: usize, _stream: usize) -> c_uint {
    with(|device| device.memory.copy(to, from, size).map_err(|_| INVALID_VALUE))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(to: u64, byte: u8, count: usize, _stream: usize) -> c_uint {
    with(|device| device.memory.write(to, &vec![byte; count]).map_err(|_| INVALID_VALUE))
}

/// Ten times the `.version` of PTX.
fn version(source: &str) -> Option<u64> {
    let version = source.lines().find_map(|line| line.strip_prefix(".version "))?;
    version.trim().replace('.', "").parse().ok()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadDataEx(
    out: *mut usize,
    image: *const c_char,
    _count: c_uint,
    _options: *mut c_uint,
    _values: *mut *mut c_void,
) -> c_uint {
    // SAFETY: the caller's promise: PTX that ends with a NUL.
    let source = unsafe { CStr::from_ptr(image) }.to_string_lossy();
    with(|device| {
        if version(&source).is_some_and(|version| version > setting("SOFTPTX_PTX")) {
            return Err(UNSUPPORTED_PTX);
        }
        let module = Module::load(&source, &mut device.memory).map_err(|fault| {
            eprintln!("softptx: {fault}");
            INVALID_PTX
        })?;
        device.modules.push(Some(module));
        // SAFETY: the caller's place for the handle.
        unsafe { out.write(device.modules.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: usize) -> c_uint {
    with(|device| {
        let module = device.modules.get_mut(module.wrapping_sub(1)).and_then(Option::take);
        module.ok_or(INVALID_VALUE)?.unload(&mut device.memory);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    out: *mut usize,
    module: usize,
    name: *const c_char,
) -> c_uint {
    // SAFETY: the caller's promise: a name that ends with a NUL.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    with(|device| {
        let number = module.wrapping_sub(1);
        let module = device.modules.get(number).and_then(Option::as_ref).ok_or(INVALID_VALUE)?;
        let entry = module.entries().iter().position(|entry| entry.name() == name);
        // SAFETY: the caller's place for the handle. Never null: the highest bit is set.
        unsafe { out.write(1 << 63 | number << 16 | entry.ok_or(NOT_FOUND)?) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    function: usize,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    _stream: usize,
    parameters: *const *const u8,
    _extra: *mut *mut c_void,
) -> c_uint {
    with(|device| {
        if shared > 0 {
            return Err(INVALID_VALUE);
        }
        let gather = |places: &[(usize, usize)]| {
            let mut bytes = Vec::new();
            for (i, &(offset, size)) in places.iter().enumerate() {
                // SAFETY: the caller's promise: a pointer to each parameter.
                let parameter = unsafe { std::slice::from_raw_parts(*parameters.add(i), size) };
                bytes.resize(offset, 0);
                bytes.extend(parameter);
            }
            bytes
        };
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        device.launch(function & !(1 << 63), grid, block, gather)
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(code: c_uint, text: *mut *const c_char) -> c_uint {
    let known = match code {
        SUCCESS => c"no error",
        INVALID_VALUE => c"invalid argument",
        OUT_OF_MEMORY => c"out of memory",
        INVALID_PTX => c"a PTX JIT compilation failed",
        UNSUPPORTED_PTX => c"the provided PTX was compiled with an unsupported toolchain.",
        OUT_OF_RESOURCES => c"too many resources requested for launch",
        NOT_FOUND => c"named symbol not found",
        ILLEGAL_ADDRESS => c"an illegal memory access was encountered",
        LAUNCH_FAILED => c"unspecified launch failure",
        _ => c"unknown error",
    };
    let device = device();
    let fault = device.as_ref().and_then(|device| device.fault.as_ref());
    let answer = match fault {
        // A fault's text stays: no second one replaces it.
        Some((found, report)) if *found == code => report.as_ptr(),
        _ => known.as_ptr(),
    };
    // SAFETY: the caller's place for the answer.
    unsafe { text.write(answer) };
    SUCCESS
}
