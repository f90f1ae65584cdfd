//! `DPMSolverSinglestepScheduler`: the singlestep variants of the solvers of [`super::dpmsolver`].

use std::collections::VecDeque;

use reverie_kernels::Backend;

use super::{
    Algorithm, Combination, Plan, Step,
    dpmsolver::{Level, Update, converted},
    noise_schedule::{AlphasCumprod, sigma_of},
    settings::{FinalSigmas, Settings, SigmaSchedule, SolverType},
    sigmas::{TrainedSigmas, alpha_sigma, lambda, spaced},
    timesteps,
};
use crate::error::Result;

/// Takes steps by twos and threes: the second and the third begin anew where the first began, with all that the model has
/// said since.
pub(super) struct DpmSolverSinglestepScheduler<B: Backend> {
    settings: Settings,
    timesteps: Vec<f64>,
    sigmas: Vec<f32>,
    /// Of each step.
    orders: Vec<usize>,
    /// The last model outputs, converted, the newest first; at the end of a step one fewer than the order at most.
    model_outputs: VecDeque<B::Tensor>,
    /// Where the last step of the first order began.
    first: Option<B::Tensor>,
}

impl<B: Backend> DpmSolverSinglestepScheduler<B> {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Result<Self> {
        let alphas_cumprod = AlphasCumprod::new(settings);
        let end = settings.num_train_timesteps - timesteps::too_noisy(settings, &alphas_cumprod);
        let mut timesteps = timesteps::multistep(settings, plan.steps, end)?;
        let trained = TrainedSigmas::new(alphas_cumprod.sigmas());
        let (min, max) = trained.limits();
        let sigmas = match spaced(settings, min, max, plan.steps) {
            None => timesteps.iter().map(|&t| trained.at(t)).collect(),
            Some(spaced) => {
                let karras = settings.sigma_schedule == SigmaSchedule::Karras;
                let whole = |t: f64| if karras { t.round_ties_even() } else { t.trunc() };
                timesteps = spaced.iter().map(|&sigma| whole(trained.timestep_of(sigma))).collect();
                spaced
            }
        };
        let last = match settings.final_sigmas_type {
            FinalSigmas::Zero => 0.0,
            FinalSigmas::SigmaMin => sigma_of(alphas_cumprod.first()),
        };
        Ok(Self {
            timesteps,
            sigmas: sigmas.into_iter().map(|sigma: f64| sigma as f32).chain([last]).collect(),
            orders: orders(settings, plan.steps),
            settings: settings.clone(),
            model_outputs: VecDeque::new(),
            first: None,
        })
    }

    fn level(&self, index: usize) -> Level {
        alpha_sigma(self.sigmas[index])
    }
}

impl<B: Backend> Algorithm<B> for DpmSolverSinglestepScheduler<B> {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn step(&mut self, mut step: Step<B>) -> Result<B::Tensor> {
        let index = step.index;
        let mut kept = None;
        let output = converted(&self.settings, self.level(index), &step, &mut kept)?;
        let m = |back: usize| match back {
            0 => output.clone(),
            _ => Combination::of(&self.model_outputs[back - 1]),
        };
        // After the beginning of image to image there are fewer outputs than the order asks for.
        let order = self.orders[index].min(self.model_outputs.len() + 1);
        let begin = index + 1 - order;
        let update = Update::new(&self.settings, order, self.level(begin), self.level(index + 1));
        let sample = match (&self.first, order) {
            (Some(first), 2..) => Combination::of(first),
            _ => step.sample(),
        };
        let lambda = |i: usize| lambda(self.level(i));
        let h = lambda(index + 1) - lambda(begin);
        let ratio = |i: usize| (lambda(i) - lambda(begin)) / h;
        let mut next = update.sample * sample + update.d0 * m(order - 1);
        match (order, self.settings.solver_type) {
            (1, _) => {}
            (2, _) => next = next + update.d1 * ((1.0 / ratio(index)) * (m(0) - m(1))),
            (_, SolverType::Midpoint) => {
                next = next + update.d1 * ((1.0 / ratio(index)) * (m(0) - m(2)));
            }
            _ => {
                let (r0, r1) = (ratio(index), ratio(index - 1));
                let (d1_0, d1_1) = ((1.0 / r1) * (m(1) - m(2)), (1.0 / r0) * (m(0) - m(2)));
                let d1 = (r0 * d1_0.clone() - r1 * d1_1.clone()) / (r0 - r1);
                let d2 = (2.0 * (d1_1 - d1_0)) / (r0 - r1);
                next = next + update.d1 * d1 + update.d2 * d2;
            }
        }
        let noise;
        if self.settings.algorithm_type.is_sde() {
            noise = step.draw()?;
            next = next + update.noise * Combination::of(&noise);
        }
        let next = next.compute(step.backend)?;
        let kept_outputs = self.settings.solver_order - 1;
        let output = (kept_outputs > 0).then(|| output.compute(step.backend)).transpose()?;
        if order == 1 {
            self.first = Some(step.sample.clone());
        }
        if let Some(output) = output {
            self.model_outputs.truncate(kept_outputs - 1);
            self.model_outputs.push_front(output);
        }
        Ok(next)
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        self.level(index)
    }
}

/// `get_order_list`: the order of each step, of which each group begins with 1. What does not divide into groups, and a last
/// noise level of 0, have lower orders at the end whatever `lower_order_final` says.
fn orders(settings: &Settings, steps: usize) -> Vec<usize> {
    let (order, zero) = (settings.solver_order, settings.final_sigmas_type == FinalSigmas::Zero);
    let lower_at_end = settings.lower_order_final || !steps.is_multiple_of(order) || zero;
    let mut orders: Vec<usize> = (0..steps).map(|i| i % order + 1).collect();
    let last = steps - 1;
    if lower_at_end && order == 3 && steps.is_multiple_of(3) {
        // The last group is [1, 2], [1].
        orders[last] = 1;
    }
    if (lower_at_end && order == 2) || zero {
        orders[last] = 1;
    }
    orders
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedulers::SchedulerConfig;

    #[test]
    fn steps_are_grouped_as_by_diffusers() {
        let orders = |order: usize, lower: bool, last: &str, steps: usize| {
            let text = format!(
                r#"{{"_class_name": "DPMSolverSinglestepScheduler", "solver_order": {order}, "lower_order_final": {lower},
                    "final_sigmas_type": "{last}"}}"#
            );
            let settings = Settings::read(&SchedulerConfig::from_json(&text).unwrap()).unwrap();
            super::orders(&settings, steps)
        };
        assert_eq!(orders(3, true, "sigma_min", 6), [1, 2, 3, 1, 2, 1]);
        assert_eq!(orders(3, true, "sigma_min", 7), [1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(orders(3, true, "sigma_min", 8), [1, 2, 3, 1, 2, 3, 1, 2]);
        assert_eq!(orders(3, true, "zero", 8), [1, 2, 3, 1, 2, 3, 1, 1]);
        assert_eq!(orders(3, false, "sigma_min", 6), [1, 2, 3, 1, 2, 3]);
        assert_eq!(orders(2, true, "sigma_min", 4), [1, 2, 1, 1]);
        assert_eq!(orders(2, true, "sigma_min", 5), [1, 2, 1, 2, 1]);
        assert_eq!(orders(2, false, "sigma_min", 4), [1, 2, 1, 2]);
        assert_eq!(orders(2, false, "sigma_min", 5), [1, 2, 1, 2, 1]);
        assert_eq!(orders(2, false, "zero", 4), [1, 2, 1, 1]);
        assert_eq!(orders(1, true, "zero", 3), [1, 1, 1]);
    }
}
