//! Numbers to sinusoids, tokens to rows and pixels to values, and what is refused.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use common::{Plain, assert_close, layouts};
use reverie_examine::sinusoids::{NUMBERS, TIMESTEPS, timestep_embedding};
use reverie_kernels::{Backend, Error, PixelRange, Timesteps, cpu::CpuBackend};

#[test]
fn sinusoids_are_those_of_diffusers() {
    let backend = CpuBackend::new(1);
    for timesteps in TIMESTEPS {
        let out = backend.timestep_embedding(&NUMBERS, 5, timesteps).unwrap();
        assert_eq!(backend.shape(&out), [5, 1, 1, 2 * timesteps.num_channels]);
        for (out, (expected, number)) in
            backend.to_vec(&out).unwrap().iter().zip(timestep_embedding(&NUMBERS, timesteps))
        {
            // The exponent of a frequency is rounded to f32 three times, the frequency and the angle once.
            let error = (f64::from(*out) - expected).abs();
            assert!(error <= 2.5e-7 * number + 1e-7, "{timesteps:?} of {number} is {out}, not {expected}");
        }
    }
}

#[test]
fn rows_are_read_when_they_are_looked_up() {
    let (table, positions) = (Plain::noise([1, 1, 9, 20], 1), Plain::noise([1, 1, 7, 20], 2));
    let sequences: [&[u32]; 2] = [&[0, 8, 3, 3, 1], &[5, 4, 0, 0, 2]];
    let expected = Plain::from_fn([2, 1, 5, 20], |n, _, t, i| {
        table.at(0, 0, sequences[n][t] as usize, i) + positions.at(0, 0, t, i)
    });
    for backend in common::backends() {
        let (data, read) = (table.data.clone(), Arc::new(AtomicUsize::new(0)));
        let count = read.clone();
        let rows = Arc::new(move |i: usize| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(data[i * 20..][..20].to_vec())
        });
        let embedding = backend.prepare_embedding(9, 20, rows).unwrap();
        assert_eq!(read.load(Ordering::Relaxed), 0);
        let places = backend.tensor(positions.data.clone(), positions.shape).unwrap();
        let out = backend.embedding(&sequences, &embedding, &places).unwrap();
        assert_eq!(backend.shape(&out), expected.shape);
        assert_close(&backend.to_vec(&out).unwrap(), &expected, 1e-7, backend.name());
        assert_eq!(read.load(Ordering::Relaxed), 10);
    }
}

/// 0 and 255 are the ends; what is past them is clamped, and halves go up or to even as the range says.
#[test]
fn pixels_become_values_and_pixels_again() {
    let pixels: Vec<u8> = (0..2 * 3 * 9 * 20).map(|i| (i * 7 % 256) as u8).collect();
    for (range, low) in [(PixelRange::Unit, 0.0), (PixelRange::Signed, -1.0)] {
        let expected = Plain::from_fn([2, 3, 9, 20], |n, c, y, x| {
            let byte = pixels[((n * 9 + y) * 20 + x) * 3 + c];
            low + (1.0 - low) * f64::from(byte) / 255.0
        });
        for backend in common::backends() {
            let x = backend.from_pixels(&pixels, [2, 3, 9, 20], range).unwrap();
            let values = backend.to_vec(&x).unwrap();
            assert_close(&values, &expected, 1e-7, &format!("{range:?}"));
            for x in layouts(&backend, &Plain { data: values, shape: expected.shape }) {
                assert!(backend.to_pixels(&x, range).unwrap() == pixels, "{range:?}");
            }
            let past = [1.5, f32::INFINITY, -1.5, f32::NEG_INFINITY, f32::NAN, 1.0];
            let past = backend.tensor(past.to_vec(), [2, 3, 1, 1]).unwrap();
            assert_eq!(backend.to_pixels(&past, range).unwrap(), [255, 255, 0, 0, 0, 255]);
        }
    }
    let backend = CpuBackend::new(1);
    let halves = backend.tensor(vec![0.5, 126.5 / 255.0, 0.0], [1, 3, 1, 1]).unwrap();
    assert_eq!(backend.to_pixels(&halves, PixelRange::Unit).unwrap(), [128, 127, 0]);
    let halves = backend.tensor(vec![0.0, -2.0 / 510.0, 1.0], [1, 3, 1, 1]).unwrap();
    assert_eq!(backend.to_pixels(&halves, PixelRange::Signed).unwrap(), [128, 127, 255]);
}

#[test]
fn what_does_not_fit_is_named() {
    let backend = CpuBackend::new(1);
    let timesteps = Timesteps { num_channels: 8, flip_sin_to_cos: true, downscale_freq_shift: 0.0 };
    let error = backend.timestep_embedding(&[1.0; 3], 2, timesteps).err();
    assert_eq!(error, Some(Error::DataLength { shape: [2, 1, 1, 8], expected: 2, actual: 3 }));
    let error = backend.timestep_embedding(&[], 1, timesteps).err();
    assert_eq!(error, Some(Error::InvalidShape { shape: [1, 1, 1, 0] }));

    let positions = backend.tensor(vec![0.0; 24], [1, 1, 3, 8]).unwrap();
    let embedding = backend.prepare_embedding(5, 8, Arc::new(|i| Ok(vec![0.0; 8 - i]))).unwrap();
    let error = |sequences: &[&[u32]]| backend.embedding(sequences, &embedding, &positions).err();
    assert_eq!(error(&[&[0, 0], &[5, 0]]), Some(Error::Row { index: 5, count: 5 }));
    let short = Error::ParameterLength { what: "row of an embedding", expected: 8, actual: 7 };
    assert_eq!(error(&[&[0, 1]]), Some(short));
    let gone = Error::Rows { reason: "the table is gone".into() };
    let given = gone.clone();
    let rows = Arc::new(move |i| if i == 3 { Err(given.clone()) } else { Ok(vec![0.0; 8]) });
    let embedding = backend.prepare_embedding(5, 8, rows).unwrap();
    let error = |sequences: &[&[u32]]| backend.embedding(sequences, &embedding, &positions).err();
    assert_eq!(error(&[&[0, 4]]), None);
    assert_eq!(error(&[&[0, 3]]), Some(gone));
    assert_eq!(error(&[&[]]), Some(Error::InvalidShape { shape: [1, 1, 0, 8] }));

    let error = backend.from_pixels(&[0; 11], [1, 3, 2, 2], PixelRange::Unit).err();
    assert_eq!(error, Some(Error::DataLength { shape: [1, 3, 2, 2], expected: 12, actual: 11 }));
    let four = backend.tensor(vec![0.0; 16], [1, 4, 2, 2]).unwrap();
    let error = backend.to_pixels(&four, PixelRange::Unit).err();
    let (left, right) = ([1, 3, 2, 2], [1, 4, 2, 2]);
    assert_eq!(error, Some(Error::ShapeMismatch { operation: "to_pixels", left, right }));
}
