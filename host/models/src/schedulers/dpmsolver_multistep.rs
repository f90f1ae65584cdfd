//! `DPMSolverMultistepScheduler` with `dpmsolver++` and `sde-dpmsolver++`: Lu et al. 2022, "DPM-Solver++: Fast Solver for
//! Guided Sampling of Diffusion Probabilistic Models".

use std::collections::VecDeque;

use super::{
    Algorithm, Plan,
    noise_schedule::{AlphasCumprod, sigma_of},
    prediction::original_sample,
    settings::{BetaSchedule, FinalSigmas, Settings, SolverType},
    sigmas::{TrainedSigmas, alpha_sigma, lambda, spaced},
    timesteps,
};
use crate::{error::Result, random::Generator};

/// Integrates the predicted picture over the logarithm of the signal-to-noise ratio, extrapolating it from the last ones.
pub(super) struct DpmSolverMultistepScheduler {
    settings: Settings,
    timesteps: Vec<f64>,
    sigmas: Vec<f32>,
    /// The last predicted pictures, the newest first; as many as the order at most.
    model_outputs: VecDeque<Vec<f32>>,
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

impl DpmSolverMultistepScheduler {
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
        most.min(settings.solver_order).min(self.model_outputs.len())
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

impl Algorithm for DpmSolverMultistepScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn step(
        &mut self,
        index: usize,
        model_output: &[f32],
        sample: &mut [f32],
        noise: &mut Generator,
    ) -> Result<()> {
        let level = alpha_sigma(self.sigmas[index]);
        let outputs = model_output.iter().zip(sample.iter());
        let original = outputs.map(|(&o, &x)| original_sample(self.settings.prediction_type, level, o, x));
        self.model_outputs.truncate(self.settings.solver_order - 1);
        self.model_outputs.push_front(original.collect());

        let order = self.order(index);
        let update = self.update(index, order);
        let (r0, r1) = self.ratios(index, order);
        let noise = self.settings.sde.then(|| noise.randn(model_output.len()));
        for (i, x) in sample.iter_mut().enumerate() {
            let m = |back: usize| self.model_outputs[back][i];
            let mut next = update.sample * *x + update.d0 * m(0);
            if order == 2 {
                next += update.d1 * ((1.0 / r0) * (m(0) - m(1)));
            }
            if order == 3 {
                let (d1_0, d1_1) = ((1.0 / r0) * (m(0) - m(1)), (1.0 / r1) * (m(1) - m(2)));
                let d1 = d1_0 + (r0 / (r0 + r1)) * (d1_0 - d1_1);
                let d2 = (1.0 / (r0 + r1)) * (d1_0 - d1_1);
                next = next + update.d1 * d1 + update.d2 * d2;
            }
            if let Some(noise) = &noise {
                next += update.noise * noise[i];
            }
            *x = next;
        }
        Ok(())
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
