//! Operations that take each value by itself. Most are bound by memory, so plain loops do.

use super::buffer::{LANES, Lanes, Pool};
use super::simd::{Level, Simd, Task, math};
use super::tensor::{CpuTensor, Data};
use crate::backend::Unary;
use rayon::prelude::*;
use std::sync::Arc;

/// Vectors that a task works on: enough to outweigh its start.
pub(crate) const TASK_LANES: usize = 4096;

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

/// `x + bias[image][channel]`
pub(crate) fn add_channels(pool: &Arc<Pool>, x: &CpuTensor, bias: &CpuTensor) -> CpuTensor {
    let (x, bias) = (x.to_blocked(pool), bias.to_planar(pool));
    let channels = x.shape[1];
    let (planes, blocks) = (x.blocks(), channels.div_ceil(LANES));
    map_planes(pool, &x, |i, out, range| {
        let bias = &bias.floats()[i / blocks * channels..][..channels];
        let bias: [f32; LANES] =
            std::array::from_fn(|lane| bias.get(i % blocks * LANES + lane).copied().unwrap_or(0.0));
        for (out, x) in out.iter_mut().zip(&planes[i][range]) {
            *out = Lanes(std::array::from_fn(|i| x.0[i] + bias[i]));
        }
    })
}

/// `f` of each value, in the layout that `x` has.
pub(crate) fn unary(pool: &Arc<Pool>, x: &CpuTensor, f: Unary, level: Level) -> CpuTensor {
    let apply = |source: &[Lanes], target: &mut [Lanes]| {
        // SAFETY: the backend's level is available; the lengths are equal.
        unsafe { level.run(Apply { source, target, f: Function(f) }) }
    };
    match &x.data {
        Data::Planar(values) => {
            let mut out = pool.take(x.shape.iter().product());
            out.lanes_mut()
                .par_chunks_mut(TASK_LANES)
                .zip(values.lanes().par_chunks(TASK_LANES))
                .for_each(|(out, x)| apply(x, out));
            CpuTensor::planar(out, x.shape)
        }
        Data::Blocked(_) => {
            let planes = x.blocks();
            map_planes(pool, x, |i, out, range| apply(&planes[i][range], out))
        }
    }
}

/// Applies a [`Unary`] to vectors.
#[derive(Clone, Copy)]
pub(crate) struct Function(pub(crate) Unary);

impl Function {
    /// `target = f(before(source))`; which function it is is found out once for all vectors.
    ///
    /// # Safety
    /// The machine has the instructions of `S`.
    #[inline(always)]
    pub(crate) unsafe fn map<S: Simd>(
        self,
        source: &[Lanes],
        target: &mut [Lanes],
        before: impl Fn(S::V) -> S::V,
    ) {
        // SAFETY: the caller's promise; every `Lanes` is good for a vector.
        unsafe {
            match self.0 {
                Unary::Identity => over::<S>(source, target, before),
                Unary::Relu => over::<S>(source, target, |x| S::max(before(x), S::splat(0.0))),
                Unary::Silu => over::<S>(source, target, |x| math::sigmoid_linear::<S>(before(x), 1.0)),
                Unary::Gelu => over::<S>(source, target, |x| math::gelu::<S>(before(x))),
                Unary::QuickGelu => {
                    over::<S>(source, target, |x| math::sigmoid_linear::<S>(before(x), 1.702))
                }
                Unary::Tanh => over::<S>(source, target, |x| math::tanh::<S>(before(x))),
            }
        }
    }
}

#[inline(always)]
unsafe fn over<S: Simd>(source: &[Lanes], target: &mut [Lanes], f: impl Fn(S::V) -> S::V) {
    for (source, target) in source.iter().zip(target) {
        // SAFETY: the caller has the instructions; every `Lanes` is good for a vector.
        unsafe { S::store(target.0.as_mut_ptr(), f(S::load(source.0.as_ptr()))) }
    }
}

struct Apply<'a> {
    source: &'a [Lanes],
    target: &'a mut [Lanes],
    f: Function,
}

impl Task for Apply<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the caller's promise.
        unsafe { self.f.map::<S>(self.source, self.target, |x| x) }
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
