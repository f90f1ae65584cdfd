//! Pixel shuffle: channels become pixels.

use super::buffer::{LANES, Lanes, Pool};
use super::tensor::CpuTensor;
use crate::backend::Shape;
use rayon::prelude::*;
use std::sync::Arc;

/// The shuffle, plus `base` (N, C, H, W) with each pixel repeated f × f times. The result is planar: at this
/// point channels are those of a picture.
pub(crate) fn pixel_shuffle(
    pool: &Arc<Pool>,
    x: &CpuTensor,
    factor: usize,
    shape: Shape,
    base: Option<&CpuTensor>,
) -> CpuTensor {
    let ([_, in_channels, h, w], [n, c, _, out_w]) = (x.shape, shape);
    let x = x.to_blocked(pool);
    let (planes, blocks) = (x.blocks(), in_channels.div_ceil(LANES));
    let base = base.map(|base| base.to_planar(pool));
    let mut out = pool.take(shape.iter().product());
    // One row of input pixels makes `factor` rows of output.
    let rows = out.floats_mut()[..n * c * h * factor * out_w].par_chunks_mut(factor * out_w);
    rows.enumerate().for_each(|(i, out)| {
        let (plane, y) = (i / h, i % h);
        let (image, channel) = (plane / c, plane % c);
        let base = base.as_ref().map(|base| &base.floats()[(plane * h + y) * w..][..w]);
        for (dy, out) in out.chunks_exact_mut(out_w).enumerate() {
            let first = (channel * factor + dy) * factor;
            let row = |channel: usize| &planes[image * blocks + channel / LANES][y * w..][..w];
            match factor {
                4 => together::<4>(row(first), first % LANES, base, out),
                2 => together::<2>(row(first), first % LANES, base, out),
                _ => {
                    for dx in 0..factor {
                        let (source, lane) = (row(first + dx), (first + dx) % LANES);
                        for (x, lanes) in source.iter().enumerate() {
                            out[x * factor + dx] = lanes.0[lane] + base.map_or(0.0, |base| base[x]);
                        }
                    }
                }
            }
        }
    });
    CpuTensor::planar(out, shape)
}

/// A row for factors that divide the lanes: an input pixel's `F` values lie side by side in one vector.
fn together<const F: usize>(source: &[Lanes], lane: usize, base: Option<&[f32]>, out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<F>();
    let values =
        source.iter().map(|lanes| -> [f32; F] { std::array::from_fn(|i| lanes.0[(lane + i) % LANES]) });
    match base {
        Some(base) => {
            for ((out, values), base) in out.iter_mut().zip(values).zip(base) {
                *out = values.map(|x| x + base);
            }
        }
        None => out.iter_mut().zip(values).for_each(|(out, values)| *out = values),
    }
}
