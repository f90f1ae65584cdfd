//! Whether results are right: each operation against the CPU, and what the device itself must keep.

mod attention;
mod convolution;
mod device;
mod linear;
mod lookups;
mod normalisation;
mod pictures;
mod run;
mod values;

use reverie_kernels::gpu::cuda::Cuda;
use serde::Serialize;

pub use device::device;
use run::Run;

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

impl Check {
    /// Of one that compares nothing or is not done.
    pub(crate) fn plain(operation: &'static str, case: impl Into<String>, verdict: Verdict) -> Self {
        Self { operation, case: case.into(), path: "", worst: 0.0, allowed: 0.0, verdict }
    }

    /// What filters are parts of: operation, case and path.
    pub fn name(&self) -> String {
        name(self.operation, &self.case, self.path)
    }

    /// Whether something is wrong: it differs or failed.
    pub fn is_wrong(&self) -> bool {
        matches!(self.verdict, Verdict::Differs(_) | Verdict::Failed(_))
    }
}

fn name(operation: &str, case: &str, path: &str) -> String {
    format!("{operation} {case} {path}").trim_end().to_owned()
}

/// Every operation of the backend against the CPU's, in the order of a list that does not change. `mma` is the device opened without
/// `wgmma`, by which all is done; attention is done once more by `wgmma`, the same device opened with it, if it has that. Of
/// `filters`, if there are any, one must be part of [`Check::name`]. Calls `each` as soon as a check is done.
///
/// Does not panic and does not stop: errors are [`Verdict::Failed`], also of all checks that come after a fault has lost the device.
pub fn operations(
    mma: &Cuda,
    wgmma: Option<&Cuda>,
    sizes: Sizes,
    filters: &[String],
    each: &mut dyn FnMut(&Check),
) -> Vec<Check> {
    let mut run = Run::new(mma, wgmma, sizes, filters, each);
    convolution::check(&mut run);
    linear::check(&mut run);
    attention::check(&mut run);
    normalisation::check(&mut run);
    values::check(&mut run);
    pictures::check(&mut run);
    lookups::check(&mut run);
    run.finish()
}
