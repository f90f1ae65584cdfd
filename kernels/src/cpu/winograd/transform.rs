//! The three transforms of Winograd's F(6×6, 3×3), with the interpolation points 0, ±1, ±2, ±1/2, ∞.
//!
//! Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (2015): a tile's 6×6 outputs are
//! Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A for its 8×8 inputs d and the 3×3 kernel g. 64 multiplications take the place
//! of 324. These are the points with the smallest coefficients for this size: in `f32`, results are off by
//! 1e-6 to 3e-6 of the largest output on random data of some tens of channels, hardly more than direct sums
//! are, and by up to 2e-5 with hundreds of channels.

use crate::cpu::buffer::{LANES, Lanes};
use crate::cpu::simd::Simd;
use std::mem::MaybeUninit;

/// Outputs of a tile along one axis.
pub(crate) const TILE: usize = 6;
/// Inputs of a tile along one axis.
pub(crate) const SPAN: usize = 8;
/// Points: multiplications of a tile for each pair of channels.
pub(crate) const POINTS: usize = SPAN * SPAN;

/// G, in the scaling where row 5 and 6 are those of the points 1/2 multiplied by 1/32 (which Aᵀ undoes).
const G: [[f64; 3]; SPAN] = [
    [1.0, 0.0, 0.0],
    [-2.0 / 9.0, -2.0 / 9.0, -2.0 / 9.0],
    [-2.0 / 9.0, 2.0 / 9.0, -2.0 / 9.0],
    [1.0 / 90.0, 1.0 / 45.0, 2.0 / 45.0],
    [1.0 / 90.0, -1.0 / 45.0, 2.0 / 45.0],
    [1.0 / 45.0, 1.0 / 90.0, 1.0 / 180.0],
    [1.0 / 45.0, -1.0 / 90.0, 1.0 / 180.0],
    [0.0, 0.0, 1.0],
];

/// G g Gᵀ of a 3×3 kernel given row by row. In `f64`, as it is done once.
pub(crate) fn kernel(g: &[f32]) -> [f32; POINTS] {
    let mut out = [0.0; POINTS];
    for (y, gy) in G.iter().enumerate() {
        for (x, gx) in G.iter().enumerate() {
            let sum: f64 = (0..9).map(|i| gy[i / 3] * gx[i % 3] * f64::from(g[i])).sum();
            out[y * SPAN + x] = sum as f32;
        }
    }
    out
}

/// Bᵀ d of one row or column.
#[inline(always)]
unsafe fn input_1d<S: Simd>(d: [S::V; SPAN]) -> [S::V; SPAN] {
    // SAFETY: the machine has the instructions of `S`, as the callers promise.
    unsafe {
        let constant = |x| S::splat(x);
        let even = S::fma(d[4], constant(-4.25), S::add(d[2], d[6]));
        let odd = S::fma(d[3], constant(-4.25), S::add(d[1], d[5]));
        let even2 = S::fma(d[2], constant(0.25), S::fma(d[4], constant(-1.25), d[6]));
        let odd2 = S::fma(d[5], constant(2.0), S::fma(d[3], constant(-2.5), S::mul(d[1], constant(0.5))));
        let even3 = S::fma(d[2], constant(4.0), S::fma(d[4], constant(-5.0), d[6]));
        let odd3 = S::fma(d[1], constant(2.0), S::fma(d[3], constant(-2.5), S::mul(d[5], constant(0.5))));
        [
            S::fma(S::sub(d[4], d[2]), constant(5.25), S::sub(d[0], d[6])),
            S::add(even, odd),
            S::sub(even, odd),
            S::add(even2, odd2),
            S::sub(even2, odd2),
            S::add(even3, odd3),
            S::sub(even3, odd3),
            S::fma(S::sub(d[3], d[5]), constant(5.25), S::sub(d[7], d[1])),
        ]
    }
}

