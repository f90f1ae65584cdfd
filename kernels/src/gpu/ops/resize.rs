//! Nearest, bilinear, bicubic and Lanczos resampling.

use super::blocks;
use crate::backend::{Filter, Shape};
use crate::error::Result;
use crate::gpu::{Arg, Device, GpuBackend, GpuTensor, Launch, Variant};
use crate::taps::{Taps, width};

/// Output rows of a thread.
const ROWS: usize = 4;

pub(in crate::gpu) fn variants() -> Vec<Variant> {
    let filters = [Filter::Nearest, Filter::Bilinear, Filter::Bicubic, Filter::Lanczos3];
    let variants = |values| {
        let wide = variant(Filter::Nearest, values, true);
        filters.map(|filter| variant(filter, values, false)).into_iter().chain([wide])
    };
    let planes = filters.into_iter().flat_map(|filter| [2, 8].map(|values| planes_variant(filter, values)));
    [1, 8].into_iter().flat_map(variants).chain(planes).collect()
}

fn planes_variant(filter: Filter, values: i64) -> Variant {
    Variant::new("resize_planes", &[("TAPS", width(filter) as i64), ("VALUES", values)])
}

fn variant(filter: Filter, values: i64, wide: bool) -> Variant {
    let taps = width(filter) as i64;
    let constants = [("TAPS", taps), ("VALUES", values), ("ROWS", ROWS as i64), ("WIDE", i64::from(wide))];
    Variant::new("resize", &constants)
}

/// `x` at the rows and columns of `shape`.
pub(in crate::gpu) fn resize<D: Device>(
    gpu: &GpuBackend<D>,
    x: &GpuTensor<D>,
    shape: Shape,
    filter: Filter,
) -> Result<GpuTensor<D>> {
    // Every filter leaves an image of the same size as it is.
    if shape == x.shape {
        return Ok(x.clone());
    }
    let out = gpu.empty(shape)?;
    let [n, channels, old_h, old_w] = x.shape;
    let [_, _, h, w] = shape;
    if channels == 1 && w.is_multiple_of(2) {
        return planes(gpu, x, out, filter);
    }
    let values = if channels.is_multiple_of(8) { 8 } else { 1 };
    let too_large = |old: usize, new: usize| old * new > u32::MAX as usize;
    let wide = filter == Filter::Nearest && (too_large(old_h, h) || too_large(old_w, w));
    let taps = match filter {
        Filter::Nearest => None,
        _ => {
            let rows = entries(&Taps::new(old_h, h, filter), old_w * channels);
            Some(gpu.filled(&[rows, entries(&Taps::new(old_w, w, filter), channels)].concat())?)
        }
    };
    let count = n * h.div_ceil(ROWS) * w * channels / values;
    let args = [
        x.arg(),
        out.arg(),
        taps.as_ref().map_or(Arg::Null, Arg::Buffer),
        Arg::U32((channels / values) as u32),
        Arg::U32(old_h as u32),
        Arg::U32(old_w as u32),
        Arg::U32(h as u32),
        Arg::U32(w as u32),
        Arg::U32(count as u32),
    ];
    let launch = Launch { grid: [blocks(count, 256), 1, 1], block: 256, shared: 0 };
    gpu.launch(&variant(filter, values as i64, wide), "resize", launch, &args)?;
    Ok(out)
}

/// Of images of one channel: neighbouring columns are neighbours in memory.
fn planes<D: Device>(
    gpu: &GpuBackend<D>,
    x: &GpuTensor<D>,
    out: GpuTensor<D>,
    filter: Filter,
) -> Result<GpuTensor<D>> {
    let [n, _, old_h, old_w] = x.shape;
    let [_, _, h, w] = out.shape;
    let values = if w.is_multiple_of(8) { 8 } else { 2 };
    let rows = entries(&Taps::new(old_h, h, filter), old_w);
    let taps = gpu.filled(&[rows, entries(&Taps::new(old_w, w, filter), 1)].concat())?;
    let count = n * h * w / values;
    let sizes = [old_h * old_w, h, w, count].map(|size| Arg::U32(size as u32));
    let args: Vec<_> = [x.arg(), out.arg(), Arg::Buffer(&taps)].into_iter().chain(sizes).collect();
    let launch = Launch { grid: [blocks(count, 256), 1, 1], block: 256, shared: 0 };
    gpu.launch(&planes_variant(filter, values as i64), "resize", launch, &args)?;
    Ok(out)
}

/// Numbers of values and weights, as the kernel reads them; positions are `pitch` values apart.
fn entries(taps: &Taps, pitch: usize) -> Vec<u8> {
    let entry = |(&index, weight): (&usize, &f32)| {
        [((index * pitch) as u32).to_le_bytes(), weight.to_le_bytes()].concat()
    };
    taps.index.iter().zip(&taps.weight).flat_map(entry).collect()
}
