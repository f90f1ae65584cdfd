//! `HeunDiscreteScheduler`: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models",
//! algorithm 1.

use super::{
    Algorithm, Plan,
    euler_discrete::{SigmaSteps, scale_model_input},
    prediction::{clipped, original_sample_of_sigma},
    settings::{FinalSigmas, Interpolation, Settings},
};
use crate::{error::Result, random::Generator};

/// Takes each step by the mean of the slopes at its beginning and at its end; the last one, which ends without noise, by
/// the slope at its beginning.
pub(super) struct HeunDiscreteScheduler {
    settings: Settings,
    schedule: SigmaSteps,
    /// What the first half of a step leaves for the second.
    half: Option<Half>,
}

struct Half {
    sample: Vec<f32>,
    derivative: Vec<f32>,
    dt: f32,
}

impl HeunDiscreteScheduler {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Result<Self> {
        // It has neither of these settings; another scheduler's are not meant for it.
        let settings = Settings {
            final_sigmas_type: FinalSigmas::Zero,
            interpolation_type: Interpolation::Linear,
            ..settings.clone()
        };
        let SigmaSteps { timesteps, sigmas, .. } = SigmaSteps::new(&settings, plan.steps);
        let timesteps = each_twice(&timesteps[1..], timesteps[0], None);
        let end = sigmas.len() - 1;
        let sigmas = each_twice(&sigmas[1..end], sigmas[0], Some(sigmas[end]));
        let schedule = SigmaSteps::from_sigmas(&settings, timesteps, sigmas);
        Ok(Self { settings, schedule, half: None })
    }

    fn derivative(&self, sigma: f32, model_output: f32, sample: f32) -> f32 {
        let original = original_sample_of_sigma(self.settings.prediction_type, sigma, model_output, sample);
        (sample - clipped(&self.settings, original)) / sigma
    }
}

impl Algorithm for HeunDiscreteScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.schedule.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.schedule.sigmas
    }

    fn order(&self) -> usize {
        2
    }

    fn init_noise_sigma(&self) -> f32 {
        self.schedule.init_noise_sigma
    }

    fn scale_model_input(&self, index: usize, sample: &mut [f32]) {
        scale_model_input(self.schedule.sigmas[index], sample);
    }

    fn step(
        &mut self,
        index: usize,
        model_output: &[f32],
        sample: &mut [f32],
        _noise: &mut Generator,
    ) -> Result<()> {
        let sigma = self.schedule.sigmas[index];
        let here = sample.iter().zip(model_output);
        let derivative: Vec<f32> = here.map(|(&x, &output)| self.derivative(sigma, output, x)).collect();
        match self.half.take() {
            None => {
                let dt = self.schedule.sigmas[index + 1] - sigma;
                self.half = Some(Half { sample: sample.to_vec(), derivative: derivative.clone(), dt });
                for (x, derivative) in sample.iter_mut().zip(derivative) {
                    *x += derivative * dt;
                }
            }
            Some(half) => {
                let slopes = half.derivative.iter().zip(derivative).map(|(a, b)| (a + b) / 2.0);
                for ((x, start), slope) in sample.iter_mut().zip(&half.sample).zip(slopes) {
                    *x = start + slope * half.dt;
                }
            }
        }
        Ok(())
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        (1.0, self.schedule.sigmas[index])
    }
}

/// `first`, each of `middle` twice, `last`.
fn each_twice<T: Copy>(middle: &[T], first: T, last: Option<T>) -> Vec<T> {
    let middle = middle.iter().flat_map(|&x| [x, x]);
    std::iter::once(first).chain(middle).chain(last).collect()
}
