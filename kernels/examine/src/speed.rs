//! How fast the kernels are, beside what the device itself can do.

use serde::Serialize;

/// What the device does at best, as measured on it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ceilings {
    /// GB/s (1e9) that a copy within the device reads and writes.
    pub copy_gb_s: f64,
    /// TFLOP/s of fp16 products with sums in fp32, out of registers by `mma`.
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
    /// In `unit`.
    pub rate: f64,
    /// `TFLOP/s` or `GB/s`.
    pub unit: &'static str,
    /// Of the ceiling, 0..1.
    pub share: f64,
}
