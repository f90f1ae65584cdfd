//! Convolutions against a plain one in `f64`, on every instruction set of the machine.

mod common;

use common::{Plain, SIZES, assert_close, backends, noise};
use reverie_kernels::cpu::{CpuBackend, Level};
use reverie_kernels::{Activation, Backend, Conv2dDesc, Error};

/// Of the largest output. Most cases stay below 3e-6, the worst of Winograd's larger tiles come to 6e-6.
const TOLERANCE: f32 = 2e-5;
/// Winograd's smaller tiles, for many channels: as deep sums as there are come to 2e-6.
const FINE: f32 = 4e-6;

fn check(desc: Conv2dDesc, size: [usize; 2], images: usize, act: Activation) {
    check_to(TOLERANCE, desc, size, images, act);
}

fn check_to(tolerance: f32, desc: Conv2dDesc, [h, w]: [usize; 2], images: usize, act: Activation) {
    let x = Plain::noise([images, desc.in_channels, h, w], 1);
    let (weight, bias) = (noise(desc.weight_len(), 2), noise(desc.out_channels, 3));
    let expected = common::conv2d(&x, desc, &weight, &bias, &act);
    for backend in backends() {
        let what = format!("{desc:?} on {h}x{w}, {} images, {}", images, backend.name());
        let conv = backend.prepare_conv2d(desc, &weight, Some(&bias), act.clone()).unwrap();
        let tensor = backend.tensor(x.data.clone(), x.shape).unwrap();
        let out = backend.conv2d(&tensor, &conv).unwrap();
        assert_eq!(backend.shape(&out), expected.shape, "{what}");
        assert_close(&backend.to_vec(&out).unwrap(), &expected, tolerance, &what);
    }
}

#[test]
fn winograd_is_right_on_every_size() {
    for size in SIZES {
        check(Conv2dDesc::same(16, 24, 3), size, 1, Activation::PRelu(noise(24, 4)));
    }
}

#[test]
fn winograd_is_right_for_every_channel_count() {
    for (inputs, outputs) in [(16, 1), (17, 16), (31, 33), (64, 64), (64, 48), (96, 32), (40, 80), (300, 5)] {
        check(Conv2dDesc::same(inputs, outputs, 3), [9, 14], 2, Activation::LeakyRelu(0.2));
    }
}

#[test]
fn winograd_is_right_with_other_paddings() {
    for padding in [0, 2, 5] {
        check(Conv2dDesc { padding, ..Conv2dDesc::same(20, 18, 3) }, [11, 7], 1, Activation::None);
    }
}

#[test]
fn direct_is_right_on_every_size() {
    for size in SIZES {
        check(Conv2dDesc::same(3, 20, 3), size, 1, Activation::PRelu(vec![0.25]));
        check(Conv2dDesc::same(18, 7, 1), size, 2, Activation::LeakyRelu(0.1));
        check(Conv2dDesc { stride: 2, ..Conv2dDesc::same(17, 33, 3) }, size, 1, Activation::None);
    }
}

#[test]
fn direct_is_right_for_every_kernel_stride_and_padding() {
    for kernel in [1, 3, 5, 7] {
        for stride in [1, 2, 3] {
            for padding in [0, 1, kernel] {
                for (inputs, outputs) in [(1, 1), (4, 65), (32, 16)] {
                    let desc =
                        Conv2dDesc { in_channels: inputs, out_channels: outputs, kernel, stride, padding };
                    check(desc, [9, 11], 2, Activation::None);
                }
            }
        }
    }
}

#[test]
fn deep_sums_are_right() {
    // More rows of weights than the multiplication takes at a time.
    check(Conv2dDesc::same(600, 20, 1), [3, 5], 1, Activation::None);
    check(Conv2dDesc { stride: 2, ..Conv2dDesc::same(100, 40, 3) }, [6, 6], 1, Activation::None);
}

#[test]
fn many_channels_are_right_on_every_size() {
    for &size in &SIZES[..8] {
        check_to(FINE, Conv2dDesc::same(200, 96, 3), size, 1, Activation::LeakyRelu(0.2));
    }
}

#[test]
fn many_channels_are_right_for_every_channel_count() {
    for (inputs, outputs) in [(130, 141), (1040, 16), (17, 1030), (160, 128), (145, 177)] {
        check_to(
            FINE,
            Conv2dDesc::same(inputs, outputs, 3),
            [9, 14],
            2,
            Activation::PRelu(noise(outputs, 4)),
        );
    }
    check(Conv2dDesc { padding: 2, ..Conv2dDesc::same(144, 130, 3) }, [5, 7], 1, Activation::None);
    check(Conv2dDesc { padding: 0, ..Conv2dDesc::same(144, 130, 3) }, [5, 7], 1, Activation::None);
}

#[test]
fn the_residual_comes_after_the_activation() {
    for (inputs, outputs) in [(32, 20), (3, 20), (200, 100)] {
        let desc = Conv2dDesc::same(inputs, outputs, 3);
        let (x, base) = (Plain::noise([2, inputs, 10, 9], 1), Plain::noise([2, outputs, 10, 9], 5));
        let weight = noise(desc.weight_len(), 2);
        let act = Activation::LeakyRelu(0.2);
        let mut expected = common::conv2d(&x, desc, &weight, &vec![0.0; outputs], &act);
        for (out, base) in expected.data.iter_mut().zip(&base.data) {
            *out = *out * 0.3 + base;
        }
        for backend in backends() {
            let conv = backend.prepare_conv2d(desc, &weight, None, act.clone()).unwrap();
            let x = backend.tensor(x.data.clone(), x.shape).unwrap();
            let base = backend.tensor(base.data.clone(), base.shape).unwrap();
            let out = backend.conv2d_residual(&x, &conv, 0.3, &base).unwrap();
            assert_close(&backend.to_vec(&out).unwrap(), &expected, TOLERANCE, backend.name());
        }
    }
}

