use reverie_kernels::{Backend, Error, PixelRange};

use crate::{Plain, check, gpu, halves, upload};

/// N, H, W: less than a vector, whole vectors, more than a block, and rests.
const SIZES: [[usize; 3]; 5] = [[1, 1, 1], [1, 2, 4], [2, 3, 5], [1, 17, 43], [3, 31, 9]];

const RANGES: [PixelRange; 2] = [PixelRange::Unit, PixelRange::Signed];

fn value(byte: u8, range: PixelRange) -> f64 {
    let unit = f64::from(byte) / 255.0;
    if range == PixelRange::Unit { unit } else { 2.0 * unit - 1.0 }
}

/// By the nearest fp16 for each of the 256, and back to the same.
#[test]
fn pixels_come_back_as_they_went() {
    let gpu = gpu();
    for [n, h, w] in SIZES {
        let pixels: Vec<u8> = (0..n * h * w * 3).map(|i| (i * 7 % 256) as u8).collect();
        for range in RANGES {
            let x = gpu.from_pixels(&pixels, [n, 3, h, w], range).unwrap();
            let expected = Plain::from_fn([n, 3, h, w], |n, c, y, x| {
                value(pixels[((n * h + y) * w + x) * 3 + c], range)
            });
            check(&gpu, &x, &halves(expected), 0.0, &format!("{n} {h}x{w} {range:?}"));
            assert!(gpu.to_pixels(&x, range).unwrap() == pixels, "{n} {h}x{w} {range:?}");
        }
    }
}

/// Every number that fp16 has, as the CPU makes bytes of it.
#[test]
fn all_values_become_the_nearest_pixels() {
    let gpu = gpu();
    let all: Vec<f32> = (0..=u16::MAX).map(|bits| half::f16::from_bits(bits).to_f32()).collect();
    let data = [all, vec![0.5, -0.0]].concat();
    let x = Plain { shape: [1, 3, 1, data.len() / 3], data };
    let cpu = reverie_kernels::cpu::CpuBackend::new(1);
    let on_cpu = cpu.tensor(x.data.clone(), x.shape).unwrap();
    for range in RANGES {
        let out = gpu.to_pixels(&upload(&gpu, &x), range).unwrap();
        assert!(out == cpu.to_pixels(&on_cpu, range).unwrap(), "{range:?}");
    }
}

#[test]
fn pictures_that_do_not_fit_are_refused() {
    let gpu = gpu();
    let error = |bytes, shape| gpu.from_pixels(&vec![0; bytes], shape, PixelRange::Unit).err();
    let length = Error::DataLength { shape: [1, 3, 2, 2], expected: 12, actual: 11 };
    assert_eq!(error(11, [1, 3, 2, 2]), Some(length));
    assert_eq!(error(0, [1, 3, 0, 2]), Some(Error::InvalidShape { shape: [1, 3, 0, 2] }));
    let mismatch = |operation| Error::ShapeMismatch { operation, left: [1, 3, 2, 2], right: [1, 4, 2, 2] };
    assert_eq!(error(16, [1, 4, 2, 2]), Some(mismatch("from_pixels")));
    let four = gpu.tensor(vec![0.0; 16], [1, 4, 2, 2]).unwrap();
    assert_eq!(gpu.to_pixels(&four, PixelRange::Unit).err(), Some(mismatch("to_pixels")));
}
