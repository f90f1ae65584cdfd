use reverie_kernels::Backend;

use crate::{Plain, check, gpu, noise, upload};

#[test]
fn concat() {
    let gpu = gpu();
    // Words of 16, 8, 4 and 2 bytes, widths that differ, and more than a block.
    for channels in [[8, 16, 40], [4, 8, 12], [2, 4, 6], [1, 3, 8], [320, 1, 640], [8, 3, 8]] {
        let parts: Vec<_> = channels.iter().zip(1..).map(|(&c, seed)| noise([2, c, 5, 7], seed)).collect();
        let starts = [0, channels[0], channels[0] + channels[1]];
        let expected = Plain::from_fn([2, channels.iter().sum(), 5, 7], |n, c, y, x| {
            let part = (0..3).rfind(|&i| starts[i] <= c).unwrap();
            parts[part].at(n, c - starts[part], y, x)
        });
        let parts: Vec<_> = parts.iter().map(|part| upload(&gpu, part)).collect();
        let out = gpu.concat(&parts.iter().collect::<Vec<_>>()).unwrap();
        check(&gpu, &out, &expected, 0.0, &format!("{channels:?}"));
    }
}

#[test]
fn stack_and_images_are_inverse() {
    let gpu = gpu();
    for [c, h, w] in [[1, 1, 1], [3, 5, 7], [8, 3, 5], [40, 9, 11], [2, 3, 3]] {
        let batches = [1, 3, 2];
        let parts: Vec<_> = batches.iter().zip(1..).map(|(&n, seed)| noise([n, c, h, w], seed)).collect();
        let data = parts.iter().flat_map(|part| part.data.clone()).collect();
        let expected = Plain { data, shape: [6, c, h, w] };
        let tensors: Vec<_> = parts.iter().map(|part| upload(&gpu, part)).collect();
        let out = gpu.stack(&tensors.iter().collect::<Vec<_>>()).unwrap();
        check(&gpu, &out, &expected, 0.0, &format!("stack of {c} x {h} x {w}"));

        for (part, first) in parts.iter().zip([0, 1, 4]) {
            let images = gpu.images(&out, first, part.shape[0]).unwrap();
            check(&gpu, &images, part, 0.0, &format!("images of {c} x {h} x {w} from {first}"));
        }
        check(&gpu, &gpu.images(&out, 0, 6).unwrap(), &expected, 0.0, "all images");
    }
}

#[test]
fn pad() {
    let gpu = gpu();
    for shape in [[1, 1, 1, 1], [2, 3, 5, 7], [2, 8, 4, 6], [3, 4, 3, 5], [1, 2, 17, 33], [2, 40, 7, 9]] {
        let x = noise(shape, 1);
        let [n, c, h, w] = shape;
        for [right, bottom] in [[0, 0], [1, 0], [0, 1], [3, 2], [40, 9]] {
            let expected = Plain::from_fn([n, c, h + bottom, w + right], |n, c, y, x0| {
                if y < h && x0 < w { x.at(n, c, y, x0) } else { 0.0 }
            });
            let out = gpu.pad(&upload(&gpu, &x), right, bottom).unwrap();
            check(&gpu, &out, &expected, 0.0, &format!("{shape:?} by {right}, {bottom}"));
        }
    }
}

/// More images than the second side of a grid has blocks.
#[test]
fn pad_of_many_images() {
    let gpu = gpu();
    let x = noise([65_537, 1, 1, 1], 1);
    let expected =
        Plain::from_fn([65_537, 1, 2, 1], |n, _, y, _| if y == 0 { x.at(n, 0, 0, 0) } else { 0.0 });
    check(&gpu, &gpu.pad(&upload(&gpu, &x), 0, 1).unwrap(), &expected, 0.0, "many images");
}
