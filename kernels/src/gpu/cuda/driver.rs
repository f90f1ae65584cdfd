//! The CUDA driver: whether there is one, a device's context, and what the driver's errors mean.

use std::sync::OnceLock;

use cudarc::driver::{result::DriverError, sys};
use sys::CUresult;

use super::properties::Properties;
use crate::error::{Error, Result};

/// CUDA 11.4, the first driver that has every function in use.
const OLDEST_DRIVER: [u32; 2] = [11, 4];

/// An error before there is a device to name.
pub fn unavailable(what: String) -> Error {
    Error::Device { device: "CUDA".into(), what, lost: false }
}

/// The driver's words for one of its errors.
pub fn describe(error: DriverError) -> String {
    let name = match error.error_name() {
        Ok(name) => name.to_string_lossy(),
        Err(_) => format!("error {}", error.0 as u32).into(),
    };
    match error.error_string() {
        Ok(text) => format!("{} ({name})", text.to_string_lossy()),
        Err(_) => name.into_owned(),
    }
}

/// Loads and initialises the driver, once.
fn load() -> Result<()> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED.get_or_init(try_load).clone().map_err(unavailable)
}

fn try_load() -> Result<(), String> {
    // Without the library, cudarc would panic at the first call.
    // SAFETY: the driver's library has no initialisers with preconditions.
    if !unsafe { sys::is_culib_present() } {
        let library = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
        return Err(format!("no NVIDIA driver: {library} was not found"));
    }
    let version = match version() {
        Err(DriverError(CUresult::CUDA_ERROR_STUB_LIBRARY)) => {
            return Err("the libcuda.so that was found is the CUDA toolkit's stub for linking, not the NVIDIA driver's: \
                        take its folder out of LD_LIBRARY_PATH"
                .into());
        }
        other => other.map_err(describe)?,
    };
    if version < OLDEST_DRIVER {
        let [major, minor] = version;
        return Err(format!("the NVIDIA driver is too old: it knows CUDA {major}.{minor}, 11.4 is needed"));
    }
    // SAFETY: no preconditions.
    match unsafe { sys::cuInit(0) }.result() {
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => Err("no NVIDIA GPU".into()),
        other => other.map_err(|error| format!("the NVIDIA driver does not start: {}", describe(error))),
    }
}

