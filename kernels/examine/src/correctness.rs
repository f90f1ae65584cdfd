//! Whether results are right: each operation against the CPU, and what the device itself must keep.

use serde::Serialize;

/// How large the tensors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sizes {
    /// A tile or two, with rests: quick even on an emulated driver.
    Small,
    /// Those of Stable Diffusion, SDXL and Real-ESRGAN.
    Real,
}

/// One case of an operation.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Such as `attention`, `conv2d`, `group_norm`, `recording`, `memory`.
    pub operation: &'static str,
    /// Shapes and options.
    pub case: String,
    /// The kernels that did it: `mma`, `wgmma`, or empty where there is one way only.
    pub path: &'static str,
    /// The largest difference from the CPU's result, over its largest value.
    pub worst: f32,
    /// What is allowed of that.
    pub allowed: f32,
    /// What came of it.
    pub verdict: Verdict,
}

/// What came of a check.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Within what is allowed.
    Right,
    /// Not within it: a text that says where and how, for whoever mends it without the GPU.
    Differs(String),
    /// An error of the device or the driver.
    Failed(String),
    /// Not done here, and why.
    Skipped(String),
}
