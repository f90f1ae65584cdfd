//! Attention by both of its kernels.

use reverie_kernels::{Backend, Mask};

use super::{
    Sizes,
    run::{Case, Run, SUMS},
};

/// Batch, queries, keys, heads and features of a head; whether `wgmma` does it where there is that: from 128 queries and keys on,
/// heads of whole atoms.
type Size = ([usize; 5], bool);

const REAL: [Size; 11] = [
    ([1, 4096, 4096, 8, 40], false),
    ([2, 1024, 1024, 8, 80], false),
    ([2, 256, 256, 8, 160], false),
    ([2, 64, 64, 8, 160], false),
    ([2, 4096, 77, 8, 40], false),
    ([1, 1024, 77, 20, 64], false),
    ([1, 1024, 1024, 20, 64], true),
    ([1, 1024, 1024, 4, 128], true),
    ([2, 1000, 333, 3, 56], true),
    ([1, 1024, 1024, 1, 512], false),
    ([3, 131, 67, 3, 24], false),
];

const SMALL: [Size; 9] = [
    ([1, 70, 69, 2, 40], false),
    ([1, 33, 77, 1, 80], false),
    ([1, 20, 33, 2, 160], false),
    ([1, 16, 31, 1, 512], false),
    ([2, 9, 11, 3, 24], false),
    ([1, 7, 9, 2, 12], false),
    ([2, 130, 150, 1, 64], true),
    ([1, 130, 150, 1, 128], true),
    ([1, 130, 141, 2, 56], true),
];

/// Batch, tokens, heads and features of a head.
const REAL_CAUSAL: [[usize; 4]; 3] = [[2, 77, 12, 64], [1, 77, 20, 64], [1, 300, 2, 40]];

const SMALL_CAUSAL: [[usize; 4]; 2] = [[2, 77, 1, 64], [1, 67, 2, 40]];

pub fn check(run: &mut Run<'_>) {
    let (sizes, causal): (&[_], &[_]) = match run.sizes {
        Sizes::Real => (&REAL, &REAL_CAUSAL),
        Sizes::Small => (&SMALL, &SMALL_CAUSAL),
    };
    for &([n, queries, keys, heads, width], wgmma) in sizes {
        let [q, k] = [[n, 1, queries, heads * width], [n, 1, keys, heads * width]];
        let inputs = [q, k, k];
        let what = format!("{n} {queries}x{keys} {heads}x{width}");
        let case = Case { heads, ..Case::new("attention", what, &inputs, SUMS) };
        run.by_both_paths(case, wgmma, |backend, xs| {
            backend.attention(xs[0], xs[1], xs[2], heads, Mask::None)
        });
    }
    for &[n, tokens, heads, width] in causal {
        let inputs = [[n, 1, tokens, heads * width]; 3];
        let what = format!("{n} {tokens} {heads}x{width} causal");
        let case = Case { heads, ..Case::new("attention", what, &inputs, SUMS) };
        run.by_both_paths(case, false, |backend, xs| {
            backend.attention(xs[0], xs[1], xs[2], heads, Mask::Causal)
        });
    }
}
