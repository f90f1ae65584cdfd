//! Work that is divided by the device's multiprocessors: its results are the same on few and on many.

use reverie_kernels::{Backend, Mask, Unary};

use crate::{check, common, noise, tested::gpu_of, upload};

/// One, and more than there is work for.
const DEVICES: [usize; 3] = [1, 46, 1000];

#[test]
fn sums_and_tiles() {
    let [x, weight] = [noise([1, 1, 77, 2560], 1), noise([1, 1, 72, 2560], 2)];
    let expected = common::linear(&x, 72, &weight.data, None);
    for device in DEVICES {
        let gpu = gpu_of(device);
        let layer = gpu.prepare_linear(2560, 72, &weight.data, None).unwrap();
        let out = gpu.linear(&upload(&gpu, &x), &layer).unwrap();
        check(&gpu, &out, &expected, 6e-4, &format!("on {device}"));
    }
}

#[test]
fn queries_of_a_warp() {
    let [q, k, v] =
        [[1, 1, 150, 80], [1, 1, 67, 80], [1, 1, 67, 80]].map(|shape| noise(shape, shape[2] as u64));
    let expected = common::attention(&q, &k, &v, 2, Mask::None);
    for device in DEVICES {
        let gpu = gpu_of(device);
        let [q, k, v] = [&q, &k, &v].map(|x| upload(&gpu, x));
        let out = gpu.attention(&q, &k, &v, 2, Mask::None).unwrap();
        check(&gpu, &out, &expected, 1e-3, &format!("on {device}"));
    }
}

#[test]
fn slices_of_groups() {
    let [x, weight, bias] =
        [[2, 32, 57, 61], [1, 1, 1, 32], [1, 1, 1, 32]].map(|shape| noise(shape, shape[1] as u64));
    let expected = common::group_norm(&x, 4, [&weight, &bias], 1e-5, Unary::Silu);
    for device in DEVICES {
        let gpu = gpu_of(device);
        let [x, weight, bias] = [&x, &weight, &bias].map(|x| upload(&gpu, x));
        let out = gpu.group_norm(&x, 4, &weight, &bias, 1e-5, Unary::Silu).unwrap();
        check(&gpu, &out, &expected, 1e-3, &format!("on {device}"));
    }
}
