//! `UniPCMultistepScheduler`: Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework for Fast Sampling of
//! Diffusion Models", with the predicted picture for the model's output.

use std::collections::VecDeque;

use super::{
    Algorithm, Plan,
    noise_schedule::{AlphasCumprod, sigma_of},
    prediction::original_sample,
    settings::{FinalSigmas, Settings, SigmaSchedule, SolverType},
    sigmas::{TrainedSigmas, alpha_sigma, lambda, spaced},
    timesteps,
};
use crate::{error::Result, random::Generator};

/// Each output of the model corrects the step that led to it, and then predicts the next.
pub(super) struct UniPcMultistepScheduler {
    settings: Settings,
    timesteps: Vec<f64>,
    sigmas: Vec<f32>,
    /// The last predicted pictures, the newest first; as many as the order at most.
    model_outputs: VecDeque<Vec<f32>>,
    /// The latents that the last step began with, and its order.
    last: Option<(Vec<f32>, usize)>,
}

impl UniPcMultistepScheduler {
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

    /// The differences of the outputs before the newest one to it, each divided by its distance: `D1s` of one value.
    fn differences(&self, terms: &StepTerms, i: usize) -> impl Iterator<Item = f32> {
        let newest = self.model_outputs[0][i];
        terms
            .rks
            .iter()
            .zip(self.model_outputs.iter().skip(1))
            .map(move |(rk, output)| (output[i] - newest) / rk)
    }

    /// `multistep_uni_p_bh_update`: the latents at the noise level after `index`.
    fn predict(&self, index: usize, order: usize, sample: &mut [f32]) {
        let terms = self.step_terms(index, order);
        let rhos = match order {
            1 => Vec::new(),
            // The paper's simplified version.
            2 => vec![0.5],
            _ => solve(terms.matrix(order - 1), terms.b[..order - 1].to_vec()),
        };
        for (i, x) in sample.iter_mut().enumerate() {
            let residual: f32 = rhos.iter().zip(self.differences(&terms, i)).map(|(rho, d)| rho * d).sum();
            *x = terms.base(*x, self.model_outputs[0][i]);
            // `b_h` is infinite where a step of the first order ends without noise.
            if order > 1 {
                *x -= terms.alpha_t * terms.b_h * residual;
            }
        }
    }

    /// `multistep_uni_c_bh_update`: the latents at the noise level `index` once more, now that the model's output there,
    /// `this_output`, is known.
    fn correct(
        &self,
        index: usize,
        (last_sample, order): &(Vec<f32>, usize),
        this_output: &[f32],
        sample: &mut [f32],
    ) {
        let terms = self.step_terms(index - 1, *order);
        let rhos = match order {
            1 => vec![0.5],
            _ => solve(terms.matrix(*order), terms.b.clone()),
        };
        let (rho_this, rhos) = rhos.split_last().map_or((0.0, &[][..]), |(last, rhos)| (*last, rhos));
        for (i, x) in sample.iter_mut().enumerate() {
            let newest = self.model_outputs[0][i];
            let residual: f32 = rhos.iter().zip(self.differences(&terms, i)).map(|(rho, d)| rho * d).sum();
            let this = rho_this * (this_output[i] - newest);
            *x = terms.base(last_sample[i], newest) - terms.alpha_t * terms.b_h * (residual + this);
        }
    }
}

impl Algorithm for UniPcMultistepScheduler {
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
        _noise: &mut Generator,
    ) -> Result<()> {
        let level = alpha_sigma(self.sigmas[index]);
        let outputs = model_output.iter().zip(sample.iter());
        let original: Vec<f32> =
            outputs.map(|(&o, &x)| original_sample(self.settings.prediction_type, level, o, x)).collect();
        if let Some(last) = &self.last
            && !self.settings.disable_corrector.contains(&(index - 1))
        {
            self.correct(index, last, &original, sample);
        }
        self.model_outputs.truncate(self.settings.solver_order - 1);
        self.model_outputs.push_front(original);

        let left = self.timesteps.len() - index;
        let most = if self.settings.lower_order_final { left } else { self.settings.solver_order };
        let order = most.min(self.settings.solver_order).min(self.model_outputs.len());
        self.last = Some((sample.to_vec(), order));
        self.predict(index, order, sample);
        Ok(())
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
    fn base(&self, sample: f32, newest: f32) -> f32 {
        self.sample * sample - self.alpha_t * self.h_phi_1 * newest
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
