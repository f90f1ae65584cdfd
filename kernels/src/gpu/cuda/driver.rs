//! The CUDA driver: whether there is one, a device's context and stream, and what the driver's errors mean.

use std::{
    ffi::{CStr, c_char},
    mem::MaybeUninit,
    sync::{Arc, OnceLock},
};

use cudarc::driver::{result::DriverError, sys};
use sys::{CUdevice_attribute as Attribute, CUresult};

use crate::error::{Error, Result};

/// CUDA 11.4, the first driver that has every function in use.
const OLDEST_DRIVER: i32 = 11040;

/// The first compute capability that the kernels are written for (`cp.async`, `ldmatrix` and `mma` of 16×8×16).
const OLDEST_CAPABILITY: i32 = 8;

/// An error before there is a device to name.
fn unavailable(what: String) -> Error {
    Error::Device { device: "CUDA".into(), what, lost: false }
}

/// The driver's words for one of its errors.
fn describe(error: DriverError) -> String {
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
    let mut version = 0;
    // SAFETY: the pointer is to a local; this function may be called before `cuInit`.
    match unsafe { sys::cuDriverGetVersion(&mut version) }.result() {
        Err(DriverError(CUresult::CUDA_ERROR_STUB_LIBRARY)) => {
            return Err("the libcuda.so that was found is the CUDA toolkit's stub for linking, not the NVIDIA driver's: \
                        take its folder out of LD_LIBRARY_PATH"
                .into());
        }
        other => other.map_err(describe)?,
    }
    if version < OLDEST_DRIVER {
        let (major, minor) = (version / 1000, version % 1000 / 10);
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

/// What a call of the driver writes as text.
fn text(call: impl FnOnce(*mut c_char, i32) -> CUresult) -> Result<String, DriverError> {
    // The last byte is kept back, and stays zero.
    let mut bytes = [0u8; 256];
    call(bytes.as_mut_ptr().cast(), bytes.len() as i32 - 1).result()?;
    Ok(CStr::from_bytes_until_nul(&bytes).unwrap_or_default().to_string_lossy().into_owned())
}

/// The primary context of a device.
pub struct Context {
    device: sys::CUdevice,
    raw: sys::CUcontext,
    /// In words.
    pub name: String,
    /// Where it is plugged in, as NVML names it; empty where the driver does not say.
    pub pci_bus_id: String,
    /// Why it is of no more use, once it is not.
    lost: OnceLock<String>,
}

// SAFETY: the handles may be used from any thread.
unsafe impl Send for Context {}
// SAFETY: the driver does its own locking.
unsafe impl Sync for Context {}

impl Context {
    /// The context of device `ordinal`.
    pub fn new(ordinal: usize) -> Result<Self> {
        let count = count()?;
        let number = i32::try_from(ordinal).ok().filter(|_| ordinal < count);
        let number =
            number.ok_or_else(|| unavailable(format!("there is no device {ordinal}, only {count}")))?;
        let named = |device: sys::CUdevice| {
            // SAFETY: as many bytes as are said.
            let name = text(|to, bytes| unsafe { sys::cuDeviceGetName(to, bytes, device) })?;
            Ok(format!("{name} (CUDA device {ordinal})"))
        };
        let open = || {
            let mut device = 0;
            // SAFETY: the driver is initialised; the pointer is to a local.
            unsafe { sys::cuDeviceGet(&mut device, number) }.result()?;
            Ok((device, named(device)?))
        };
        let (device, name) =
            open().map_err(|error| unavailable(format!("device {ordinal}: {}", describe(error))))?;
        // SAFETY: as many bytes as are said.
        let pci_bus_id = text(|to, bytes| unsafe { sys::cuDeviceGetPCIBusId(to, bytes, device) });
        let mut context = Self {
            device,
            raw: std::ptr::null_mut(),
            name,
            pci_bus_id: pci_bus_id.unwrap_or_default(),
            lost: OnceLock::new(),
        };
        let [major, minor] = context.capability()?;
        if major < OLDEST_CAPABILITY {
            return Err(context.error(format!(
                "its compute capability is {major}.{minor}; {OLDEST_CAPABILITY}.0 is needed (RTX 30, A100 or newer)"
            )));
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

    /// An error where attention can't use `wgmma`: tensor maps need CUDA 12.0, the instructions compute capability 9.0, and no
    /// other.
    pub fn check_wgmma(&self) -> Result<()> {
        let [major, minor] = self.capability()?;
        let mut version = 0;
        // SAFETY: the pointer is to a local.
        self.check(unsafe { sys::cuDriverGetVersion(&mut version) }, "its driver's version")?;
        if [major, minor] != [9, 0] || version < 12000 {
            return Err(self.error(format!(
                "wgmma needs compute capability 9.0 and a driver of CUDA 12.0; it has {major}.{minor} and {}.{}",
                version / 1000,
                version % 1000 / 10
            )));
        }
        Ok(())
    }

    fn capability(&self) -> Result<[i32; 2]> {
        Ok([
            self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ])
    }

    /// A property of the device.
    pub fn attribute(&self, attribute: Attribute) -> Result<i32> {
        let mut value = 0;
        // SAFETY: the pointer is to a local.
        self.check(
            unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, self.device) },
            "its properties",
        )?;
        Ok(value)
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

/// A queue of work that runs in order.
pub struct Stream {
    pub context: Arc<Context>,
    raw: sys::CUstream,
}

// SAFETY: the handle may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: the driver does its own locking.
unsafe impl Sync for Stream {}

impl Stream {
    /// One that does not wait for the default stream.
    pub fn new(context: Arc<Context>) -> Result<Self> {
        context.enter()?;
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is current; the pointer is to a local.
        context.check(unsafe { sys::cuStreamCreate(&mut raw, flags) }, "a stream")?;
        Ok(Self { context, raw })
    }

    /// The handle, for as long as `self` lives.
    pub fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Has what is put into it from now on run after all that is in `earlier`, of the same context, so far.
    pub fn follow(&self, earlier: &Stream) -> Result<()> {
        let mark = Event::mark(self.context.clone())?;
        mark.record(earlier)?;
        // SAFETY: both exist, in the same context. The driver keeps what it needs of the event.
        let code = unsafe { sys::cuStreamWaitEvent(self.raw, mark.raw, 0) };
        self.context.check(code, "waiting for another stream")
    }

    /// Waits until all that is in it has run.
    pub fn synchronise(&self) -> Result<()> {
        self.context.enter()?;
        // SAFETY: the stream exists.
        self.context.check(unsafe { sys::cuStreamSynchronize(self.raw) }, "waiting for what was launched")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made in `new`. The driver lets what is in it finish.
            let _ = unsafe { sys::cuStreamDestroy_v2(self.raw) };
        }
    }
}

/// A point in a stream.
pub struct Event {
    context: Arc<Context>,
    raw: sys::CUevent,
}

// SAFETY: the handle may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: the driver does its own locking.
unsafe impl Sync for Event {}

impl Event {
    /// One that was not recorded yet, to wait for. Of all kinds this one costs streams the least.
    pub fn mark(context: Arc<Context>) -> Result<Self> {
        Self::new(context, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// One that was not recorded yet, to tell the time between two.
    pub fn timed(context: Arc<Context>) -> Result<Self> {
        Self::new(context, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn new(context: Arc<Context>, flags: sys::CUevent_flags) -> Result<Self> {
        context.enter()?;
        // Who waits for it sleeps.
        let flags = flags as u32 | sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32;
        let mut raw = MaybeUninit::uninit();
        // SAFETY: the context is current; the pointer is to a local.
        context.check(unsafe { sys::cuEventCreate(raw.as_mut_ptr(), flags) }, "an event")?;
        // SAFETY: written, as the call succeeded.
        Ok(Self { context, raw: unsafe { raw.assume_init() } })
    }

    /// Puts it after all that is in the stream so far.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        self.context.enter()?;
        // SAFETY: both exist, in the same context.
        self.context.check(unsafe { sys::cuEventRecord(self.raw, stream.raw) }, "an event")
    }

    /// Waits for what came before it; returns at once where it was never recorded.
    pub fn wait(&self) -> Result<()> {
        self.context.enter()?;
        // SAFETY: the event exists.
        self.context.check(unsafe { sys::cuEventSynchronize(self.raw) }, "waiting for what was launched")
    }

    /// Milliseconds from `earlier`; both are timed, were recorded and waited for.
    pub fn since(&self, earlier: &Event) -> Result<f32> {
        self.context.enter()?;
        let mut milliseconds = 0.0;
        // SAFETY: both exist; the pointer is to a local.
        let code = unsafe { sys::cuEventElapsedTime(&mut milliseconds, earlier.raw, self.raw) };
        self.context.check(code, "the time between events")?;
        Ok(milliseconds)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made in `new`.
            let _ = unsafe { sys::cuEventDestroy_v2(self.raw) };
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
