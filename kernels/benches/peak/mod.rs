//! What the machine's multipliers can do at best: fused multiply-adds on registers alone.

use std::time::Instant;

/// Steps of a run: some milliseconds.
const STEPS: usize = 4_000_000;

/// GFLOP/s of `threads` threads together, best of several runs; `None` where there is no kernel for the CPU.
pub fn gflops(threads: usize) -> Option<f64> {
    let (kernel, flops) = kernel()?;
    let mut best = f64::MAX;
    for _ in 0..10 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(move || std::hint::black_box(kernel(STEPS)));
            }
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    Some((threads * STEPS * flops) as f64 / best / 1e9)
}

/// A loop over register accumulators of so many steps, and the floating-point operations of one step.
type Kernel = (fn(usize) -> f32, usize);

#[cfg(target_arch = "x86_64")]
fn kernel() -> Option<Kernel> {
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the feature was found.
        return Some((|steps| unsafe { avx512(steps) }, 24 * 16 * 2));
    }
    let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    // SAFETY: the features were found.
    found.then_some((|steps| unsafe { avx2(steps) }, 12 * 8 * 2))
}

#[cfg(not(target_arch = "x86_64"))]
fn kernel() -> Option<Kernel> {
    None
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(steps: usize) -> f32 {
    use std::arch::x86_64::*;
    let (a, b) = (_mm512_set1_ps(std::hint::black_box(0.5)), _mm512_set1_ps(std::hint::black_box(0.25)));
    let mut sums = [_mm512_setzero_ps(); 24];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, a, b);
        }
    }
    sums.into_iter().map(|x| _mm512_reduce_add_ps(x)).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2(steps: usize) -> f32 {
    use std::arch::x86_64::*;
    let (a, b) = (_mm256_set1_ps(std::hint::black_box(0.5)), _mm256_set1_ps(std::hint::black_box(0.25)));
    let mut sums = [_mm256_setzero_ps(); 12];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, a, b);
        }
    }
    sums.into_iter().map(|x| _mm256_cvtss_f32(x)).sum()
}
