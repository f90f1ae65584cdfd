//! `PNDMScheduler`: the linear multistep method of Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models on
//! Manifolds", known as PLMS, after three steps of a Runge-Kutta method unless `skip_prk_steps` is on.

use std::collections::VecDeque;

use reverie_kernels::Backend;

use super::{
    Algorithm, Combination, Plan, Step,
    noise_schedule::AlphasCumprod,
    settings::{PredictionType, Settings},
    timesteps,
};
use crate::error::{Error, Result};

/// Extrapolates from the last four outputs of the model. Without Runge-Kutta steps the second step is taken twice: with the
/// slope at its beginning, then with the mean of the slopes at both ends.
pub(super) struct PndmScheduler<B: Backend> {
    prediction_type: PredictionType,
    alphas_cumprod: AlphasCumprod,
    final_alpha_cumprod: f32,
    timesteps: Vec<f64>,
    /// Those of the Runge-Kutta steps, four each; empty with `skip_prk_steps`.
    prk_timesteps: Vec<f64>,
    /// The weighted sum of the outputs within a Runge-Kutta step, where there is one.
    prk_sum: Option<B::Tensor>,
    /// How many timesteps a step spans.
    span: f64,
    /// How many steps were taken.
    counter: usize,
    /// The last outputs of the model, the newest first; three at most.
    ets: VecDeque<B::Tensor>,
    /// The latents before the first step, or before a Runge-Kutta step.
    first_sample: Option<B::Tensor>,
}

impl<B: Backend> PndmScheduler<B> {
    pub(super) fn new(settings: &Settings, plan: &Plan) -> Result<Self> {
        let mut timesteps = timesteps::whole(settings, plan.steps)?;
        let mut prk_timesteps = Vec::new();
        if settings.skip_prk_steps {
            if let &[_, second, ..] = timesteps.as_slice() {
                timesteps.insert(1, second);
            }
        } else {
            prk_timesteps = runge_kutta(&timesteps, (settings.num_train_timesteps / plan.steps / 2) as f64)?;
            timesteps.splice(..3, prk_timesteps.iter().copied());
        }
        let alphas_cumprod = AlphasCumprod::new(settings);
        Ok(Self {
            prediction_type: settings.prediction_type,
            final_alpha_cumprod: if settings.set_alpha_to_one { 1.0 } else { alphas_cumprod.first() },
            alphas_cumprod,
            timesteps,
            prk_timesteps,
            prk_sum: None,
            span: (settings.num_train_timesteps / plan.steps) as f64,
            counter: 0,
            ets: VecDeque::new(),
            first_sample: None,
        })
    }

