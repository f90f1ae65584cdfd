//! `DDPMScheduler`: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", formulas 6 and 7.

use super::{
    Algorithm, Plan,
    noise_schedule::AlphasCumprod,
    prediction::{clipped, original_sample},
    settings::Settings,
    timesteps,
};
use crate::{error::Result, random::Generator};

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

impl Algorithm for DdpmScheduler {
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
        let alpha_prod_t = self.alphas_cumprod.at(timestep);
        let alpha_prod_t_prev = self.timesteps.get(index + 1).map_or(1.0, |&t| self.alphas_cumprod.at(t));
        let (beta_prod_t, beta_prod_t_prev) = (1.0 - alpha_prod_t, 1.0 - alpha_prod_t_prev);
        let alpha = alpha_prod_t / alpha_prod_t_prev;
        let beta = 1.0 - alpha;

        let level = (alpha_prod_t.sqrt(), beta_prod_t.sqrt());
        let original_coeff = alpha_prod_t_prev.sqrt() * beta / beta_prod_t;
        let sample_coeff = alpha.sqrt() * beta_prod_t_prev / beta_prod_t;
        for (x, &output) in sample.iter_mut().zip(model_output) {
            let original = original_sample(self.settings.prediction_type, level, output, *x);
            *x = original_coeff * clipped(&self.settings, original) + sample_coeff * *x;
        }
        if timestep > 0.0 {
            let small = (beta_prod_t_prev / beta_prod_t * beta).max(1e-20);
            let std_dev = if self.settings.large_variance { beta } else { small }.sqrt();
            for (x, noise) in sample.iter_mut().zip(noise.randn(model_output.len())) {
                *x += std_dev * noise;
            }
        }
        Ok(())
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        self.alphas_cumprod.noise_level(self.timesteps[index])
    }
}
