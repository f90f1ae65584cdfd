//! Linear layers, attention, layer norm and gated GELU against plain versions with sums in `f64`.

mod common;

use common::{Plain, assert_close, attention, backends, layer_norm, linear};
use reverie_kernels::cpu::{CpuBackend, CpuTensor};
use reverie_kernels::{Backend, Error, Mask};

const EXACT: f32 = 2e-6;

fn tensor(backend: &CpuBackend, x: &Plain) -> CpuTensor {
    backend.tensor(x.data.clone(), x.shape).unwrap()
}

/// Asserts that every backend's `op` gives `expected`.
fn check(expected: &Plain, tolerance: f32, what: &str, op: impl Fn(&CpuBackend) -> CpuTensor) {
    for backend in backends() {
        let out = op(&backend);
        let what = format!("{what}, {}", backend.name());
        assert_eq!(backend.shape(&out), expected.shape, "{what}");
        assert_close(&backend.to_vec(&out).unwrap(), expected, tolerance, &what);
    }
}

#[test]
fn linear_is_right_for_every_size() {
    let widths = [(1, 1), (7, 16), (16, 5), (40, 24), (64, 64), (77, 200), (300, 33), (513, 320), (1024, 48)];
    for (inputs, outputs) in widths {
        for [n, rows] in [[1, 1], [2, 1], [1, 5], [2, 77], [1, 64], [3, 201]] {
            let x = Plain::noise([n, 1, rows, inputs], 1);
            let weight = common::noise(inputs * outputs, 2);
            let bias = common::noise(outputs, 3);
            let residual = Plain::noise([n, 1, rows, outputs], 4);
            let what = format!("{inputs} to {outputs}, {n} of {rows} rows");

            let expected = linear(&x, outputs, &weight, None);
            check(&expected, EXACT, &what, |backend| {
                let layer = backend.prepare_linear(inputs, outputs, &weight, None).unwrap();
                backend.linear(&tensor(backend, &x), &layer).unwrap()
            });
            let expected = linear(&x, outputs, &weight, Some(&bias));
            let sum = Plain::from_fn(expected.shape, |n, _, row, o| {
                expected.at(n, 0, row, o) + residual.at(n, 0, row, o)
            });
            check(&sum, EXACT, &what, |backend| {
                let layer = backend.prepare_linear(inputs, outputs, &weight, Some(&bias)).unwrap();
                backend.linear_residual(&tensor(backend, &x), &layer, &tensor(backend, &residual)).unwrap()
            });
        }
    }
}

/// Queries and keys, scaled so that the weights of different keys differ by orders of magnitude.
fn check_attention([n, queries, keys]: [usize; 3], heads: usize, width: usize, mask: Mask) {
    let features = heads * width;
    let mut q = Plain::noise([n, 1, queries, features], 1);
    q.data.iter_mut().for_each(|x| *x *= 6.0);
    let k = Plain::noise([n, 1, keys, features], 2);
    let v = Plain::noise([n, 1, keys, features], 3);
    let expected = attention(&q, &k, &v, heads, mask);
    let what = format!("{n} of {queries} queries, {keys} keys, {heads} heads of {width}, {mask:?}");
    check(&expected, 5e-6, &what, |backend| {
        let [q, k, v] = [&q, &k, &v].map(|x| tensor(backend, x));
        backend.attention(&q, &k, &v, heads, mask).unwrap()
    });
}

#[test]
fn attention_is_right_for_every_width_of_head() {
    for width in [1, 8, 16, 40, 50, 64, 80, 128, 160, 512] {
        check_attention([1, 20, 33], 2, width, Mask::None);
        check_attention([1, 33, 33], 1, width, Mask::Causal);
    }
}

#[test]
fn attention_is_right_for_every_length() {
    for (queries, keys) in [(1, 1), (1, 77), (77, 1), (77, 77), (64, 77), (95, 255), (97, 257), (300, 600)] {
        check_attention([2, queries, keys], 3, 40, Mask::None);
        check_attention([2, queries, keys], 3, 40, Mask::Causal);
    }
}

/// Scores of several hundred would overflow, and ones that grow from tile to tile need their sums corrected.
#[test]
fn attention_bears_large_scores() {
    let mut k = Plain::noise([1, 1, 1000, 8], 1);
    k.data.chunks_exact_mut(8).zip(1..).for_each(|(k, i)| k.fill(i as f32));
    let v = Plain::noise(k.shape, 2);
    let q = Plain { data: vec![0.3; 8], shape: [1, 1, 1, 8] };
    let expected = attention(&q, &k, &v, 1, Mask::None);
    // The scores themselves are rounded, by up to 3e-5 at 850.
    check(&expected, 1e-4, "growing scores", |backend| {
        let [q, k, v] = [&q, &k, &v].map(|x| tensor(backend, x));
        backend.attention(&q, &k, &v, 1, Mask::None).unwrap()
    });
}

