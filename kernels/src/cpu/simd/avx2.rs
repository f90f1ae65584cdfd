//! Sixteen lanes in two 256-bit registers.

use super::{Simd, Task};
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// Applies an operation to both halves.
macro_rules! halves {
    ($op:ident, $($x:ident),+) => {
        // SAFETY: the trait's contract, that the machine has AVX2, FMA and F16C.
        unsafe { [$op($($x[0]),+), $op($($x[1]),+)] }
    };
}

// SAFETY (of every block below): the trait's contract, that the machine has AVX2, FMA and F16C and that pointers
// are good for sixteen floats.
impl Simd for Avx2 {
    type V = [__m256; 2];
    // 2 registers by 6 rows make 12 accumulators of the 16 registers.
    const PANEL: usize = 1;
    const ROWS1: usize = 6;

    #[inline(always)]
    unsafe fn enter<T: Task>(task: T) {
        #[target_feature(enable = "avx2,fma,f16c")]
        #[inline(never)]
        unsafe fn with_features<T: Task>(task: T) {
            // SAFETY: the features are enabled here and present by contract.
            unsafe { task.run::<Avx2>() }
        }
        // SAFETY: as above.
        unsafe { with_features(task) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        // SAFETY: as above.
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: as above.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::V) {
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_ps(p, x[0]);
            _mm256_storeu_ps(p.add(8), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_half(p: *const u16) -> Self::V {
        // SAFETY: as above, for halves.
        unsafe { [p, p.add(8)].map(|p| _mm256_cvtph_ps(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        halves!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    unsafe fn leaky(x: Self::V, slope: Self::V) -> Self::V {
        #[inline(always)]
        unsafe fn half(x: __m256, slope: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe {
                let negative = _mm256_cmp_ps::<_CMP_LE_OQ>(x, _mm256_setzero_ps());
                _mm256_blendv_ps(x, _mm256_mul_ps(x, slope), negative)
            }
        }
        halves!(half, x, slope)
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_min_ps, a, b)
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        halves!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    unsafe fn round(x: Self::V) -> Self::V {
        // SAFETY: as above.
        unsafe { x.map(|x| _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x)) }
    }
    #[inline(always)]
    unsafe fn scale(x: Self::V, n: Self::V) -> Self::V {
        #[inline(always)]
        unsafe fn half(x: __m256, n: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
            }
        }
        halves!(half, x, n)
    }
    #[inline(always)]
    unsafe fn above(x: Self::V, limit: Self::V, a: Self::V, b: Self::V) -> Self::V {
        #[inline(always)]
        unsafe fn half(x: __m256, limit: __m256, a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_blendv_ps(b, a, _mm256_cmp_ps::<_CMP_GT_OQ>(x, limit)) }
        }
        halves!(half, x, limit, a, b)
    }
}
