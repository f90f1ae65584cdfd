//! Operations that take each value by itself.

use super::blocks;
use crate::backend::{Shape, Unary};
use crate::error::Result;
use crate::gpu::{Arg, Device, GpuBackend, GpuTensor, Launch, Variant};

pub(in crate::gpu) fn variants() -> Vec<Variant> {
    vec![Variant::new("elementwise", &[])]
}

/// One thread for so many of the result's values.
fn launch<D: Device>(
    gpu: &GpuBackend<D>,
    entry: &'static str,
    each: usize,
    out: &GpuTensor<D>,
    args: &[Arg<'_, D::Buffer>],
) -> Result<()> {
    let launch = Launch { grid: [blocks(out.len(), each * 256), 1, 1], block: 256, shared: 0 };
    gpu.launch(&Variant::new("elementwise", &[]), entry, launch, args)
}

/// The entry for so many channels, of the two that do 8 of them and one, and which it is.
fn by_channels(channels: usize, [eight, one]: [&'static str; 2]) -> (&'static str, usize) {
    if channels.is_multiple_of(8) { (eight, 8) } else { (one, 1) }
}

/// `x * alpha + y` of equal shapes.
pub(in crate::gpu) fn scale_add<D: Device>(
    gpu: &GpuBackend<D>,
    x: &GpuTensor<D>,
    alpha: f32,
    y: &GpuTensor<D>,
) -> Result<GpuTensor<D>> {
    let out = gpu.empty(x.shape)?;
    let args = [x.arg(), y.arg(), out.arg(), Arg::F32(alpha), Arg::U32(x.len() as u32)];
    launch(gpu, "scale_add", 8, &out, &args)?;
    Ok(out)
}

/// `f` of each value.
pub(in crate::gpu) fn unary<D: Device>(
    gpu: &GpuBackend<D>,
    x: &GpuTensor<D>,
    f: Unary,
) -> Result<GpuTensor<D>> {
    let entry = match f {
        Unary::Identity => return Ok(x.clone()),
        Unary::Relu => "unary1",
        Unary::Silu => "unary2",
        Unary::Gelu => "unary3",
        Unary::QuickGelu => "unary4",
        Unary::Tanh => "unary5",
    };
    let out = gpu.empty(x.shape)?;
    launch(gpu, entry, 8, &out, &[x.arg(), out.arg(), Arg::U32(x.len() as u32)])?;
    Ok(out)
}

/// `x > 0 ? x : slope[c] * x`; a single slope is for all channels.
pub(in crate::gpu) fn prelu<D: Device>(
    gpu: &GpuBackend<D>,
    x: &GpuTensor<D>,
    slope: &[f32],
) -> Result<GpuTensor<D>> {
    let out = gpu.empty(x.shape)?;
    let count = Arg::U32(x.len() as u32);
    if let [slope] = slope {
        launch(gpu, "leaky_relu", 8, &out, &[x.arg(), out.arg(), Arg::F32(*slope), count])?;
        return Ok(out);
    }
    let (entry, each) = by_channels(slope.len(), ["prelu8", "prelu1"]);
    let slopes = gpu.floats(slope)?;
    let args = [x.arg(), Arg::Buffer(&slopes), out.arg(), Arg::U32(slope.len() as u32), count];
    launch(gpu, entry, each, &out, &args)?;
    Ok(out)
}

/// The first half of each row times the GELU of the second; to `shape`.
pub(in crate::gpu) fn geglu<D: Device>(
    gpu: &GpuBackend<D>,
    x: &GpuTensor<D>,
    shape: Shape,
) -> Result<GpuTensor<D>> {
    let out = gpu.empty(shape)?;
    let width = shape[3];
    let (entry, each) = by_channels(width, ["geglu8", "geglu1"]);
    let args = [x.arg(), out.arg(), Arg::U32(width as u32), Arg::U32(out.len() as u32)];
    launch(gpu, entry, each, &out, &args)?;
    Ok(out)
}

/// `x + bias[image][channel]`
pub(in crate::gpu) fn add_channels<D: Device>(
    gpu: &GpuBackend<D>,
    x: &GpuTensor<D>,
    bias: &GpuTensor<D>,
) -> Result<GpuTensor<D>> {
    let out = gpu.empty(x.shape)?;
    let [_, c, h, w] = x.shape;
    let (entry, each) = by_channels(c, ["add_channels8", "add_channels1"]);
    let args = [
        x.arg(),
        bias.arg(),
        out.arg(),
        Arg::U32(c as u32),
        Arg::U32((c * h * w) as u32),
        Arg::U32(x.len() as u32),
    ];
    launch(gpu, entry, each, &out, &args)?;
    Ok(out)
}
