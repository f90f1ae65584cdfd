//! `UniPCMultistepScheduler`: Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of
//! Diffusion Models", with the predicted picture for the model's output.

use std::collections::VecDeque;

use reverie_kernels::Backend;

use super::{
    Algorithm, Combination, Plan, Step,
    noise_schedule::{AlphasCumprod, sigma_of},
    prediction::{original_sample, thresholded},
    settings::{FinalSigmas, Settings, SigmaSchedule, SolverType},
    sigmas::{TrainedSigmas, alpha_sigma, lambda, spaced},
    timesteps,
};
use crate::error::Result;

/// Each output of the model corrects the step that led to it, and then predicts the next.
pub(super) struct UniPcMultistepScheduler<B: Backend> {
    settings: Settings,
    timesteps: Vec<f64>,
    sigmas: Vec<f32>,
    /// The last predicted pictures, the newest first; as many as the order at most.
    model_outputs: VecDeque<B::Tensor>,
    /// The latents that the last step began with, and its order.
    last: Option<(B::Tensor, usize)>,
}

impl<B: Backend> UniPcMultistepScheduler<B> {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Result<Self> {
        let alphas_cumprod = AlphasCumprod::nonzero(settings);
        let mut timesteps = timesteps::multistep(settings, plan.steps, settings.num_train_timesteps)?;
        let trained = TrainedSigmas::new(alphas_cumprod.sigmas());
        let (min, max) = trained.limits();
        let mut last = f64::from(sigma_of(alphas_cumprod.first()));
        let sigmas = match spaced(settings, min, max, plan.steps) {
            None => timesteps.iter().map(|&t| trained.at(t)).collect(),
            Some(spaced) => {
                let karras = settings.sigma_schedule == SigmaSchedule::Karras;
                let whole = |t: f64| if karras { t.round_ties_even() } else { t.trunc() };
                timesteps = spaced.iter().map(|&sigma| whole(trained.timestep_of(sigma))).collect();
                last = spaced.last().copied().unwrap_or(last);
                spaced
            }
        };
        if settings.final_sigmas_type == FinalSigmas::Zero {
            last = 0.0;
        }
        let sigmas = sigmas.into_iter().chain([last]).map(|sigma: f64| sigma as f32).collect();
        Ok(Self { settings: settings.clone(), timesteps, sigmas, model_outputs: VecDeque::new(), last: None })
    }

    /// What predictor and corrector have in common: the step from `from` to the noise level after it, with the differences
    /// to the `order - 1` outputs before the newest.
    fn step_terms(&self, from: usize, order: usize) -> StepTerms {
        let lambda = |i: usize| lambda(alpha_sigma(self.sigmas[i]));
        let (alpha_t, sigma_t) = alpha_sigma(self.sigmas[from + 1]);
        let (_, sigma_s0) = alpha_sigma(self.sigmas[from]);
        let lambda_s0 = lambda(from);
        let h = lambda(from + 1) - lambda_s0;
        let mut rks: Vec<f32> = (1..order).map(|back| (lambda(from - back) - lambda_s0) / h).collect();
        rks.push(1.0);

        let h_phi_1 = (-h).exp_m1();
        let b_h = if self.settings.solver_type == SolverType::Bh1 { -h } else { h_phi_1 };
        StepTerms {
            sample: sigma_t / sigma_s0,
            alpha_t,
            h_phi_1,
            b_h,
            rks,
            b: b_terms(-h, h_phi_1, b_h, order),
        }
    }

    /// `multistep_uni_p_bh_update`: the latents at the noise level after `index`.
    fn predict<'a>(
        &self,
        index: usize,
        order: usize,
        sample: &'a B::Tensor,
        model_outputs: &'a VecDeque<B::Tensor>,
    ) -> Combination<'a, B::Tensor> {
        let terms = self.step_terms(index, order);
        let rhos = match order {
            1 => Vec::new(),
            // The paper's simplified version.
            2 => vec![0.5],
            _ => solve(terms.matrix(order - 1), terms.b[..order - 1].to_vec()),
        };
        let base = terms.base(sample, &model_outputs[0]);
        match terms.residual(&rhos, model_outputs) {
            Some(residual) => base - terms.alpha_t * terms.b_h * residual,
            // `b_h` is infinite where a step of the first order ends without noise.
            None => base,
        }
    }

    /// `multistep_uni_c_bh_update`: the latents at the noise level `index` once more, now that the model's output there,
    /// `this_output`, is known.
    fn correct<'a>(
        &'a self,
        index: usize,
        (last_sample, order): &'a (B::Tensor, usize),
        this_output: Combination<'a, B::Tensor>,
    ) -> Combination<'a, B::Tensor> {
        let terms = self.step_terms(index - 1, *order);
        let rhos = match order {
            1 => vec![0.5],
            _ => solve(terms.matrix(*order), terms.b.clone()),
        };
        let (rho_this, rhos) = rhos.split_last().map_or((0.0, &[][..]), |(last, rhos)| (*last, rhos));
        let newest = &self.model_outputs[0];
        let this = rho_this * (this_output - Combination::of(newest));
        let residual = match terms.residual(rhos, &self.model_outputs) {
            Some(residual) => residual + this,
            None => this,
        };
        terms.base(last_sample, newest) - terms.alpha_t * terms.b_h * residual
    }
}

