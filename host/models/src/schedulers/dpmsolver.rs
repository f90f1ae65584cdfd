//! The updates of DPM-Solver and DPM-Solver++: Lu et al. 2022, "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic
//! Model Sampling in Around 10 Steps", and "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models".

use reverie_kernels::Backend;

use super::{
    Combination, Step,
    prediction::{original_sample, thresholded},
    settings::{AlgorithmType, PredictionType, Settings, SolverType},
    sigmas::lambda,
};
use crate::error::Result;

/// The factors of picture and noise in latents.
pub(super) type Level = (f32, f32);

/// The factors of a step's update: of the latents, of the model's output where the step begins, of its first and second
/// differences, and of the noise.
#[derive(Debug, Default)]
pub(super) struct Update {
    pub(super) sample: f32,
    pub(super) d0: f32,
    pub(super) d1: f32,
    pub(super) d2: f32,
    pub(super) noise: f32,
}

impl Update {
    /// A step of `order` from one noise level to another.
    pub(super) fn new(settings: &Settings, order: usize, from: Level, to: Level) -> Self {
        let h = lambda(to) - lambda(from);
        let midpoint = settings.solver_type == SolverType::Midpoint;
        match settings.algorithm_type {
            AlgorithmType::DpmSolver => Self::of_noise(order, midpoint, h, from, to),
            AlgorithmType::DpmSolverPlusPlus => Self::of_picture(order, midpoint, h, from, to),
            AlgorithmType::SdeDpmSolver => {
                let ode = Self::of_noise(order, midpoint, h, from, to);
                let noise = to.1 * ((2.0 * h).exp() - 1.0).sqrt();
                Self { d0: 2.0 * ode.d0, d1: 2.0 * ode.d1, d2: 2.0 * ode.d2, noise, ..ode }
            }
            AlgorithmType::SdeDpmSolverPlusPlus => Self::of_picture_sde(order, midpoint, h, from, to),
        }
    }

    fn of_noise(order: usize, midpoint: bool, h: f32, from: Level, (alpha_t, sigma_t): Level) -> Self {
        let growth = h.exp() - 1.0;
        Self {
            sample: alpha_t / from.0,
            d0: -(sigma_t * growth),
            d1: match order {
                1 => 0.0,
                2 if midpoint => -0.5 * (sigma_t * growth),
                _ => -(sigma_t * (growth / h - 1.0)),
            },
            d2: if order == 3 { -(sigma_t * ((growth - h) / (h * h) - 0.5)) } else { 0.0 },
            noise: 0.0,
        }
    }

    fn of_picture(order: usize, midpoint: bool, h: f32, from: Level, (alpha_t, sigma_t): Level) -> Self {
        let growth = (-h).exp() - 1.0;
        Self {
            sample: sigma_t / from.1,
            d0: -(alpha_t * growth),
            d1: match order {
                1 => 0.0,
                2 if midpoint => -0.5 * (alpha_t * growth),
                _ => alpha_t * (growth / h + 1.0),
            },
            d2: if order == 3 { -(alpha_t * ((growth + h) / (h * h) - 0.5)) } else { 0.0 },
            noise: 0.0,
        }
    }

    fn of_picture_sde(order: usize, midpoint: bool, h: f32, from: Level, (alpha_t, sigma_t): Level) -> Self {
        let decay = 1.0 - (-2.0 * h).exp();
        Self {
            sample: sigma_t / from.1 * (-h).exp(),
            d0: alpha_t * decay,
            d1: match order {
                1 => 0.0,
                2 if midpoint => 0.5 * (alpha_t * decay),
                _ => alpha_t * (decay / (-2.0 * h) + 1.0),
            },
            d2: if order == 3 { alpha_t * ((decay - 2.0 * h) / (2.0 * h * (2.0 * h)) - 0.5) } else { 0.0 },
            noise: sigma_t * decay.sqrt(),
        }
    }
}

/// What the solver integrates, of a model's output: the picture or the noise that it sees in the latents.
pub(super) fn converted<'a, B: Backend>(
    settings: &Settings,
    level: Level,
    step: &Step<'a, B>,
    kept: &'a mut Option<B::Tensor>,
) -> Result<Combination<'a, B::Tensor>> {
    let (alpha, sigma) = level;
    let prediction = settings.prediction_type;
    if settings.algorithm_type.predicts_original() {
        return thresholded(settings, step.backend, original_sample(prediction, level, step), kept);
    }
    if settings.thresholding.is_some() {
        let original = thresholded(settings, step.backend, original_sample(prediction, level, step), kept)?;
        return Ok((step.sample() - alpha * original) / sigma);
    }
    Ok(match prediction {
        PredictionType::Epsilon => step.model_output(),
        PredictionType::Sample => (step.sample() - alpha * step.model_output()) / sigma,
        PredictionType::VPrediction => alpha * step.model_output() + sigma * step.sample(),
    })
}
