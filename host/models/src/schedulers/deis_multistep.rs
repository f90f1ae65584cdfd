//! `DEISMultistepScheduler`: Zhang and Chen 2022, "Fast Sampling of Diffusion Models with Exponential Integrator", in the
//! logarithm of the noise level (`logrho`).

use std::collections::VecDeque;

use reverie_kernels::Backend;

use super::{
    Algorithm, Combination, Plan, Step,
    dpmsolver::{Level, Update, converted},
    noise_schedule::{AlphasCumprod, sigma_of},
    settings::{Settings, SigmaSchedule},
    sigmas::{TrainedSigmas, alpha_sigma, spaced},
    timesteps,
};
use crate::error::Result;

/// Integrates a polynomial through the last predictions of the noise.
pub(super) struct DeisMultistepScheduler<B: Backend> {
    settings: Settings,
    timesteps: Vec<f64>,
    sigmas: Vec<f32>,
    /// The last predictions of the noise, the newest first; at the end of a step one fewer than the order at most.
    model_outputs: VecDeque<B::Tensor>,
}

impl<B: Backend> DeisMultistepScheduler<B> {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Result<Self> {
        let alphas_cumprod = AlphasCumprod::new(settings);
        let mut timesteps = timesteps::multistep(settings, plan.steps, settings.num_train_timesteps)?;
        let trained = TrainedSigmas::new(alphas_cumprod.sigmas());
        let (min, max) = trained.limits();
        let mut sigmas: Vec<f64> = match spaced(settings, min, max, plan.steps) {
            None => timesteps
                .iter()
                .map(|&t| trained.at(t))
                .chain([sigma_of(alphas_cumprod.first()).into()])
                .collect(),
            Some(spaced) => {
                let karras = settings.sigma_schedule == SigmaSchedule::Karras;
                let whole = |t: f64| if karras { t.round_ties_even() } else { t.trunc() };
                timesteps = spaced.iter().map(|&sigma| whole(trained.timestep_of(sigma))).collect();
                spaced
            }
        };
        if sigmas.len() == timesteps.len() {
            // The last step stays where it is.
            sigmas.extend(sigmas.last().copied());
        }
        Ok(Self {
            settings: settings.clone(),
            timesteps,
            sigmas: sigmas.into_iter().map(|sigma| sigma as f32).collect(),
            model_outputs: VecDeque::new(),
        })
    }

    fn level(&self, index: usize) -> Level {
        alpha_sigma(self.sigmas[index])
    }

    /// Lower at the beginning, where predictions are lacking, and at the end of few steps, where it is more stable.
    fn order(&self, index: usize) -> usize {
        let left = self.timesteps.len() - index;
        let lower = self.settings.lower_order_final && self.timesteps.len() < 15;
        let most = if lower { left } else { self.settings.solver_order };
        most.min(self.settings.solver_order).min(self.model_outputs.len() + 1)
    }

    /// The weights of the last `order` predictions, the newest first: the integrals of the polynomials that are 1 at one of
    /// their noise levels and 0 at the others, from this noise level to the next.
    fn weights(&self, index: usize, order: usize) -> Vec<f32> {
        let rho = |i: usize| {
            let (alpha, sigma) = self.level(i);
            sigma / alpha
        };
        let (to, from) = (rho(index + 1), rho(index));
        let integral = |own: usize, others: &[usize]| {
            let (b, c) = (rho(index - own), rho(index - others[0]));
            match others {
                [_] => primitive_of_line(to, b, c) - primitive_of_line(from, b, c),
                _ => {
                    let d = rho(index - others[1]);
                    primitive_of_parabola(to, b, c, d) - primitive_of_parabola(from, b, c, d)
                }
            }
        };
        match order {
            2 => vec![integral(0, &[1]), integral(1, &[0])],
            _ => vec![integral(0, &[1, 2]), integral(1, &[2, 0]), integral(2, &[0, 1])],
        }
    }
}

impl<B: Backend> Algorithm<B> for DeisMultistepScheduler<B> {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn step(&mut self, step: Step<B>) -> Result<B::Tensor> {
        let index = step.index;
        let (from, to) = (self.level(index), self.level(index + 1));
        let mut kept = None;
        let output = converted(&self.settings, from, &step, &mut kept)?;
        let order = self.order(index);
        let next = if order == 1 {
            let update = Update::new(&self.settings, 1, from, to);
            update.sample * step.sample() + update.d0 * output.clone()
        } else {
            let weights = self.weights(index, order);
            let mut sum = step.sample() / from.0 + weights[0] * output.clone();
            for (&weight, earlier) in weights[1..].iter().zip(&self.model_outputs) {
                sum = sum + weight * Combination::of(earlier);
            }
            to.0 * sum
        };
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

/// A primitive at `t` of the line in ln t that is 1 at `b` and 0 at `c`.
fn primitive_of_line(t: f32, b: f32, c: f32) -> f32 {
    t * (-c.ln() + t.ln() - 1.0) / (b.ln() - c.ln())
}

/// A primitive at `t` of the parabola in ln t that is 1 at `b` and 0 at `c` and `d`.
fn primitive_of_parabola(t: f32, b: f32, c: f32, d: f32) -> f32 {
    let [log_t, log_b, log_c, log_d] = [t, b, c, d].map(f32::ln);
    let numerator =
        t * (log_c * (log_d - log_t + 1.0) - log_d * log_t + log_d + log_t * log_t - 2.0 * log_t + 2.0);
    numerator / ((log_b - log_c) * (log_b - log_d))
}
