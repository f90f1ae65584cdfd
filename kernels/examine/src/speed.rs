//! How fast the kernels are, beside what the device itself can do.

mod cases;
mod replay;

use reverie_kernels::{
    Result,
    gpu::{Device as _, GpuBackend, ceiling, cuda::Cuda},
};
use serde::Serialize;

use crate::correctness::Sizes;
use cases::{Case, Work};
use replay::Effort;

/// What the device does at best, as measured on it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ceilings {
    /// GB/s (1e9) that a copy within the device reads and writes.
    pub copy_gb_s: f64,
    /// TFLOP/s of fp16 products with sums in fp32, out of registers by `mma`. By `wgmma` a device may do more.
    pub product_tflop_s: f64,
}

/// The time of one operation, replayed from a recorded graph so that the host's calls do not count.
#[derive(Debug, Clone, Serialize)]
pub struct Speed {
    /// Such as `attention`, `linear`, `conv`, `upsample`.
    pub operation: &'static str,
    /// Shapes and options.
    pub case: String,
    /// The kernels that did it: `mma`, `wgmma`, or empty where there is one way only.
    pub path: &'static str,
    /// Median, in milliseconds.
    pub ms: f64,
    /// In `unit`: of the plain arithmetic, or of the bytes of the pictures before and after.
    pub rate: f64,
    /// `TFLOP/s` or `GB/s`.
    pub unit: &'static str,
    /// Of the product ceiling, or of the rate of a copy that moves as many bytes; above 1 where it is faster.
    pub share: f64,
}

/// Measures what the device does at best: at [`Sizes::Small`] only that it can.
///
/// # Errors
/// Those of the device, among them that there is no memory for the copy: 512 MiB at [`Sizes::Real`].
pub fn ceilings(cuda: &Cuda, sizes: Sizes) -> Result<Ceilings> {
    let (bytes, blocks, rounds) = match sizes {
        Sizes::Small => (1 << 20, 2, 1),
        // Far more than a cache holds, and than runs at a time: about a millisecond each.
        Sizes::Real => (256 << 20, 16384, 32),
    };
    let effort = Effort::of(sizes);
    let copy_ms = copy_ms(cuda, effort, bytes)?;
    let gpu = GpuBackend::new(cuda.clone());
    let product_ms = effort.median_ms(cuda, || ceiling::products(&gpu, blocks, rounds))?;
    Ok(Ceilings {
        copy_gb_s: copied(bytes, copy_ms),
        product_tflop_s: ceiling::operations(blocks, rounds) as f64 / product_ms / 1e9,
    })
}

/// Measures the operations of Stable Diffusion 1.5 (512×512), SDXL (1024×1024) and Real-ESRGAN, or a few tiny ones. Only those of
/// which one of the `filters` is part of the name, `operation case`; without any, all. Each is told to `each` as it is known.
///
/// # Errors
/// Those of the device.
pub fn speeds(
    cuda: &Cuda,
    ceilings: &Ceilings,
    sizes: Sizes,
    filters: &[String],
    each: &mut dyn FnMut(&Speed),
) -> Result<Vec<Speed>> {
    let gpu = GpuBackend::new(cuda.clone());
    let effort = Effort::of(sizes);
    let mut all = Vec::new();
    for case in wanted(sizes, filters) {
        let (operation, name) = (case.operation(), case.name());
        let ms = {
            let work = case.prepare(&gpu)?;
            effort.median_ms(cuda, || work(&gpu))?
        };
        let (rate, unit, share) = match case.work() {
            Work::Operations(count) => {
                let rate = count as f64 / ms / 1e9;
                (rate, "TFLOP/s", rate / ceilings.product_tflop_s)
            }
            Work::Bytes(bytes) => {
                let rate = bytes as f64 / ms / 1e6;
                // What it moves may fit into a cache: then so does what the copy moves.
                (rate, "GB/s", rate / copied(bytes / 2, copy_ms(cuda, effort, bytes / 2)?))
            }
        };
        let speed = Speed { operation, path: path(cuda, &case), case: name, ms, rate, unit, share };
        each(&speed);
        all.push(speed);
    }
    Ok(all)
}

/// Runs these operations once each, in order, for a profiler to watch; their names.
///
/// # Errors
/// Those of the device.
pub fn once(cuda: &Cuda, sizes: Sizes, filters: &[String]) -> Result<Vec<String>> {
    let gpu = GpuBackend::new(cuda.clone());
    let run = |case: Case| {
        case.prepare(&gpu)?(&gpu)?;
        cuda.synchronise()?;
        Ok(format!("{} {}", case.operation(), case.name()))
    };
    wanted(sizes, filters).map(run).collect()
}

/// The cases of which one of the filters is part of the name; without any, all.
fn wanted(sizes: Sizes, filters: &[String]) -> impl Iterator<Item = Case> {
    cases::all(sizes).into_iter().filter(|case| {
        let name = format!("{} {}", case.operation(), case.name());
        filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
    })
}

/// Attention alone has two ways.
fn path(cuda: &Cuda, case: &Case) -> &'static str {
    match case {
        Case::Attention { queries, keys, width, .. } => {
            let grouped = GpuBackend::<Cuda>::attends_by_wgmma(*width, *queries, *keys, false);
            if cuda.wgmma() && grouped { "wgmma" } else { "mma" }
        }
        _ => "",
    }
}

/// Milliseconds of a copy of so many bytes within the device.
fn copy_ms(cuda: &Cuda, effort: Effort, bytes: usize) -> Result<f64> {
    let [from, to] = [cuda.allocate(bytes)?, cuda.allocate(bytes)?];
    effort.median_ms(cuda, || cuda.copy(&from, &to, bytes))
}

/// GB/s of a copy, which reads each byte and writes it.
fn copied(bytes: usize, ms: f64) -> f64 {
    2.0 * bytes as f64 / ms / 1e6
}
