//! Pictures as sequences and back, and what moves whole images or pixels about.

use super::buffer::{LANES, Lanes, Pool};
use super::tensor::{CpuTensor, Data};
use crate::backend::Shape;
use rayon::prelude::*;
use std::sync::Arc;

/// Pixels of a task: their values of all channels stay in the core's cache.
const TASK_PIXELS: usize = 64;

/// (N, C, H, W) to (N, 1, H·W, C).
pub(crate) fn to_tokens(pool: &Arc<Pool>, x: &CpuTensor) -> CpuTensor {
    let [n, c, ..] = x.shape;
    let (x, area) = (x.to_blocked(pool), x.area());
    let (planes, blocks) = (x.blocks(), c.div_ceil(LANES));
    let mut out = pool.take(n * area * c);
    out.floats_mut()[..n * area * c].par_chunks_mut(area * c).enumerate().for_each(|(image, out)| {
        out.par_chunks_mut(TASK_PIXELS * c).enumerate().for_each(|(i, out)| {
            let planes = &planes[image * blocks..][..blocks];
            for (pixel, out) in out.chunks_exact_mut(c).enumerate() {
                for (out, plane) in out.chunks_mut(LANES).zip(planes) {
                    out.copy_from_slice(&plane[i * TASK_PIXELS + pixel].0[..out.len()]);
                }
            }
        });
    });
    CpuTensor::planar(out, [n, 1, area, c])
}

/// (N, 1, H·W, C) to `shape`, (N, C, H, W).
pub(crate) fn from_tokens(pool: &Arc<Pool>, x: &CpuTensor, shape: Shape) -> CpuTensor {
    let [n, c, h, w] = shape;
    let (area, blocks) = (h * w, c.div_ceil(LANES));
    let x = x.to_planar(pool);
    let mut out = pool.take(n * blocks * area * LANES);
    out.lanes_mut().par_chunks_mut(area).enumerate().for_each(|(i, plane)| {
        let first = i % blocks * LANES;
        let count = LANES.min(c - first);
        let tokens = x.floats()[i / blocks * area * c..][..area * c].chunks_exact(c);
        for (lanes, token) in plane.iter_mut().zip(tokens) {
            let token = &token[first..first + count];
            match <&[f32; LANES]>::try_from(token) {
                Ok(token) => lanes.0 = *token,
                Err(_) => {
                    *lanes = Lanes::ZERO;
                    lanes.0[..count].copy_from_slice(token);
                }
            }
        }
    });
    CpuTensor::blocked(out, shape)
}

/// Zeros at the right and at the bottom, up to `shape`.
pub(crate) fn pad(pool: &Arc<Pool>, x: &CpuTensor, shape: Shape) -> CpuTensor {
    let [n, c, h, w] = shape;
    let old_w = x.shape[3];
    let x = x.to_blocked(pool);
    let planes = x.blocks();
    let mut out = pool.take(n * c.next_multiple_of(LANES) * h * w);
    out.lanes_mut().par_chunks_mut(h * w).zip(planes).for_each(|(out, plane)| {
        out.fill(Lanes::ZERO);
        for (out, row) in out.chunks_exact_mut(w).zip(plane.chunks_exact(old_w)) {
            out[..old_w].copy_from_slice(row);
        }
    });
    CpuTensor::blocked(out, shape)
}

/// Joins tensors along the batch into `shape`.
pub(crate) fn stack(pool: &Arc<Pool>, xs: &[&CpuTensor], shape: Shape) -> CpuTensor {
    if xs.iter().any(|x| matches!(x.data, Data::Blocked(_))) {
        let blocked: Vec<_> = xs.iter().map(|x| x.to_blocked(pool)).collect();
        return CpuTensor::from_images(&blocked, shape);
    }
    let len = shape.iter().product();
    let mut out = pool.take(len);
    let mut rest = &mut out.floats_mut()[..len];
    for x in xs {
        let (head, tail) = rest.split_at_mut(x.shape.iter().product());
        head.copy_from_slice(&x.to_planar(pool).floats()[..head.len()]);
        rest = tail;
    }
    CpuTensor::planar(out, shape)
}

/// The images of `x` from `first` on that `shape` has.
pub(crate) fn images(pool: &Arc<Pool>, x: &CpuTensor, first: usize, shape: Shape) -> CpuTensor {
    match &x.data {
        Data::Blocked(_) => x.some_images(first, shape),
        Data::Planar(values) => {
            let len: usize = shape.iter().product();
            let mut out = pool.take(len);
            out.floats_mut()[..len].copy_from_slice(&values.floats()[first * (len / shape[0])..][..len]);
            CpuTensor::planar(out, shape)
        }
    }
}
