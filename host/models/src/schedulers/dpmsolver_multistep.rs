//! `DPMSolverMultistepScheduler` with `dpmsolver++` and `sde-dpmsolver++`: Lu et al. 2022, "DPM-Solver++: Fast Solver for
//! Guided Sampling of Diffusion Probabilistic Models".

use std::collections::VecDeque;

use reverie_kernels::Backend;

use super::{
    Algorithm, Combination, Plan, Step,
    noise_schedule::{AlphasCumprod, sigma_of},
    prediction::original_sample,
    settings::{BetaSchedule, FinalSigmas, Settings, SolverType},
    sigmas::{TrainedSigmas, alpha_sigma, lambda, spaced},
    timesteps,
};
use crate::error::Result;

/// Integrates the predicted picture over the logarithm of the signal-to-noise ratio, extrapolating it from the last ones.
pub(super) struct DpmSolverMultistepScheduler<B: Backend> {
    settings: Settings,
    timesteps: Vec<f64>,
    sigmas: Vec<f32>,
    /// The last predicted pictures, the newest first; at the end of a step one fewer than the order at most.
    model_outputs: VecDeque<B::Tensor>,
}

/// The factors of a step's update: of the latents, of the newest predicted picture, of its first and second differences,
/// and of the noise.
#[derive(Default)]
struct Update {
    sample: f32,
    d0: f32,
    d1: f32,
    d2: f32,
    noise: f32,
}

impl<B: Backend> DpmSolverMultistepScheduler<B> {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Result<Self> {
        let alphas_cumprod = AlphasCumprod::nonzero(settings);
        let too_noisy =
            alphas_cumprod.lambdas().rev().take_while(|&l| f64::from(l) < settings.lambda_min_clipped);
        let end = settings.num_train_timesteps - too_noisy.count();
        let mut timesteps = timesteps::multistep(settings, plan.steps, end)?;

        let trained = TrainedSigmas::new(alphas_cumprod.sigmas());
        let (min, max) = trained.limits();
        let sigmas = match spaced(settings, min, max, plan.steps) {
            None => timesteps.iter().map(|&t| trained.at(t)).collect(),
            Some(spaced) => {
                timesteps = spaced.iter().map(|&sigma| whole_timestep(settings, &trained, sigma)).collect();
                spaced
            }
        };
        let last = match settings.final_sigmas_type {
            FinalSigmas::Zero => 0.0,
            FinalSigmas::SigmaMin => sigma_of(alphas_cumprod.first()),
        };
        let sigmas = sigmas.into_iter().map(|sigma: f64| sigma as f32).chain([last]).collect();
        Ok(Self { settings: settings.clone(), timesteps, sigmas, model_outputs: VecDeque::new() })
    }

    /// The order of the step: lower at the beginning, where outputs are lacking, and at the end, where it is more stable.
    fn order(&self, index: usize) -> usize {
        let settings = &self.settings;
        let left = self.timesteps.len() - index;
        let few = settings.lower_order_final && self.timesteps.len() < 15;
        let first_order_at_end =
            settings.euler_at_final || few || settings.final_sigmas_type == FinalSigmas::Zero;
        let most = match left {
            1 if first_order_at_end => 1,
            2 if few => 2,
            _ => settings.solver_order,
        };
        most.min(settings.solver_order).min(self.model_outputs.len() + 1)
    }

    fn update(&self, index: usize, order: usize) -> Update {
        let level = |i: usize| alpha_sigma(self.sigmas[i]);
        let (to, from) = (level(index + 1), level(index));
        let (alpha_t, sigma_t) = to;
        let h = lambda(to) - lambda(from);
        if self.settings.sde {
            let decay = 1.0 - (-2.0 * h).exp();
            let slope = || alpha_t * (decay / (-2.0 * h) + 1.0);
            Update {
                sample: sigma_t / from.1 * (-h).exp(),
                d0: alpha_t * decay,
                d1: match (order, self.settings.solver_type) {
                    (1, _) => 0.0,
                    (2, SolverType::Midpoint) => 0.5 * (alpha_t * decay),
                    _ => slope(),
                },
                d2: if order == 3 {
                    alpha_t * ((decay - 2.0 * h) / (2.0 * h * (2.0 * h)) - 0.5)
                } else {
                    0.0
                },
                noise: sigma_t * decay.sqrt(),
            }
        } else {
            let growth = (-h).exp() - 1.0;
            Update {
                sample: sigma_t / from.1,
                d0: -(alpha_t * growth),
                d1: match (order, self.settings.solver_type) {
                    (1, _) => 0.0,
                    (2, SolverType::Midpoint) => -0.5 * (alpha_t * growth),
                    _ => alpha_t * (growth / h + 1.0),
                },
                d2: if order == 3 { -(alpha_t * ((growth + h) / (h * h) - 0.5)) } else { 0.0 },
                noise: 0.0,
            }
        }
    }

    /// How far the two steps before reach, in units of this one, as logarithms of the signal-to-noise ratio.
    fn ratios(&self, index: usize, order: usize) -> (f32, f32) {
        let lambda = |i: usize| lambda(alpha_sigma(self.sigmas[i]));
        let step = |i: usize| lambda(i + 1) - lambda(i);
        match order {
            1 => (1.0, 1.0),
            2 => (step(index - 1) / step(index), 1.0),
            _ => (step(index - 1) / step(index), step(index - 2) / step(index)),
        }
    }
}

impl<B: Backend> Algorithm<B> for DpmSolverMultistepScheduler<B> {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn step(&mut self, mut step: Step<B>) -> Result<B::Tensor> {
        let level = alpha_sigma(self.sigmas[step.index]);
        let original = original_sample(self.settings.prediction_type, level, &step);
        let m = |back: usize| match back {
            0 => original.clone(),
            _ => Combination::of(&self.model_outputs[back - 1]),
        };
        let order = self.order(step.index);
        let update = self.update(step.index, order);
        let (r0, r1) = self.ratios(step.index, order);
        let mut next = update.sample * step.sample() + update.d0 * m(0);
        if order == 2 {
            next = next + update.d1 * ((1.0 / r0) * (m(0) - m(1)));
        }
        if order == 3 {
            let (d1_0, d1_1) = ((1.0 / r0) * (m(0) - m(1)), (1.0 / r1) * (m(1) - m(2)));
            let difference = d1_0.clone() - d1_1;
            let d1 = d1_0 + (r0 / (r0 + r1)) * difference.clone();
            let d2 = (1.0 / (r0 + r1)) * difference;
            next = next + update.d1 * d1 + update.d2 * d2;
        }
        let noise;
        if self.settings.sde {
            noise = step.draw()?;
            next = next + update.noise * Combination::of(&noise);
        }
        let next = next.compute(step.backend)?;
        if self.settings.solver_order > 1 {
            let original = original.compute(step.backend)?;
            self.model_outputs.truncate(self.settings.solver_order - 2);
            self.model_outputs.push_front(original);
        }
        Ok(next)
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        alpha_sigma(self.sigmas[index])
    }
}

/// The timestep of a noise level that lies between the training's. Exponential ones and those of the cosine schedule are
/// not rounded but cut off.
fn whole_timestep(settings: &Settings, trained: &TrainedSigmas, sigma: f64) -> f64 {
    use super::settings::SigmaSchedule::Karras;
    let timestep = trained.timestep_of(sigma);
    let rounded =
        settings.sigma_schedule == Karras && settings.beta_schedule != BetaSchedule::SquaredcosCapV2;
    if rounded { timestep.round_ties_even() } else { timestep.trunc() }
}