/// Aᵀ m of one row or column.
#[inline(always)]
unsafe fn output_1d<S: Simd>(m: [S::V; SPAN]) -> [S::V; TILE] {
    // SAFETY: the machine has the instructions of `S`, as the callers promise.
    unsafe {
        let constant = |x| S::splat(x);
        let (sum1, dif1) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (sum2, dif2) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        let (sum3, dif3) = (S::add(m[5], m[6]), S::sub(m[5], m[6]));
        [
            S::fma(sum3, constant(32.0), S::add(S::add(m[0], sum1), sum2)),
            S::fma(dif3, constant(16.0), S::fma(dif2, constant(2.0), dif1)),
            S::fma(sum3, constant(8.0), S::fma(sum2, constant(4.0), sum1)),
            S::fma(dif3, constant(4.0), S::fma(dif2, constant(8.0), dif1)),
            S::fma(sum3, constant(2.0), S::fma(sum2, constant(16.0), sum1)),
            S::fma(dif2, constant(32.0), S::add(S::add(m[7], dif1), dif3)),
        ]
    }
}

/// Bᵀ d B of a tile: `source` is its first pixel, rows are `row_stride` floats apart; point p goes to
/// `target + p * point_stride`.
///
/// # Safety
/// The machine has the instructions of `S`; 8×8 pixels can be read and all 64 points written.
#[inline(always)]
pub(crate) unsafe fn input<S: Simd>(
    source: *const f32,
    row_stride: usize,
    target: *mut f32,
    point_stride: usize,
) {
    // Uninitialised, as clearing it would cost a third of the transform.
    let mut columns = MaybeUninit::<[Lanes; POINTS]>::uninit();
    let columns: *mut f32 = columns.as_mut_ptr().cast();
    // SAFETY: the caller's promises; `columns` holds one vector for each point.
    unsafe {
        for x in 0..SPAN {
            let mut d = [S::splat(0.0); SPAN];
            for (y, d) in d.iter_mut().enumerate() {
                *d = S::load(source.add(y * row_stride + x * LANES));
            }
            for (y, value) in input_1d::<S>(d).into_iter().enumerate() {
                S::store(columns.add((y * SPAN + x) * LANES), value);
            }
        }
        for y in 0..SPAN {
            let mut d = [S::splat(0.0); SPAN];
            for (x, d) in d.iter_mut().enumerate() {
                *d = S::load(columns.add((y * SPAN + x) * LANES));
            }
            for (x, value) in input_1d::<S>(d).into_iter().enumerate() {
                S::store(target.add((y * SPAN + x) * point_stride), value);
            }
        }
    }
}

/// Aᵀ m A of a tile: point p is at `source + p * point_stride`; `store(y, x, sums)` gets the 6×6 results.
///
/// # Safety
/// The machine has the instructions of `S`; all 64 points can be read.
#[inline(always)]
pub(crate) unsafe fn output<S: Simd>(
    source: *const f32,
    point_stride: usize,
    mut store: impl FnMut(usize, [S::V; TILE]),
) {
    let mut columns = MaybeUninit::<[Lanes; TILE * SPAN]>::uninit();
    let columns: *mut f32 = columns.as_mut_ptr().cast();
    // SAFETY: the caller's promises; `columns` holds 6 rows of 8 vectors.
    unsafe {
        for x in 0..SPAN {
            let mut m = [S::splat(0.0); SPAN];
            for (y, m) in m.iter_mut().enumerate() {
                *m = S::load(source.add((y * SPAN + x) * point_stride));
            }
            for (y, value) in output_1d::<S>(m).into_iter().enumerate() {
                S::store(columns.add((y * SPAN + x) * LANES), value);
            }
        }
        for y in 0..TILE {
            let mut m = [S::splat(0.0); SPAN];
            for (x, m) in m.iter_mut().enumerate() {
                *m = S::load(columns.add((y * SPAN + x) * LANES));
            }
            store(y, output_1d::<S>(m));
        }
    }
}
