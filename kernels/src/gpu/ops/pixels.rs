//! Pictures as bytes, which is how they go to the device and come back.

use super::blocks;
use crate::backend::{PixelRange, Shape};
use crate::error::Result;
use crate::gpu::{Arg, Device, GpuBackend, GpuTensor, Launch, Variant};

pub(in crate::gpu) fn variants() -> Vec<Variant> {
    vec![variant()]
}

fn variant() -> Variant {
    Variant::new("pixels", &[])
}

/// Between `pixels` and `x`, values times `factor` plus `shift`.
fn launch<D: Device>(
    gpu: &GpuBackend<D>,
    entry: &'static str,
    pixels: &D::Buffer,
    x: &GpuTensor<D>,
    [factor, shift]: [f32; 2],
) -> Result<()> {
    let args = [Arg::Buffer(pixels), x.arg(), Arg::F32(factor), Arg::F32(shift), Arg::U32(x.len() as u32)];
    let launch = Launch { grid: [blocks(x.len(), 8 * 256), 1, 1], block: 256, shared: 0 };
    gpu.launch(&variant(), entry, launch, &args)
}

/// Pictures of `shape` from their pixels.
pub(in crate::gpu) fn from_pixels<D: Device>(
    gpu: &GpuBackend<D>,
    pixels: &[u8],
    shape: Shape,
    range: PixelRange,
) -> Result<GpuTensor<D>> {
    let out = gpu.empty(shape)?;
    let affine = match range {
        PixelRange::Unit => [1.0 / 255.0, 0.0],
        PixelRange::Signed => [2.0 / 255.0, -1.0],
    };
    launch(gpu, "from_pixels", &gpu.filled(pixels)?, &out, affine)?;
    Ok(out)
}

/// The pixels of pictures. That halves are rounded to even makes no difference to [`PixelRange::Unit`]: the only value of fp16
/// that lies between two pixels is 1/2, and the upper one of its neighbours is even.
pub(in crate::gpu) fn to_pixels<D: Device>(
    gpu: &GpuBackend<D>,
    x: &GpuTensor<D>,
    range: PixelRange,
) -> Result<Vec<u8>> {
    let affine = match range {
        PixelRange::Unit => [1.0, 0.0],
        PixelRange::Signed => [0.5, 0.5],
    };
    let pixels = gpu.device.allocate(x.len())?;
    launch(gpu, "to_pixels", &pixels, x, affine)?;
    let mut bytes = vec![0; x.len()];
    gpu.device.download(&pixels, &mut bytes)?;
    Ok(bytes)
}
