//! Operations that take each value by itself. They are bound by memory, so plain loops do.

use super::buffer::{LANES, Lanes, Pool};
use super::tensor::{CpuTensor, Data};
use rayon::prelude::*;
use std::sync::Arc;

/// Vectors that a task works on: enough to outweigh its start.
const TASK_LANES: usize = 4096;

/// `x > 0 ? x : slope[c] * x`; a single slope is for all channels.
pub(crate) fn prelu(pool: &Arc<Pool>, x: &CpuTensor, slope: &[f32]) -> CpuTensor {
    let x = x.to_blocked(pool);
    let blocks = x.shape[1].div_ceil(LANES);
    let slope_of = |channel: usize| slope.get(channel).or(slope.first()).copied().unwrap_or(1.0);
    let planes = x.blocks();
    map_planes(pool, &x, |i, out, range| {
        let slopes: [f32; LANES] = std::array::from_fn(|lane| slope_of(i % blocks * LANES + lane));
        for (out, x) in out.iter_mut().zip(&planes[i][range]) {
            *out = Lanes(std::array::from_fn(|i| if x.0[i] <= 0.0 { x.0[i] * slopes[i] } else { x.0[i] }));
        }
    })
}

/// `x * alpha + y` of equal shapes.
pub(crate) fn scale_add(pool: &Arc<Pool>, x: &CpuTensor, alpha: f32, y: &CpuTensor) -> CpuTensor {
    if let (Data::Planar(a), Data::Planar(b)) = (&x.data, &y.data) {
        let mut out = pool.take(x.shape.iter().product());
        out.lanes_mut().par_chunks_mut(TASK_LANES).enumerate().for_each(|(i, out)| {
            let range = i * TASK_LANES..i * TASK_LANES + out.len();
            blend(out, &a.lanes()[range.clone()], alpha, &b.lanes()[range]);
        });
        return CpuTensor::planar(out, x.shape);
    }
    let (x, y) = (x.to_blocked(pool), y.to_blocked(pool));
    let (a, b) = (x.blocks(), y.blocks());
    map_planes(pool, &x, |i, out, range| blend(out, &a[i][range.clone()], alpha, &b[i][range]))
}

fn blend(out: &mut [Lanes], x: &[Lanes], alpha: f32, y: &[Lanes]) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out = Lanes(std::array::from_fn(|i| x.0[i] * alpha + y.0[i]));
    }
}

/// A new blocked tensor of the shape of `like`; `f` fills a range of the pixels of a plane.
fn map_planes(
    pool: &Arc<Pool>,
    like: &CpuTensor,
    f: impl Fn(usize, &mut [Lanes], std::ops::Range<usize>) + Sync,
) -> CpuTensor {
    let [n, c, ..] = like.shape;
    let area = like.area();
    let mut out = pool.take(n * c.next_multiple_of(LANES) * area);
    out.lanes_mut().par_chunks_mut(area).enumerate().for_each(|(i, plane)| {
        plane.par_chunks_mut(TASK_LANES).enumerate().for_each(|(j, out)| {
            let start = j * TASK_LANES;
            let len = out.len();
            f(i, out, start..start + len);
        });
    });
    CpuTensor::blocked(out, like.shape)
}
