//! Sinusoids of numbers.

use crate::backend::Timesteps;
use std::f32::consts::LN_10;

/// The embeddings of `values`, one after the other. In `f32` throughout, as in diffusers.
pub(super) fn embed(values: &[f32], timesteps: Timesteps) -> Vec<f32> {
    // ln 10000, the longest period.
    const LN_MAX_PERIOD: f32 = 4.0 * LN_10;
    let Timesteps { num_channels, flip_sin_to_cos, downscale_freq_shift } = timesteps;
    let half = num_channels / 2;
    let step = |i| -LN_MAX_PERIOD * i as f32 / (half as f32 - downscale_freq_shift);
    let frequencies: Vec<f32> = (0..half).map(|i| step(i).exp()).collect();
    let mut out = Vec::with_capacity(values.len() * num_channels);
    for value in values {
        let sines = frequencies.iter().map(|frequency| (value * frequency).sin());
        let cosines = frequencies.iter().map(|frequency| (value * frequency).cos());
        if flip_sin_to_cos {
            out.extend(cosines.chain(sines));
        } else {
            out.extend(sines.chain(cosines));
        }
        // An odd number of channels ends in a zero.
        out.extend(std::iter::repeat_n(0.0, num_channels % 2));
    }
    out
}
