//! Memory of the device, pinned memory of the host, and copies.

use std::{
    alloc::Layout,
    ffi::{c_uint, c_void},
};

use cudarc::driver::sys::{CUdeviceptr, CUresult, CUstream};

use crate::{
    context::{current, give},
    refuse,
    state::{Driver, Outcome, Work},
};

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize) -> CUresult {
    current(|driver| {
        if bytes == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        driver.take(bytes)?;
        let buffer = driver.memory.allocate(bytes);
        driver.buffers.insert(buffer.address(), buffer);
        // SAFETY: the caller's pointer.
        unsafe { give(address, buffer.address()) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: CUdeviceptr) -> CUresult {
    current(|driver| {
        let buffer = driver.buffers.remove(&address).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        let bytes = driver.memory.len(buffer);
        if driver.is_used((address, address + bytes as u64)) {
            refuse("memory is freed that work uses which has not run yet");
        }
        driver.memory.free(buffer);
        driver.taken -= bytes;
        Ok(())
    })
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 4096).expect("a size of memory")
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, _flags: c_uint) -> CUresult {
    current(|driver| {
        if bytes == 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: not empty.
        let memory = unsafe { std::alloc::alloc(layout(bytes)) };
        if memory.is_null() {
            return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        }
        driver.pinned.insert(memory.addr() as u64, bytes);
        // SAFETY: the caller's pointer.
        unsafe { give(address, memory.cast()) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuMemFreeHost(address: *mut c_void) -> CUresult {
    current(|driver| {
        let at = address.addr() as u64;
        let bytes = driver.pinned.remove(&at).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
        if driver.is_used_host((at, at + bytes as u64)) {
            refuse("pinned memory is freed that a graph, or work that has not run yet, uses");
        }
        // SAFETY: allocated above, with this layout.
        unsafe { std::alloc::dealloc(address.cast(), layout(bytes)) };
        Ok(())
    })
}

/// The host's address, where so many bytes are pinned.
fn pinned(driver: &Driver, address: *const c_void, bytes: usize) -> usize {
    let (from, to) = (address.addr() as u64, (address.addr() + bytes) as u64);
    if !driver.pinned.iter().any(|(at, size)| *at <= from && to <= at + *size as u64) {
        refuse("an asynchronous copy of memory that is not pinned");
    }
    address.expose_provenance()
}

fn checked(driver: &Driver, address: CUdeviceptr, bytes: usize) -> Outcome<u64> {
    let (buffer, offset) = driver.memory.find_buffer(address).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)?;
    let fits = offset + bytes <= driver.memory.len(buffer);
    fits.then_some(address).ok_or(CUresult::CUDA_ERROR_INVALID_VALUE)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    current(|driver| {
        let (to, from) = (checked(driver, to, bytes)?, pinned(driver, from, bytes));
        driver.put(stream.addr() as u64, Work::Upload { from, to, bytes })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    current(|driver| {
        let (from, to) = (checked(driver, from, bytes)?, pinned(driver, to, bytes));
        driver.put(stream.addr() as u64, Work::Download { from, to, bytes })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    current(|driver| {
        let (to, from) = (checked(driver, to, bytes)?, checked(driver, from, bytes)?);
        driver.put(stream.addr() as u64, Work::Copy { from, to, bytes })
    })
}
