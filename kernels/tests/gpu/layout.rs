use reverie_kernels::Backend;

use crate::{Plain, check, gpu, noise, upload};

/// Few channels and many, whole tiles of both sides, and rests.
const SHAPES: [[usize; 4]; 10] = [
    [1, 1, 1, 1],
    [2, 1, 17, 33],
    [3, 2, 5, 7],
    [2, 3, 17, 33],
    [2, 4, 9, 8],
    [2, 5, 1, 1],
    [2, 33, 3, 11],
    [2, 40, 5, 13],
    [1, 64, 8, 8],
    [1, 320, 16, 15],
];

#[test]
fn tensors_come_back_as_they_went() {
    let gpu = gpu();
    for shape in SHAPES {
        let x = noise(shape, 1);
        check(&gpu, &upload(&gpu, &x), &x, 0.0, &format!("{shape:?}"));
    }
}

/// As tokens, channels are values of one plane: they come in the order in which they lie on the device.
#[test]
fn channels_lie_last() {
    let gpu = gpu();
    for shape in SHAPES {
        let x = noise(shape, 1);
        let [n, c, h, w] = shape;
        let expected = Plain::from_fn([n, 1, h * w, c], |n, _, t, c| x.at(n, c, t / w, t % w));
        let tokens = gpu.to_tokens(&upload(&gpu, &x)).unwrap();
        check(&gpu, &tokens, &expected, 0.0, &format!("{shape:?}"));
        let back = gpu.from_tokens(&upload(&gpu, &expected), h, w).unwrap();
        check(&gpu, &back, &x, 0.0, &format!("back to {shape:?}"));
    }
}
