//! What models trained by EDM are given and what they give: Karras et al. 2022, "Elucidating the Design Space of
//! Diffusion-Based Generative Models", table 1. Playground 2.5 is one.

use reverie_kernels::Backend;

use super::{
    Combination, Step, noise_schedule,
    settings::{Edm, PredictionType, Settings},
    timesteps::linspace,
};

/// Scales a model's input and output by the noise level, so that both have a variance of 1.
pub(super) struct Preconditioning {
    edm: Edm,
    prediction_type: PredictionType,
}

impl Preconditioning {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { edm: settings.edm, prediction_type: settings.prediction_type }
    }

    /// What the model is told of a noise level: `precondition_noise`.
    pub(super) fn timestep(sigma: f32) -> f64 {
        f64::from(0.25 * sigma.ln())
    }

    pub(super) fn init_noise_sigma(&self) -> f32 {
        (self.edm.sigma_max * self.edm.sigma_max + 1.0).sqrt() as f32
    }

    /// The inverse of `precondition_inputs`.
    pub(super) fn input_divisor(&self, sigma: f32) -> f32 {
        (sigma * sigma + self.edm.sigma_data * self.edm.sigma_data).sqrt()
    }

    /// The picture that the model sees in the latents, which are the picture plus `sigma` times noise:
    /// `precondition_outputs`.
    pub(super) fn original_sample<'a, B: Backend>(
        &self,
        sigma: f32,
        step: &Step<'a, B>,
    ) -> Combination<'a, B::Tensor> {
        let data = self.edm.sigma_data;
        let variance = sigma * sigma + data * data;
        let c_out = match self.prediction_type {
            PredictionType::VPrediction => -sigma,
            PredictionType::Epsilon | PredictionType::Sample => sigma,
        } * data
            / variance.sqrt();
        (data * data / variance) * step.sample() + c_out * step.model_output()
    }

    /// The noise levels of `steps` steps, as `EDMEulerScheduler` computes them.
    pub(super) fn sigmas(&self, steps: usize) -> Vec<f32> {
        if self.edm.exponential {
            return self.exponential(steps);
        }
        let Edm { sigma_min, sigma_max, rho, .. } = self.edm;
        let (min, max) = (sigma_min.powf(1.0 / rho), sigma_max.powf(1.0 / rho));
        linspace(0.0, 1.0, steps)
            .into_iter()
            .map(|ramp| (max + ramp * (min - max)).powf(rho) as f32)
            .collect()
    }

    /// The same as `EDMDPMSolverMultistepScheduler` computes them.
    pub(super) fn sigmas_in_f32(&self, steps: usize) -> Vec<f32> {
        if self.edm.exponential {
            return self.exponential(steps);
        }
        let Edm { sigma_min, sigma_max, rho, .. } = self.edm;
        let (min, max) = (sigma_min.powf(1.0 / rho), sigma_max.powf(1.0 / rho));
        let ramp = noise_schedule::linspace(0.0, 1.0, steps).into_iter();
        ramp.map(|ramp| (max as f32 + ramp * (min - max) as f32).powf(rho as f32)).collect()
    }

    fn exponential(&self, steps: usize) -> Vec<f32> {
        let logs = noise_schedule::linspace(self.edm.sigma_min.ln(), self.edm.sigma_max.ln(), steps);
        logs.into_iter().rev().map(f32::exp).collect()
    }
}
