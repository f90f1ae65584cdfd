//! `EDMEulerScheduler`: Euler's method for models trained by EDM.

use reverie_kernels::Backend;

use super::{
    Algorithm, Plan, Step,
    edm::Preconditioning,
    settings::{FinalSigmas, Settings},
};
use crate::error::Result;

/// Follows the slope at each noise level down to the next.
pub(super) struct EdmEulerScheduler {
    preconditioning: Preconditioning,
    timesteps: Vec<f64>,
    sigmas: Vec<f32>,
}

impl EdmEulerScheduler {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Self {
        let preconditioning = Preconditioning::new(settings);
        let mut sigmas = preconditioning.sigmas(plan.steps);
        let timesteps = sigmas.iter().map(|&sigma| Preconditioning::timestep(sigma)).collect();
        sigmas.push(match settings.final_sigmas_type {
            FinalSigmas::Zero => 0.0,
            FinalSigmas::SigmaMin => sigmas[sigmas.len() - 1],
        });
        Self { preconditioning, timesteps, sigmas }
    }
}

impl<B: Backend> Algorithm<B> for EdmEulerScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn init_noise_sigma(&self) -> f32 {
        self.preconditioning.init_noise_sigma()
    }

    fn input_divisor(&self, index: usize) -> f32 {
        self.preconditioning.input_divisor(self.sigmas[index])
    }

    fn step(&mut self, step: Step<B>) -> Result<B::Tensor> {
        let sigma = self.sigmas[step.index];
        let dt = self.sigmas[step.index + 1] - sigma;
        let original = self.preconditioning.original_sample(sigma, &step);
        let derivative = (step.sample() - original) / sigma;
        (step.sample() + dt * derivative).compute(step.backend)
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        (1.0, self.sigmas[index])
    }
}
