//! The device, its context, and what errors are called.

use std::{
    cell::Cell,
    collections::HashMap,
    ffi::{CString, c_char, c_int, c_uint},
    sync::LazyLock,
};

use cudarc::driver::sys::{CUcontext, CUdevice, CUdevice_attribute as Attribute, CUresult};
use parking_lot::Mutex;

use crate::{
    MEMORY, occupancy, refuse,
    state::{Driver, Outcome, driver},
};

/// The only context.
const CONTEXT: usize = 0xC0;

/// CUDA 12.9.
const VERSION: c_int = 12090;

thread_local! {
    static CURRENT: Cell<bool> = const { Cell::new(false) };
}

/// A call's result as the driver returns it.
pub fn result(outcome: Outcome) -> CUresult {
    outcome.err().unwrap_or(CUresult::CUDA_SUCCESS)
}

/// A call that needs the driver only.
fn initialised(call: impl FnOnce(&mut Driver) -> Outcome) -> CUresult {
    let mut driver = driver();
    if !driver.initialised {
        return CUresult::CUDA_ERROR_NOT_INITIALIZED;
    }
    result(call(&mut driver))
}

/// A call that needs a context: the thread's, and one that no fault has lost.
pub fn current(call: impl FnOnce(&mut Driver) -> Outcome) -> CUresult {
    initialised(|driver| match driver.fault {
        Some(fault) => Err(fault),
        None if driver.retained == 0 || !CURRENT.get() => Err(CUresult::CUDA_ERROR_INVALID_CONTEXT),
        None => call(driver),
    })
}

/// Gives the caller what the call is for.
///
/// # Safety
/// The pointer is one to write to.
pub unsafe fn give<T>(to: *mut T, value: T) -> Outcome {
    // SAFETY: as the caller says.
    unsafe { *to = value };
    Ok(())
}

/// Gives the caller text, cut to `bytes` with its zero.
///
/// # Safety
/// The pointer is to as many bytes, and at least one.
unsafe fn write(text: &str, to: *mut c_char, bytes: c_int) -> Outcome {
    let bytes = (bytes as usize).saturating_sub(1).min(text.len());
    // SAFETY: the caller gave so many bytes.
    unsafe {
        to.copy_from_nonoverlapping(text.as_ptr().cast(), bytes);
        *to.add(bytes) = 0;
    }
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(_flags: c_uint) -> CUresult {
    driver().initialised = true;
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CUresult {
    // SAFETY: the caller's pointer, as everywhere in this crate.
    unsafe { *version = VERSION };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CUresult {
    // SAFETY: as above.
    initialised(|_| unsafe { give(count, 1) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) -> CUresult {
    initialised(|_| match ordinal {
        // SAFETY: as above.
        0 => unsafe { give(device, 0) },
        _ => Err(CUresult::CUDA_ERROR_INVALID_DEVICE),
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, bytes: c_int, _device: CUdevice) -> CUresult {
    // SAFETY: as above.
    initialised(|_| unsafe { write("emulated GPU", name, bytes) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetPCIBusId(id: *mut c_char, bytes: c_int, _device: CUdevice) -> CUresult {
    // SAFETY: as above.
    initialised(|_| unsafe { write("0000:00:00.0", id, bytes) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, of: Attribute, _device: CUdevice) -> CUresult {
    initialised(|_| {
        let known = match of {
            Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR => 9,
            Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR => 0,
            Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT => 4,
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR => occupancy::THREADS,
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR => occupancy::REGISTERS,
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR => occupancy::SHARED,
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN => occupancy::BLOCK_SHARED,
            Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE => 50 << 20,
            Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE => 1_000_000,
            Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE => 1_000_000,
            Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH => 1024,
            _ => return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
        };
        // SAFETY: as above.
        unsafe { give(value, known as c_int) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: CUdevice) -> CUresult {
    // SAFETY: as above.
    initialised(|_| unsafe { give(bytes, MEMORY) })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxSetFlags_v2(_device: CUdevice, _flags: c_uint) -> CUresult {
    initialised(|_| Ok(()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, _device: CUdevice) -> CUresult {
    initialised(|driver| {
        driver.retained += 1;
        // SAFETY: as above.
        unsafe { give(context, std::ptr::without_provenance_mut(CONTEXT)) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: CUdevice) -> CUresult {
    initialised(|driver| {
        driver.retained = driver.retained.checked_sub(1).ok_or(CUresult::CUDA_ERROR_INVALID_CONTEXT)?;
        let left = [
            ("buffers", driver.buffers.len()),
            ("pinned buffers", driver.pinned.len()),
            ("streams", driver.streams.len()),
            ("events", driver.events.len()),
            ("modules", driver.modules.len()),
            ("graphs", driver.graphs.len() + driver.executables.len()),
        ];
        // Where the device is lost, nothing of it can be given back.
        if driver.retained == 0 && driver.fault.is_none() && left.iter().any(|(_, count)| *count > 0) {
            refuse(&format!("the context goes, and leaves behind: {left:?}"));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: CUcontext) -> CUresult {
    initialised(|driver| {
        if context.addr() != CONTEXT || driver.retained == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_CONTEXT);
        }
        CURRENT.set(true);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    current(|driver| {
        // SAFETY: as above.
        unsafe {
            give(free, MEMORY - driver.taken)?;
            give(total, MEMORY)
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorName(error: CUresult, name: *mut *const c_char) -> CUresult {
    static NAMES: LazyLock<Mutex<HashMap<u32, CString>>> = LazyLock::new(Mutex::default);
    let mut names = NAMES.lock();
    let known = names
        .entry(error as u32)
        .or_insert_with(|| CString::new(format!("{error:?}")).expect("a name has no zero"));
    // SAFETY: as above. Names are never dropped, and stay where they are.
    unsafe { *name = known.as_ptr() };
    CUresult::CUDA_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuGetErrorString(error: CUresult, text: *mut *const c_char) -> CUresult {
    // SAFETY: as above.
    unsafe { cuGetErrorName(error, text) }
}