#[test]
fn a_chain_of_layers_stays_accurate() {
    // Deep enough that layers feed on one another's layout and padding, and errors could pile up.
    let prelu = || Activation::PRelu(noise(20, 9));
    let first = Conv2dDesc::same(3, 20, 3);
    let middle = Conv2dDesc::same(20, 20, 3);
    let scaled = |desc: Conv2dDesc, seed| -> Vec<f32> {
        let scale = (3.0 / (desc.in_channels * 9) as f32).sqrt();
        noise(desc.weight_len(), seed).into_iter().map(|x| x * scale).collect()
    };
    let bias = noise(20, 8);
    let image = Plain::noise([1, 3, 23, 29], 1);
    let mut expected = common::conv2d(&image, first, &scaled(first, 0), &bias, &prelu());
    for seed in 1..8 {
        expected = common::conv2d(&expected, middle, &scaled(middle, seed), &bias, &prelu());
    }
    for backend in backends() {
        let mut x = backend.tensor(image.data.clone(), image.shape).unwrap();
        for seed in 0..8 {
            let desc = if seed == 0 { first } else { middle };
            let conv = backend.prepare_conv2d(desc, &scaled(desc, seed), Some(&bias), prelu()).unwrap();
            x = backend.conv2d(&x, &conv).unwrap();
        }
        assert_close(&backend.to_vec(&x).unwrap(), &expected, TOLERANCE, backend.name());
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    for level in Level::available() {
        for (inputs, outputs, kernel) in [(40, 33, 3), (160, 112, 3), (3, 33, 5), (300, 33, 1)] {
            let desc = Conv2dDesc::same(inputs, outputs, kernel);
            let weight = noise(desc.weight_len(), 2);
            let x = noise(2 * desc.in_channels * 45 * 31, 1);
            let run = |threads| {
                let backend = CpuBackend::with_level(threads, level).unwrap();
                let conv = backend.prepare_conv2d(desc, &weight, None, Activation::LeakyRelu(0.2)).unwrap();
                let x = backend.tensor(x.clone(), [2, desc.in_channels, 45, 31]).unwrap();
                backend.to_vec(&backend.conv2d(&x, &conv).unwrap()).unwrap()
            };
            let one: Vec<u32> = run(1).into_iter().map(f32::to_bits).collect();
            for threads in [2, 5] {
                let more: Vec<u32> = run(threads).into_iter().map(f32::to_bits).collect();
                assert!(one == more, "{desc:?}, {level:?}: {threads} threads give other bits than one");
            }
        }
    }
}

#[test]
fn bad_convolutions_are_refused() {
    let backend = CpuBackend::new(1);
    let good = Conv2dDesc::same(4, 8, 3);
    let weight = vec![0.0; good.weight_len()];
    let prepare = |desc, weight: &[f32], bias, act| backend.prepare_conv2d(desc, weight, bias, act).err();
    for bad in [
        Conv2dDesc { in_channels: 0, ..good },
        Conv2dDesc { out_channels: 0, ..good },
        Conv2dDesc { kernel: 2, ..good },
        Conv2dDesc { kernel: 0, ..good },
        Conv2dDesc { stride: 0, ..good },
    ] {
        assert_eq!(prepare(bad, &weight, None, Activation::None), Some(Error::InvalidConv { desc: bad }));
    }
    let error = prepare(good, &weight[1..], None, Activation::None).unwrap().to_string();
    assert_eq!(error, "convolution weight needs 288 values, got 287");
    let error = prepare(good, &weight, Some(&[0.0; 3]), Activation::None).unwrap().to_string();
    assert_eq!(error, "convolution bias needs 8 values, got 3");
    let error = prepare(good, &weight, None, Activation::PRelu(vec![0.1; 7])).unwrap().to_string();
    assert_eq!(error, "PReLU slope needs 8 values, got 7");
    // Nor may sizes overflow.
    let huge = Conv2dDesc { in_channels: usize::MAX, ..good };
    assert!(prepare(huge, &weight, None, Activation::None).is_some());
    let huge = Conv2dDesc { padding: usize::MAX, ..good };
    let conv = backend.prepare_conv2d(huge, &weight, None, Activation::None).unwrap();
    let x = backend.tensor(vec![0.0; 4], [1, 4, 1, 1]).unwrap();
    assert!(backend.conv2d(&x, &conv).is_err());
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let backend = CpuBackend::new(1);
    let desc = Conv2dDesc { padding: 0, ..Conv2dDesc::same(4, 8, 3) };
    let conv = backend.prepare_conv2d(desc, &vec![0.0; desc.weight_len()], None, Activation::None).unwrap();
    let tensor = |shape| backend.tensor(vec![0.0; common::len(shape)], shape).unwrap();
    let error = backend.conv2d(&tensor([1, 3, 5, 5]), &conv).err();
    assert_eq!(error, Some(Error::ConvChannels { expected: 4, shape: [1, 3, 5, 5] }));
    let error = backend.conv2d(&tensor([1, 4, 2, 5]), &conv).err();
    assert_eq!(error, Some(Error::ConvInputTooSmall { shape: [1, 4, 2, 5], desc }));
    let error = backend.conv2d_residual(&tensor([1, 4, 5, 5]), &conv, 1.0, &tensor([1, 8, 5, 5])).err();
    let expected =
        Error::ShapeMismatch { operation: "conv2d_residual", left: [1, 8, 3, 3], right: [1, 8, 5, 5] };
    assert_eq!(error, Some(expected));
}
