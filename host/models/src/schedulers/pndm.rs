//! `PNDMScheduler` with `skip_prk_steps`: the linear multistep method of Liu et al. 2022, "Pseudo Numerical Methods for
//! Diffusion Models on Manifolds", known as PLMS.

use std::collections::VecDeque;

use super::{
    Algorithm, Plan,
    noise_schedule::AlphasCumprod,
    settings::{PredictionType, Settings},
    timesteps,
};
use crate::{
    error::{Error, Result},
    random::Generator,
};

/// Extrapolates from the last four outputs of the model. The second step is taken twice: with the slope at its beginning,
/// then with the mean of the slopes at both ends.
pub(super) struct PndmScheduler {
    prediction_type: PredictionType,
    alphas_cumprod: AlphasCumprod,
    final_alpha_cumprod: f32,
    timesteps: Vec<f64>,
    /// How many timesteps a step spans.
    span: f64,
    /// How many steps were taken.
    counter: usize,
    /// The last outputs of the model, the newest first.
    ets: VecDeque<Vec<f32>>,
    /// The latents before the first step.
    first_sample: Vec<f32>,
}

impl PndmScheduler {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Result<Self> {
        let mut timesteps = timesteps::whole(settings, plan.steps)?;
        if let &[_, second, ..] = timesteps.as_slice() {
            timesteps.insert(1, second);
        }
        let alphas_cumprod = AlphasCumprod::new(settings);
        Ok(Self {
            prediction_type: settings.prediction_type,
            final_alpha_cumprod: if settings.set_alpha_to_one { 1.0 } else { alphas_cumprod.first() },
            alphas_cumprod,
            timesteps,
            span: (settings.num_train_timesteps / plan.steps) as f64,
            counter: 0,
            ets: VecDeque::new(),
            first_sample: Vec::new(),
        })
    }

    /// `_get_prev_sample`: formula 9 of the paper, from one timestep to an earlier one.
    fn transfer(&self, from: f64, to: f64, model_output: &[f32], sample: &mut [f32]) -> Result<()> {
        let alpha_prod_t = self.alpha_cumprod(from)?;
        let alpha_prod_t_prev = self.alpha_cumprod(to)?;
        let (beta_prod_t, beta_prod_t_prev) = (1.0 - alpha_prod_t, 1.0 - alpha_prod_t_prev);
        let sample_coeff = (alpha_prod_t_prev / alpha_prod_t).sqrt();
        let denominator =
            alpha_prod_t * beta_prod_t_prev.sqrt() + (alpha_prod_t * beta_prod_t * alpha_prod_t_prev).sqrt();
        let (signal, sigma) = (alpha_prod_t.sqrt(), beta_prod_t.sqrt());
        for (x, &output) in sample.iter_mut().zip(model_output) {
            let epsilon = match self.prediction_type {
                PredictionType::VPrediction => signal * output + sigma * *x,
                PredictionType::Epsilon | PredictionType::Sample => output,
            };
            *x = sample_coeff * *x - (alpha_prod_t_prev - alpha_prod_t) * epsilon / denominator;
        }
        Ok(())
    }

    /// The value at a timestep; before the first one, the final value. Beyond the last there is none: the second step of an
    /// image-to-image run looks back over a full step.
    fn alpha_cumprod(&self, timestep: f64) -> Result<f32> {
        if timestep < 0.0 {
            return Ok(self.final_alpha_cumprod);
        }
        self.alphas_cumprod.get(timestep).ok_or_else(|| {
            Error::Invalid(format!(
                "PNDMScheduler needs timestep {timestep}, which the model was not trained at"
            ))
        })
    }

    /// The slope of the linear multistep formula of as high an order as there are outputs for.
    fn extrapolated(&self) -> Vec<f32> {
        let e = &self.ets;
        let values = 0..e[0].len();
        match e.len() {
            1 => e[0].clone(),
            2 => values.map(|i| (3.0 * e[0][i] - e[1][i]) / 2.0).collect(),
            3 => values.map(|i| (23.0 * e[0][i] - 16.0 * e[1][i] + 5.0 * e[2][i]) / 12.0).collect(),
            _ => {
                let sum = |i: usize| 55.0 * e[0][i] - 59.0 * e[1][i] + 37.0 * e[2][i] - 9.0 * e[3][i];
                values.map(|i| (1.0 / 24.0) * sum(i)).collect()
            }
        }
    }
}

impl Algorithm for PndmScheduler {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(
        &mut self,
        index: usize,
        model_output: &[f32],
        sample: &mut [f32],
        _noise: &mut Generator,
    ) -> Result<()> {
        let timestep = self.timesteps[index];
        if self.counter == 1 {
            let slope: Vec<f32> = model_output.iter().zip(&self.ets[0]).map(|(a, b)| (a + b) / 2.0).collect();
            sample.copy_from_slice(&self.first_sample);
            self.transfer(timestep + self.span, timestep, &slope, sample)?;
            self.first_sample = Vec::new();
        } else {
            if self.counter == 0 {
                self.first_sample = sample.to_vec();
            }
            self.ets.truncate(3);
            self.ets.push_front(model_output.to_vec());
            self.transfer(timestep, timestep - self.span, &self.extrapolated(), sample)?;
        }
        self.counter += 1;
        Ok(())
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        self.alphas_cumprod.noise_level(self.timesteps[index])
    }
}
