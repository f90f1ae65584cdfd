use reverie_kernels::{Backend, Error, Mask, Result};

use crate::{Gpu, Plain, Tensor, check, check_heads, common, gpu, halves, noise, tested::hopper, upload};

/// Of the largest value: weights are rounded to fp16, as is the result.
const TOLERANCE: f32 = 2e-3;

#[track_caller]
fn run(q: &Plain, k: &Plain, v: &Plain, heads: usize, mask: Mask) {
    run_by(&gpu(), [q, k, v], heads, mask, |gpu, [q, k, v]| gpu.attention(q, k, v, heads, mask));
}

#[track_caller]
fn run_by(
    gpu: &Gpu,
    [q, k, v]: [&Plain; 3],
    heads: usize,
    mask: Mask,
    attention: impl Fn(&Gpu, [&Tensor; 3]) -> Result<Tensor>,
) {
    let expected = common::attention(q, k, v, heads, mask);
    let what = format!("{:?} of {:?}, {heads} heads, {mask:?}", q.shape, k.shape);
    let [q, k, v] = [q, k, v].map(|x| upload(gpu, x));
    check_heads(gpu, &attention(gpu, [&q, &k, &v]).unwrap(), &expected, heads, TOLERANCE, &what);
}

/// Queries times `factor`, so that the weights of keys differ by as much as is wanted.
fn scaled(mut x: Plain, factor: f32) -> Plain {
    x.data.iter_mut().for_each(|x| *x *= factor);
    halves(x)
}

fn noises([n, queries, keys]: [usize; 3], heads: usize, width: usize) -> [Plain; 3] {
    let features = heads * width;
    let q = scaled(noise([n, 1, queries, features], 1), 6.0);
    let [k, v] = [2, 3].map(|seed| noise([n, 1, keys, features], seed));
    [q, k, v]
}

#[track_caller]
fn run_noise(sizes: [usize; 3], heads: usize, width: usize, mask: Mask) {
    let [q, k, v] = noises(sizes, heads, width);
    run(&q, &k, &v, heads, mask);
}

/// Each width that `attention_wgmma.ptx` has a variant for, and one between; a tile of keys, several of them, and a rest. Those too
/// that the backend does without it.
#[test]
fn warp_groups() {
    let Some(gpu) = hopper() else { return };
    for (sizes, width) in [
        ([1, 130, 128], 40),
        ([1, 130, 300], 56),
        ([1, 130, 385], 64),
        ([1, 130, 129], 80),
        ([1, 130, 256], 128),
        ([1, 130, 200], 160),
        ([2, 193, 141], 64),
    ] {
        let inputs = noises(sizes, 2, width);
        run_by(&gpu, inputs.each_ref(), 2, Mask::None, |gpu, [q, k, v]| {
            gpu.attention_by_warp_groups(q, k, v, 2)
        });
    }
}

/// Through the backend: by `wgmma` where it is proven, by `mma` else.
#[test]
fn every_width_on_a_device_with_wgmma() {
    let Some(gpu) = hopper() else { return };
    for width in [40, 64, 80, 128] {
        let inputs = noises([1, 128, 131], 1, width);
        run_by(&gpu, inputs.each_ref(), 1, Mask::None, |gpu, [q, k, v]| {
            gpu.attention(q, k, v, 1, Mask::None)
        });
    }
}

#[test]
fn warp_groups_that_cannot_be_are_refused() {
    let Some(with) = hopper() else { return };
    let [narrow, wide] = [12, 168].map(|width| upload(&with, &noise([1, 1, 130, width], 1)));
    for x in [narrow, wide] {
        let error = with.attention_by_warp_groups(&x, &x, &x, 1).err().unwrap();
        assert!(error.to_string().contains("no variant for heads of"), "{error}");
    }
    let without = gpu();
    let x = upload(&without, &noise([1, 1, 130, 64], 1));
    let error = without.attention_by_warp_groups(&x, &x, &x, 1).err().unwrap();
    assert!(error.to_string().contains("without wgmma"), "{error}");
    let error = with.attention_by_warp_groups(&x, &x, &x, 3).err();
    assert_eq!(error, Some(Error::Heads { heads: 3, features: 64 }));
}

/// Those that have variants, those between, and beyond.
#[test]
fn every_width_of_head() {
    for width in [8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 128, 136, 160] {
        run_noise([1, 20, 33], 2, width, Mask::None);
        run_noise([1, 67, 69], 1, width, Mask::Causal);
    }
}

