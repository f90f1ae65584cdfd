use reverie_kernels::{Backend, Error, Filter};

use crate::{Plain, check, common, gpu, noise, upload};

const FILTERS: [Filter; 4] = [Filter::Nearest, Filter::Bilinear, Filter::Bicubic, Filter::Lanczos3];

/// fp16 rounds a result by 4.9e-4 of it at most, and the sums are of fp32. Nearest only copies.
fn tolerance(filter: Filter) -> f32 {
    if filter == Filter::Nearest { 0.0 } else { 5.5e-4 }
}

#[test]
fn resize() {
    let gpu = gpu();
    for [n, c, h, w] in [
        [2, 3, 1, 1],
        [1, 3, 1, 7],
        [2, 3, 8, 13],
        [1, 1, 17, 33],
        [3, 1, 5, 8],
        [2, 8, 3, 5],
        [2, 40, 6, 6],
        [1, 320, 4, 3],
    ] {
        let x = noise([n, c, h, w], 1);
        let on_gpu = upload(&gpu, &x);
        for [new_h, new_w] in [[h * 2, w * 2], [h * 4, w * 3], [h + 3, w + 1], [h, w], [1, 1], [5, 4]] {
            for filter in FILTERS {
                let expected = common::resize(&x, new_h, new_w, filter);
                let out = gpu.resize(&on_gpu, new_h, new_w, filter).unwrap();
                let what = format!("{filter:?}, {:?} to {new_h} x {new_w}", x.shape);
                check(&gpu, &out, &expected, tolerance(filter), &what);
            }
        }
    }
}

/// Positions times sides that do not fit in 32 bits.
#[test]
fn nearest_of_long_sides() {
    let gpu = gpu();
    for ([old, new], c, across) in [([70_001, 70_000], 8, false), ([65_535, 65_600], 1, true)] {
        let shape = |side| if across { [1, c, 1, side] } else { [1, c, side, 1] };
        // Neighbours differ, and fp16 holds all of them.
        let x = Plain::from_fn(shape(old), |_, _, y, x| ((y + x) % 1000) as f64);
        let [_, _, h, w] = shape(new);
        let expected = common::resize(&x, h, w, Filter::Nearest);
        let out = gpu.resize(&upload(&gpu, &x), h, w, Filter::Nearest).unwrap();
        check(&gpu, &out, &expected, 0.0, &format!("{old} to {new}"));
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let gpu = gpu();
    let x = upload(&gpu, &noise([1, 8, 4, 4], 1));
    for [h, w] in [[0, 1], [1, 0], [usize::MAX, 3], [1 << 20, 1 << 20]] {
        let error = gpu.resize(&x, h, w, Filter::Bilinear).err();
        assert_eq!(error, Some(Error::InvalidShape { shape: [1, 8, h, w] }));
    }
}
