//! Memory of NVIDIA GPUs through NVML, which comes with the driver. Best effort: without driver or GPU there is no figure,
//! and that is no error.

#![allow(unsafe_code)]

use std::{
    ffi::{c_int, c_uint, c_ulonglong, c_void},
    sync::OnceLock,
};

use libloading::{Library, Symbol};

/// Memory of one GPU in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Not in use by any process.
    pub free_mb: u64,
    /// All of it.
    pub total_mb: u64,
}

const SUCCESS: c_int = 0;

/// `nvmlMemory_t` of nvml.h.
#[repr(C)]
#[derive(Default)]
struct NvmlMemory {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

struct Nvml {
    library: Library,
}

/// The memory of the GPU with this index, none when there is no such GPU or no driver.
pub fn memory(index: u32) -> Option<Memory> {
    static NVML: OnceLock<Option<Nvml>> = OnceLock::new();
    NVML.get_or_init(Nvml::open).as_ref()?.memory(index)
}

impl Nvml {
    fn open() -> Option<Self> {
        // SAFETY: the driver's library has no initialisers that break this process's invariants, and the symbol has the
        // type that nvml.h declares.
        unsafe {
            let library = Library::new("libnvidia-ml.so.1").ok()?;
            let init: Symbol<unsafe extern "C" fn() -> c_int> = library.get(b"nvmlInit_v2\0").ok()?;
            if init() != SUCCESS {
                return None;
            }
            Some(Self { library })
        }
    }

    fn memory(&self, index: u32) -> Option<Memory> {
        let mut memory = NvmlMemory::default();
        // SAFETY: the symbols have the types that nvml.h declares, NVML was initialised, and the out-pointers are valid for
        // writes of their types.
        unsafe {
            type GetHandle = unsafe extern "C" fn(c_uint, *mut *mut c_void) -> c_int;
            type GetMemory = unsafe extern "C" fn(*mut c_void, *mut NvmlMemory) -> c_int;
            let get_handle: Symbol<GetHandle> = self.library.get(b"nvmlDeviceGetHandleByIndex_v2\0").ok()?;
            let get_memory: Symbol<GetMemory> = self.library.get(b"nvmlDeviceGetMemoryInfo\0").ok()?;
            let mut device = std::ptr::null_mut();
            if get_handle(index, &mut device) != SUCCESS || get_memory(device, &mut memory) != SUCCESS {
                return None;
            }
        }
        Some(Memory { free_mb: memory.free >> 20, total_mb: memory.total >> 20 })
    }
}
