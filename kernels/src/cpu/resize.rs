//! Separable resampling.

use super::buffer::{LANES, Lanes, Pool};
use super::tensor::{CpuTensor, Data};
use crate::backend::{Filter, Shape};
use crate::taps::Taps;
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
