//! Every operation but convolution against a plain version, for planar tensors (as they come from outside)
//! and blocked ones (as convolutions leave them).

mod common;

use common::{Plain, SIZES, assert_close, backends, layouts, leaky};
use reverie_kernels::cpu::{CpuBackend, CpuTensor};
use reverie_kernels::{Backend, Error, Filter};

const EXACT: f32 = 1e-6;

fn check(x: &Plain, expected: &Plain, op: impl Fn(&CpuBackend, &CpuTensor) -> CpuTensor) {
    common::check(x, expected, EXACT, op);
}

#[test]
fn tensors_come_back_as_they_went() {
    for channels in [1, 3, 16, 17, 40] {
        let x = Plain::noise([2, channels, 5, 7], 1);
        check(&x, &x, |_, x| x.clone());
    }
}

#[test]
fn prelu_takes_one_slope_or_one_for_each_channel() {
    for channels in [1, 3, 20] {
        let x = Plain::noise([2, channels, 6, 5], 1);
        let slope = common::noise(channels, 2);
        let each = Plain::from_fn(x.shape, |n, c, y, x0| leaky(x.at(n, c, y, x0), f64::from(slope[c])));
        check(&x, &each, |backend, x| backend.prelu(x, &slope).unwrap());
        let one = Plain::from_fn(x.shape, |n, c, y, x0| leaky(x.at(n, c, y, x0), f64::from(0.2f32)));
        check(&x, &one, |backend, x| backend.leaky_relu(x, 0.2).unwrap());
    }
}

#[test]
fn pixel_shuffle_is_that_of_torch() {
    for factor in [1, 2, 3, 4, 5] {
        for channels in [1, 3] {
            for [h, w] in [[1, 1], [3, 5], [17, 33]] {
                let x = Plain::noise([2, channels * factor * factor, h, w], 1);
                let expected = common::pixel_shuffle(&x, factor);
                check(&x, &expected, |backend, x| backend.pixel_shuffle(x, factor).unwrap());

                let base = Plain::noise([2, channels, h, w], 2);
                let sum = Plain::from_fn(expected.shape, |n, c, y, x0| {
                    expected.at(n, c, y, x0) + base.at(n, c, y / factor, x0 / factor)
                });
                check(&x, &sum, |backend, x| {
                    let base = backend.tensor(base.data.clone(), base.shape).unwrap();
                    backend.pixel_shuffle_add_nearest(x, factor, &base).unwrap()
                });
            }
        }
    }
}

#[test]
fn resize_follows_its_filters() {
    for filter in [Filter::Nearest, Filter::Bilinear, Filter::Bicubic, Filter::Lanczos3] {
        for [h, w] in &SIZES[..7] {
            let x = Plain::noise([2, 3, *h, *w], 1);
            for [new_h, new_w] in [[h * 2, w * 2], [h * 4, w * 3], [h + 3, w + 1], [1, 1], [5, 4]] {
                let expected = common::resize(&x, new_h, new_w, filter);
                check(&x, &expected, |backend, x| backend.resize(x, new_h, new_w, filter).unwrap());
            }
        }
    }
}

/// Figures of `torch.nn.functional.interpolate(torch.tensor([[[[0., 1., 4., 9.]]]]), size=(1, 7), ...)` and,
/// for Lanczos, of Pillow's `Image.fromarray(..., "F").resize((7, 1), LANCZOS)`.
#[test]
fn resize_gives_the_figures_of_torch_and_pillow() {
    let backend = CpuBackend::new(1);
    let x = backend.tensor(vec![0.0, 1.0, 4.0, 9.0], [1, 1, 1, 4]).unwrap();
    let cases = RESIZED;
    for (filter, expected) in cases {
        let out = backend.to_vec(&backend.resize(&x, 1, 7, filter).unwrap()).unwrap();
        let expected = Plain { data: expected.to_vec(), shape: [1, 1, 1, 7] };
        assert_close(&out, &expected, EXACT, &format!("{filter:?}"));
    }
}

