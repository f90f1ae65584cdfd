use reverie_kernels::{Activation, Backend, Conv2dDesc, Error};

use crate::{Plain, check, common, gpu, noise, upload};

/// Rounding to fp16 and the order of sums.
const TOLERANCE: f32 = 6e-4;

fn run(desc: Conv2dDesc, [n, h, w]: [usize; 3], act: Activation, residual: bool) {
    let what = format!("{desc:?} of {n} x {h} x {w}, {act:?}");
    let gpu = gpu();
    let x = noise([n, desc.in_channels, h, w], 1);
    let weight = noise([1, 1, 1, desc.weight_len()], 2).data;
    let bias = common::noise(desc.out_channels, 3);
    let conv = gpu.prepare_conv2d(desc, &weight, Some(&bias), act.clone()).unwrap();
    let expected = common::conv2d(&x, desc, &weight, &bias, &act);
    let x = upload(&gpu, &x);
    if residual {
        let mut base = noise(expected.shape, 4);
        base.data.iter_mut().for_each(|x| *x *= 4.0);
        let sum =
            Plain::from_fn(expected.shape, |n, c, y, x| expected.at(n, c, y, x) * -0.3 + base.at(n, c, y, x));
        let out = gpu.conv2d_residual(&x, &conv, -0.3, &upload(&gpu, &base)).unwrap();
        check(&gpu, &out, &sum, TOLERANCE, &what);
    } else {
        check(&gpu, &gpu.conv2d(&x, &conv).unwrap(), &expected, TOLERANCE, &what);
    }
}

#[test]
fn every_kernel_stride_and_padding() {
    for kernel in [1, 3, 5, 7] {
        for stride in [1, 2, 3] {
            for padding in [0, 1, kernel] {
                for (in_channels, out_channels) in [(3, 9), (8, 16)] {
                    let desc = Conv2dDesc { in_channels, out_channels, kernel, stride, padding };
                    run(desc, [2, 9, 11], Activation::None, padding == 1);
                }
            }
        }
    }
}

#[test]
fn every_channel_count() {
    // Several taps a step, one or more steps a tap, and taps that end within a step; with and without vectors.
    for in_channels in [3, 4, 8, 13, 16, 32, 40, 64, 72, 100] {
        for out_channels in [3, 24, 70] {
            run(
                Conv2dDesc::same(in_channels, out_channels, 3),
                [2, 5, 7],
                Activation::PRelu(common::noise(out_channels, 5)),
                in_channels % 16 == 0,
            );
        }
    }
}

#[test]
fn every_activation() {
    for act in [
        Activation::None,
        Activation::LeakyRelu(0.0),
        Activation::LeakyRelu(0.2),
        Activation::PRelu(vec![0.25]),
        Activation::PRelu(common::noise(20, 5)),
    ] {
        for residual in [false, true] {
            run(Conv2dDesc::same(16, 20, 3), [1, 6, 7], act.clone(), residual);
            run(Conv2dDesc::same(5, 20, 1), [1, 6, 7], act.clone(), residual);
        }
    }
}

#[test]
fn every_size() {
    for &[h, w] in &common::SIZES[..8] {
        let stride = Conv2dDesc { stride: 2, ..Conv2dDesc::same(16, 40, 3) };
        for desc in [stride, Conv2dDesc::same(16, 8, 3), Conv2dDesc::same(3, 8, 3)] {
            run(desc, [2, h, w], Activation::LeakyRelu(0.1), false);
        }
    }
}

#[test]
fn split_sums() {
    for (desc, residual) in [
        (Conv2dDesc::same(288, 64, 3), true),
        (Conv2dDesc { stride: 2, ..Conv2dDesc::same(296, 72, 3) }, false),
        (Conv2dDesc::same(2560, 64, 1), true),
    ] {
        run(desc, [2, 8, 8], Activation::LeakyRelu(0.3), residual);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let gpu = gpu();
    let desc = Conv2dDesc { padding: 0, ..Conv2dDesc::same(4, 8, 3) };
    let weight = vec![0.0; desc.weight_len()];
    let conv = gpu.prepare_conv2d(desc, &weight, None, Activation::None).unwrap();
    let tensor = |shape| gpu.tensor(vec![0.0; common::len(shape)], shape).unwrap();
    let error = gpu.conv2d(&tensor([1, 3, 5, 5]), &conv).err();
    assert_eq!(error, Some(Error::ConvChannels { expected: 4, shape: [1, 3, 5, 5] }));
    let error = gpu.conv2d(&tensor([1, 4, 2, 5]), &conv).err();
    assert_eq!(error, Some(Error::ConvInputTooSmall { shape: [1, 4, 2, 5], desc }));
    let error = gpu.conv2d_residual(&tensor([1, 4, 5, 5]), &conv, 1.0, &tensor([1, 8, 5, 5])).err();
    let (left, right) = ([1, 8, 3, 3], [1, 8, 5, 5]);
    assert_eq!(error, Some(Error::ShapeMismatch { operation: "conv2d_residual", left, right }));

    // Steps longer than any picture are fine, padding beyond 32 bits is not.
    let far = Conv2dDesc { stride: 1 << 40, ..desc };
    let conv = gpu.prepare_conv2d(far, &weight, None, Activation::None).unwrap();
    assert_eq!(gpu.shape(&gpu.conv2d(&tensor([1, 4, 5, 5]), &conv).unwrap()), [1, 8, 1, 1]);
    let wide = Conv2dDesc { stride: 1 << 40, padding: 1 << 34, ..desc };
    let conv = gpu.prepare_conv2d(wide, &weight, None, Activation::None).unwrap();
    assert_eq!(gpu.conv2d(&tensor([1, 4, 5, 5]), &conv).err(), Some(Error::InvalidConv { desc: wide }));
}
