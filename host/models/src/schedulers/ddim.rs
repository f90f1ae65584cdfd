//! `DDIMScheduler`: Song et al. 2020, "Denoising Diffusion Implicit Models", formulas 12 and 16.

use reverie_kernels::Backend;

use super::{
    Algorithm, Combination, Plan, Step,
    noise_schedule::AlphasCumprod,
    prediction::{alpha_to_clip, clipped, original_sample},
    settings::{PredictionType, Settings},
    timesteps,
};
use crate::error::Result;

/// Predicts the picture and the noise in the latents, and mixes them for the next noise level.
pub(super) struct DdimScheduler {
    settings: Settings,
    alphas_cumprod: AlphasCumprod,
    final_alpha_cumprod: f32,
    timesteps: Vec<f64>,
    /// How many timesteps a step spans.
    span: f64,
    eta: f32,
}

impl DdimScheduler {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Result<Self> {
        let alphas_cumprod = AlphasCumprod::new(settings);
        Ok(Self {
            final_alpha_cumprod: if settings.set_alpha_to_one { 1.0 } else { alphas_cumprod.first() },
            alphas_cumprod,
            timesteps: timesteps::whole(settings, plan.steps)?,
            span: (settings.num_train_timesteps / plan.steps) as f64,
            eta: plan.eta,
            settings: settings.clone(),
        })
    }
}

impl<B: Backend> Algorithm<B> for DdimScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(&mut self, mut step: Step<B>) -> Result<B::Tensor> {
        let timestep = self.timesteps[step.index];
        let previous = timestep - self.span;
        let alpha_prod_t = self.alphas_cumprod.at(timestep);
        let alpha_prod_t_prev =
            if previous >= 0.0 { self.alphas_cumprod.at(previous) } else { self.final_alpha_cumprod };
        let beta_prod_t = 1.0 - alpha_prod_t;

        let variance = ((1.0 - alpha_prod_t_prev) / beta_prod_t) * (1.0 - alpha_prod_t / alpha_prod_t_prev);
        let std_dev_t = if self.eta > 0.0 { self.eta * variance.sqrt() } else { 0.0 };
        let level = (alpha_to_clip(&self.settings, alpha_prod_t.sqrt()), beta_prod_t.sqrt());
        let signal = alpha_prod_t_prev.sqrt();
        let direction = (1.0 - alpha_prod_t_prev - std_dev_t * std_dev_t).sqrt();
        let original = original_sample(self.settings.prediction_type, level, &step);
        let epsilon = match self.settings.prediction_type {
            PredictionType::Epsilon => step.model_output(),
            PredictionType::VPrediction => level.0 * step.model_output() + level.1 * step.sample(),
            PredictionType::Sample => (step.sample() - level.0 * original.clone()) / level.1,
        };
        let mut kept = None;
        let original = clipped(&self.settings, step.backend, original, &mut kept)?;
        let mut next = signal * original + direction * epsilon;
        let noise;
        if self.eta > 0.0 {
            noise = step.draw()?;
            next = next + std_dev_t * Combination::of(&noise);
        }
        next.compute(step.backend)
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        self.alphas_cumprod.noise_level(self.timesteps[index])
    }
}
