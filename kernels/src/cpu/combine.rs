//! Linear combinations of tensors, and what chooses or bounds values. They are for latents, whose few channels would fill a
//! quarter of a blocked tensor: everything is made planar.

use super::buffer::{Lanes, Pool};
use super::elementwise::TASK_LANES;
use super::tensor::CpuTensor;
use rayon::prelude::*;
use std::sync::Arc;

/// The sum of each factor times its tensor, in their order; one term at least.
pub(crate) fn combine(pool: &Arc<Pool>, terms: &[(f32, &CpuTensor)]) -> CpuTensor {
    let (factors, xs): (Vec<f32>, Vec<&CpuTensor>) = terms.iter().copied().unzip();
    map(pool, &xs, |out, xs| {
        each(out, xs[0], |_, x| factors[0] * x);
        for (factor, x) in factors.iter().zip(xs).skip(1) {
            each(out, x, |sum, x| sum + factor * x);
        }
    })
}

/// Each value within `limit` of 0.
pub(crate) fn clamp(pool: &Arc<Pool>, x: &CpuTensor, limit: f32) -> CpuTensor {
    map(pool, &[x], |out, xs| each(out, xs[0], |_, x| x.clamp(-limit, limit)))
}

/// `x * mask + y * (1 - mask)` of equal shapes.
pub(crate) fn blend(pool: &Arc<Pool>, x: &CpuTensor, y: &CpuTensor, mask: &CpuTensor) -> CpuTensor {
    map(pool, &[x, y, mask], |out, xs| {
        each(out, xs[2], |_, mask| 1.0 - mask);
        each(out, xs[1], |rest, y| y * rest);
        for ((out, x), mask) in out.iter_mut().zip(xs[0]).zip(xs[2]) {
            out.0.iter_mut().zip(x.0).zip(mask.0).for_each(|((out, x), mask)| *out += x * mask);
        }
    })
}

/// A new tensor, of which `f` makes a part at a time from the same part of each of `xs`; all are of one shape.
fn map(pool: &Arc<Pool>, xs: &[&CpuTensor], f: impl Fn(&mut [Lanes], &[&[Lanes]]) + Sync) -> CpuTensor {
    let shape = xs[0].shape;
    let planar: Vec<_> = xs.iter().map(|x| x.to_planar(pool)).collect();
    let mut out = pool.take(shape.iter().product());
    out.lanes_mut().par_chunks_mut(TASK_LANES).enumerate().for_each(|(i, out)| {
        let range = i * TASK_LANES..i * TASK_LANES + out.len();
        let parts: Vec<_> = planar.iter().map(|x| &x.lanes()[range.clone()]).collect();
        f(out, &parts);
    });
    CpuTensor::planar(out, shape)
}

fn each(out: &mut [Lanes], x: &[Lanes], f: impl Fn(f32, f32) -> f32) {
    for (out, x) in out.iter_mut().zip(x) {
        out.0.iter_mut().zip(x.0).for_each(|(out, x)| *out = f(*out, x));
    }
}
