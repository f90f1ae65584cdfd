use reverie_kernels::Backend;

use crate::{Plain, check, gpu, noise, upload};

/// Fewer values than a vector, whole vectors, latents, more than a block, and rests.
const SHAPES: [[usize; 4]; 4] = [[1, 1, 1, 5], [1, 4, 8, 8], [2, 3, 17, 33], [1, 1, 1, 17]];

/// Half a unit in the last place of fp16, and a little for what was rounded before.
const ROUNDED: f32 = 5e-4;

#[test]
fn combinations() {
    let gpu = gpu();
    let factors = [0.7, -1.5, 0.2, 3.0, -0.01, 0.5, 1.0, -2.0, 0.3, 0.9, -0.4, 1.25];
    for shape in SHAPES {
        let xs: Vec<_> = (1..=12).map(|seed| noise(shape, seed)).collect();
        let tensors: Vec<_> = xs.iter().map(|x| upload(&gpu, x)).collect();
        for count in 1..=12 {
            let expected = Plain::from_fn(shape, |n, c, h, w| {
                let terms = xs[..count].iter().zip(factors);
                terms.map(|(x, factor)| f64::from(factor) * x.at(n, c, h, w)).sum()
            });
            let terms: Vec<_> = factors.into_iter().zip(&tensors).take(count).collect();
            let out = gpu.combine(&terms).unwrap();
            // Every pass rounds what it adds to.
            let passes = if count > 6 { 1 + (count - 6usize).div_ceil(5) } else { 1 };
            check(&gpu, &out, &expected, ROUNDED * passes as f32, &format!("{count} of {shape:?}"));
        }
    }
}

/// What would overflow in fp16 on the way does not: sums are of fp32.
#[test]
fn sums_are_of_fp32() {
    let gpu = gpu();
    let x = Plain { shape: [1, 1, 1, 9], data: vec![60000.0; 9] };
    let tensor = upload(&gpu, &x);
    let out = gpu.combine(&[(4.0, &tensor), (4.0, &tensor), (-7.5, &tensor)]).unwrap();
    let expected = Plain { shape: x.shape, data: vec![30000.0; 9] };
    check(&gpu, &out, &expected, ROUNDED, "4 + 4 - 7.5");
}

#[test]
fn bounds() {
    let gpu = gpu();
    for shape in SHAPES {
        let mut x = noise(shape, 1);
        x.data[0] = f32::INFINITY;
        let expected = Plain::from_fn(shape, |n, c, h, w| x.at(n, c, h, w).clamp(-0.5, 0.5));
        check(&gpu, &gpu.clamp(&upload(&gpu, &x), 0.5).unwrap(), &expected, 0.0, &format!("{shape:?}"));
    }
    let nan = gpu.tensor(vec![f32::NAN; 9], [1, 1, 1, 9]).unwrap();
    let clamped = gpu.to_vec(&gpu.clamp(&nan, 1.0).unwrap()).unwrap();
    assert!(clamped.iter().all(|x| x.is_nan()), "{clamped:?}");
}

#[test]
fn blends() {
    let gpu = gpu();
    for shape in SHAPES {
        let (x, y) = (noise(shape, 1), noise(shape, 2));
        let mask = Plain::from_fn(shape, |_, _, h, w| [0.0, 1.0, 0.25][(h + w) % 3]);
        let expected = Plain::from_fn(shape, |n, c, h, w| {
            let mask = mask.at(n, c, h, w);
            x.at(n, c, h, w) * mask + y.at(n, c, h, w) * (1.0 - mask)
        });
        let [x, y, mask] = [&x, &y, &mask].map(|x| upload(&gpu, x));
        check(&gpu, &gpu.blend(&x, &y, &mask).unwrap(), &expected, ROUNDED, &format!("{shape:?}"));
    }
}
