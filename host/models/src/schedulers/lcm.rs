//! `LCMScheduler`: Luo et al. 2023, "Latent Consistency Models: Synthesizing High-Resolution Images with Few-Step
//! Inference".

use reverie_kernels::Backend;

use super::{
    Algorithm, Combination, Plan, Step,
    noise_schedule::AlphasCumprod,
    prediction::{alpha_to_clip, clipped, original_sample},
    settings::Settings,
    timesteps::linspace,
};
use crate::error::{Error, Result};

/// Predicts the picture in each step, and adds fresh noise to it for the next.
pub(super) struct LcmScheduler {
    settings: Settings,
    alphas_cumprod: AlphasCumprod,
    timesteps: Vec<f64>,
}

impl LcmScheduler {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Result<Self> {
        let timesteps = timesteps(settings, plan, "LCMScheduler")?;
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

impl<B: Backend> Algorithm<B> for LcmScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(&mut self, mut step: Step<B>) -> Result<B::Tensor> {
        let level = |index: usize| self.alphas_cumprod.noise_level(self.timesteps[index]);
        let (c_out, c_skip) = self.boundary_scalings(self.timesteps[step.index]);
        let (alpha, sigma) = level(step.index);
        let alpha = alpha_to_clip(&self.settings, alpha);
        let original = original_sample(self.settings.prediction_type, (alpha, sigma), &step);
        let mut kept = None;
        let original = clipped(&self.settings, step.backend, original, &mut kept)?;
        let mut next = c_out * original + c_skip * step.sample();
        let noise;
        if step.index + 1 < self.timesteps.len() {
            let (signal, sigma) = level(step.index + 1);
            noise = step.draw()?;
            next = signal * next + sigma * Combination::of(&noise);
        }
        next.compute(step.backend)
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        self.alphas_cumprod.noise_level(self.timesteps[index])
    }
}

/// Evenly spaced ones of the distillation's timesteps, or of the last part of them.
pub(super) fn timesteps(settings: &Settings, plan: &Plan, class: &str) -> Result<Vec<f64>> {
    let all = plan.original_inference_steps.unwrap_or(settings.original_inference_steps);
    let most = settings.num_train_timesteps;
    if all == 0 || all > most {
        return Err(Error::Invalid(format!("original_inference_steps is {all}; accepted are 1 to {most}")));
    }
    let strength = if plan.strength_in_original_steps { plan.strength } else { 1.0 };
    let used = (all as f64 * strength) as usize;
    if plan.steps > used {
        // As it was given, in fewer digits.
        let given = strength as f32;
        let least = plan.steps as f32 / all as f32;
        return Err(Error::Invalid(if least <= 1.0 {
            format!(
                "strength {given} leaves {used} of {class}'s {all} original_inference_steps; {} steps need a strength of \
                 {least} or more",
                plan.steps
            )
        } else {
            format!("steps is {}; {class} takes 1 to {all} (its original_inference_steps)", plan.steps)
        }));
    }
    let ratio = most / all;
    let chosen = linspace(0.0, used as f64, plan.steps + 1).into_iter().take(plan.steps);
    Ok(chosen.map(|i| ((used - i.floor() as usize) * ratio - 1) as f64).collect())
}
