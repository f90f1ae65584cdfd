//! Group normalisation on the blocked layout, with the activation that follows it.
//!
//! A group may begin and end within a block, so that statistics are taken for each channel and joined
//! afterwards (Chan, Golub & LeVeque 1979, "Updating Formulae"); the second pass is a multiplication and an
//! addition for each channel.

use super::buffer::{LANES, Lanes, Pool};
use super::elementwise::{Function, TASK_LANES};
use super::simd::{Level, Simd, Task};
use super::tensor::CpuTensor;
use crate::backend::Unary;
use rayon::prelude::*;
use std::sync::Arc;

/// Pixels whose mean is known before their deviations are summed; they stay in the first-level cache.
const CHUNK: usize = 256;

/// Normalises `x` over groups of neighbouring channels, then applies `act`.
pub(crate) fn group_norm(
    pool: &Arc<Pool>,
    x: &CpuTensor,
    groups: usize,
    [weight, bias]: [&CpuTensor; 2],
    eps: f32,
    act: Unary,
    level: Level,
) -> CpuTensor {
    let [n, c, ..] = x.shape;
    let (weight, bias) = (weight.to_planar(pool), bias.to_planar(pool));
    let x = x.to_blocked(pool);
    let (planes, blocks, area) = (x.blocks(), c.div_ceil(LANES), x.area());
    let channels = channel_moments(&planes, area, level);

    let per_group = c / groups;
    let mut factors = vec![[Lanes::ZERO; 2]; n * blocks];
    for i in 0..n * groups {
        let (image, first) = (i / groups, i % groups * per_group);
        let place = |channel: usize| (image * blocks + channel / LANES, channel % LANES);
        let mut moments = Moments::default();
        for channel in first..first + per_group {
            let (plane, lane) = place(channel);
            moments.join(channels[plane][lane]);
        }
        let scale = (moments.squares / moments.count + f64::from(eps)).sqrt().recip();
        for channel in first..first + per_group {
            let (plane, lane) = place(channel);
            let slope = f64::from(weight.floats()[channel]) * scale;
            factors[plane][0].0[lane] = slope as f32;
            factors[plane][1].0[lane] = (f64::from(bias.floats()[channel]) - moments.mean * slope) as f32;
        }
    }

    let mut out = pool.take(n * blocks * LANES * area);
    out.lanes_mut().par_chunks_mut(area).enumerate().for_each(|(i, plane)| {
        plane.par_chunks_mut(TASK_LANES).enumerate().for_each(|(j, target)| {
            let source = &planes[i][j * TASK_LANES..][..target.len()];
            // SAFETY: the backend's level is available.
            unsafe { level.run(Affine { source, target, factors: factors[i], act }) }
        });
    });
    CpuTensor::blocked(out, x.shape)
}

/// Mean, and sum of the squared deviations from it.
#[derive(Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn join(&mut self, other: Self) {
        let count = self.count + other.count;
        let (off, share) = (other.mean - self.mean, other.count / count);
        self.mean += off * share;
        self.squares += other.squares + off * off * self.count * share;
        self.count = count;
    }
}

/// The moments of each channel of each plane. How the pixels are divided does not depend on the threads, so
/// that neither does the result.
fn channel_moments(planes: &[&[Lanes]], area: usize, level: Level) -> Vec<[Moments; LANES]> {
    let parts = area.div_ceil(TASK_LANES);
    let partial: Vec<_> = (0..planes.len() * parts)
        .into_par_iter()
        .map(|i| {
            let source = planes[i / parts];
            let source = &source[i % parts * TASK_LANES..area.min((i % parts + 1) * TASK_LANES)];
            let mut moments = [Moments::default(); LANES];
            // SAFETY: the backend's level is available.
            unsafe { level.run(Measure { source, moments: &mut moments }) }
            moments
        })
        .collect();
    let join = |parts: &[[Moments; LANES]]| {
        let mut all = [Moments::default(); LANES];
        parts.iter().for_each(|part| all.iter_mut().zip(part).for_each(|(all, part)| all.join(*part)));
        all
    };
    partial.chunks(parts).map(join).collect()
}

struct Measure<'a> {
    source: &'a [Lanes],
    moments: &'a mut [Moments; LANES],
}

impl Task for Measure<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for chunk in self.source.chunks(CHUNK) {
            let count = chunk.len() as f32;
            // SAFETY: vectors of the chunk.
            let (means, squares) = unsafe {
                let mean = S::mul(total::<S>(chunk), S::splat(count.recip()));
                (S::lanes(mean), S::lanes(deviations::<S>(chunk, mean)))
            };
            for (moments, (mean, squares)) in self.moments.iter_mut().zip(means.into_iter().zip(squares)) {
                let (mean, squares) = (f64::from(mean), f64::from(squares));
                moments.join(Moments { count: f64::from(count), mean, squares });
            }
        }
    }
}

/// The sum of all vectors: four sums side by side, so that an addition need not wait for the one before.
#[inline(always)]
unsafe fn total<S: Simd>(chunk: &[Lanes]) -> S::V {
    // SAFETY: the caller has the instructions; vectors of the chunk.
    unsafe {
        let mut sums = [S::splat(0.0); 4];
        for four in chunk.chunks(4) {
            for (sum, x) in sums.iter_mut().zip(four) {
                *sum = S::add(*sum, S::load(x.0.as_ptr()));
            }
        }
        S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]))
    }
}

/// The sum of the squared deviations from `mean`.
#[inline(always)]
unsafe fn deviations<S: Simd>(chunk: &[Lanes], mean: S::V) -> S::V {
    // SAFETY: the caller has the instructions; vectors of the chunk.
    unsafe {
        let mut sums = [S::splat(0.0); 4];
        for four in chunk.chunks(4) {
            for (sum, x) in sums.iter_mut().zip(four) {
                let off = S::sub(S::load(x.0.as_ptr()), mean);
                *sum = S::fma(off, off, *sum);
            }
        }
        S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]))
    }
}

/// `act(x * factors[0] + factors[1])`
struct Affine<'a> {
    source: &'a [Lanes],
    target: &'a mut [Lanes],
    factors: [Lanes; 2],
    act: Unary,
}

impl Task for Affine<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: vectors of slices of equal lengths.
        unsafe {
            let [slope, shift] = self.factors.map(|x| S::load(x.0.as_ptr()));
            Function(self.act).map::<S>(self.source, self.target, |x| S::fma(x, slope, shift));
        }
    }
}
