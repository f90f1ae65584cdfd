//! Tensor maps, by which TMA copies boxes of a tensor.

use std::mem::MaybeUninit;

use cudarc::driver::sys;

use super::driver::Context;
use crate::{error::Result, gpu::TensorMap};

/// The driver's form of a map of the memory from `address` on.
pub fn encode<B>(map: &TensorMap<'_, B>, address: u64, context: &Context) -> Result<sys::CUtensorMap> {
    let mut encoded = MaybeUninit::uninit();
    let rank = map.dimensions.len() as u32;
    let whole = [1u32; 4];
    // SAFETY: the arrays have `rank` values, and one less for the strides; all outlive the call.
    let code = unsafe {
        sys::cuTensorMapEncodeTiled(
            encoded.as_mut_ptr(),
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            rank,
            std::ptr::without_provenance_mut(address as usize),
            map.dimensions.as_ptr(),
            map.strides.as_ptr(),
            map.shape.as_ptr(),
            whole.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    let shape = (map.dimensions, map.strides, map.shape);
    context.check(code, &format!("a tensor map of {shape:?}"))?;
    // SAFETY: written, as the call succeeded.
    Ok(unsafe { encoded.assume_init() })
}
