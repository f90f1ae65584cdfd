//! What begins with numbers rather than with tensors: embeddings and pixels.

use std::sync::Arc;

use reverie_kernels::{Backend, PixelRange};

use super::{
    Sizes,
    run::{Case, ONE_ROUNDING, Run, Values, values_of},
};
use crate::{
    noise,
    sinusoids::{NUMBERS, TIMESTEPS, timestep_embedding},
};

pub fn check(run: &mut Run<'_>) {
    sinusoids(run);
    tables(run);
    pixels(run);
}

/// Each number by itself, as more is allowed of larger ones.
fn sinusoids(run: &mut Run<'_>) {
    for timesteps in TIMESTEPS {
        for number in NUMBERS {
            // The kernel's error as its head has it, and fp16's.
            let allowed = 3e-7 * number.abs() + 8e-7 + 2.5e-4;
            let order = if timesteps.flip_sin_to_cos { "cos sin" } else { "sin cos" };
            let what =
                format!("{} {order} -{} of {number}", timesteps.num_channels, timesteps.downscale_freq_shift);
            let shape = [1, 1, 1, timesteps.num_channels];
            let expected = timestep_embedding(&[number], timesteps);
            // Zeros have no size of their own; sines and cosines have 1.
            let data = expected.into_iter().map(|(value, _)| value as f32).collect();
            run.values(
                Case::new("timestep_embedding", what, &[], allowed),
                |_| Ok(Values { shape, data }),
                |backend| values_of(backend, &backend.timestep_embedding(&[number], 1, timesteps)?),
            );
        }
    }
}

fn tables(run: &mut Run<'_>) {
    let sizes: &[_] = match run.sizes {
        Sizes::Real => &[[49408, 768, 77], [1000, 1280, 77], [100, 33, 5]],
        Sizes::Small => &[[50, 40, 7], [100, 33, 5]],
    };
    for &[count, features, tokens] in sizes {
        let ids: Vec<u32> = (0..3 * tokens as u32).map(|i| i * 7919 % count as u32).collect();
        let sequences: Vec<&[u32]> = ids.chunks_exact(tokens).collect();
        let positions = [[1, 1, tokens, features]];
        let case = Case::new("embedding", format!("{count} rows of {features}"), &positions, ONE_ROUNDING);
        run.tensors(case, |backend, xs| {
            let rows = Arc::new(move |row| Ok(noise::halves(features, 1.0, row as u64)));
            backend.embedding(&sequences, &backend.prepare_embedding(count, features, rows)?, xs[0])
        });
    }
}

fn pixels(run: &mut Run<'_>) {
    let sizes: &[_] = match run.sizes {
        Sizes::Real => &[[1, 512, 512], [2, 101, 75], [1, 1, 1]],
        Sizes::Small => &[[2, 11, 7], [1, 1, 1]],
    };
    for &[n, h, w] in sizes {
        let shape = [n, 3, h, w];
        let pixels: Vec<u8> = (0..n * h * w * 3).map(|i| (i * i / 7 % 256) as u8).collect();
        for range in [PixelRange::Unit, PixelRange::Signed] {
            let what = format!("{n} {h}x{w} {range:?}").to_lowercase();
            run.tensors(Case::new("from_pixels", what.clone(), &[], 5e-4), |backend, _| {
                backend.from_pixels(&pixels, shape, range)
            });
            // Values past both ends of the range, and the same bytes from the same halves.
            let bytes = |backend: &super::run::Any| {
                let x = backend.tensor(noise::halves(pixels.len(), 1.5, 1), shape)?;
                let bytes = backend.to_pixels(&x, range)?;
                Ok(Values { shape: [n, 1, h * w, 3], data: bytes.into_iter().map(f32::from).collect() })
            };
            run.values(Case::new("to_pixels", what, &[], 0.0), bytes, bytes);
        }
    }
}
