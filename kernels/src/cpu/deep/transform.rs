//! The three transforms of Winograd's F(4×4, 3×3), with the interpolation points 0, ±√½, ±√2, ∞.
//!
//! Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (2015): a tile's 4×4 outputs are
//! Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A for its 6×6 inputs d and the 3×3 kernel g. 36 multiplications take the place
//! of 144. With these points, reciprocal to each other, no coefficient is larger than 3, and the error of
//! sums over hundreds of channels is that of direct ones within a factor of two; with the usual 0, ±1, ±2, ∞
//! it is twice as large, and with F(6×6)'s four times.

use crate::cpu::buffer::{LANES, Lanes};
use crate::cpu::simd::Simd;
use std::f32::consts::{FRAC_1_SQRT_2 as A, SQRT_2 as B};
use std::mem::MaybeUninit;

/// Outputs of a tile along one axis.
pub(crate) const TILE: usize = 4;
/// Inputs of a tile along one axis.
pub(crate) const SPAN: usize = 6;
/// Points: multiplications of a tile for each pair of channels.
pub(crate) const POINTS: usize = SPAN * SPAN;

/// G g of one row or column: 1, p, p² over the product of the point's distances from the others.
#[inline(always)]
unsafe fn kernel_1d<S: Simd>(g: [S::V; 3]) -> [S::V; SPAN] {
    // SAFETY: the machine has the instructions of `S`, as the callers promise.
    unsafe {
        let constant = |x| S::splat(x);
        let near = S::mul(S::fma(g[2], constant(0.5), g[0]), constant(-2.0 / 3.0));
        let far = S::mul(S::fma(g[2], constant(2.0), g[0]), constant(1.0 / 6.0));
        [
            g[0],
            S::fma(g[1], constant(A * -2.0 / 3.0), near),
            S::fma(g[1], constant(A * 2.0 / 3.0), near),
            S::fma(g[1], constant(B / 6.0), far),
            S::fma(g[1], constant(B / -6.0), far),
            g[2],
        ]
    }
}

/// Bᵀ d of one row or column.
#[inline(always)]
unsafe fn input_1d<S: Simd>(d: [S::V; SPAN]) -> [S::V; SPAN] {
    // SAFETY: the machine has the instructions of `S`, as the callers promise.
    unsafe {
        let constant = |x| S::splat(x);
        let (even_near, odd_near) = (S::fma(d[2], constant(-2.0), d[4]), S::fma(d[1], constant(-2.0), d[3]));
        let (even_far, odd_far) = (S::fma(d[2], constant(-0.5), d[4]), S::fma(d[1], constant(-0.5), d[3]));
        [
            S::fma(d[2], constant(-2.5), S::add(d[0], d[4])),
            S::fma(odd_near, constant(A), even_near),
            S::fma(odd_near, constant(-A), even_near),
            S::fma(odd_far, constant(B), even_far),
            S::fma(odd_far, constant(-B), even_far),
            S::fma(d[3], constant(-2.5), S::add(d[1], d[5])),
        ]
    }
}

/// Aᵀ m of one row or column: powers of the points, and m[5] for the highest.
#[inline(always)]
unsafe fn output_1d<S: Simd>(m: [S::V; SPAN]) -> [S::V; TILE] {
    // SAFETY: the machine has the instructions of `S`, as the callers promise.
    unsafe {
        let constant = |x| S::splat(x);
        let (even_near, odd_near) = (S::add(m[1], m[2]), S::mul(S::sub(m[1], m[2]), constant(A)));
        let (even_far, odd_far) = (S::add(m[3], m[4]), S::mul(S::sub(m[3], m[4]), constant(B)));
        [
            S::add(S::add(m[0], even_near), even_far),
            S::add(odd_near, odd_far),
            S::fma(even_near, constant(0.5), S::add(even_far, even_far)),
            S::fma(odd_near, constant(0.5), S::fma(odd_far, constant(2.0), m[5])),
        ]
    }
}

/// G g Gᵀ of a 3×3 kernel: tap t is at `source + t * tap_stride`, point p goes to `target + p * point_stride`.
///
/// # Safety
/// The machine has the instructions of `S`; nine taps can be read and all 36 points written.
#[inline(always)]
pub(super) unsafe fn kernel<S: Simd>(
    source: *const f32,
    tap_stride: usize,
    target: *mut f32,
    point_stride: usize,
) {
    // SAFETY: the caller's promises.
    unsafe {
        let column = |x: usize| [0, 1, 2].map(|y| source.wrapping_add((y * 3 + x) * tap_stride));
        let columns = [0, 1, 2].map(column);
        let mut transformed = [[S::splat(0.0); SPAN]; 3];
        for (transformed, [a, b, c]) in transformed.iter_mut().zip(columns) {
            *transformed = kernel_1d::<S>([S::load(a), S::load(b), S::load(c)]);
        }
        let [left, middle, right] = transformed;
        for (y, ((left, middle), right)) in left.into_iter().zip(middle).zip(right).enumerate() {
            for (x, value) in kernel_1d::<S>([left, middle, right]).into_iter().enumerate() {
                S::store(target.add((y * SPAN + x) * point_stride), value);
            }
        }
    }
}

/// Bᵀ d B of a tile: `source` is its first pixel, rows are `row_stride` floats apart; point p goes to
/// `target + p * point_stride`.
///
/// # Safety
/// The machine has the instructions of `S`; 6×6 pixels can be read and all 36 points written.
#[inline(always)]
pub(super) unsafe fn input<S: Simd>(
    source: *const f32,
    row_stride: usize,
    target: *mut f32,
    point_stride: usize,
) {
    // Uninitialised, as clearing it would take a good part of the transform's time.
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

/// Aᵀ m A of a tile, row by row: point p is at `source + p * point_stride`.
///
/// # Safety
/// The machine has the instructions of `S`; all 36 points can be read.
#[inline(always)]
pub(super) unsafe fn output<S: Simd>(source: *const f32, point_stride: usize) -> [[S::V; TILE]; TILE] {
    // SAFETY: the caller's promises.
    unsafe {
        let mut columns = [[S::splat(0.0); TILE]; SPAN];
        for (x, column) in columns.iter_mut().enumerate() {
            let mut m = [S::splat(0.0); SPAN];
            for (y, m) in m.iter_mut().enumerate() {
                *m = S::load(source.add((y * SPAN + x) * point_stride));
            }
            *column = output_1d::<S>(m);
        }
        let mut rows = [[S::splat(0.0); TILE]; TILE];
        for (y, row) in rows.iter_mut().enumerate() {
            let mut m = [S::splat(0.0); SPAN];
            for (m, column) in m.iter_mut().zip(&columns) {
                *m = column[y];
            }
            *row = output_1d::<S>(m);
        }
        rows
    }
}
