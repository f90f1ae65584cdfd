//! Between planes of fp32, as the host has them, and fp16 with the channels last.

use super::blocks;
use crate::error::Result;
use crate::gpu::{Arg, Device, GpuBackend, GpuTensor, Launch, Variant};

/// Up to so many channels, a thread does a pixel.
const FEW: usize = 4;

pub(in crate::gpu) fn variants() -> Vec<Variant> {
    (0..=FEW).map(variant).collect()
}

/// For tensors of `channels`, or for more than [`FEW`] with 0.
fn variant(channels: usize) -> Variant {
    Variant::new("layout", &[("CHANNELS", channels as i64)])
}

fn launch<D: Device>(
    gpu: &GpuBackend<D>,
    entry: &'static str,
    planes: &D::Buffer,
    x: &GpuTensor<D>,
) -> Result<()> {
    let [n, c, h, w] = x.shape;
    let (variant, blocks) = if c <= FEW {
        (variant(c), blocks(n * h * w, 256))
    } else {
        (variant(0), (n * c.div_ceil(32) * (h * w).div_ceil(32)) as u32)
    };
    let args =
        [Arg::Buffer(planes), x.arg(), Arg::U32(n as u32), Arg::U32(c as u32), Arg::U32((h * w) as u32)];
    gpu.launch(&variant, entry, Launch { grid: [blocks, 1, 1], block: 256, shared: 0 }, &args)
}

/// Fills `out` from fp32 values in N, C, H, W order.
pub(in crate::gpu) fn from_planes<D: Device>(
    gpu: &GpuBackend<D>,
    planes: &D::Buffer,
    out: &GpuTensor<D>,
) -> Result<()> {
    launch(gpu, "from_planes", planes, out)
}

/// A buffer of fp32 values in N, C, H, W order.
pub(in crate::gpu) fn to_planes<D: Device>(gpu: &GpuBackend<D>, x: &GpuTensor<D>) -> Result<D::Buffer> {
    let planes = gpu.allocate(4 * x.len())?;
    launch(gpu, "to_planes", &planes, x)?;
    Ok(planes)
}
