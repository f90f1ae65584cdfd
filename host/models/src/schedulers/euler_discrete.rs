//! `EulerDiscreteScheduler`: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models",
//! algorithm 2 without added noise.

use reverie_kernels::Backend;

use super::{
    Algorithm, Plan, Step,
    noise_schedule::{self, AlphasCumprod, sigma_of},
    prediction::original_sample_of_sigma,
    settings::{FinalSigmas, Interpolation, PredictionType, Settings},
    sigmas::{TrainedSigmas, spaced},
    timesteps,
};
use crate::error::Result;

/// Follows the slope at each noise level down to the next.
pub(super) struct EulerDiscreteScheduler {
    prediction_type: PredictionType,
    schedule: SigmaSteps,
}

impl EulerDiscreteScheduler {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Result<Self> {
        let schedule = SigmaSteps::new(settings, plan.steps);
        Ok(Self { prediction_type: settings.prediction_type, schedule })
    }
}

impl<B: Backend> Algorithm<B> for EulerDiscreteScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.schedule.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.schedule.sigmas
    }

    fn init_noise_sigma(&self) -> f32 {
        self.schedule.init_noise_sigma
    }

    fn input_divisor(&self, index: usize) -> f32 {
        self.schedule.input_divisor(index)
    }

    fn step(&mut self, step: Step<B>) -> Result<B::Tensor> {
        let sigma = self.schedule.sigmas[step.index];
        let dt = self.schedule.sigmas[step.index + 1] - sigma;
        let original = original_sample_of_sigma(self.prediction_type, sigma, &step);
        let derivative = (step.sample() - original) / sigma;
        (step.sample() + dt * derivative).compute(step.backend)
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        (1.0, self.schedule.sigmas[index])
    }
}

/// The steps of the schedulers that count in noise levels, one for each timestep and a last one after them.
pub(super) struct SigmaSteps {
    pub(super) timesteps: Vec<f64>,
    pub(super) sigmas: Vec<f32>,
    pub(super) init_noise_sigma: f32,
}

impl SigmaSteps {
    /// The steps of `EulerDiscreteScheduler` and `HeunDiscreteScheduler`, of any spacing.
    pub(super) fn new(settings: &Settings, steps: usize) -> Self {
        let alphas_cumprod = AlphasCumprod::nonzero(settings);
        let trained = TrainedSigmas::new(alphas_cumprod.sigmas());
        let mut timesteps = timesteps::fractional(settings, steps);
        let mut sigmas: Vec<f64> = match settings.interpolation_type {
            Interpolation::Linear => timesteps.iter().map(|&t| trained.at(t)).collect(),
            Interpolation::LogLinear => {
                let (low, high) = trained.log_limits();
                let logs = noise_schedule::linspace(f64::from(high), f64::from(low), steps + 1);
                logs.into_iter().map(|log| f64::from(log.exp())).collect()
            }
        };
        if let Some(spaced) = spaced(settings, sigmas[sigmas.len() - 1], sigmas[0], steps) {
            timesteps = spaced.iter().map(|&sigma| f64::from(trained.timestep_of(sigma) as f32)).collect();
            sigmas = spaced;
        }
        let last = match settings.final_sigmas_type {
            FinalSigmas::Zero => 0.0,
            FinalSigmas::SigmaMin => sigma_of(alphas_cumprod.first()),
        };
        let sigmas: Vec<f32> = sigmas.into_iter().map(|sigma| sigma as f32).chain([last]).collect();
        if settings.continuous_timesteps && settings.prediction_type == PredictionType::VPrediction {
            timesteps = sigmas[..steps].iter().map(|sigma| f64::from(0.25 * sigma.ln())).collect();
        }
        Self::from_sigmas(settings, timesteps, sigmas)
    }

    /// With the noise that they begin with: as much as the first noise level, plus the picture's own variance unless the
    /// timesteps begin at the training's last.
    pub(super) fn from_sigmas(settings: &Settings, timesteps: Vec<f64>, sigmas: Vec<f32>) -> Self {
        use super::settings::TimestepSpacing::{Leading, Linspace, Trailing};
        let max = sigmas.iter().copied().fold(0.0, f32::max);
        let init_noise_sigma = match settings.timestep_spacing {
            Linspace | Trailing => max,
            Leading => (max * max + 1.0).sqrt(),
        };
        Self { timesteps, sigmas, init_noise_sigma }
    }

    /// What brings latents that are picture plus noise to the scale of the training.
    pub(super) fn input_divisor(&self, index: usize) -> f32 {
        (self.sigmas[index] * self.sigmas[index] + 1.0).sqrt()
    }
}
