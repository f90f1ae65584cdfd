//! Functions of sixteen values at a time.
//!
//! The polynomials are minimax fits of relative error (iteratively reweighted least squares in extended
//! precision); the error that is named at each function includes the rounding of `f32`.

use super::Simd;

/// c[0] + c[1] x + c[2] x² + …
///
/// # Safety
/// The machine has the instructions of `S`.
#[inline(always)]
unsafe fn polynomial<S: Simd, const N: usize>(x: S::V, c: [f32; N]) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sum = S::splat(c[N - 1]);
        for c in c.into_iter().rev().skip(1) {
            sum = S::fma(sum, x, S::splat(c));
        }
        sum
    }
}

/// eˣ within 2e-7 of itself; exactly 0 where it would be less than the smallest normal number, and that of
/// 88 above 88.
///
/// # Safety
/// The machine has the instructions of `S`.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    const LOWEST: f32 = -87.3;
    const HIGHEST: f32 = 88.0;
    // ln 2 in two parts, of which the first has so few digits that its product with n is exact.
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // SAFETY: the caller's promise; n is a whole number within -126 and 127 for the clamped x.
    unsafe {
        let clamped = S::max(S::min(x, S::splat(HIGHEST)), S::splat(LOWEST));
        let n = S::round(S::mul(clamped, S::splat(std::f32::consts::LOG2_E)));
        let r = S::fma(n, S::splat(-LN2[0]), clamped);
        let r = S::fma(n, S::splat(-LN2[1]), r);
        let tail =
            polynomial::<S, 5>(r, [0.499_999_93, 0.166_665_21, 0.041_668_39, 0.008_368_71, 0.001_381_46]);
        let value = S::add(S::splat(1.0), S::fma(S::mul(r, r), tail, r));
        S::above(x, S::splat(LOWEST), S::scale(value, n), S::splat(0.0))
    }
}

/// 2ˣ within 2e-7 of itself; 2^-126 for any x below -126. For x of at most 0, as in a softmax.
///
/// # Safety
/// The machine has the instructions of `S`.
#[inline(always)]
pub(crate) unsafe fn exp2<S: Simd>(x: S::V) -> S::V {
    /// A little less than ln 2, to make up for the terms that are left out.
    const FIRST: f32 = std::f32::consts::LN_2 - 1.8e-7;
    // SAFETY: the caller's promise; n is a whole number of -126 to 0.
    unsafe {
        let x = S::max(x, S::splat(-126.0));
        let n = S::round(x);
        let value = polynomial::<S, 6>(
            S::sub(x, n),
            [1.0, FIRST, 0.240_222_43, 0.055_507_336, 0.009_671_516, 0.001_326_473_7],
        );
        S::scale(value, n)
    }
}

/// x / (1 + e^(-k x)): SiLU for k = 1.
///
/// # Safety
/// The machine has the instructions of `S`.
#[inline(always)]
pub(crate) unsafe fn sigmoid_linear<S: Simd>(x: S::V, k: f32) -> S::V {
    // SAFETY: the caller's promise.
    unsafe { S::div(x, S::add(S::splat(1.0), exp::<S>(S::mul(x, S::splat(-k))))) }
}

/// x Φ(x), Φ being the normal distribution's integral; within 1e-6 of itself for x > -4.
///
/// Φ(-|x|) = e^(-x²/2) P(t), t = 1 / (1 + 0.3 |x|): the form of Abramowitz & Stegun 7.1.26 with more terms.
/// Unlike 1 + erf(x / √2) it does not cancel for negative x.
///
/// # Safety
/// The machine has the instructions of `S`.
#[inline(always)]
pub(crate) unsafe fn gelu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        let one = S::splat(1.0);
        let positive = S::max(x, S::sub(S::splat(0.0), x));
        let t = S::div(one, S::fma(positive, S::splat(0.3), one));
        let p = polynomial::<S, 8>(
            t,
            [
                0.119_624_55,
                0.120_826_27,
                0.099_465_37,
                0.130_031_63,
                -0.056_448_284,
                0.209_344_49,
                -0.158_932_67,
                0.036_088_594,
            ],
        );
        let tail = S::mul(S::mul(t, p), exp::<S>(S::mul(S::mul(x, x), S::splat(-0.5))));
        S::mul(x, S::above(x, S::splat(0.0), S::sub(one, tail), tail))
    }
}

/// tanh x within 3e-7 of itself.
///
/// # Safety
/// The machine has the instructions of `S`.
#[inline(always)]
pub(crate) unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    /// Up to here the polynomial is used: further out 1 - 2 / (e^2x + 1) no longer cancels.
    const SMALL: f32 = 0.625;
    // SAFETY: the caller's promise.
    unsafe {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        let positive = S::max(x, S::sub(zero, x));
        let squared = S::mul(x, x);
        let tail = polynomial::<S, 5>(
            squared,
            [-0.333_332_8, 0.133_314_42, -0.053_739_7, 0.020_639_04, -0.005_704_93],
        );
        let small = S::fma(S::mul(x, squared), tail, x);
        let grown = exp::<S>(S::add(positive, positive));
        let large = S::sub(one, S::div(S::splat(2.0), S::add(grown, one)));
        let large = S::above(x, zero, large, S::sub(zero, large));
        S::above(positive, S::splat(SMALL), large, small)
    }
}
