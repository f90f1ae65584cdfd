//! Noise levels between those of the training, and other spacings of them. Everything is in f64, as NumPy computes it.

use super::{
    beta,
    settings::{Settings, SigmaSchedule},
    timesteps::linspace,
};

/// The training's noise levels, and how timesteps and noise levels turn into each other.
pub(super) struct TrainedSigmas {
    /// By timestep, so from the smallest up.
    sigmas: Vec<f32>,
    log_sigmas: Vec<f32>,
}

impl TrainedSigmas {
    pub(super) fn new(sigmas: Vec<f32>) -> Self {
        let log_sigmas = sigmas.iter().map(|sigma| sigma.ln()).collect();
        Self { sigmas, log_sigmas }
    }

    /// The smallest and the largest.
    pub(super) fn limits(&self) -> (f64, f64) {
        (f64::from(self.sigmas[0]), f64::from(self.sigmas[self.sigmas.len() - 1]))
    }

    /// The logarithms of the smallest and of the largest.
    pub(super) fn log_limits(&self) -> (f32, f32) {
        (self.log_sigmas[0], self.log_sigmas[self.log_sigmas.len() - 1])
    }

    /// The noise level at a timestep: `numpy.interp`.
    pub(super) fn at(&self, timestep: f64) -> f64 {
        let last = self.sigmas.len() - 1;
        let t = timestep.clamp(0.0, last as f64);
        let low = t as usize;
        let value = f64::from(self.sigmas[low]);
        if low == last {
            return value;
        }
        (f64::from(self.sigmas[low + 1]) - value) * (t - low as f64) + value
    }

    /// The timestep of a noise level, by the logarithm: `_sigma_to_t`.
    pub(super) fn timestep_of(&self, sigma: f64) -> f64 {
        let log_sigma = sigma.max(1e-10).ln();
        let below = self.log_sigmas.iter().rposition(|&log| log_sigma >= f64::from(log));
        let low = below.unwrap_or(0).min(self.log_sigmas.len() - 2);
        let (log_low, log_high) = (self.log_sigmas[low], self.log_sigmas[low + 1]);
        let share = (f64::from(log_low) - log_sigma) / f64::from(log_low - log_high);
        low as f64 + share.clamp(0.0, 1.0)
    }
}

/// `steps` noise levels from `max` down to `min`, or to the configuration's own limits. None where the configuration has
/// those of the timesteps.
pub(super) fn spaced(settings: &Settings, min: f64, max: f64, steps: usize) -> Option<Vec<f64>> {
    let (trained_min, trained_max) = (min, max);
    let min = settings.sigma_min.unwrap_or(min);
    let max = settings.sigma_max.unwrap_or(max);
    match settings.sigma_schedule {
        SigmaSchedule::Interpolated => None,
        SigmaSchedule::Karras => Some(karras(min, max, steps)),
        SigmaSchedule::Lu => {
            // Of the logarithms that the training has in f32.
            let [min, max] = [trained_min, trained_max].map(|sigma| f64::from((sigma as f32).ln()));
            let ramp = linspace(0.0, 1.0, steps).into_iter();
            Some(ramp.map(|ramp| (max + ramp * (min - max)).exp()).collect())
        }
        SigmaSchedule::Exponential => {
            Some(linspace(max.ln(), min.ln(), steps).into_iter().map(f64::exp).collect())
        }
        SigmaSchedule::Beta => {
            const SHAPE: f64 = 0.6;
            let shares = linspace(0.0, 1.0, steps).into_iter().map(|ramp| beta::quantile(1.0 - ramp, SHAPE));
            Some(shares.map(|share| min + share * (max - min)).collect())
        }
    }
}

/// Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", formula 5.
fn karras(min: f64, max: f64, steps: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (min, max) = (min.powf(1.0 / RHO), max.powf(1.0 / RHO));
    linspace(0.0, 1.0, steps).into_iter().map(|ramp| (max + ramp * (min - max)).powf(RHO)).collect()
}

/// The factors of the picture and of the noise that a noise level stands for in the training's own scale, where their
/// squares sum to 1: `_sigma_to_alpha_sigma_t`.
pub(super) fn alpha_sigma(sigma: f32) -> (f32, f32) {
    let alpha = 1.0 / (sigma * sigma + 1.0).sqrt();
    (alpha, sigma * alpha)
}

/// `lambda`, half of the logarithm of the signal-to-noise ratio, of factors from [`alpha_sigma`]. Infinite without noise.
pub(super) fn lambda((alpha, sigma): (f32, f32)) -> f32 {
    alpha.ln() - sigma.ln()
}