const RESIZED: [(Filter, [f32; 7]); 4] = [
    (Filter::Nearest, [0.0, 0.0, 1.0, 1.0, 4.0, 4.0, 9.0]),
    (Filter::Bilinear, [0.0, 0.3571429, 0.9285715, 2.5, 4.357144, 7.214287, 9.0]),
    (Filter::Bicubic, [-0.09921646, 0.1562487, 0.8042082, 2.125, 4.424658, 7.480775, 9.496082]),
    (Filter::Lanczos3, [-0.01150883, 0.1266246, 0.8819498, 1.928571, 4.424664, 7.747633, 9.470224]),
];

#[test]
fn concat_joins_channels() {
    for channels in [[16, 32, 5], [3, 4, 5], [64, 16, 16], [1, 16, 1]] {
        let parts: Vec<_> =
            channels.iter().zip(1..).map(|(&c, seed)| Plain::noise([2, c, 4, 7], seed)).collect();
        let mut starts = vec![0];
        channels.iter().for_each(|c| starts.push(starts.last().unwrap() + c));
        let expected = Plain::from_fn([2, starts[3], 4, 7], |n, c, y, x| {
            let part = (0..3).rfind(|&i| starts[i] <= c).unwrap();
            parts[part].at(n, c - starts[part], y, x)
        });
        for backend in backends() {
            let tensors: Vec<_> = parts.iter().map(|part| layouts(&backend, part)).collect();
            for mix in 0..8 {
                let chosen: Vec<_> = (0..3).map(|i| &tensors[i][mix >> i & 1]).collect();
                let out = backend.concat(&chosen).unwrap();
                assert_eq!(backend.shape(&out), expected.shape);
                assert_close(&backend.to_vec(&out).unwrap(), &expected, 0.0, "concat");
            }
        }
    }
}

#[test]
fn sums_mix_layouts() {
    for channels in [3, 16, 21] {
        let (a, b) = (Plain::noise([2, channels, 9, 5], 1), Plain::noise([2, channels, 9, 5], 2));
        let sum = Plain::from_fn(a.shape, |n, c, y, x| a.at(n, c, y, x) + b.at(n, c, y, x));
        let scaled = Plain::from_fn(a.shape, |n, c, y, x| a.at(n, c, y, x) * 0.2 + b.at(n, c, y, x));
        for side in [0, 1] {
            check(&a, &sum, |backend, a| backend.add(a, &layouts(backend, &b)[side]).unwrap());
            check(&a, &scaled, |backend, a| backend.scale_add(a, 0.2, &layouts(backend, &b)[side]).unwrap());
        }
    }
}

#[test]
fn combinations_mix_layouts_and_bounds_hold() {
    for channels in [4, 21] {
        let xs: Vec<_> = (1..=8).map(|seed| Plain::noise([2, channels, 9, 5], seed)).collect();
        let mask = Plain::from_fn(xs[0].shape, |_, _, y, x| [0.0, 1.0, 0.25][(x + y) % 3]);
        let factors = [0.7, -1.5, 0.2, 3.0, -0.01, 0.5, 1.0, -2.0];
        for count in 1..=8 {
            let expected = Plain::from_fn(xs[0].shape, |n, c, y, x| {
                let terms = xs[..count].iter().zip(factors);
                terms.map(|(term, factor)| f64::from(factor) * term.at(n, c, y, x)).sum()
            });
            check(&xs[0], &expected, |backend, first| {
                let others: Vec<_> = xs[1..count].iter().map(|x| layouts(backend, x)).collect();
                let mut terms = vec![(factors[0], first)];
                terms.extend(others.iter().enumerate().map(|(i, x)| (factors[i + 1], &x[i % 2])));
                backend.combine(&terms).unwrap()
            });
        }
        let clamped = Plain::from_fn(xs[0].shape, |n, c, y, x| xs[0].at(n, c, y, x).clamp(-0.5, 0.5));
        check(&xs[0], &clamped, |backend, x| backend.clamp(x, 0.5).unwrap());
        let blended = Plain::from_fn(xs[0].shape, |n, c, y, x| {
            let mask = mask.at(n, c, y, x);
            xs[0].at(n, c, y, x) * mask + xs[1].at(n, c, y, x) * (1.0 - mask)
        });
        check(&xs[0], &blended, |backend, x| {
            backend.blend(x, &layouts(backend, &xs[1])[0], &layouts(backend, &mask)[1]).unwrap()
        });
    }
    let backend = CpuBackend::new(1);
    let nan = backend.tensor(vec![f32::NAN, 2.0], [1, 1, 1, 2]).unwrap();
    let clamped = backend.to_vec(&backend.clamp(&nan, 1.0).unwrap()).unwrap();
    assert!(clamped[0].is_nan() && clamped[1] == 1.0);
}

