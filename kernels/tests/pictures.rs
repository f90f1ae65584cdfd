//! Group norm, functions of one value and the moving of pixels against plain versions, for both layouts.

mod common;

use common::{FUNCTIONS, Plain, apply, assert_close, check, group_norm, layouts};
use reverie_kernels::cpu::CpuBackend;
use reverie_kernels::{Backend, Error, Unary};

const EXACT: f32 = 2e-6;

#[test]
fn group_norm_is_that_of_torch() {
    let cases = [(1, 1), (6, 3), (8, 8), (32, 32), (40, 4), (64, 32), (96, 8), (80, 1)];
    for (channels, groups) in cases {
        for ([h, w], act) in [([3, 4], Unary::Identity), ([7, 5], Unary::Silu), ([65, 66], Unary::Silu)] {
            let mut x = Plain::noise([2, channels, h, w], 1);
            x.data.iter_mut().enumerate().for_each(|(i, x)| *x = *x * 2.0 + (i / (h * w)) as f32 * 0.1);
            let [weight, bias] = [2, 3].map(|seed| Plain::noise([1, 1, 1, channels], seed));
            let expected = group_norm(&x, groups, [&weight, &bias], 1e-5, act);
            // Means of up to 20 take some digits of deviations of about 1.
            check(&x, &expected, 1e-5, |backend, x| {
                let [weight, bias] =
                    [&weight, &bias].map(|x| backend.tensor(x.data.clone(), x.shape).unwrap());
                backend.group_norm(x, groups, &weight, &bias, 1e-5, act).unwrap()
            });
        }
    }
}

#[test]
fn functions_of_one_value() {
    for f in FUNCTIONS {
        for channels in [3, 16, 20] {
            let mut x = Plain::noise([2, channels, 9, 7], 1);
            x.data.iter_mut().for_each(|x| *x *= 9.0);
            let expected = Plain::from_fn(x.shape, |n, c, y, x0| apply(f, x.at(n, c, y, x0)));
            check(&x, &expected, EXACT, |backend, x| backend.unary(x, f).unwrap());
        }
    }
}

/// Each value by itself, not against the largest: from 1e-6 to 80 on both sides of zero.
#[test]
fn functions_are_accurate_where_they_are_small() {
    let sizes = || (0..4000).map(|i| 1e-6 * 1.0047f64.powi(i)).filter(|&x| x < 80.0);
    let data: Vec<f32> = sizes().flat_map(|x| [x as f32, -x as f32]).collect();
    let shape = [1, 1, 1, data.len()];
    for f in FUNCTIONS {
        for backend in common::backends() {
            let x = backend.tensor(data.clone(), shape).unwrap();
            let out = backend.to_vec(&backend.unary(&x, f).unwrap()).unwrap();
            for (x, out) in data.iter().zip(out) {
                let expected = apply(f, f64::from(*x));
                // The tails of the negative side vanish: e^-x is all there is, and its argument is rounded.
                let allowed = if *x < -3.0 { 2e-5 * expected.abs() + 1e-30 } else { 1e-6 * expected.abs() };
                let error = (f64::from(out) - expected).abs();
                assert!(error <= allowed, "{f:?}({x}) is {out}, not {expected}, {}", backend.name());
            }
        }
    }
}

#[test]
fn functions_keep_to_their_limits() {
    let x = [f32::INFINITY, 1e30, 200.0, -200.0, -1e30];
    for backend in common::backends() {
        let x = backend.tensor(x.to_vec(), [1, 1, 1, 5]).unwrap();
        let of = |f| backend.to_vec(&backend.unary(&x, f).unwrap()).unwrap();
        assert_eq!(of(Unary::Tanh), [1.0, 1.0, 1.0, -1.0, -1.0]);
        for f in [Unary::Silu, Unary::Gelu, Unary::QuickGelu] {
            let out = of(f);
            assert_eq!(out[..3], [f32::INFINITY, 1e30, 200.0], "{f:?}");
            assert!(out[3..].iter().all(|x| x.abs() <= 1e-6), "{f:?} of -200 and -1e30: {out:?}");
        }
    }
}

#[test]
fn channels_take_their_values() {
    for channels in [3, 16, 40] {
        let (x, bias) = (Plain::noise([2, channels, 5, 7], 1), Plain::noise([2, 1, 1, channels], 2));
        let expected = Plain::from_fn(x.shape, |n, c, y, x0| x.at(n, c, y, x0) + bias.at(n, 0, 0, c));
        check(&x, &expected, EXACT, |backend, x| {
            let bias = backend.tensor(bias.data.clone(), bias.shape).unwrap();
            backend.add_channels(x, &bias).unwrap()
        });
    }
}

