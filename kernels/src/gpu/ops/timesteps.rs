//! Sinusoids of numbers: only the numbers go to the device.

use super::blocks;
use crate::backend::{Shape, Timesteps};
use crate::error::Result;
use crate::gpu::{Arg, Device, GpuBackend, GpuTensor, Launch, Variant};

pub(in crate::gpu) fn variants() -> Vec<Variant> {
    [1, 8].map(variant).to_vec()
}

fn variant(values: usize) -> Variant {
    Variant::new("timesteps", &[("VALUES", values as i64)])
}

/// The embeddings of `values`, one after the other, as `shape`.
pub(in crate::gpu) fn timestep_embedding<D: Device>(
    gpu: &GpuBackend<D>,
    values: &[f32],
    timesteps: Timesteps,
    shape: Shape,
) -> Result<GpuTensor<D>> {
    let Timesteps { num_channels, flip_sin_to_cos, downscale_freq_shift } = timesteps;
    let out = gpu.empty(shape)?;
    let half = num_channels / 2;
    let each = if half.is_multiple_of(8) && num_channels.is_multiple_of(2) { 8 } else { 1 };
    let threads = num_channels.div_ceil(2) / each;
    let count = values.len() * threads;
    let (sine_at, cosine_at) = if flip_sin_to_cos { (half, 0) } else { (0, half) };
    let step = -10000f64.log2() / (half as f64 - f64::from(downscale_freq_shift));
    let numbers = gpu.floats(values)?;
    let args = [
        Arg::Buffer(&numbers),
        out.arg(),
        Arg::F32(step as f32),
        Arg::U32(num_channels as u32),
        Arg::U32(half as u32),
        Arg::U32(sine_at as u32),
        Arg::U32(cosine_at as u32),
        Arg::U32(threads as u32),
        Arg::U32(count as u32),
    ];
    let launch = Launch { grid: [blocks(count, 256), 1, 1], block: 256, shared: 0 };
    gpu.launch(&variant(each), "timesteps", launch, &args)?;
    Ok(out)
}