#[test]
fn the_autoencoders_head() {
    run_noise([1, 37, 70], 1, 512, Mask::None);
    run_noise([2, 5, 31], 1, 512, Mask::None);
    run_noise([1, 65, 65], 1, 512, Mask::Causal);
    run_noise([1, 33, 40], 2, 168, Mask::None);
    run_noise([1, 3, 1], 2, 328, Mask::None);
}

/// No vectors; and more columns than a warp has.
#[test]
fn odd_widths() {
    for width in [1, 5, 12, 33, 100, 129, 300, 520] {
        run_noise([1, 6, 9], 2, width, Mask::None);
        run_noise([2, 7, 7], 1, width, Mask::Causal);
    }
}

/// One query, one key, fewer and more than tiles, several tiles with and without a rest.
#[test]
fn every_length() {
    for (queries, keys) in
        [(1, 1), (1, 77), (77, 1), (77, 77), (64, 64), (63, 65), (65, 127), (100, 77), (16, 128), (130, 193)]
    {
        for mask in [Mask::None, Mask::Causal] {
            run_noise([2, queries, keys], 3, 40, mask);
        }
    }
}

#[test]
fn self_attention_of_pictures() {
    run_noise([1, 256, 256], 2, 40, Mask::None);
    run_noise([2, 64, 64], 2, 160, Mask::None);
    run_noise([1, 64, 77], 4, 80, Mask::None);
}

#[test]
fn causal_attention_of_texts() {
    run_noise([2, 77, 77], 3, 64, Mask::Causal);
    run_noise([1, 300, 300], 1, 24, Mask::Causal);
}

/// So many blocks that warps have 32 queries.
#[test]
fn many_queries() {
    run_noise([1, 65, 67], 256, 40, Mask::None);
}

#[test]
fn many_queries_in_tiles() {
    run_noise([2, 130, 7], 64, 64, Mask::None);
}

#[test]
fn many_queries_of_wide_heads() {
    run_noise([4, 65, 34], 64, 72, Mask::None);
}

/// Scores up to thousands, whose exponentials would overflow, and of which a few decide.
#[test]
fn large_values() {
    for (width, factor) in [(40, 30.0), (64, 200.0), (512, 30.0), (5, 30.0)] {
        for mask in [Mask::None, Mask::Causal] {
            let [q, k] = [1, 2].map(|seed| scaled(noise([1, 1, 70, 2 * width], seed), factor));
            let v = scaled(noise([1, 1, 70, 2 * width], 3), 30.0);
            run(&q, &k, &v, 2, mask);
        }
    }
}

/// Scores that grow from tile to tile need the sums corrected each time; ones that fall leave later weights next to nothing.
#[test]
fn growing_and_falling_scores() {
    for width in [8, 64, 512, 7] {
        let v = noise([1, 1, 200, width], 2);
        let k = Plain::from_fn(v.shape, |_, _, key, _| key as f64 / 8.0);
        for factor in [0.25, -0.25] {
            let q = Plain::from_fn([1, 1, 3, width], |_, _, row, _| factor * (row + 1) as f64);
            run(&q, &k, &v, 1, Mask::None);
        }
    }
}

/// Keys of a batch's other image or another head, and ones past the end, would be seen: theirs are enormous.
#[test]
fn nothing_leaks() {
    for width in [40, 64, 512, 9] {
        let mut q = noise([2, 1, 10, 2 * width], 1);
        let mut k = noise([2, 1, 10, 2 * width], 2);
        let mut v = noise([2, 1, 10, 2 * width], 3);
        for x in [&mut q, &mut k, &mut v] {
            let half = x.data.len() / 2;
            x.data[half..].iter_mut().for_each(|x| *x *= 1000.0);
        }
        let [q, k, v] = [q, k, v].map(halves);
        let gpu = gpu();
        let expected = common::attention(&q, &k, &v, 2, Mask::None);
        let [q, k, v] = [&q, &k, &v].map(|x| upload(&gpu, x));
        let out = gpu.images(&gpu.attention(&q, &k, &v, 2, Mask::None).unwrap(), 0, 1).unwrap();
        let first =
            Plain { data: expected.data[..expected.data.len() / 2].to_vec(), shape: [1, 1, 10, 2 * width] };
        check(&gpu, &out, &first, TOLERANCE, &format!("{width} wide"));
    }
}
