//! `LMSDiscreteScheduler`: a linear multistep method (Adams and Bashforth) over the noise levels, as Katherine Crowson's
//! k-diffusion has it.

use std::collections::VecDeque;

use reverie_kernels::Backend;

use super::{
    Algorithm, Combination, Plan, Step,
    euler_discrete::SigmaSteps,
    prediction::original_sample_of_sigma,
    settings::{FinalSigmas, Interpolation, PredictionType, Settings, SigmaSchedule},
};
use crate::error::Result;

/// Diffusers' default.
const ORDER: usize = 4;

/// Integrates the polynomial through the last slopes.
pub(super) struct LmsDiscreteScheduler<B: Backend> {
    prediction_type: PredictionType,
    schedule: SigmaSteps,
    /// The last slopes, the newest first; at the end of a step one fewer than [`ORDER`] at most.
    derivatives: VecDeque<B::Tensor>,
}

impl<B: Backend> LmsDiscreteScheduler<B> {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Self {
        let mut settings = Settings {
            final_sigmas_type: FinalSigmas::Zero,
            interpolation_type: Interpolation::Linear,
            ..settings.clone()
        };
        if settings.sigma_schedule == SigmaSchedule::Karras {
            // Its Karras noise levels alone have the limits of the timesteps' whatever the configuration says.
            (settings.sigma_min, settings.sigma_max) = (None, None);
        }
        let schedule = SigmaSteps::new(&settings, plan.steps);
        Self { prediction_type: settings.prediction_type, schedule, derivatives: VecDeque::new() }
    }

    /// `get_lms_coefficient`: the integral of the polynomial that is 1 at the noise level `current` steps back, and 0 at the
    /// `order - 1` others, from this noise level to the next. Two points of Gauss and Legendre's are exact for it.
    fn coefficient(&self, order: usize, index: usize, current: usize) -> f64 {
        let sigma = |i: usize| f64::from(self.schedule.sigmas[i]);
        let basis = |tau: f64| -> f64 {
            let own = sigma(index - current);
            let others = (0..order).filter(|&k| k != current).map(|k| sigma(index - k));
            others.map(|other| (tau - other) / (own - other)).product()
        };
        let (from, to) = (sigma(index), sigma(index + 1));
        let (middle, half) = ((from + to) / 2.0, (to - from) / 2.0);
        let offset = half / 3f64.sqrt();
        half * (basis(middle - offset) + basis(middle + offset))
    }
}

impl<B: Backend> Algorithm<B> for LmsDiscreteScheduler<B> {
    fn timesteps(&self) -> &[f64] {
        &self.schedule.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.schedule.sigmas
    }

    fn init_noise_sigma(&self) -> f32 {
        self.schedule.init_noise_sigma
    }

    fn input_divisor(&self, index: usize) -> f32 {
        self.schedule.input_divisor(index)
    }

    fn step(&mut self, step: Step<B>) -> Result<B::Tensor> {
        let sigma = self.schedule.sigmas[step.index];
        let original = original_sample_of_sigma(self.prediction_type, sigma, &step);
        let derivative = (step.sample() - original) / sigma;
        // Image to image begins with the coefficients of a run that began before, and with fewer slopes.
        let order = ORDER.min(step.index + 1);
        let coefficient = |current: usize| self.coefficient(order, step.index, current) as f32;
        let mut next = step.sample() + coefficient(0) * derivative.clone();
        for (current, earlier) in (1..order).zip(&self.derivatives) {
            next = next + coefficient(current) * Combination::of(earlier);
        }
        let next = next.compute(step.backend)?;
        let derivative = derivative.compute(step.backend)?;
        self.derivatives.truncate(ORDER - 2);
        self.derivatives.push_front(derivative);
        Ok(next)
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        (1.0, self.schedule.sigmas[index])
    }
}
