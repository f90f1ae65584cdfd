//! `DPMSolverMultistepScheduler` and `EDMDPMSolverMultistepScheduler`: the multistep variants of the solvers of
//! [`super::dpmsolver`].

use std::collections::VecDeque;

use reverie_kernels::Backend;

use super::{
    Algorithm, Combination, Plan, Step,
    dpmsolver::{Level, Update, converted},
    edm::Preconditioning,
    noise_schedule::{AlphasCumprod, sigma_of},
    prediction::thresholded,
    settings::{BetaSchedule, FinalSigmas, Settings},
    sigmas::{TrainedSigmas, alpha_sigma, lambda, spaced},
    timesteps,
};
use crate::error::Result;

/// Integrates the predicted picture or noise over the logarithm of the signal-to-noise ratio, extrapolating it from the last
/// ones.
pub(super) struct DpmSolverMultistepScheduler<B: Backend> {
    settings: Settings,
    timesteps: Vec<f64>,
    sigmas: Vec<f32>,
    /// Of a model trained by EDM.
    preconditioning: Option<Preconditioning>,
    /// The last model outputs, converted, the newest first; at the end of a step one fewer than the order at most.
    model_outputs: VecDeque<B::Tensor>,
}

impl<B: Backend> DpmSolverMultistepScheduler<B> {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Result<Self> {
        let alphas_cumprod = AlphasCumprod::nonzero(settings);
        let end = settings.num_train_timesteps - timesteps::too_noisy(settings, &alphas_cumprod);
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
        Ok(Self {
            settings: settings.clone(),
            timesteps,
            sigmas,
            preconditioning: None,
            model_outputs: VecDeque::new(),
        })
    }

    /// `EDMDPMSolverMultistepScheduler`.
    pub(super) fn edm(settings: &Settings, plan: &Plan) -> Self {
        let preconditioning = Preconditioning::new(settings);
        let mut sigmas = preconditioning.sigmas_in_f32(plan.steps);
        let timesteps = sigmas.iter().map(|&sigma| Preconditioning::timestep(sigma)).collect();
        sigmas.push(match settings.final_sigmas_type {
            FinalSigmas::Zero => 0.0,
            FinalSigmas::SigmaMin => settings.edm.sigma_min as f32,
        });
        Self {
            settings: settings.clone(),
            timesteps,
            sigmas,
            preconditioning: Some(preconditioning),
            model_outputs: VecDeque::new(),
        }
    }

    /// Before step `index`.
    fn level(&self, index: usize) -> Level {
        let sigma = self.sigmas[index];
        if self.preconditioning.is_some() { (1.0, sigma) } else { alpha_sigma(sigma) }
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

    /// How far the two steps before reach, in units of this one, as logarithms of the signal-to-noise ratio.
    fn ratios(&self, index: usize, order: usize) -> (f32, f32) {
        let lambda = |i: usize| lambda(self.level(i));
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

    fn init_noise_sigma(&self) -> f32 {
        self.preconditioning.as_ref().map_or(1.0, Preconditioning::init_noise_sigma)
    }

    fn input_divisor(&self, index: usize) -> f32 {
        self.preconditioning.as_ref().map_or(1.0, |it| it.input_divisor(self.sigmas[index]))
    }

    fn step(&mut self, mut step: Step<B>) -> Result<B::Tensor> {
        let (from, to) = (self.level(step.index), self.level(step.index + 1));
        let mut kept = None;
        let output = match &self.preconditioning {
            None => converted(&self.settings, from, &step, &mut kept)?,
            Some(preconditioning) => {
                let original = preconditioning.original_sample(from.1, &step);
                thresholded(&self.settings, step.backend, original, &mut kept)?
            }
        };
        let m = |back: usize| match back {
            0 => output.clone(),
            _ => Combination::of(&self.model_outputs[back - 1]),
        };
        let order = self.order(step.index);
        let update = Update::new(&self.settings, order, from, to);
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
        if self.settings.algorithm_type.is_sde() {
            noise = step.draw()?;
            next = next + update.noise * Combination::of(&noise);
        }
        let next = next.compute(step.backend)?;
        if self.settings.solver_order > 1 {
            let output = output.compute(step.backend)?;
            self.model_outputs.truncate(self.settings.solver_order - 2);
            self.model_outputs.push_front(output);
        }
        Ok(next)
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        self.level(index)
    }
}

/// The timestep of a noise level that lies between the training's. Exponential ones, those of the beta distribution and those
/// of the cosine schedule are not rounded but cut off.
fn whole_timestep(settings: &Settings, trained: &TrainedSigmas, sigma: f64) -> f64 {
    use super::settings::SigmaSchedule::{Karras, Lu};
    let timestep = trained.timestep_of(sigma);
    let rounded = matches!(settings.sigma_schedule, Karras | Lu)
        && settings.beta_schedule != BetaSchedule::SquaredcosCapV2;
    if rounded { timestep.round_ties_even() } else { timestep.trunc() }
}
