//! Sixteen lanes as an array, which the compiler spreads over the registers that the target has.

use super::{Simd, Task};
use crate::cpu::packed::widen;

#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn zip(a: [f32; 16], b: [f32; 16], op: impl Fn(f32, f32) -> f32) -> [f32; 16] {
    std::array::from_fn(|i| op(a[i], b[i]))
}

impl Simd for Portable {
    type V = [f32; 16];
    const PANEL: usize = 1;
    // An array takes four 128-bit registers, of which x86-64 has 16 and aarch64 32.
    const ROWS1: usize = if cfg!(target_arch = "x86_64") { 2 } else { 6 };

    #[inline(always)]
    unsafe fn enter<T: Task>(task: T) {
        #[inline(never)]
        unsafe fn separate<T: Task>(task: T) {
            // SAFETY: no instructions are needed beyond the target's own.
            unsafe { task.run::<Portable>() }
        }
        // SAFETY: the caller's promise about the task's fields is passed on.
        unsafe { separate(task) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 16]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: the caller promises sixteen readable floats.
        unsafe { p.cast::<Self::V>().read() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::V) {
        // SAFETY: the caller promises sixteen writable floats.
        unsafe { p.cast::<Self::V>().write(x) }
    }
    #[inline(always)]
    unsafe fn load_half(p: *const u16) -> Self::V {
        // SAFETY: the caller promises sixteen readable halves.
        unsafe { p.cast::<[u16; 16]>().read() }.map(widen)
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Without the instruction, `mul_add` is a call into the C library for each lane.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            std::array::from_fn(|i| a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    unsafe fn leaky(x: Self::V, slope: Self::V) -> Self::V {
        zip(x, slope, |x, slope| if x <= 0.0 { x * slope } else { x })
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn round(x: Self::V) -> Self::V {
        // At 1.5 * 2^23 neighbouring floats are one apart; `round` may be a call into the C library.
        const WHOLE: f32 = 12_582_912.0;
        x.map(|x| (x + WHOLE) - WHOLE)
    }
    #[inline(always)]
    unsafe fn scale(x: Self::V, n: Self::V) -> Self::V {
        zip(x, n, |x, n| x * f32::from_bits(((n as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn above(x: Self::V, limit: Self::V, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| if x[i] > limit[i] { a[i] } else { b[i] })
    }
}
