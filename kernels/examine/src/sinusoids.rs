//! Timestep embeddings in `f64`: at numbers of thousands, what `f32` makes of an angle is itself in doubt.

use reverie_kernels::Timesteps;

/// Channels in eights and not, odd, and none but a zero; both orders, both spacings.
pub const TIMESTEPS: [Timesteps; 6] = {
    const fn of(num_channels: usize, flip_sin_to_cos: bool, downscale_freq_shift: f32) -> Timesteps {
        Timesteps { num_channels, flip_sin_to_cos, downscale_freq_shift }
    }
    [
        of(320, true, 0.0),
        of(256, true, 0.0),
        of(256, false, 1.0),
        of(30, false, 0.0),
        of(17, true, 1.0),
        of(1, true, 0.0),
    ]
};

/// From 0 to what time ids can be, and below zero.
pub const NUMBERS: [f32; 10] = [0.0, 1.0, 0.5, 21.0, 499.5, 999.0, -3.25, 1536.0, 8191.0, 20000.0];

/// Sinusoids of numbers, each with the size of its number.
pub fn timestep_embedding(values: &[f32], timesteps: Timesteps) -> Vec<(f64, f64)> {
    let Timesteps { num_channels, flip_sin_to_cos, downscale_freq_shift } = timesteps;
    let half = num_channels / 2;
    let step = -10000f64.ln() / (half as f64 - f64::from(downscale_freq_shift));
    let row = |value: &f32| {
        let value = f64::from(*value);
        (0..num_channels).map(move |c| {
            let angle = value * (step * (c % half.max(1)) as f64).exp();
            match (c / half.max(1), flip_sin_to_cos) {
                _ if c >= 2 * half => (0.0, 0.0),
                (0, false) | (1, true) => (angle.sin(), value.abs()),
                _ => (angle.cos(), value.abs()),
            }
        })
    };
    values.iter().flat_map(row).collect()
}