#[test]
fn layer_norm_is_that_of_torch() {
    for width in [1, 5, 16, 24, 320, 1283] {
        let mut x = Plain::noise([2, 1, 7, width], 1);
        x.data.iter_mut().for_each(|x| *x = *x * 3.0 + 5.0);
        let [weight, bias] = [2, 3].map(|seed| Plain::noise([1, 1, 1, width], seed));
        let expected = layer_norm(&x, [&weight, &bias], 1e-5);
        check(&expected, EXACT, &format!("{width} wide"), |backend| {
            let [x, weight, bias] = [&x, &weight, &bias].map(|x| tensor(backend, x));
            backend.layer_norm(&x, &weight, &bias, 1e-5).unwrap()
        });
    }
}

#[test]
fn geglu_gates_the_first_half_with_the_second() {
    for width in [1, 16, 21, 320] {
        let mut x = Plain::noise([2, 1, 130, 2 * width], 1);
        x.data.iter_mut().for_each(|x| *x *= 6.0);
        let expected = Plain::from_fn([2, 1, 130, width], |n, _, y, i| {
            x.at(n, 0, y, i) * common::gelu(x.at(n, 0, y, width + i))
        });
        check(&expected, EXACT, &format!("{width} wide"), |backend| {
            backend.geglu(&tensor(backend, &x)).unwrap()
        });
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let x = Plain::noise([1, 1, 333, 320], 1);
    let weight = common::noise(320 * 320, 2);
    let results: Vec<_> = [1, 2, 5]
        .map(|threads| {
            let backend = CpuBackend::new(threads);
            let layer = backend.prepare_linear(320, 320, &weight, None).unwrap();
            let x = tensor(&backend, &x);
            let y = backend.linear(&x, &layer).unwrap();
            backend.to_vec(&backend.attention(&y, &x, &x, 8, Mask::None).unwrap()).unwrap()
        })
        .into();
    assert!(results.iter().all(|x| x == &results[0]));
}

#[test]
fn sequences_that_do_not_fit_are_named() {
    let backend = CpuBackend::new(1);
    let tensor = |shape| backend.tensor(vec![0.0; common::len(shape)], shape).unwrap();
    let mismatch = |operation, left, right| Some(Error::ShapeMismatch { operation, left, right });
    let x = tensor([1, 1, 4, 6]);

    let length = |what, expected, actual| Some(Error::ParameterLength { what, expected, actual });
    let error = backend.prepare_linear(6, 2, &[0.0; 11], None).err();
    assert_eq!(error, length("linear weight", 12, 11));
    let error = backend.prepare_linear(6, 2, &[0.0; 12], Some(&[0.0])).err();
    assert_eq!(error, length("linear bias", 2, 1));
    assert_eq!(
        backend.prepare_linear(0, 2, &[], None).err(),
        Some(Error::InvalidShape { shape: [1, 1, 2, 0] })
    );
    let layer = backend.prepare_linear(5, 2, &[0.0; 10], None).unwrap();
    assert_eq!(backend.linear(&x, &layer).err(), mismatch("linear", [1, 1, 4, 5], [1, 1, 4, 6]));
    let layer = backend.prepare_linear(6, 2, &[0.0; 12], None).unwrap();
    let error = backend.linear_residual(&x, &layer, &x).err();
    assert_eq!(error, mismatch("linear_residual", [1, 1, 4, 2], [1, 1, 4, 6]));

    let error = backend.attention(&x, &tensor([1, 1, 4, 8]), &x, 2, Mask::None).err();
    assert_eq!(error, mismatch("attention: keys", [1, 1, 4, 6], [1, 1, 4, 8]));
    let error = backend.attention(&x, &x, &tensor([1, 1, 5, 6]), 2, Mask::None).err();
    assert_eq!(error, mismatch("attention: values", [1, 1, 4, 6], [1, 1, 5, 6]));
    for heads in [0, 4] {
        let error = backend.attention(&x, &x, &x, heads, Mask::None).err();
        assert_eq!(error, Some(Error::Heads { heads, features: 6 }));
    }
    let error = backend.layer_norm(&x, &tensor([1, 1, 1, 5]), &tensor([1, 1, 1, 6]), 1e-5).err();
    assert_eq!(error, mismatch("layer_norm: weight", [1, 1, 1, 6], [1, 1, 1, 5]));
    for width in [1, 3] {
        let x = tensor([1, 1, 4, width]);
        assert_eq!(backend.geglu(&x).err(), mismatch("geglu", [1, 1, 4, 2], [1, 1, 4, width]));
    }
}
