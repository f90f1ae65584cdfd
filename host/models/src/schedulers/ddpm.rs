//! `DDPMScheduler`: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", formulas 6 and 7.

use reverie_kernels::Backend;

use super::{
    Algorithm, Combination, Plan, Step,
    noise_schedule::AlphasCumprod,
    prediction::{alpha_to_clip, clipped, original_sample},
    settings::Settings,
    timesteps,
};
use crate::error::Result;

/// Draws each step from the posterior of the training's noising process.
pub(super) struct DdpmScheduler {
    settings: Settings,
    alphas_cumprod: AlphasCumprod,
    timesteps: Vec<f64>,
}

impl DdpmScheduler {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Result<Self> {
        Ok(Self {
            settings: settings.clone(),
            alphas_cumprod: AlphasCumprod::new(settings),
            timesteps: timesteps::whole(settings, plan.steps)?,
        })
    }
}

impl<B: Backend> Algorithm<B> for DdpmScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(&mut self, mut step: Step<B>) -> Result<B::Tensor> {
        let timestep = self.timesteps[step.index];
        let alpha_prod_t = self.alphas_cumprod.at(timestep);
        let alpha_prod_t_prev =
            self.timesteps.get(step.index + 1).map_or(1.0, |&t| self.alphas_cumprod.at(t));
        let (beta_prod_t, beta_prod_t_prev) = (1.0 - alpha_prod_t, 1.0 - alpha_prod_t_prev);
        let alpha = alpha_prod_t / alpha_prod_t_prev;
        let beta = 1.0 - alpha;

        let level = (alpha_to_clip(&self.settings, alpha_prod_t.sqrt()), beta_prod_t.sqrt());
        let original_coeff = alpha_prod_t_prev.sqrt() * beta / beta_prod_t;
        let sample_coeff = alpha.sqrt() * beta_prod_t_prev / beta_prod_t;
        let original = original_sample(self.settings.prediction_type, level, &step);
        let mut kept = None;
        let original = clipped(&self.settings, step.backend, original, &mut kept)?;
        let mut next = original_coeff * original + sample_coeff * step.sample();
        let noise;
        if timestep > 0.0 {
            let small = (beta_prod_t_prev / beta_prod_t * beta).max(1e-20);
            let std_dev = if self.settings.large_variance { beta } else { small }.sqrt();
            noise = step.draw()?;
            next = next + std_dev * Combination::of(&noise);
        }
        next.compute(step.backend)
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        self.alphas_cumprod.noise_level(self.timesteps[index])
    }
}
