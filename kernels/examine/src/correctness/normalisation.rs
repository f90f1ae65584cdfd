//! Group and layer normalisation.

use reverie_kernels::{Backend, Shape, Unary};

use super::{
    Sizes,
    run::{Case, Run, SUMS, text},
};

/// Shapes and groups.
const REAL: [(Shape, usize); 5] = [
    ([2, 320, 64, 64], 32),
    ([1, 640, 32, 32], 32),
    ([2, 2560, 8, 8], 32),
    ([1, 128, 256, 256], 32),
    ([3, 30, 7, 11], 10),
];

/// Images that a block does at once, and larger ones, by eights and one by one.
const SMALL: [(Shape, usize); 4] =
    [([2, 64, 8, 9], 16), ([3, 30, 7, 11], 10), ([1, 32, 57, 61], 8), ([1, 21, 37, 41], 7)];

/// Batch, rows and features.
const REAL_LAYERS: [[usize; 3]; 4] = [[2, 4096, 320], [1, 256, 1280], [2, 77, 768], [1, 9, 33]];

const SMALL_LAYERS: [[usize; 3]; 3] = [[2, 5, 320], [1, 3, 1280], [1, 9, 33]];

pub fn check(run: &mut Run<'_>) {
    let (groups, layers): (&[_], &[_]) = match run.sizes {
        Sizes::Real => (&REAL, &REAL_LAYERS),
        Sizes::Small => (&SMALL, &SMALL_LAYERS),
    };
    for &(x, groups) in groups {
        let c = x[1];
        let inputs = [x, [1, 1, 1, c], [1, 1, 1, c]];
        for act in [Unary::Identity, Unary::Silu] {
            let what = format!("{} {groups} {act:?}", text(x)).to_lowercase();
            run.tensors(Case::new("group_norm", what, &inputs, SUMS), |backend, xs| {
                backend.group_norm(xs[0], groups, xs[1], xs[2], 1e-5, act)
            });
        }
    }
    for &[n, rows, c] in layers {
        let inputs = [[n, 1, rows, c], [1, 1, 1, c], [1, 1, 1, c]];
        run.tensors(Case::new("layer_norm", format!("{n} {rows} {c}"), &inputs, SUMS), |backend, xs| {
            backend.layer_norm(xs[0], xs[1], xs[2], 1e-5)
        });
    }
}
