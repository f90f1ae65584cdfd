//! What functions need, and how many blocks of them fit a multiprocessor at the same time, as on an H100.

use std::ffi::c_int;

use cudarc::driver::sys::{CUfunction, CUfunction_attribute as Attribute, CUresult};
use reverie_ptx as ptx;

use crate::{
    context::{current, give},
    launch::function,
};

/// Threads of a multiprocessor, its registers, and bytes of its shared memory.
pub const THREADS: usize = 2048;
pub const REGISTERS: usize = 64 << 10;
pub const SHARED: usize = 228 << 10;

/// Bytes of shared memory that a block may have. Beside them each takes [`RESERVED`].
pub const BLOCK_SHARED: usize = 227 << 10;
const RESERVED: usize = 1 << 10;

/// Blocks of a multiprocessor.
const BLOCKS: usize = 32;

/// Threads of a block where the kernel does not say.
const BLOCK: u32 = 1024;

/// Registers of a thread. Nothing assigns them here: a number that most kernels are near to on a GPU, but no more than there are
/// for the largest block.
fn registers(kernel: &ptx::Kernel) -> usize {
    64.min(REGISTERS / threads(kernel) as usize)
}

fn threads(kernel: &ptx::Kernel) -> u32 {
    kernel.largest_block().unwrap_or(BLOCK)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuFuncGetAttribute(value: *mut c_int, of: Attribute, handle: CUfunction) -> CUresult {
    current(|driver| {
        let kernel = function(driver, handle)?.kernel()?;
        let known = match of {
            Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK => threads(kernel) as usize,
            Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS => registers(kernel),
            // Nothing is ever spilled.
            Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES => 0,
            Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES => kernel.shared_bytes(),
            _ => return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
        };
        // SAFETY: the caller's pointer.
        unsafe { give(value, known as c_int) }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    blocks: *mut c_int,
    handle: CUfunction,
    block: c_int,
    dynamic: usize,
) -> CUresult {
    current(|driver| {
        let kernel = function(driver, handle)?.kernel()?;
        let block = usize::try_from(block).map_err(|_| CUresult::CUDA_ERROR_INVALID_VALUE)?;
        if block == 0 || block > threads(kernel) as usize {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // Warps get their registers by 256.
        let warps = block.div_ceil(32);
        let registers = warps * (32 * registers(kernel)).next_multiple_of(256);
        let shared = kernel.shared_bytes() + dynamic + RESERVED;
        let fit = [BLOCKS, THREADS / (32 * warps), REGISTERS / registers, SHARED / shared];
        // SAFETY: the caller's pointer.
        unsafe { give(blocks, fit.into_iter().min().unwrap_or(0) as c_int) }
    })
}
