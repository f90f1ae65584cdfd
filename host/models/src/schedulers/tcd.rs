//! `TCDScheduler`: Zheng et al. 2024, "Trajectory Consistency Distillation", its strategic stochastic sampling.

use reverie_kernels::Backend;

use super::{
    Algorithm, Combination, Plan, Step, lcm,
    noise_schedule::AlphasCumprod,
    prediction::original_sample,
    settings::{PredictionType, Settings},
};
use crate::error::Result;

/// Goes from each timestep below the next one, by a share that is its `eta`, and adds noise up to it.
pub(super) struct TcdScheduler {
    prediction_type: PredictionType,
    alphas_cumprod: AlphasCumprod,
    timesteps: Vec<f64>,
    eta: f32,
}

impl TcdScheduler {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Result<Self> {
        // Those of the latent consistency models, whose other ways of choosing them it does not have.
        let plan = Plan { original_inference_steps: None, strength_in_original_steps: false, ..plan.clone() };
        Ok(Self {
            prediction_type: settings.prediction_type,
            alphas_cumprod: AlphasCumprod::new(settings),
            timesteps: lcm::timesteps(settings, &plan, "TCDScheduler")?,
            eta: plan.eta,
        })
    }
}

impl<B: Backend> Algorithm<B> for TcdScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(&mut self, mut step: Step<B>) -> Result<B::Tensor> {
        let is_last = step.index + 1 == self.timesteps.len();
        let previous = if is_last { 0.0 } else { self.timesteps[step.index + 1] };
        // In f32, as a product of a number and a tensor of integers is in PyTorch.
        let below = ((1.0 - f64::from(self.eta)) as f32 * previous as f32).floor();
        let level = self.alphas_cumprod.noise_level(self.timesteps[step.index]);
        let (signal, sigma) = self.alphas_cumprod.noise_level(f64::from(below));
        let original = original_sample(self.prediction_type, level, &step);
        let epsilon = match self.prediction_type {
            PredictionType::Epsilon => step.model_output(),
            PredictionType::VPrediction => level.0 * step.model_output() + level.1 * step.sample(),
            PredictionType::Sample => (step.sample() - level.0 * original.clone()) / level.1,
        };
        let mut next = signal * original + sigma * epsilon;
        let noise;
        if self.eta > 0.0 && !is_last {
            let ratio = self.alphas_cumprod.at(previous) / self.alphas_cumprod.at(f64::from(below));
            noise = step.draw()?;
            next = ratio.sqrt() * next + (1.0 - ratio).sqrt() * Combination::of(&noise);
        }
        next.compute(step.backend)
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        self.alphas_cumprod.noise_level(self.timesteps[index])
    }
}