    /// `_get_prev_sample`: formula 9 of the paper, from one timestep to an earlier one.
    fn transfer<'a>(
        &self,
        from: f64,
        to: f64,
        model_output: Combination<'a, B::Tensor>,
        sample: Combination<'a, B::Tensor>,
    ) -> Result<Combination<'a, B::Tensor>> {
        let alpha_prod_t = self.alpha_cumprod(from)?;
        let alpha_prod_t_prev = self.alpha_cumprod(to)?;
        let (beta_prod_t, beta_prod_t_prev) = (1.0 - alpha_prod_t, 1.0 - alpha_prod_t_prev);
        let sample_coeff = (alpha_prod_t_prev / alpha_prod_t).sqrt();
        let denominator =
            alpha_prod_t * beta_prod_t_prev.sqrt() + (alpha_prod_t * beta_prod_t * alpha_prod_t_prev).sqrt();
        let (signal, sigma) = (alpha_prod_t.sqrt(), beta_prod_t.sqrt());
        let epsilon = match self.prediction_type {
            PredictionType::VPrediction => signal * model_output + sigma * sample.clone(),
            PredictionType::Epsilon | PredictionType::Sample => model_output,
        };
        Ok(sample_coeff * sample - (alpha_prod_t_prev - alpha_prod_t) * epsilon / denominator)
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

    /// A quarter of a Runge-Kutta step. Which one it is, and where the whole began, tells the count of calls and not the
    /// timestep: in image to image the two differ, as with diffusers.
    fn step_prk(&mut self, step: Step<B>) -> Result<B::Tensor> {
        let quarter = self.counter % 4;
        let begin = self.prk_timesteps[self.counter / 4 * 4];
        let reach = if quarter.is_multiple_of(2) { (self.span / 2.0).floor() } else { 0.0 };
        let to = self.timesteps[step.index] - reach;
        let weighted = (if quarter.is_multiple_of(3) { 1.0 / 6.0 } else { 1.0 / 3.0 }) * step.model_output();
        let sum = match &self.prk_sum {
            Some(sum) if quarter > 0 => Combination::of(sum) + weighted,
            _ => weighted,
        };
        let sample = match &self.first_sample {
            Some(first) if quarter > 0 => Combination::of(first),
            _ => step.sample(),
        };
        let slope = if quarter == 3 { sum.clone() } else { step.model_output() };
        let next = self.transfer(begin, to, slope, sample)?.compute(step.backend)?;
        let sum = (quarter < 3).then(|| sum.compute(step.backend)).transpose()?;
        self.prk_sum = sum;
        if quarter == 0 {
            self.first_sample = Some(step.sample.clone());
            self.ets.truncate(2);
            self.ets.push_front(step.model_output.clone());
        }
        self.counter += 1;
        Ok(next)
    }

    /// The slope of the linear multistep formula of as high an order as there are outputs for, with the newest one.
    fn extrapolated<'a>(&'a self, newest: Combination<'a, B::Tensor>) -> Combination<'a, B::Tensor> {
        let e = |back: usize| Combination::of(&self.ets[back - 1]);
        match self.ets.len() {
            0 => newest,
            1 => (3.0 * newest - e(1)) / 2.0,
            2 => (23.0 * newest - 16.0 * e(1) + 5.0 * e(2)) / 12.0,
            _ => (1.0 / 24.0) * (55.0 * newest - 59.0 * e(1) + 37.0 * e(2) - 9.0 * e(3)),
        }
    }
}

impl<B: Backend> Algorithm<B> for PndmScheduler<B> {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn step(&mut self, step: Step<B>) -> Result<B::Tensor> {
        if self.counter < self.prk_timesteps.len() {
            return self.step_prk(step);
        }
        let timestep = self.timesteps[step.index];
        let next = match &self.first_sample {
            Some(first_sample) if self.counter == 1 => {
                let slope = (step.model_output() + Combination::of(&self.ets[0])) / 2.0;
                self.transfer(timestep + self.span, timestep, slope, Combination::of(first_sample))?
            }
            _ => {
                let slope = self.extrapolated(step.model_output());
                self.transfer(timestep, timestep - self.span, slope, step.sample())?
            }
        };
        let next = next.compute(step.backend)?;
        // After Runge-Kutta steps the counter is beyond these.
        self.first_sample = (self.counter == 0).then(|| step.sample.clone());
        if self.counter != 1 {
            self.ets.truncate(2);
            self.ets.push_front(step.model_output.clone());
        }
        self.counter += 1;
        Ok(next)
    }

    fn noise_level(&self, index: usize) -> (f32, f32) {
        self.alphas_cumprod.noise_level(self.timesteps[index])
    }
}

/// The timesteps of three Runge-Kutta steps from the noisiest of `timesteps` on, which go down: each begins at one of them, has
/// two calls of the model `half` a step on, and one at its end.
///
/// # Errors
/// [`Error::Invalid`] where there are fewer than four timesteps.
fn runge_kutta(timesteps: &[f64], half: f64) -> Result<Vec<f64>> {
    let [a, b, c, d, ..] = *timesteps else {
        return Err(Error::Invalid(format!(
            "steps is {}; PNDMScheduler without skip_prk_steps takes 4 or more",
            timesteps.len()
        )));
    };
    // `half` above where the step ends.
    Ok([(a, b), (b, c), (c, d)].into_iter().flat_map(|(from, to)| [from, to + half, to + half, to]).collect())
}
