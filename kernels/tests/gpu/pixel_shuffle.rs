use reverie_kernels::Backend;

use crate::{Plain, check, common, gpu, noise, upload};

#[test]
fn pixel_shuffle() {
    let gpu = gpu();
    for factor in [1, 2, 3, 4, 5] {
        for (channels, [h, w]) in
            [(3, [1, 1]), (1, [3, 5]), (3, [7, 11]), (8, [3, 5]), (40, [5, 2]), (3, [2, 130])]
        {
            let x = noise([2, channels * factor * factor, h, w], 1);
            let what = format!("{channels} channels of {h} x {w} by {factor}");
            let expected = common::pixel_shuffle(&x, factor);
            let on_gpu = upload(&gpu, &x);
            check(&gpu, &gpu.pixel_shuffle(&on_gpu, factor).unwrap(), &expected, 0.0, &what);

            let base = noise([2, channels, h, w], 2);
            let sum = Plain::from_fn(expected.shape, |n, c, y, x0| {
                expected.at(n, c, y, x0) + base.at(n, c, y / factor, x0 / factor)
            });
            let out = gpu.pixel_shuffle_add_nearest(&on_gpu, factor, &upload(&gpu, &base)).unwrap();
            check(&gpu, &out, &sum, 5e-4, &what);
        }
    }
}
