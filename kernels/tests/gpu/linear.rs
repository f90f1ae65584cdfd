use reverie_kernels::Backend;

use crate::{Plain, check, common, gpu, noise, upload};

/// Rounding to fp16 and the order of sums.
const TOLERANCE: f32 = 6e-4;

fn run([n, rows, inputs, outputs]: [usize; 4], with_bias: bool) {
    let what = format!("{inputs} to {outputs}, {n} of {rows} rows");
    let gpu = gpu();
    let x = noise([n, 1, rows, inputs], 1);
    let weight = noise([1, 1, outputs, inputs], 2).data;
    let bias = with_bias.then(|| common::noise(outputs, 3));
    let layer = gpu.prepare_linear(inputs, outputs, &weight, bias.as_deref()).unwrap();
    let x_there = upload(&gpu, &x);

    let expected = common::linear(&x, outputs, &weight, bias.as_deref());
    check(&gpu, &gpu.linear(&x_there, &layer).unwrap(), &expected, TOLERANCE, &what);

    let mut residual = noise(expected.shape, 4);
    residual.data.iter_mut().for_each(|x| *x *= 8.0);
    let sum =
        Plain::from_fn(expected.shape, |n, _, row, o| expected.at(n, 0, row, o) + residual.at(n, 0, row, o));
    let out = gpu.linear_residual(&x_there, &layer, &upload(&gpu, &residual)).unwrap();
    check(&gpu, &out, &sum, TOLERANCE, &what);
}

#[test]
fn every_rest() {
    // Rows, inputs and outputs below, at and above tiles and vectors.
    for (inputs, outputs) in [(1, 1), (7, 16), (16, 5), (40, 24), (64, 64), (77, 200), (136, 33), (32, 130)] {
        for [n, rows] in [[1, 1], [2, 5], [1, 64], [3, 67]] {
            run([n, rows, inputs, outputs], rows % 2 == 1);
        }
    }
}

#[test]
fn many_tiles() {
    // More rows of tiles than are taken together, the last of them alone.
    run([1, 1100, 16, 130], true);
}

#[test]
fn split_sums() {
    // 80 steps over several blocks, the last of which has fewer.
    run([2, 33, 2552, 72], true);
    run([1, 77, 2560, 64], false);
    // Not for outputs that 8 does not divide.
    run([1, 20, 2560, 33], true);
}

#[test]
fn large_and_small_values() {
    // Products that cancel, of values that fp16 has few digits for.
    let gpu = gpu();
    let x =
        Plain::from_fn([1, 1, 40, 96], |_, _, row, i| if i % 2 == 0 { 1000.0 } else { row as f64 - 1020.0 });
    let weight: Vec<f32> = (0..24 * 96).map(|i| if i % 48 < 2 { 4.0 } else { 2.0f32.powi(-20) }).collect();
    let expected = common::linear(&x, 24, &weight, None);
    let layer = gpu.prepare_linear(96, 24, &weight, None).unwrap();
    check(&gpu, &gpu.linear(&upload(&gpu, &x), &layer).unwrap(), &expected, TOLERANCE, "cancelling");
}
