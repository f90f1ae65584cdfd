//! `LCMScheduler`: Luo et al. 2023, "Latent Consistency Models: Synthesizing High-Resolution Images with Few-Step
//! Inference".

use super::{
    Algorithm, Plan,
    noise_schedule::AlphasCumprod,
    prediction::{clipped, original_sample},
    settings::Settings,
    timesteps::linspace,
};
use crate::{
    error::{Error, Result},
    random::Generator,
};

/// Predicts the picture in each step, and adds fresh noise to it for the next.
pub(super) struct LcmScheduler {
    settings: Settings,
    alphas_cumprod: AlphasCumprod,
    timesteps: Vec<f64>,
}

impl LcmScheduler {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Result<Self> {
        let timesteps = timesteps(settings, plan)?;
        Ok(Self { settings: settings.clone(), alphas_cumprod: AlphasCumprod::new(settings), timesteps })
    }

    /// How much of the predicted picture and of the latents make the denoised latents: the boundary conditions of the
    /// consistency function.
    fn boundary_scalings(&self, timestep: f64) -> (f32, f32) {
        const SIGMA_DATA: f32 = 0.5;
        let scaled = timestep as f32 * self.settings.timestep_scaling;
        let sum = scaled * scaled + SIGMA_DATA * SIGMA_DATA;
        (scaled / sum.sqrt(), SIGMA_DATA * SIGMA_DATA / sum)
    }
}

impl Algorithm for LcmScheduler {
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
        let level = self.noise_level(index);
        let (c_out, c_skip) = self.boundary_scalings(self.timesteps[index]);
        for (x, &output) in sample.iter_mut().zip(model_output) {
            let original = original_sample(self.settings.prediction_type, level, output, *x);
            *x = c_out * clipped(&self.settings, original) + c_skip * *x;
        }
        if index + 1 < self.timesteps.len() {
            let (signal, sigma) = self.noise_level(index + 1);
            for (x, noise) in sample.iter_mut().zip(noise.randn(model_output.len())) {
                *x = signal * *x + sigma * noise;
            }
        }
        Ok(())
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        self.alphas_cumprod.noise_level(self.timesteps[index])
    }
}

/// Evenly spaced ones of the distillation's timesteps, or of the last part of them.
fn timesteps(settings: &Settings, plan: &Plan) -> Result<Vec<f64>> {
    let all = plan.original_inference_steps.unwrap_or(settings.original_inference_steps);
    let most = settings.num_train_timesteps;
    if all == 0 || all > most {
        return Err(Error::Invalid(format!("original_inference_steps is {all}; accepted are 1 to {most}")));
    }
    let strength = if plan.strength_in_original_steps { plan.strength } else { 1.0 };
    let used = (all as f64 * strength) as usize;
    if plan.steps > used {
        return Err(Error::Invalid(format!(
            "steps is {}; LCMScheduler takes 1 to {used} with {all} original_inference_steps and strength {strength}",
            plan.steps
        )));
    }
    let ratio = most / all;
    let chosen = linspace(0.0, used as f64, plan.steps + 1).into_iter().take(plan.steps);
    Ok(chosen.map(|i| ((used - i.floor() as usize) * ratio - 1) as f64).collect())
}
