use reverie_kernels::{Backend, Unary};

use crate::{
    Plain, check,
    common::{self, FUNCTIONS, apply, leaky},
    gpu, halves, noise, upload,
};

/// Fewer values than a vector, whole vectors, more than a block, and rests.
const SHAPES: [[usize; 4]; 4] = [[1, 1, 1, 5], [1, 8, 2, 2], [2, 3, 17, 33], [1, 320, 8, 8]];

/// Half a unit in the last place of fp16, and a little for what was rounded before.
const ROUNDED: f32 = 5e-4;

#[test]
fn scale_add() {
    let gpu = gpu();
    for shape in SHAPES {
        let (x, y) = (noise(shape, 1), noise(shape, 2));
        let expected = Plain::from_fn(shape, |n, c, h, w| x.at(n, c, h, w) * 0.7 + y.at(n, c, h, w));
        let out = gpu.scale_add(&upload(&gpu, &x), 0.7, &upload(&gpu, &y)).unwrap();
        check(&gpu, &out, &expected, ROUNDED, &format!("{shape:?}"));
    }
}

/// Each value by itself, not against the largest: from those that fp16 hardly has to those that it just has.
#[test]
fn functions_of_one_value() {
    let gpu = gpu();
    let sizes = (0..1400).map(|i| 1e-6 * 1.018f32.powi(i)).filter(|x| *x < 65504.0);
    let mut data: Vec<f32> = sizes.flat_map(|x| [x, -x]).collect();
    data.extend((-400..=400).map(|i| i as f32 / 20.0));
    data.extend([0.0, 60000.0, -60000.0, 65504.0, -65504.0]);
    let x = halves(Plain { shape: [1, 1, 1, data.len()], data });
    for f in FUNCTIONS {
        let out = gpu.to_vec(&gpu.unary(&upload(&gpu, &x), f).unwrap()).unwrap();
        for (x, out) in x.data.iter().zip(out) {
            let expected = apply(f, f64::from(*x));
            // Half of the least difference of fp16, or of the last place.
            let allowed = f64::from(ROUNDED) * expected.abs() + 3.1e-8;
            let error = (f64::from(out) - expected).abs();
            assert!(error <= allowed, "{f:?}({x}) is {out}, not {expected}");
        }
    }
}

#[test]
fn functions_of_one_value_are_for_every_size() {
    let gpu = gpu();
    for shape in SHAPES {
        let x = noise(shape, 1);
        for f in [Unary::Identity, Unary::Tanh] {
            let expected = Plain::from_fn(shape, |n, c, h, w| apply(f, x.at(n, c, h, w)));
            check(&gpu, &gpu.unary(&upload(&gpu, &x), f).unwrap(), &expected, ROUNDED, &format!("{shape:?}"));
        }
    }
}

#[test]
fn prelu() {
    let gpu = gpu();
    for shape in SHAPES {
        let x = noise(shape, 1);
        for slopes in [1, shape[1]] {
            // fp32: not what fp16 would make of them.
            let slope = common::noise(slopes, 2);
            let expected = Plain::from_fn(shape, |n, c, h, w| {
                leaky(x.at(n, c, h, w), f64::from(slope[if slopes == 1 { 0 } else { c }]))
            });
            let out = gpu.prelu(&upload(&gpu, &x), &slope).unwrap();
            check(&gpu, &out, &expected, ROUNDED, &format!("{shape:?}, {slopes} slopes"));
        }
    }
}

#[test]
fn geglu() {
    let gpu = gpu();
    for width in [1, 4, 21, 8, 320] {
        let mut x = noise([2, 1, 13, 2 * width], 1);
        x.data.iter_mut().for_each(|x| *x *= 6.0);
        let x = halves(x);
        let expected = Plain::from_fn([2, 1, 13, width], |n, _, y, i| {
            x.at(n, 0, y, i) * common::gelu(x.at(n, 0, y, width + i))
        });
        let out = gpu.geglu(&upload(&gpu, &x)).unwrap();
        check(&gpu, &out, &expected, ROUNDED, &format!("{width} wide"));
    }
}

#[test]
fn add_channels() {
    let gpu = gpu();
    for shape in SHAPES {
        let [n, c, ..] = shape;
        let (x, bias) = (noise(shape, 1), noise([n, 1, 1, c], 2));
        let expected = Plain::from_fn(shape, |n, c, h, w| x.at(n, c, h, w) + bias.at(n, 0, 0, c));
        let out = gpu.add_channels(&upload(&gpu, &x), &upload(&gpu, &bias)).unwrap();
        check(&gpu, &out, &expected, ROUNDED, &format!("{shape:?}"));
    }
}