#[test]
fn pixels_become_tokens_and_pixels_again() {
    for channels in [1, 4, 16, 40, 320] {
        for [h, w] in [[1, 1], [3, 5], [9, 16]] {
            let x = Plain::noise([2, channels, h, w], 1);
            let expected =
                Plain::from_fn([2, 1, h * w, channels], |n, _, token, c| x.at(n, c, token / w, token % w));
            check(&x, &expected, 0.0, |backend, x| backend.to_tokens(x).unwrap());
            check(&x, &x, 0.0, |backend, x| {
                backend.from_tokens(&backend.to_tokens(x).unwrap(), h, w).unwrap()
            });
        }
    }
}

#[test]
fn padding_is_zero() {
    for (right, bottom) in [(0, 0), (1, 1), (3, 0), (0, 2)] {
        let x = Plain::noise([2, 20, 4, 5], 1);
        let expected = Plain::from_fn([2, 20, 4 + bottom, 5 + right], |n, c, y, x0| {
            if y < 4 && x0 < 5 { x.at(n, c, y, x0) } else { 0.0 }
        });
        check(&x, &expected, 0.0, |backend, x| backend.pad(x, right, bottom).unwrap());
    }
}

#[test]
fn batches_are_joined_and_divided() {
    for channels in [3, 16, 21] {
        let parts: Vec<_> = (1..4).map(|n| Plain::noise([n, channels, 3, 5], n as u64)).collect();
        let data: Vec<f32> = parts.iter().flat_map(|part| part.data.iter().copied()).collect();
        let all = Plain { data, shape: [6, channels, 3, 5] };
        for backend in common::backends() {
            let tensors: Vec<_> = parts.iter().map(|part| layouts(&backend, part)).collect();
            for mix in 0..8 {
                let chosen: Vec<_> = (0..3).map(|i| &tensors[i][mix >> i & 1]).collect();
                let joined = backend.stack(&chosen).unwrap();
                assert_close(&backend.to_vec(&joined).unwrap(), &all, 0.0, "stack");
                let middle = backend.images(&joined, 1, 2).unwrap();
                assert_eq!(backend.shape(&middle), parts[1].shape);
                assert_close(&backend.to_vec(&middle).unwrap(), &parts[1], 0.0, "images");
            }
        }
    }
}

#[test]
fn pictures_that_do_not_fit_are_named() {
    let backend = CpuBackend::new(1);
    let tensor = |shape| backend.tensor(vec![0.0; common::len(shape)], shape).unwrap();
    let mismatch = |operation, left, right| Some(Error::ShapeMismatch { operation, left, right });
    let x = tensor([2, 8, 4, 5]);
    let eight = tensor([1, 1, 1, 8]);

    for groups in [0, 3] {
        let error = backend.group_norm(&x, groups, &eight, &eight, 1e-5, Unary::Silu).err();
        assert_eq!(error, Some(Error::Groups { groups, shape: [2, 8, 4, 5] }));
    }
    let error = backend.group_norm(&x, 4, &eight, &tensor([1, 1, 1, 4]), 1e-5, Unary::Silu).err();
    assert_eq!(error, mismatch("group_norm: bias", [1, 1, 1, 8], [1, 1, 1, 4]));
    let error = backend.add_channels(&x, &eight).err();
    assert_eq!(error, mismatch("add_channels", [2, 1, 1, 8], [1, 1, 1, 8]));
    let tokens = backend.to_tokens(&x).unwrap();
    let error = backend.from_tokens(&tokens, 4, 4).err();
    assert_eq!(error, mismatch("from_tokens", [2, 1, 16, 8], [2, 1, 20, 8]));
    let error = backend.from_tokens(&tokens, usize::MAX, 2).err();
    assert_eq!(error, Some(Error::InvalidShape { shape: [2, 8, usize::MAX, 2] }));
    let error = backend.pad(&x, usize::MAX, 0).err();
    assert_eq!(error, Some(Error::InvalidShape { shape: [2, 8, 4, usize::MAX] }));
    assert_eq!(backend.stack(&[]).err(), Some(Error::NothingToConcat));
    let error = backend.stack(&[&x, &tensor([1, 8, 4, 4])]).err();
    assert_eq!(error, mismatch("stack", [1, 8, 4, 5], [1, 8, 4, 4]));
    assert_eq!(backend.images(&x, 1, 2).err(), mismatch("images", [3, 8, 4, 5], [2, 8, 4, 5]));
    assert_eq!(backend.images(&x, 0, 0).err(), Some(Error::InvalidShape { shape: [0, 8, 4, 5] }));
}
