//! `HeunDiscreteScheduler`: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models",
//! algorithm 1.

use reverie_kernels::Backend;

use super::{
    Algorithm, Combination, Plan, Step,
    euler_discrete::SigmaSteps,
    prediction::{clipped, original_sample_of_sigma},
    settings::{FinalSigmas, Interpolation, Settings},
};
use crate::error::Result;

/// Takes each step by the mean of the slopes at its beginning and at its end; the last one, which ends without noise, by
/// the slope at its beginning.
pub(super) struct HeunDiscreteScheduler<B: Backend> {
    settings: Settings,
    schedule: SigmaSteps,
    /// What the first half of a step leaves for the second.
    half: Option<Half<B::Tensor>>,
}

struct Half<T> {
    sample: T,
    derivative: T,
    dt: f32,
}

impl<B: Backend> HeunDiscreteScheduler<B> {
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
}

impl<B: Backend> Algorithm<B> for HeunDiscreteScheduler<B> {
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

    fn input_divisor(&self, index: usize) -> f32 {
        self.schedule.input_divisor(index)
    }

    fn step(&mut self, step: Step<B>) -> Result<B::Tensor> {
        let backend = step.backend;
        let sigma = self.schedule.sigmas[step.index];
        let original = original_sample_of_sigma(self.settings.prediction_type, sigma, &step);
        let mut kept = None;
        let original = clipped(&self.settings, backend, original, &mut kept)?;
        let derivative = (step.sample() - original) / sigma;
        if let Some(half) = &self.half {
            let slope = (Combination::of(&half.derivative) + derivative) / 2.0;
            let next = (Combination::of(&half.sample) + half.dt * slope).compute(backend)?;
            self.half = None;
            return Ok(next);
        }
        let dt = self.schedule.sigmas[step.index + 1] - sigma;
        let next = (step.sample() + dt * derivative.clone()).compute(backend)?;
        let (sample, derivative) = (step.sample.clone(), derivative.compute(backend)?);
        self.half = Some(Half { sample, derivative, dt });
        Ok(next)
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        (1.0, self.schedule.sigmas[index])
    }
}

/// `first`, each of `middle` twice, `last`.
pub(super) fn each_twice<T: Copy>(middle: &[T], first: T, last: Option<T>) -> Vec<T> {
    let middle = middle.iter().flat_map(|&x| [x, x]);
    std::iter::once(first).chain(middle).chain(last).collect()
}
