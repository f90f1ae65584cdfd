//! Weights that half precision can hold, which are kept in it, give the same results to the bit as those that are not.

mod common;

use common::{Plain, backends, noise};
use reverie_kernels::cpu::{CpuBackend, CpuTensor};
use reverie_kernels::{Activation, Backend, Conv2dDesc};

/// Multiples of 2⁻¹⁰ from -1 to 1.
fn halves(len: usize) -> Vec<f32> {
    noise(len, 2).into_iter().map(|x| (x * 1024.0).round() / 1024.0).collect()
}

/// Has `run` work with `weight` and with one value of it changed, which half precision lacks, and asserts that all
/// outputs but the last channel, whose value that is, are the same.
fn check(
    what: &str,
    weight: &[f32],
    shared: impl Fn(usize) -> bool,
    run: impl Fn(&CpuBackend, &[f32]) -> CpuTensor,
) {
    let mut other = weight.to_vec();
    *other.last_mut().unwrap() = 1.0 + f32::EPSILON;
    for backend in backends() {
        let bits = |weight: &[f32]| -> Vec<u32> {
            backend.to_vec(&run(&backend, weight)).unwrap().into_iter().map(f32::to_bits).collect()
        };
        let (half, single) = (bits(weight), bits(&other));
        let same = half.iter().zip(&single).enumerate().all(|(i, (a, b))| a == b || !shared(i));
        assert!(same, "{what}, {}: other bits", backend.name());
        assert!(half != single, "{what}, {}: the changed weight has no effect", backend.name());
    }
}

#[test]
fn convolutions_give_the_same_bits() {
    for (inputs, outputs, kernel, stride) in
        [(200, 150, 3, 1), (17, 1030, 3, 1), (40, 33, 3, 2), (600, 100, 1, 1), (3, 33, 5, 1), (20, 24, 3, 1)]
    {
        let desc = Conv2dDesc { stride, ..Conv2dDesc::same(inputs, outputs, kernel) };
        let x = Plain::noise([2, inputs, 13, 10], 1);
        let [_, _, h, w] = desc.output_shape(x.shape).unwrap();
        let shared = |i: usize| i / (h * w) % outputs != outputs - 1;
        check(&format!("{desc:?}"), &halves(desc.weight_len()), shared, |backend, weight| {
            let conv = backend.prepare_conv2d(desc, weight, None, Activation::None).unwrap();
            backend.conv2d(&backend.tensor(x.data.clone(), x.shape).unwrap(), &conv).unwrap()
        });
    }
}

#[test]
fn linear_layers_give_the_same_bits() {
    for (inputs, outputs) in [(1, 2), (40, 24), (300, 33), (513, 320), (64, 64)] {
        for rows in [1, 16, 201] {
            let x = Plain::noise([2, 1, rows, inputs], 1);
            let bias = noise(outputs, 3);
            let shared = |i: usize| i % outputs != outputs - 1;
            let what = format!("{inputs} to {outputs}, {rows} rows");
            check(&what, &halves(inputs * outputs), shared, |backend, weight| {
                let layer = backend.prepare_linear(inputs, outputs, weight, Some(&bias)).unwrap();
                backend.linear(&backend.tensor(x.data.clone(), x.shape).unwrap(), &layer).unwrap()
            });
        }
    }
}