impl<B: Backend> Algorithm<B> for UniPcMultistepScheduler<B> {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn step(&mut self, step: Step<B>) -> Result<B::Tensor> {
        let index = step.index;
        let level = alpha_sigma(self.sigmas[index]);
        let original = original_sample(self.settings.prediction_type, level, &step);
        let mut kept = None;
        let original = thresholded(&self.settings, step.backend, original, &mut kept)?;
        let sample = match &self.last {
            Some(last) if !self.settings.disable_corrector.contains(&(index - 1)) => {
                self.correct(index, last, original.clone()).compute(step.backend)?
            }
            _ => step.sample.clone(),
        };
        let mut model_outputs = self.model_outputs.clone();
        model_outputs.truncate(self.settings.solver_order - 1);
        model_outputs.push_front(original.compute(step.backend)?);

        let left = self.timesteps.len() - index;
        let most = if self.settings.lower_order_final { left } else { self.settings.solver_order };
        let order = most.min(self.settings.solver_order).min(model_outputs.len());
        let next = self.predict(index, order, &sample, &model_outputs).compute(step.backend)?;
        self.model_outputs = model_outputs;
        self.last = Some((sample, order));
        Ok(next)
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        alpha_sigma(self.sigmas[index])
    }
}

/// The coefficients of a step, by the names of the paper and of diffusers.
struct StepTerms {
    /// `sigma_t / sigma_s0`.
    sample: f32,
    alpha_t: f32,
    h_phi_1: f32,
    b_h: f32,
    /// Where the outputs before the newest lie, in steps back from it, and 1 for the noise level that is stepped to.
    rks: Vec<f32>,
    b: Vec<f32>,
}

impl StepTerms {
    /// The first-order update.
    fn base<'a, T>(&self, sample: &'a T, newest: &'a T) -> Combination<'a, T> {
        self.sample * Combination::of(sample) - self.alpha_t * self.h_phi_1 * Combination::of(newest)
    }

    /// What the outputs before the newest add to it: the sum of `rhos` times their differences to the newest one, each divided
    /// by its distance (`D1s`). None for a step of the first order.
    fn residual<'a, T>(&self, rhos: &[f32], model_outputs: &'a VecDeque<T>) -> Option<Combination<'a, T>> {
        let newest = || Combination::of(&model_outputs[0]);
        let before = model_outputs.iter().skip(1).zip(&self.rks);
        let differences = before.map(|(output, &rk)| (Combination::of(output) - newest()) / rk);
        rhos.iter().zip(differences).map(|(&rho, difference)| rho * difference).reduce(|sum, term| sum + term)
    }

    /// The first `size` rows and columns of `R`, the powers of `rks`.
    fn matrix(&self, size: usize) -> Vec<Vec<f32>> {
        (0..size).map(|power| self.rks[..size].iter().map(|rk| rk.powi(power as i32)).collect()).collect()
    }
}

/// The right-hand sides of the order conditions, `b` of the paper.
fn b_terms(hh: f32, h_phi_1: f32, b_h: f32, order: usize) -> Vec<f32> {
    let mut h_phi_k = h_phi_1 / hh - 1.0;
    let mut factorial = 1.0;
    let terms = (1..=order).map(|i| {
        let term = h_phi_k * factorial / b_h;
        factorial *= (i + 1) as f32;
        h_phi_k = h_phi_k / hh - 1.0 / factorial;
        term
    });
    terms.collect()
}

/// Solves `a x = b` by elimination with partial pivoting, as `torch.linalg.solve`.
fn solve(mut a: Vec<Vec<f32>>, mut b: Vec<f32>) -> Vec<f32> {
    let n = b.len();
    for column in 0..n {
        let pivot = (column..n).max_by(|&i, &j| a[i][column].abs().total_cmp(&a[j][column].abs()));
        let pivot = pivot.unwrap_or(column);
        a.swap(column, pivot);
        b.swap(column, pivot);
        let (above, below) = a.split_at_mut(column + 1);
        let pivot_row = &above[column];
        for (i, row) in below.iter_mut().enumerate() {
            let factor = row[column] / pivot_row[column];
            row.iter_mut().zip(pivot_row).for_each(|(x, pivot)| *x -= factor * pivot);
            b[column + 1 + i] -= factor * b[column];
        }
    }
    for row in (0..n).rev() {
        let known: f32 = (row + 1..n).map(|i| a[row][i] * b[i]).sum();
        b[row] = (b[row] - known) / a[row][row];
    }
    b
}
