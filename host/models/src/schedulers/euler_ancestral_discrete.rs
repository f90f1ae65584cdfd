//! `EulerAncestralDiscreteScheduler`: Euler's method that goes below each noise level and adds noise up to it.

use super::{
    Algorithm, Plan,
    euler_discrete::{SigmaSteps, scale_model_input},
    noise_schedule::AlphasCumprod,
    prediction::original_sample_of_sigma,
    settings::{PredictionType, Settings},
    sigmas::TrainedSigmas,
    timesteps,
};
use crate::{error::Result, random::Generator};

/// Noise is drawn in every step, also in the last, whose share of it is none.
pub(super) struct EulerAncestralDiscreteScheduler {
    prediction_type: PredictionType,
    schedule: SigmaSteps,
}

impl EulerAncestralDiscreteScheduler {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Result<Self> {
        let trained = TrainedSigmas::new(AlphasCumprod::nonzero(settings).sigmas());
        let timesteps = timesteps::fractional(settings, plan.steps);
        let sigmas = timesteps.iter().map(|&t| trained.at(t) as f32).chain([0.0]).collect();
        let schedule = SigmaSteps::from_sigmas(settings, timesteps, sigmas);
        Ok(Self { prediction_type: settings.prediction_type, schedule })
    }
}

impl Algorithm for EulerAncestralDiscreteScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.schedule.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.schedule.sigmas
    }

    fn init_noise_sigma(&self) -> f32 {
        self.schedule.init_noise_sigma
    }

    fn scale_model_input(&self, index: usize, sample: &mut [f32]) {
        scale_model_input(self.schedule.sigmas[index], sample);
    }

    fn step(
        &mut self,
        index: usize,
        model_output: &[f32],
        sample: &mut [f32],
        noise: &mut Generator,
    ) -> Result<()> {
        let (sigma, sigma_to) = (self.schedule.sigmas[index], self.schedule.sigmas[index + 1]);
        let (from, to) = (sigma * sigma, sigma_to * sigma_to);
        let sigma_up = (to * (from - to) / from).sqrt();
        let sigma_down = (to - sigma_up * sigma_up).sqrt();
        let dt = sigma_down - sigma;
        let noise = noise.randn(model_output.len());
        for ((x, &output), noise) in sample.iter_mut().zip(model_output).zip(noise) {
            let original = original_sample_of_sigma(self.prediction_type, sigma, output, *x);
            let derivative = (*x - original) / sigma;
            *x = *x + derivative * dt + noise * sigma_up;
        }
        Ok(())
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        (1.0, self.schedule.sigmas[index])
    }
}
