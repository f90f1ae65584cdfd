//! Channels that become pixels.

use super::blocks;
use crate::backend::Shape;
use crate::error::Result;
use crate::gpu::{Arg, Device, GpuBackend, GpuTensor, Launch, Variant};

/// Factors with code of their own.
const FACTORS: [usize; 3] = [2, 3, 4];

pub(in crate::gpu) fn variants() -> Vec<Variant> {
    let factors = FACTORS.into_iter().chain([0]);
    factors.flat_map(|factor| [variant(factor, 1), variant(factor, 2)]).collect()
}

fn variant(factor: usize, values: usize) -> Variant {
    Variant::new("pixel_shuffle", &[("FACTOR", factor as i64), ("VALUES", values as i64)])
}

/// The shuffle to `shape`, plus `base` with each of its pixels repeated `factor` × `factor` times.
pub(in crate::gpu) fn pixel_shuffle<D: Device>(
    gpu: &GpuBackend<D>,
    x: &GpuTensor<D>,
    factor: usize,
    base: Option<&GpuTensor<D>>,
    shape: Shape,
) -> Result<GpuTensor<D>> {
    let out = gpu.empty(shape)?;
    let [_, channels, _, width] = shape;
    let values = if (width * channels).is_multiple_of(2) { 2 } else { 1 };
    let variant = variant(if FACTORS.contains(&factor) { factor } else { 0 }, values);
    let count = out.len() / factor / values;
    let (entry, base) = match base {
        Some(base) => ("shuffle_add", base.arg()),
        None => ("shuffle", Arg::Null),
    };
    let args = [
        x.arg(),
        base,
        out.arg(),
        Arg::U32(factor as u32),
        Arg::U32(channels as u32),
        Arg::U32(x.shape[3] as u32),
        Arg::U32(count as u32),
    ];
    gpu.launch(&variant, entry, Launch { grid: [blocks(count, 256), 1, 1], block: 256, shared: 0 }, &args)?;
    Ok(out)
}
