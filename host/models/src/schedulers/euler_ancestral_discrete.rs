//! `EulerAncestralDiscreteScheduler`: Euler's method that goes below each noise level and adds noise up to it.

use reverie_kernels::Backend;

use super::{
    Algorithm, Combination, Plan, Step,
    euler_discrete::SigmaSteps,
    noise_schedule::AlphasCumprod,
    prediction::original_sample_of_sigma,
    settings::{PredictionType, Settings},
    sigmas::TrainedSigmas,
    timesteps,
};
use crate::error::Result;

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

impl<B: Backend> Algorithm<B> for EulerAncestralDiscreteScheduler {
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

    fn step(&mut self, mut step: Step<B>) -> Result<B::Tensor> {
        let (sigma, sigma_to) = (self.schedule.sigmas[step.index], self.schedule.sigmas[step.index + 1]);
        let (from, to) = (sigma * sigma, sigma_to * sigma_to);
        let sigma_up = (to * (from - to) / from).sqrt();
        let sigma_down = (to - sigma_up * sigma_up).sqrt();
        let dt = sigma_down - sigma;
        let noise = step.draw()?;
        let original = original_sample_of_sigma(self.prediction_type, sigma, &step);
        let derivative = (step.sample() - original) / sigma;
        (step.sample() + dt * derivative + sigma_up * Combination::of(&noise)).compute(step.backend)
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        (1.0, self.schedule.sigmas[index])
    }
}
