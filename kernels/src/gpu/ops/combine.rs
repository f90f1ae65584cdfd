//! Linear combinations of tensors, and what chooses or bounds values.

use super::blocks;
use crate::error::Result;
use crate::gpu::{Arg, Device, GpuBackend, GpuTensor, Launch, Variant};

/// By how many terms each does.
const COMBINE: [&str; 6] = ["combine1", "combine2", "combine3", "combine4", "combine5", "combine6"];

pub(in crate::gpu) fn variants() -> Vec<Variant> {
    vec![Variant::new("combine", &[])]
}

/// `entry` of these tensors, which are of one shape.
fn launch<D: Device>(
    gpu: &GpuBackend<D>,
    entry: &'static str,
    xs: &[&GpuTensor<D>],
    factors: &[f32],
) -> Result<GpuTensor<D>> {
    let out = gpu.empty(xs[0].shape)?;
    let mut args: Vec<_> = xs.iter().map(|x| x.arg()).collect();
    args.push(out.arg());
    args.extend(factors.iter().map(|factor| Arg::F32(*factor)));
    args.push(Arg::U32(out.len() as u32));
    let launch = Launch { grid: [blocks(out.len(), 8 * 256), 1, 1], block: 256, shared: 0 };
    gpu.launch(&Variant::new("combine", &[]), entry, launch, &args)?;
    Ok(out)
}

/// The sum of each factor times its tensor, of one shape; one term at least.
pub(in crate::gpu) fn combine<D: Device>(
    gpu: &GpuBackend<D>,
    terms: &[(f32, &GpuTensor<D>)],
) -> Result<GpuTensor<D>> {
    let some = |terms: &[(f32, &GpuTensor<D>)]| {
        let (factors, xs): (Vec<_>, Vec<_>) = terms.iter().copied().unzip();
        launch(gpu, COMBINE[terms.len() - 1], &xs, &factors)
    };
    let (first, rest) = terms.split_at(terms.len().min(COMBINE.len()));
    let mut sum = some(first)?;
    for more in rest.chunks(COMBINE.len() - 1) {
        sum = some(&[&[(1.0, &sum)], more].concat())?;
    }
    Ok(sum)
}

/// Each value within `limit` of 0.
pub(in crate::gpu) fn clamp<D: Device>(
    gpu: &GpuBackend<D>,
    x: &GpuTensor<D>,
    limit: f32,
) -> Result<GpuTensor<D>> {
    launch(gpu, "clamp", &[x], &[limit])
}

/// `x * mask + y * (1 - mask)` of equal shapes.
pub(in crate::gpu) fn blend<D: Device>(
    gpu: &GpuBackend<D>,
    x: &GpuTensor<D>,
    y: &GpuTensor<D>,
    mask: &GpuTensor<D>,
) -> Result<GpuTensor<D>> {
    launch(gpu, "blend", &[x, y, mask], &[])
}
