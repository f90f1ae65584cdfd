//! Vectors of sixteen `f32`, in the widest form that the machine has.
//!
//! Kernels are written once over [`Simd`] and compiled once for each [`Level`]: [`Level::run`] enters a
//! function with the level's target features enabled, into which the kernel is inlined.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// The instructions that the CPU backend may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// What every CPU of the compilation target has: SSE2 on x86-64, NEON on aarch64.
    Portable,
    /// AVX2 and FMA.
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
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
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
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `x > 0 ? x : slope * x`
    unsafe fn leaky(x: Self::V, slope: Self::V) -> Self::V;
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
