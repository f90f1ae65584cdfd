//! Which timesteps of the training the steps stand at (Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps
//! are Flawed", table 2).

use super::{
    noise_schedule::AlphasCumprod,
    settings::{Settings, TimestepSpacing},
};
use crate::error::{Error, Result};

/// `steps` whole timesteps, from the noisiest down: DDIM's and DDPM's.
///
/// # Errors
/// [`Error::Invalid`] where `steps_offset` moves one of them out of the training's.
pub(super) fn whole(settings: &Settings, steps: usize) -> Result<Vec<f64>> {
    let timesteps = match settings.timestep_spacing {
        TimestepSpacing::Linspace => {
            let last = (settings.num_train_timesteps - 1) as f64;
            linspace(0.0, last, steps).into_iter().rev().map(f64::round_ties_even).collect()
        }
        TimestepSpacing::Leading => leading(settings, steps, settings.num_train_timesteps / steps),
        TimestepSpacing::Trailing => trailing(settings.num_train_timesteps, settings, steps),
    };
    check(timesteps, settings)
}

/// `steps` timesteps, from the noisiest down, which are not whole if they are spaced by `linspace`: those of Euler's and
/// Heun's schedulers. Computed in f64 and kept in f32, as by diffusers.
pub(super) fn fractional(settings: &Settings, steps: usize) -> Vec<f64> {
    match settings.timestep_spacing {
        TimestepSpacing::Linspace => {
            let last = (settings.num_train_timesteps - 1) as f64;
            linspace(0.0, last, steps).into_iter().rev().map(|t| f64::from(t as f32)).collect()
        }
        TimestepSpacing::Leading => leading(settings, steps, settings.num_train_timesteps / steps),
        TimestepSpacing::Trailing => trailing(settings.num_train_timesteps, settings, steps),
    }
}

/// `steps` whole timesteps, from the noisiest down, for the multistep solvers: they divide the way into one more step and
/// leave out the last, which stands at timestep 0. `end` is the number of training timesteps, or less where the noisiest
/// ones are left out.
///
/// # Errors
/// [`Error::Invalid`] where `steps_offset` moves one of them out of the training's, and where the way is too short for so
/// many steps.
pub(super) fn multistep(settings: &Settings, steps: usize, end: usize) -> Result<Vec<f64>> {
    let timesteps = match settings.timestep_spacing {
        TimestepSpacing::Linspace => {
            let all = linspace(0.0, end as f64 - 1.0, steps + 1);
            all.into_iter().rev().take(steps).map(f64::round_ties_even).collect()
        }
        TimestepSpacing::Leading => {
            let mut all = leading(settings, steps + 1, end / (steps + 1));
            all.truncate(steps);
            all
        }
        TimestepSpacing::Trailing => trailing(end, settings, steps),
    };
    if timesteps.len() < steps || timesteps.windows(2).any(|pair| pair[0] <= pair[1]) {
        return Err(Error::Invalid(format!(
            "steps is {steps}; the scheduler takes fewer, for it has only {end} timesteps to stand at"
        )));
    }
    check(timesteps, settings)
}

/// How many of the training's noisiest timesteps `lambda_min_clipped` leaves out.
pub(super) fn too_noisy(settings: &Settings, alphas_cumprod: &AlphasCumprod) -> usize {
    let lambdas = alphas_cumprod.lambdas().rev();
    lambdas.take_while(|&lambda| f64::from(lambda) < settings.lambda_min_clipped).count()
}

fn leading(settings: &Settings, count: usize, ratio: usize) -> Vec<f64> {
    (0..count).rev().map(|i| ((i * ratio) as i64 + settings.steps_offset) as f64).collect()
}

/// NumPy's `arange(end, 0, -num_train_timesteps / steps)`, rounded, less 1. Some numbers of steps (61, for one) make an
/// additional value of nearly 0 there by a rounding error, for which diffusers runs one step more, at timestep -1. It is
/// left out here.
fn trailing(end: usize, settings: &Settings, steps: usize) -> Vec<f64> {
    let end = end as f64;
    let second = end - settings.num_train_timesteps as f64 / steps as f64;
    let values = (0..steps).map(|i| end + i as f64 * (second - end));
    values.map(|t| t.round_ties_even() - 1.0).filter(|&t| t >= 0.0).collect()
}

/// `numpy.linspace`.
pub(super) fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let step = if count > 1 { (end - start) / (count - 1) as f64 } else { 0.0 };
    let value = |i: usize| if i > 0 && i == count - 1 { end } else { i as f64 * step + start };
    (0..count).map(value).collect()
}

fn check(timesteps: Vec<f64>, settings: &Settings) -> Result<Vec<f64>> {
    let most = settings.num_train_timesteps - 1;
    match timesteps.iter().find(|&&t| t > most as f64) {
        None => Ok(timesteps),
        Some(t) => Err(Error::Invalid(format!(
            "with {} steps and a steps_offset of {}, there is a step at timestep {t}; the model was trained up to {most}",
            timesteps.len(),
            settings.steps_offset
        ))),
    }
}