/// How many devices there are.
pub fn count() -> Result<usize> {
    load()?;
    let mut count = 0;
    // SAFETY: the driver is initialised; the pointer is to a local.
    unsafe { sys::cuDeviceGetCount(&mut count) }.result().map_err(|error| unavailable(describe(error)))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// The handle of a device.
pub fn device(ordinal: usize) -> Result<sys::CUdevice> {
    let count = count()?;
    let number = i32::try_from(ordinal).ok().filter(|_| ordinal < count);
    let number = number.ok_or_else(|| unavailable(format!("there is no device {ordinal}, only {count}")))?;
    let mut device = 0;
    // SAFETY: the driver is initialised; the pointer is to a local.
    let code = unsafe { sys::cuDeviceGet(&mut device, number) };
    code.result().map_err(|error| unavailable(format!("device {ordinal}: {}", describe(error))))?;
    Ok(device)
}

/// The version of CUDA that the driver knows, major and minor.
pub fn version() -> Result<[u32; 2], DriverError> {
    let mut version = 0;
    // SAFETY: the pointer is to a local; this function may be called before `cuInit`.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    let version = u32::try_from(version).unwrap_or(0);
    Ok([version / 1000, version % 1000 / 10])
}

/// Whether the device is of no more use to this process: after these, every call fails.
fn is_fatal(code: CUresult) -> bool {
    use CUresult::*;
    matches!(
        code,
        CUDA_ERROR_DEINITIALIZED
            | CUDA_ERROR_DEVICE_UNAVAILABLE
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUDA_ERROR_CONTAINED
            | CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_TENSOR_MEMORY_LEAK
            | CUDA_ERROR_MPS_CLIENT_TERMINATED
            | CUDA_ERROR_SYSTEM_NOT_READY
            | CUDA_ERROR_EXTERNAL_DEVICE
            | CUDA_ERROR_UNKNOWN
    )
}

/// The primary context of a device.
pub struct Context {
    device: sys::CUdevice,
    raw: sys::CUcontext,
    /// In words.
    pub name: String,
    /// Of its device.
    pub properties: Properties,
    /// Why it is of no more use, once it is not.
    lost: OnceLock<String>,
}

// SAFETY: the context may be made current to any thread.
unsafe impl Send for Context {}
// SAFETY: it may be current to any number of threads; the driver's functions lock what they share.
unsafe impl Sync for Context {}

impl Context {
    /// The context of device `ordinal`.
    pub fn new(ordinal: usize) -> Result<Self> {
        let device = device(ordinal)?;
        let properties = Properties::of(device, ordinal)?;
        let name = format!("{} (CUDA device {ordinal})", properties.name);
        let raw = std::ptr::null_mut();
        let mut context = Self { device, raw, name, properties, lost: OnceLock::new() };
        if let Some(reason) = context.properties.too_old() {
            return Err(context.error(reason));
        }
        // Who waits for the device sleeps; else each lane would keep a core busy. Where somebody else has made the context
        // already, theirs holds.
        let flags = sys::CUctx_flags::CU_CTX_SCHED_BLOCKING_SYNC as u32;
        // SAFETY: the device exists.
        let _ = unsafe { sys::cuDevicePrimaryCtxSetFlags_v2(device, flags) };
        let mut raw = std::ptr::null_mut();
        // SAFETY: the device exists; the pointer is to a local.
        context.check(unsafe { sys::cuDevicePrimaryCtxRetain(&mut raw, device) }, "its context")?;
        context.raw = raw;
        Ok(context)
    }

    /// Bytes of memory that nobody holds.
    pub fn free(&self) -> Result<usize> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the context is current; the pointers are to locals.
        self.check(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }, "its memory")?;
        Ok(free)
    }

    /// What went wrong, though the device is still there.
    pub fn error(&self, what: String) -> Error {
        Error::Device { device: self.name.clone(), what, lost: false }
    }

    fn lost(&self, what: String) -> Error {
        Error::Device { device: self.name.clone(), what, lost: true }
    }

    /// Why the device is of no more use, once it is not.
    pub fn why_lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// What a call that did `what` returned. Kernels run later: their errors come from whatever is called then.
    pub fn check(&self, code: CUresult, what: &str) -> Result<()> {
        let Err(error) = code.result() else { return Ok(()) };
        let text = format!("{what}: {}", describe(error));
        if is_fatal(code) {
            return Err(self.lost(self.lost.get_or_init(|| text).clone()));
        }
        Err(self.error(text))
    }

    /// Makes it the calling thread's context, as nearly every call of the driver needs; an error at once where the device
    /// is lost.
    pub fn enter(&self) -> Result<()> {
        match self.lost.get() {
            Some(what) => Err(self.lost(what.clone())),
            // SAFETY: retained as long as `self` is.
            None => self.check(unsafe { sys::cuCtxSetCurrent(self.raw) }, "its context"),
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: retained in `new`; whatever was made in it holds it, and so is gone.
            let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_driver_is_an_error_and_no_panic() {
        let Err(error) = count() else {
            println!("skipped: there is a driver");
            return;
        };
        let text = error.to_string();
        assert!(text.starts_with("CUDA: "), "{text}");
        // SAFETY: as in `try_load`.
        if !unsafe { sys::is_culib_present() } {
            let library = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
            assert_eq!(text, format!("CUDA: no NVIDIA driver: {library} was not found"));
        }
        assert_eq!(Context::new(0).err(), Some(error), "the same at each call");
    }

    #[test]
    fn a_fault_of_a_kernel_is_fatal_and_a_refused_request_is_not() {
        for code in [
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
            CUresult::CUDA_ERROR_ECC_UNCORRECTABLE,
            CUresult::CUDA_ERROR_MPS_CLIENT_TERMINATED,
        ] {
            assert!(is_fatal(code), "{code:?}");
        }
        for code in [
            CUresult::CUDA_ERROR_OUT_OF_MEMORY,
            CUresult::CUDA_ERROR_INVALID_VALUE,
            CUresult::CUDA_ERROR_INVALID_PTX,
            CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
        ] {
            assert!(!is_fatal(code), "{code:?}");
        }
    }
}
