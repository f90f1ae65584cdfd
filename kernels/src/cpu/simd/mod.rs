//! Vectors of sixteen `f32`, in the widest form that the machine has.
//!
//! Kernels are written once over [`Simd`] and compiled once for each [`Level`]: [`Level::run`] enters a
//! function with the level's target features enabled, into which the kernel is inlined.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod math;
mod portable;

/// The instructions that the CPU backend may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// What every CPU of the compilation target has: SSE2 on x86-64, NEON on aarch64.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512F.
    Avx512,
}

impl Level {
    /// The widest level of this machine.
    pub fn detect() -> Self {
        Self::available().last().unwrap_or(Self::Portable)
    }

    /// The levels of this machine, from the narrowest to the widest.
    pub fn available() -> impl Iterator<Item = Self> {
        [Self::Portable, Self::Avx2, Self::Avx512].into_iter().filter(|level| level.is_available())
    }

    /// Whether this machine has the level.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The most vectors side by side in a panel of the matrix multiplication's right-hand side.
    pub(crate) fn panel(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::Avx512::PANEL,
            _ => portable::Portable::PANEL,
        }
    }

    /// Runs `task` compiled for this level.
    ///
    /// # Safety
    /// The level must be available, and what the task's own fields promise must hold.
    #[inline]
    pub(crate) unsafe fn run<T: Task>(self, task: T) {
        // SAFETY: the caller promises that the machine has the level's instructions.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => avx512::Avx512::enter(task),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => avx2::Avx2::enter(task),
                _ => portable::Portable::enter(task),
            }
        }
    }
}

/// A kernel, generic over the vectors that it is compiled for.
pub(crate) trait Task {
    /// The kernel's body; implementations must be `#[inline(always)]`, so that they are compiled with the
    /// features of the function that they are inlined into.
    ///
    /// # Safety
    /// The machine has the instructions of `S`, and what the task's own fields promise must hold.
    unsafe fn run<S: Simd>(self);
}

/// Operations on sixteen lanes.
///
/// # Safety
/// Every function needs a machine with the implementation's instructions; `load` and `store` need a pointer
/// to sixteen readable (writable) floats.
pub(crate) trait Simd: Copy + 'static {
    /// Sixteen lanes.
    type V: Copy;
    /// The most vectors side by side in a panel of the matrix multiplication (see `gemm`).
    const PANEL: usize;
    /// Rows of the matrix multiplication's register block for panels of one vector.
    const ROWS1: usize;

    /// Runs `task` in a function with the features enabled.
    unsafe fn enter<T: Task>(task: T);
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, x: Self::V);
    /// Sixteen finite numbers of half precision; `p` is good for as many reads.
    unsafe fn load_half(p: *const u16) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `x > 0 ? x : slope * x`
    unsafe fn leaky(x: Self::V, slope: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The nearest whole number, for values of less than 2²².
    unsafe fn round(x: Self::V) -> Self::V;
    /// `x * 2ⁿ` for whole numbers n of -126 to 127.
    unsafe fn scale(x: Self::V, n: Self::V) -> Self::V;
    /// `x > limit ? a : b`
    unsafe fn above(x: Self::V, limit: Self::V, a: Self::V, b: Self::V) -> Self::V;

    /// The lanes as an array.
    #[inline(always)]
    unsafe fn lanes(x: Self::V) -> [f32; 16] {
        let mut lanes = [0.0; 16];
        // SAFETY: the array has sixteen floats; the caller has the instructions.
        unsafe { Self::store(lanes.as_mut_ptr(), x) };
        lanes
    }

    /// The sum of the lanes, in the same order at every level.
    #[inline(always)]
    unsafe fn sum(x: Self::V) -> f32 {
        // SAFETY: the caller's promise is passed on.
        halve(unsafe { Self::lanes(x) }, |a, b| a + b)
    }

    /// `count` floats, followed by zeros.
    ///
    /// # Safety
    /// `p` is good for `count` reads, at most sixteen.
    #[inline(always)]
    unsafe fn load_first(p: *const f32, count: usize) -> Self::V {
        let mut lanes = [0.0; 16];
        // SAFETY: the caller's promise; the array is large enough.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }

    /// Stores the first `count` lanes.
    ///
    /// # Safety
    /// `p` is good for `count` writes, at most sixteen.
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, x: Self::V, count: usize) {
        // SAFETY: the caller's promise; the array is large enough.
        unsafe { std::ptr::copy_nonoverlapping(Self::lanes(x).as_ptr(), p, count) }
    }
}

/// Folds sixteen lanes to eight, to four, and so on.
#[inline(always)]
fn halve(lanes: [f32; 16], op: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| op(lanes[i], lanes[i + 8]));
    let four: [f32; 4] = std::array::from_fn(|i| op(eight[i], eight[i + 4]));
    op(op(four[0], four[2]), op(four[1], four[3]))
}

/// Asks for the cache line at `p` to be brought near; a hint, so any address will do.
#[inline(always)]
pub(crate) fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and prefetching does not access memory as the language sees it.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}
