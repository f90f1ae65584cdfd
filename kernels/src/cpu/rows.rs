//! Operations on the rows of a sequence: layer norm and the gated GELU.

use super::buffer::{LANES, Pool};
use super::simd::{Level, Simd, Task, math};
use super::tensor::CpuTensor;
use crate::backend::Shape;
use rayon::prelude::*;
use std::sync::Arc;

/// Values of a task: enough to outweigh its start.
const TASK_FLOATS: usize = 1 << 15;

/// Each row minus its mean, over its standard deviation, times `weight` plus `bias` (each of a row's width).
pub(crate) fn layer_norm(
    pool: &Arc<Pool>,
    x: &CpuTensor,
    [weight, bias]: [&CpuTensor; 2],
    eps: f32,
    level: Level,
) -> CpuTensor {
    let (weight, bias) = (weight.to_planar(pool), bias.to_planar(pool));
    let width = x.shape[3];
    map_rows(pool, x, x.shape, |source, target| {
        let norm = LayerNorm { source, target, weight: weight.floats(), bias: bias.floats(), width, eps };
        // SAFETY: the backend's level is available; the slices are whole rows.
        unsafe { level.run(norm) }
    })
}

/// The first half of each row times the GELU of the second; `shape` has half the width of `x`.
pub(crate) fn geglu(pool: &Arc<Pool>, x: &CpuTensor, shape: Shape, level: Level) -> CpuTensor {
    map_rows(pool, x, shape, |source, target| {
        // SAFETY: the backend's level is available; the slices are whole rows.
        unsafe { level.run(Geglu { source, target, width: shape[3] }) }
    })
}

/// Calls `f` with several rows of `x` and of a new tensor of `shape` at a time.
fn map_rows(
    pool: &Arc<Pool>,
    x: &CpuTensor,
    shape: Shape,
    f: impl Fn(&[f32], &mut [f32]) + Sync,
) -> CpuTensor {
    let source = x.to_planar(pool);
    let (from, to) = (x.shape[3], shape[3]);
    let rows = shape[0] * shape[1] * shape[2];
    let step = (TASK_FLOATS / from).max(1);
    let mut out = pool.take(rows * to);
    let sources = source.floats()[..rows * from].par_chunks(step * from);
    sources.zip(out.floats_mut()[..rows * to].par_chunks_mut(step * to)).for_each(|(x, out)| f(x, out));
    CpuTensor::planar(out, shape)
}

struct LayerNorm<'a> {
    source: &'a [f32],
    target: &'a mut [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    width: usize,
    eps: f32,
}

impl Task for LayerNorm<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let rows = self.source.chunks_exact(self.width).zip(self.target.chunks_exact_mut(self.width));
        for (x, out) in rows {
            // SAFETY: `parts` stays within rows, which have the width of the parameters.
            unsafe {
                let mut sum = S::splat(0.0);
                for (i, count) in parts(self.width) {
                    sum = S::add(sum, load::<S>(x.as_ptr().add(i), count));
                }
                let mean = S::splat(S::sum(sum) / self.width as f32);
                let mut squares = S::splat(0.0);
                for (i, count) in parts(self.width) {
                    let off = S::sub(load::<S>(x.as_ptr().add(i), count), mean);
                    if count == LANES {
                        squares = S::fma(off, off, squares);
                    } else {
                        let off = S::lanes(off);
                        let off = S::load_first(off.as_ptr(), count);
                        squares = S::fma(off, off, squares);
                    }
                }
                let scale = S::splat((S::sum(squares) / self.width as f32 + self.eps).sqrt().recip());
                for (i, count) in parts(self.width) {
                    let normal = S::mul(S::sub(load::<S>(x.as_ptr().add(i), count), mean), scale);
                    let weight = load::<S>(self.weight.as_ptr().add(i), count);
                    let bias = load::<S>(self.bias.as_ptr().add(i), count);
                    store::<S>(out.as_mut_ptr().add(i), S::fma(normal, weight, bias), count);
                }
            }
        }
    }
}

struct Geglu<'a> {
    source: &'a [f32],
    target: &'a mut [f32],
    width: usize,
}

impl Task for Geglu<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let rows = self.source.chunks_exact(2 * self.width).zip(self.target.chunks_exact_mut(self.width));
        for (x, out) in rows {
            // SAFETY: `parts` stays within the row, and within each half of the source.
            unsafe {
                for (i, count) in parts(self.width) {
                    let value = load::<S>(x.as_ptr().add(i), count);
                    let gate = load::<S>(x.as_ptr().add(self.width + i), count);
                    store::<S>(out.as_mut_ptr().add(i), S::mul(value, math::gelu::<S>(gate)), count);
                }
            }
        }
    }
}

/// Start and length of each vector of a row; only the last may be shorter than [`LANES`]. An iterator, as a
/// closure of the caller's would not be compiled with its target features unless it is inlined.
#[inline(always)]
fn parts(width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..width.div_ceil(LANES)).map(move |i| (i * LANES, LANES.min(width - i * LANES)))
}

#[inline(always)]
unsafe fn load<S: Simd>(p: *const f32, count: usize) -> S::V {
    // SAFETY: the caller promises `count` readable floats, at most sixteen.
    unsafe { if count == LANES { S::load(p) } else { S::load_first(p, count) } }
}

#[inline(always)]
unsafe fn store<S: Simd>(p: *mut f32, x: S::V, count: usize) {
    // SAFETY: the caller promises `count` writable floats, at most sixteen.
    unsafe { if count == LANES { S::store(p, x) } else { S::store_first(p, x, count) } }
}