#[test]
fn tensors_outlive_the_memory_that_others_give_back() {
    let backend = CpuBackend::new(1);
    let x = Plain::noise([1, 20, 8, 8], 1);
    let [kept, _] = layouts(&backend, &x);
    for seed in 2..6 {
        drop(layouts(&backend, &Plain::noise([1, 20, 8, 8], seed)));
    }
    backend.release_memory();
    assert_close(&backend.to_vec(&kept).unwrap(), &x, 0.0, "kept");
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let backend = CpuBackend::new(1);
    let tensor = |shape| backend.tensor(vec![0.0; common::len(shape)], shape).unwrap();
    let x = tensor([1, 8, 4, 4]);
    let mismatch = |operation, left, right| Some(Error::ShapeMismatch { operation, left, right });

    let error = backend.tensor(vec![0.0; 5], [1, 1, 2, 3]).err();
    assert_eq!(error, Some(Error::DataLength { shape: [1, 1, 2, 3], expected: 6, actual: 5 }));
    for shape in [[0, 1, 1, 1], [1, 1, 0, 3], [usize::MAX, 2, 1, 1], [1 << 20, 1 << 20, 1 << 20, 1]] {
        assert_eq!(backend.tensor(Vec::new(), shape).err(), Some(Error::InvalidShape { shape }));
    }
    let other = tensor([1, 8, 4, 5]);
    assert_eq!(backend.add(&x, &other).err(), mismatch("scale_add", [1, 8, 4, 4], [1, 8, 4, 5]));
    assert_eq!(backend.concat(&[&x, &other]).err(), mismatch("concat", [1, 8, 4, 4], [1, 8, 4, 5]));
    assert_eq!(backend.concat(&[]).err(), Some(Error::NothingToConcat));
    let error = backend.combine(&[(1.0, &x), (1.0, &other)]).err();
    assert_eq!(error, mismatch("combine", [1, 8, 4, 4], [1, 8, 4, 5]));
    assert_eq!(backend.combine(&[]).err(), Some(Error::NothingToCombine));
    assert_eq!(backend.blend(&x, &other, &x).err(), mismatch("blend", [1, 8, 4, 4], [1, 8, 4, 5]));
    assert_eq!(backend.blend(&x, &x, &other).err(), mismatch("blend: mask", [1, 8, 4, 4], [1, 8, 4, 5]));
    for factor in [0, 3, usize::MAX] {
        let expected = Error::PixelShuffle { shape: [1, 8, 4, 4], factor };
        assert_eq!(backend.pixel_shuffle(&x, factor).err(), Some(expected));
    }
    let error = backend.pixel_shuffle_add_nearest(&x, 2, &tensor([1, 2, 4, 5])).err();
    assert_eq!(error, mismatch("pixel_shuffle_add_nearest", [1, 2, 4, 4], [1, 2, 4, 5]));
    for [h, w] in [[0, 1], [1, 0], [usize::MAX, 3]] {
        let error = backend.resize(&x, h, w, Filter::Bilinear).err();
        assert_eq!(error, Some(Error::InvalidShape { shape: [1, 8, h, w] }));
    }
    let error = backend.prelu(&x, &[0.1; 5]).err();
    let expected = Error::ParameterLength { what: "PReLU slope", expected: 8, actual: 5 };
    assert_eq!(error, Some(expected));
}
