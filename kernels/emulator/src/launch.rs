//! Modules, functions and their launches.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    sync::Arc,
};

use cudarc::driver::sys::{
    CUfunction, CUfunction_attribute, CUjit_option, CUmodule, CUresult, CUstream, CUtensorMap,
    CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
    CUtensorMapSwizzle,
};
use reverie_ptx as ptx;

use crate::{
    CODE, OVERHEAD,
    context::{current, give},
    occupancy,
    state::{Driver, Function, Launch, Outcome, Work},
};

/// Dynamic shared memory that a launch may have without its function being asked for it.
const PLAIN_SHARED: usize = 48 << 10;

/// The first bytes of a tensor map.
const MAP: u64 = u64::from_le_bytes(*b"TMA tile");

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut CUmodule,
    text: *const c_void,
    count: c_uint,
    options: *mut CUjit_option,
    values: *mut *mut c_void,
) -> CUresult {
    // SAFETY: the caller's text, which ends in a zero, and its options with as many values.
    let (text, options, values) = unsafe {
        let text = CStr::from_ptr(text.cast());
        let count = count as usize;
        (text, std::slice::from_raw_parts(options, count), std::slice::from_raw_parts_mut(values, count))
    };
    // Other threads use the driver meanwhile.
    let parsed = match text.to_str() {
        Ok(text) => ptx::Module::parse(text).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    current(|driver| {
        let at = |option| options.iter().position(|one| *one == option);
        let log = at(CUjit_option::CU_JIT_ERROR_LOG_BUFFER);
        let size = at(CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES);
        if let (Err(error), Some((log, size))) = (&parsed, log.zip(size)) {
            let bytes = error.len().min(values[size].addr());
            // SAFETY: the caller's buffer has as many bytes as it says.
            unsafe { values[log].cast::<u8>().copy_from_nonoverlapping(error.as_ptr(), bytes) };
            values[size] = std::ptr::without_provenance_mut(bytes);
        } else if let Some(size) = size {
            values[size] = std::ptr::null_mut();
        }
        let parsed = parsed.map_err(|_| CUresult::CUDA_ERROR_INVALID_PTX)?;
        driver.take(OVERHEAD)?;
        let handle = driver.handle();
        driver.modules.insert(handle, (Arc::new(parsed), Vec::new()));
        // SAFETY: the caller's pointer.
        unsafe { give(module, std::ptr::without_provenance_mut(handle as usize)) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: CUmodule) -> CUresult {
    current(|driver| {
        let known = driver.modules.remove(&(module.addr() as u64));
        let (_, functions) = known.ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        driver.taken -= OVERHEAD + CODE * functions.len();
        for function in functions {
            driver.functions.remove(&function);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuModuleGetFunction(
    function: *mut CUfunction,
    module: CUmodule,
    name: *const c_char,
) -> CUresult {
    current(|driver| {
        // SAFETY: the caller's text, which ends in a zero.
        let kernel = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let handle = driver.handle();
        let key = module.addr() as u64;
        let (module, _) = driver.modules.get(&key).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)?;
        let module = module.clone();
        module.kernel(&kernel).map_err(|_| CUresult::CUDA_ERROR_NOT_FOUND)?;
        driver.take(CODE)?;
        driver.modules.entry(key).and_modify(|(_, functions)| functions.push(handle));
        driver.functions.insert(handle, Function { module, kernel, shared: PLAIN_SHARED });
        // SAFETY: the caller's pointer.
        unsafe { give(function, std::ptr::without_provenance_mut(handle as usize)) }
    })
}

pub fn function(driver: &mut Driver, handle: CUfunction) -> Outcome<&mut Function> {
    driver.functions.get_mut(&(handle.addr() as u64)).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncSetAttribute(handle: CUfunction, of: CUfunction_attribute, value: c_int) -> CUresult {
    current(|driver| {
        let function = function(driver, handle)?;
        match of {
            CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES => {
                if function.kernel()?.shared_bytes() + value as usize > occupancy::BLOCK_SHARED {
                    return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
                }
                function.shared = value as usize;
                Ok(())
            }
            _ => Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuLaunchKernel(
    handle: CUfunction,
    x: c_uint,
    y: c_uint,
    z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: CUstream,
    parameters: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> CUresult {
    current(|driver| {
        let Function { module, kernel, shared: most } = function(driver, handle)?;
        let (module, kernel) = (module.clone(), kernel.clone());
        if shared as usize > *most || [y, z].iter().any(|side| *side > 65535) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let sizes = module.kernel(&kernel).map_err(|_| CUresult::CUDA_ERROR_NOT_FOUND)?.parameter_sizes();
        let args = sizes.enumerate().map(|(i, bytes)| {
            // SAFETY: the caller gives as many parameters as the kernel has, of its sizes.
            let value = unsafe { std::slice::from_raw_parts((*parameters.add(i)).cast::<u8>(), bytes) };
            match bytes {
                ptx::TensorMap::BYTES => map(driver, value),
                _ => {
                    let mut bits = [0; 8];
                    bits[..bytes].copy_from_slice(value);
                    Ok(ptx::Arg::Bits(u64::from_le_bytes(bits), bytes))
                }
            }
        });
        let args = args.collect::<Outcome<Vec<_>>>()?;
        let (grid, block) = ([x, y, z], [block_x, block_y, block_z]);
        let launch = Launch { module, kernel, grid, block, shared: shared as usize, args };
        driver.put(stream.addr() as u64, Work::Launch(Arc::new(launch)))
    })
}

/// The tensor map that [`cuTensorMapEncodeTiled`] wrote.
fn map(driver: &Driver, bytes: &[u8]) -> Outcome<ptx::Arg> {
    let word = |i: usize| u64::from_le_bytes(bytes[8 * i..][..8].try_into().expect("8 bytes"));
    match driver.memory.find_buffer(word(1)) {
        Some((buffer, 0)) if word(0) == MAP => Ok(ptx::Arg::Map(ptx::TensorMap {
            buffer,
            dimensions: [2, 3, 4, 5].map(word),
            strides: [6, 7, 8].map(word),
            shape: [9, 10, 11, 12].map(|i| word(i) as u32),
        })),
        _ => Err(CUresult::CUDA_ERROR_INVALID_VALUE),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuTensorMapEncodeTiled(
    map: *mut CUtensorMap,
    data: CUtensorMapDataType,
    rank: c_uint,
    address: *mut c_void,
    dimensions: *const u64,
    strides: *const u64,
    shape: *const u32,
    element_strides: *const u32,
    interleave: CUtensorMapInterleave,
    swizzle: CUtensorMapSwizzle,
    _promotion: CUtensorMapL2promotion,
    fill: CUtensorMapFloatOOBfill,
) -> CUresult {
    current(|_| {
        // SAFETY: the caller's arrays of `rank` values, and one less for the strides.
        let (dimensions, strides, shape, steps) = unsafe {
            let rank = rank as usize;
            (
                std::slice::from_raw_parts(dimensions, rank),
                std::slice::from_raw_parts(strides, rank - 1),
                std::slice::from_raw_parts(shape, rank),
                std::slice::from_raw_parts(element_strides, rank),
            )
        };
        let known = data == CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16
            && interleave == CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE
            && swizzle == CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B
            && fill == CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE
            && rank == 4
            && steps == [1; 4];
        let aligned = map.addr().is_multiple_of(64)
            && address.addr().is_multiple_of(16)
            && strides.iter().all(|stride| stride.is_multiple_of(16) && *stride < 1 << 40);
        let sized = dimensions.iter().all(|side| (1..=1 << 32).contains(side))
            && shape.iter().all(|side| (1..=256).contains(side));
        if !(known && aligned && sized) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let mut words = [0u64; 16];
        let values = [MAP, address.addr() as u64].into_iter();
        let values = values.chain(dimensions.iter().copied()).chain(strides.iter().copied());
        let values = values.chain(shape.iter().map(|side| u64::from(*side)));
        words.iter_mut().zip(values).for_each(|(word, value)| *word = value);
        // SAFETY: a map has 128 bytes, whatever is in them.
        unsafe { give(map.cast(), words) }
    })
}
