//! Products of rows and weights.

use reverie_kernels::Backend;

use super::{
    Sizes,
    run::{Case, Run, SUMS},
};
use crate::noise;

/// Batch, rows, inputs and outputs.
const REAL: [[usize; 4]; 7] = [
    [2, 4096, 320, 320],
    [1, 4096, 1280, 320],
    [1, 1024, 640, 5120],
    [2, 77, 768, 1280],
    [1, 77, 2048, 640],
    [1, 1, 320, 1280],
    [3, 5, 13, 21],
];

/// Rests of tiles and vectors, and a sum that is split over blocks.
const SMALL: [[usize; 4]; 5] =
    [[2, 67, 40, 136], [1, 1, 320, 24], [3, 5, 13, 21], [1, 33, 2560, 64], [1, 300, 16, 72]];

pub fn check(run: &mut Run<'_>) {
    let sizes: &[_] = if run.sizes == Sizes::Real { &REAL } else { &SMALL };
    for &[n, rows, inputs, outputs] in sizes {
        let weight = noise::halves(inputs * outputs, (inputs as f32).powf(-0.5), 7);
        let bias = noise::halves(outputs, 1.0, 8);
        let what = format!("{n} {rows} {inputs}->{outputs}");
        let [x, residual] = [[n, 1, rows, inputs], [n, 1, rows, outputs]];
        run.tensors(Case::new("linear", what.clone(), &[x], SUMS), |backend, xs| {
            backend.linear(xs[0], &backend.prepare_linear(inputs, outputs, &weight, Some(&bias))?)
        });
        run.tensors(Case::new("linear_residual", what, &[x, residual], SUMS), |backend, xs| {
            backend.linear_residual(xs[0], &backend.prepare_linear(inputs, outputs, &weight, None)?, xs[1])
        });
    }
}
