//! `DDIMScheduler`: Song et al. 2020, "Denoising Diffusion Implicit Models", formulas 12 and 16.

use super::{
    Algorithm, Plan,
    noise_schedule::AlphasCumprod,
    prediction::{clipped, original_sample},
    settings::{PredictionType, Settings},
    timesteps,
};
use crate::{error::Result, random::Generator};

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

impl Algorithm for DdimScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(
        &mut self,
        index: usize,
        model_output: &[f32],
        sample: &mut [f32],
        noise: &mut Generator,
    ) -> Result<()> {
        let timestep = self.timesteps[index];
        let previous = timestep - self.span;
        let alpha_prod_t = self.alphas_cumprod.at(timestep);
        let alpha_prod_t_prev =
            if previous >= 0.0 { self.alphas_cumprod.at(previous) } else { self.final_alpha_cumprod };
        let beta_prod_t = 1.0 - alpha_prod_t;

        let variance = ((1.0 - alpha_prod_t_prev) / beta_prod_t) * (1.0 - alpha_prod_t / alpha_prod_t_prev);
        let std_dev_t = if self.eta > 0.0 { self.eta * variance.sqrt() } else { 0.0 };
        let level = (alpha_prod_t.sqrt(), beta_prod_t.sqrt());
        let signal = alpha_prod_t_prev.sqrt();
        let direction = (1.0 - alpha_prod_t_prev - std_dev_t * std_dev_t).sqrt();
        for (x, &output) in sample.iter_mut().zip(model_output) {
            let original = original_sample(self.settings.prediction_type, level, output, *x);
            let epsilon = match self.settings.prediction_type {
                PredictionType::Epsilon => output,
                PredictionType::VPrediction => level.0 * output + level.1 * *x,
                PredictionType::Sample => (*x - level.0 * original) / level.1,
            };
            *x = signal * clipped(&self.settings, original) + direction * epsilon;
        }
        if self.eta > 0.0 {
            for (x, noise) in sample.iter_mut().zip(noise.randn(model_output.len())) {
                *x += std_dev_t * noise;
            }
        }
        Ok(())
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        self.alphas_cumprod.noise_level(self.timesteps[index])
    }
}
