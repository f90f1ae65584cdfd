//! Separable resampling: which source pixels make up a target pixel, and with what weights.

use super::buffer::{LANES, Lanes, Pool};
use super::tensor::{CpuTensor, Data};
use crate::backend::{Filter, Shape};
use rayon::prelude::*;
use std::sync::Arc;

/// What an image is made of: a value, or those of sixteen channels.
trait Sample: Copy + Send + Sync {
    const ZERO: Self;
    /// `self + x * weight`
    fn plus(self, x: Self, weight: f32) -> Self;
}

impl Sample for f32 {
    const ZERO: Self = 0.0;
    fn plus(self, x: Self, weight: f32) -> Self {
        self + x * weight
    }
}

impl Sample for Lanes {
    const ZERO: Self = Self::ZERO;
    fn plus(self, x: Self, weight: f32) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + x.0[i] * weight))
    }
}

/// Resamples `x` to the rows and columns of `shape`, in the layout that it has.
pub(super) fn resize(pool: &Arc<Pool>, x: &CpuTensor, shape: Shape, filter: Filter) -> CpuTensor {
    let [n, c, h, w] = shape;
    let taps = [Taps::new(x.shape[2], h, filter), Taps::new(x.shape[3], w, filter)];
    match &x.data {
        Data::Planar(source) => {
            let mut out = pool.take(n * c * h * w);
            let planes: Vec<_> = source.floats().chunks_exact(x.area()).take(n * c).collect();
            planes_to(&planes, &mut out.floats_mut()[..n * c * h * w], [h, w], x.shape[3], &taps);
            CpuTensor::planar(out, shape)
        }
        Data::Blocked(_) => {
            let mut out = pool.take(n * c.next_multiple_of(LANES) * h * w);
            planes_to(&x.blocks(), out.lanes_mut(), [h, w], x.shape[3], &taps);
            CpuTensor::blocked(out, shape)
        }
    }
}

/// Row by row: first across the source rows, then along the one row that comes of it.
fn planes_to<T: Sample>(
    planes: &[&[T]],
    out: &mut [T],
    [h, w]: [usize; 2],
    old_w: usize,
    [rows, columns]: &[Taps; 2],
) {
    out.par_chunks_mut(w).enumerate().for_each_init(
        || vec![T::ZERO; old_w],
        |mixed, (i, out)| {
            let plane = planes[i / h];
            let row = |y: usize| &plane[y * old_w..][..old_w];
            if rows.width == 1 {
                let row = row(rows.index[i % h]);
                for (out, &x) in out.iter_mut().zip(&columns.index) {
                    *out = row[x];
                }
                return;
            }
            mixed.fill(T::ZERO);
            for (y, weight) in rows.of(i % h) {
                for (mixed, &x) in mixed.iter_mut().zip(row(y)) {
                    *mixed = mixed.plus(x, weight);
                }
            }
            for (x, out) in out.iter_mut().enumerate() {
                *out = columns.of(x).fold(T::ZERO, |sum, (x, weight)| sum.plus(mixed[x], weight));
            }
        },
    );
}

/// For each target position along one axis, `width` source positions and weights that add up to 1.
struct Taps {
    width: usize,
    index: Vec<usize>,
    weight: Vec<f32>,
}

impl Taps {
    /// The taps that turn `old` pixels into `new`. Pixel centres are at half-integers, so target `i` falls
    /// on the source coordinate `(i + 0.5) * old / new - 0.5` (`align_corners=False`).
    fn new(old: usize, new: usize, filter: Filter) -> Self {
        let width = match filter {
            Filter::Nearest => 1,
            Filter::Bilinear => 2,
            Filter::Bicubic => 4,
            Filter::Lanczos3 => 6,
        };
        let mut taps = Self { width, index: Vec::new(), weight: Vec::new() };
        let last = old as isize - 1;
        for i in 0..new {
            if filter == Filter::Nearest {
                // In integers, so that no rounding can pick a neighbour.
                taps.push(i * old / new, 1.0);
                continue;
            }
            let centre = (i as f64 + 0.5) * old as f64 / new as f64 - 0.5;
            // torch clamps the coordinate for bilinear and repeats the edge for bicubic; at the edges the
            // two are the same for bilinear.
            let floor = centre.floor();
            let (first, frac) = (floor as isize - (width as isize / 2 - 1), centre - floor);
            let mut weights = [0.0f64; 6];
            for (t, weight) in weights[..width].iter_mut().enumerate() {
                let distance = (frac + (width / 2 - 1) as f64 - t as f64).abs();
                let outside = !(0..=last).contains(&(first + t as isize));
                *weight = match filter {
                    Filter::Nearest => 1.0,
                    Filter::Bilinear => 1.0 - distance,
                    Filter::Bicubic => keys(distance),
                    Filter::Lanczos3 if outside => 0.0,
                    Filter::Lanczos3 => lanczos3(distance),
                };
            }
            let sum: f64 = weights[..width].iter().sum();
            for (t, weight) in weights[..width].iter().enumerate() {
                taps.push((first + t as isize).clamp(0, last) as usize, (weight / sum) as f32);
            }
        }
        taps
    }

    fn push(&mut self, index: usize, weight: f32) {
        self.index.push(index);
        self.weight.push(weight);
    }

    /// The source positions and weights of target position `i`.
    fn of(&self, i: usize) -> impl Iterator<Item = (usize, f32)> + '_ {
        let range = i * self.width..(i + 1) * self.width;
        self.index[range.clone()].iter().copied().zip(self.weight[range].iter().copied())
    }
}

/// The cubic convolution kernel of Keys (1981) with a = -0.75, the value that torch and OpenCV use.
fn keys(x: f64) -> f64 {
    const A: f64 = -0.75;
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
    } else {
        0.0
    }
}

/// sinc(x) · sinc(x / 3) for |x| < 3 (Duchon 1979).
fn lanczos3(x: f64) -> f64 {
    let sinc =
        |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
    if x < 3.0 { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}
