//! `KDPM2DiscreteScheduler` and `KDPM2AncestralDiscreteScheduler`: DPM-Solver-2 as in Karras et al. 2022, "Elucidating the
//! Design Space of Diffusion-Based Generative Models", and the same with noise that is added up to each noise level.

use reverie_kernels::Backend;

use super::{
    Algorithm, Combination, Plan, Step,
    euler_discrete::SigmaSteps,
    heun_discrete::each_twice,
    noise_schedule::AlphasCumprod,
    prediction::original_sample_of_sigma,
    settings::{FinalSigmas, Interpolation, PredictionType, Settings, SigmaSchedule},
    sigmas::TrainedSigmas,
};
use crate::error::Result;

/// Takes each step by the slope at a noise level halfway, in the logarithm; the last one, which ends without noise, by the
/// slope at its beginning.
pub(super) struct KDpm2DiscreteScheduler<B: Backend> {
    prediction_type: PredictionType,
    schedule: SigmaSteps,
    /// By step.
    targets: Vec<Target>,
    ancestral: bool,
    /// What the first half of a step leaves for the second: the latents that it began with.
    half: Option<B::Tensor>,
}

/// Where a step goes.
struct Target {
    halfway: f32,
    down: f32,
    /// The noise that is added there.
    up: f32,
}

impl<B: Backend> KDpm2DiscreteScheduler<B> {
    pub(super) fn new(settings: &Settings, plan: &Plan, ancestral: bool) -> Self {
        let settings = Settings {
            final_sigmas_type: FinalSigmas::Zero,
            interpolation_type: Interpolation::Linear,
            ..settings.clone()
        };
        let SigmaSteps { mut timesteps, sigmas, .. } = SigmaSteps::new(&settings, plan.steps);
        if settings.sigma_schedule == SigmaSchedule::Karras {
            timesteps.iter_mut().for_each(|t| *t = t.round_ties_even());
        }
        let steps = sigmas.windows(2).map(|pair| (pair[0], pair[1]));
        let targets: Vec<Target> = steps.map(|(from, to)| target(from, to, ancestral)).collect();
        let trained = TrainedSigmas::new(AlphasCumprod::new(&settings).sigmas());
        let halfway =
            targets.iter().map(|target| f64::from(trained.timestep_of(target.halfway.into()) as f32));
        let between = halfway.zip(&timesteps[1..]).flat_map(|(halfway, &next)| [halfway, next]);
        let timesteps = std::iter::once(timesteps[0]).chain(between).collect();
        let sigmas = each_twice(&sigmas[1..], sigmas[0], sigmas.last().copied());
        let schedule = SigmaSteps::from_sigmas(&settings, timesteps, sigmas);
        Self { prediction_type: settings.prediction_type, schedule, targets, ancestral, half: None }
    }

    /// The noise level that the model sees before step `index`.
    fn seen(&self, index: usize) -> f32 {
        if index.is_multiple_of(2) { self.schedule.sigmas[index] } else { self.targets[index / 2].halfway }
    }
}

impl<B: Backend> Algorithm<B> for KDpm2DiscreteScheduler<B> {
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
        let sigma = self.seen(index);
        (sigma * sigma + 1.0).sqrt()
    }

    fn step(&mut self, mut step: Step<B>) -> Result<B::Tensor> {
        let seen = self.seen(step.index);
        let target = &self.targets[step.index / 2];
        let original = original_sample_of_sigma(self.prediction_type, seen, &step);
        let derivative = (step.sample() - original) / seen;
        let Some(begin) = &self.half else {
            let next = (step.sample() + (target.halfway - seen) * derivative).compute(step.backend)?;
            self.half = Some(step.sample.clone());
            return Ok(next);
        };
        let dt = target.down - self.schedule.sigmas[step.index - 1];
        let mut next = Combination::of(begin) + dt * derivative;
        let noise;
        if self.ancestral {
            noise = step.draw()?;
            next = next + target.up * Combination::of(&noise);
        }
        let next = next.compute(step.backend)?;
        self.half = None;
        Ok(next)
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        (1.0, self.schedule.sigmas[index])
    }
}

fn target(from: f32, to: f32, ancestral: bool) -> Target {
    let (to_2, from_2) = (to * to, from * from);
    let up = if ancestral { (to_2 * (from_2 - to_2) / from_2).sqrt() } else { 0.0 };
    let down = if ancestral { (to_2 - up * up).sqrt() } else { to };
    // 0 where the step ends without noise.
    let (log_from, log_down) = (from.ln(), down.ln());
    let halfway = if to == 0.0 { 0.0 } else { (log_down - (log_down - log_from) * 0.5).exp() };
    Target { halfway, down, up }
}
