use reverie_kernels::{Backend, Unary};

use crate::{
    Plain, check,
    common::{self, FUNCTIONS},
    gpu, halves, noise, upload,
};

/// Of the largest value. fp16 rounds by half of that at most.
const TOLERANCE: f32 = 1e-3;

/// Noise about `mean`, by channels or features a little apart.
fn about(mean: f32, deviation: f32, shape: [usize; 4], seed: u64) -> Plain {
    let mut x = noise(shape, seed);
    let area = if shape[1] == 1 { 1 } else { shape[2] * shape[3] };
    x.data
        .iter_mut()
        .enumerate()
        .for_each(|(i, x)| *x = mean + deviation * (*x + (i / area % 7) as f32 * 0.1));
    halves(x)
}

#[track_caller]
fn check_group_norm(x: &Plain, groups: usize, act: Unary) {
    let gpu = gpu();
    let [weight, bias] = [2, 3].map(|seed| noise([1, 1, 1, x.shape[1]], seed));
    let expected = common::group_norm(x, groups, [&weight, &bias], 1e-5, act);
    let [x_there, weight, bias] = [x, &weight, &bias].map(|x| upload(&gpu, x));
    let out = gpu.group_norm(&x_there, groups, &weight, &bias, 1e-5, act).unwrap();
    check(&gpu, &out, &expected, TOLERANCE, &format!("{:?}, {groups} groups, {act:?}", x.shape));
}

/// Groups of 1 to 40 channels, that 8, 4, 2 or nothing divides, of images that a block does at once.
#[test]
fn group_norm_of_small_images() {
    let cases = [(1, 1), (5, 1), (6, 3), (32, 32), (64, 16), (128, 32), (80, 8), (40, 1), (320, 8), (21, 7)];
    for (channels, groups) in cases {
        for [h, w] in [[1, 1], [3, 5], [8, 9]] {
            // Of a single value, or ones that are alike, nothing is left but noise.
            let x = about(0.5, 2.0, [2, channels, h, w], 1);
            check_group_norm(&x, groups, Unary::Silu);
        }
    }
}

/// Too large for a block: windows of all channels, of some groups, the last of which has fewer, and wider than a block;
/// rows that leave threads idle; slices with rests.
#[test]
fn group_norm_of_large_images() {
    for (channels, groups, [h, w]) in [
        (32, 32, [57, 61]),
        (64, 1, [23, 19]),
        (24, 6, [59, 53]),
        (40, 4, [23, 29]),
        (2400, 3, [1, 35]),
        (2472, 12, [1, 31]),
        (4096, 1, [1, 7]),
        (2064, 1, [3, 5]),
    ] {
        check_group_norm(&about(0.5, 2.0, [2, channels, h, w], 1), groups, Unary::Silu);
    }
}

/// Where 8 does not divide the channels, or divides so many groups only that they are wider than a window; and more slices
/// than a warp has lanes.
#[test]
fn group_norm_of_large_images_one_by_one() {
    for (channels, groups, [h, w]) in [
        (3, 1, [37, 43]),
        (21, 7, [37, 41]),
        (3, 3, [61, 59]),
        (131, 1, [15, 18]),
        (257, 1, [3, 5]),
        (515, 5, [5, 7]),
        (4112, 16, [1, 13]),
    ] {
        check_group_norm(&about(-0.5, 2.0, [2, channels, h, w], 1), groups, Unary::Identity);
    }
}

#[test]
fn group_norm_with_each_function() {
    for act in FUNCTIONS {
        check_group_norm(&about(0.0, 3.0, [1, 16, 3, 5], 1), 4, act);
        check_group_norm(&about(0.0, 3.0, [1, 16, 59, 61], 1), 4, act);
    }
}

/// Squares about 0 would leave nothing of the variance. In fp16, 100 and 1000 have steps of 1/16 and 1/2.
#[test]
fn group_norm_bears_large_means() {
    for (mean, deviation) in [(100.0, 0.1), (-1000.0, 1.0), (3e4, 5e3), (0.0, 1e-3)] {
        for (shape, groups) in [([1, 24, 9, 7], 4), ([1, 32, 57, 61], 4), ([1, 3, 53, 51], 1)] {
            check_group_norm(&about(mean, deviation, shape, 1), groups, Unary::Identity);
        }
    }
}

/// A slice's first value, about which its squares are summed, may be far from all others.
#[test]
fn group_norm_bears_a_first_value_far_off() {
    for side in [5, 61] {
        let mut x = about(1.0, 0.1, [1, 32, side, side], 1);
        x.data[0] = 500.0;
        check_group_norm(&x, 4, Unary::Identity);
    }
}

#[track_caller]
fn check_layer_norm(x: &Plain) {
    let gpu = gpu();
    let [weight, bias] = [2, 3].map(|seed| noise([1, 1, 1, x.shape[3]], seed));
    let expected = common::layer_norm(x, [&weight, &bias], 1e-5);
    let [x_there, weight, bias] = [x, &weight, &bias].map(|x| upload(&gpu, x));
    let out = gpu.layer_norm(&x_there, &weight, &bias, 1e-5).unwrap();
    check(&gpu, &out, &expected, TOLERANCE, &format!("{:?}", x.shape));
}

/// Each number of rounds, with and without rests; odd widths, and one too long for registers.
#[test]
fn layer_norm() {
    let vectors =
        [8, 24, 256, 264, 320, 640, 768, 1024, 1272, 1280, 1536, 1544, 2048, 2560, 3072, 3080, 4096];
    for width in vectors.into_iter().chain([1, 5, 33, 77, 1283, 4104]) {
        check_layer_norm(&about(0.5, 3.0, [2, 1, 3, width], 1));
    }
}

#[test]
fn layer_norm_bears_large_means() {
    for (mean, deviation) in [(100.0, 0.1), (-1000.0, 1.0), (3e4, 5e3), (0.0, 1e-3)] {
        for width in [320, 1280, 77] {
            check_layer_norm(&about(mean, deviation, [2, 1, 5, width], 1));
        }
    }
}
