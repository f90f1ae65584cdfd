//! Convolutions with every activation and with a residual.

use reverie_kernels::{Activation, Backend, Conv2dDesc};

use super::{
    Sizes,
    run::{Case, Run, SUMS},
};
use crate::noise;

/// Batch, kernel, stride, channels in and out, height and width.
const REAL: [[usize; 7]; 12] = [
    [1, 3, 1, 4, 320, 64, 64],
    [2, 3, 1, 320, 320, 64, 64],
    [1, 3, 2, 320, 320, 64, 64],
    [1, 3, 1, 320, 4, 64, 64],
    [1, 3, 1, 1280, 1280, 16, 16],
    [2, 3, 1, 2560, 1280, 8, 8],
    [1, 1, 1, 960, 320, 64, 64],
    [1, 3, 1, 512, 256, 96, 104],
    [1, 3, 1, 128, 3, 200, 301],
    [1, 3, 1, 3, 64, 75, 101],
    [1, 3, 1, 64, 32, 75, 101],
    [1, 3, 1, 13, 21, 33, 47],
];

/// With and without vectors, strides, and sums that are split over blocks.
const SMALL: [[usize; 7]; 6] = [
    [1, 3, 1, 4, 40, 13, 9],
    [2, 3, 2, 24, 72, 9, 11],
    [1, 1, 1, 64, 136, 8, 9],
    [2, 3, 1, 288, 64, 4, 4],
    [1, 3, 1, 13, 21, 7, 11],
    [1, 3, 1, 40, 3, 10, 13],
];

pub fn check(run: &mut Run<'_>) {
    let sizes: &[_] = if run.sizes == Sizes::Real { &REAL } else { &SMALL };
    for &[n, kernel, stride, inputs, outputs, h, w] in sizes {
        let desc =
            Conv2dDesc { in_channels: inputs, out_channels: outputs, kernel, stride, padding: kernel / 2 };
        let depth = (inputs * kernel * kernel) as f32;
        let weight = noise::halves(desc.weight_len(), depth.powf(-0.5), 7);
        let bias = noise::halves(outputs, 1.0, 8);
        let x = [n, inputs, h, w];
        let what = format!("{n} {kernel}x{kernel}/{stride} {inputs}->{outputs} {h}x{w}");
        let slopes = noise::halves(outputs, 0.5, 9);
        for (act, name) in [
            (Activation::None, "bare"),
            (Activation::LeakyRelu(0.2), "leaky"),
            (Activation::PRelu(slopes), "prelu"),
        ] {
            run.tensors(Case::new("conv2d", format!("{what} {name}"), &[x], SUMS), |backend, xs| {
                let conv = backend.prepare_conv2d(desc, &weight, Some(&bias), act.clone())?;
                backend.conv2d(xs[0], &conv)
            });
        }
        let residual = [n, outputs, h.div_ceil(stride), w.div_ceil(stride)];
        let inputs = [x, residual];
        run.tensors(Case::new("conv2d_residual", what, &inputs, SUMS), |backend, xs| {
            let conv = backend.prepare_conv2d(desc, &weight, None, Activation::None)?;
            backend.conv2d_residual(xs[0], &conv, 0.25, xs[1])
        });
    }
}
