//! What a model's output says of the picture: the parametrisations of the training (Salimans and Ho 2022, "Progressive
//! Distillation for Fast Sampling of Diffusion Models", appendix D).

use reverie_kernels::Backend;

use super::{
    Combination, Step,
    settings::{PredictionType, Settings, Threshold},
};
use crate::error::Result;

/// The picture that the model sees in the latents; `alpha` and `sigma` are the factors of picture and noise in them, whose
/// squares sum to 1.
pub(super) fn original_sample<'a, B: Backend>(
    prediction_type: PredictionType,
    (alpha, sigma): (f32, f32),
    step: &Step<'a, B>,
) -> Combination<'a, B::Tensor> {
    match prediction_type {
        PredictionType::Epsilon => (step.sample() - sigma * step.model_output()) / alpha,
        PredictionType::VPrediction => alpha * step.sample() - sigma * step.model_output(),
        PredictionType::Sample => step.model_output(),
    }
}

/// `alpha`, or next to nothing where there is nothing of the picture in the latents (`rescale_betas_zero_snr`) and what is
/// predicted of it from the noise is clipped: PyTorch divides the difference by zero and clips the infinity, where here each
/// part of the difference would be infinite for itself.
pub(super) fn alpha_to_clip(settings: &Settings, alpha: f32) -> f32 {
    const NEXT_TO_NOTHING: f32 = 1e-30;
    let clips = settings.clip_sample.is_some() || settings.thresholding.is_some();
    if clips { alpha.max(NEXT_TO_NOTHING) } else { alpha }
}

/// The same where the latents are the picture plus `sigma` times noise, as in Euler's and Heun's schedulers.
pub(super) fn original_sample_of_sigma<'a, B: Backend>(
    prediction_type: PredictionType,
    sigma: f32,
    step: &Step<'a, B>,
) -> Combination<'a, B::Tensor> {
    let variance = sigma * sigma + 1.0;
    match prediction_type {
        PredictionType::Epsilon => step.sample() - sigma * step.model_output(),
        PredictionType::VPrediction => {
            -sigma / variance.sqrt() * step.model_output() + step.sample() / variance
        }
        PredictionType::Sample => step.model_output(),
    }
}

/// `thresholding`, or else `clip_sample`. What is clipped has to be computed, and lies in `kept`.
pub(super) fn clipped<'a, B: Backend>(
    settings: &Settings,
    backend: &B,
    original_sample: Combination<'a, B::Tensor>,
    kept: &'a mut Option<B::Tensor>,
) -> Result<Combination<'a, B::Tensor>> {
    let range = match (settings.thresholding, settings.clip_sample) {
        (None, Some(range)) => range,
        _ => return thresholded(settings, backend, original_sample, kept),
    };
    let clipped = backend.clamp(&original_sample.compute(backend)?, range)?;
    Ok(Combination::of(kept.insert(clipped)))
}

/// `thresholding`: clipped at a quantile of the absolute values, and scaled to 1 there. Only where the limit is not known
/// beforehand does it wait for the device.
pub(super) fn thresholded<'a, B: Backend>(
    settings: &Settings,
    backend: &B,
    original_sample: Combination<'a, B::Tensor>,
    kept: &'a mut Option<B::Tensor>,
) -> Result<Combination<'a, B::Tensor>> {
    let Some(Threshold { ratio, max }) = settings.thresholding else { return Ok(original_sample) };
    let sample = original_sample.compute(backend)?;
    // `torch.clamp(s, min=1, max=max)`, where the upper limit wins.
    let limit = match max <= 1.0 {
        true => max,
        false => quantile(backend.to_vec(&sample)?, ratio).max(1.0).min(max),
    };
    let clamped = backend.clamp(&sample, limit)?;
    Ok(Combination::of(kept.insert(clamped)) / limit)
}

/// `torch.quantile` of the absolute values, interpolated linearly.
fn quantile(mut values: Vec<f32>, ratio: f64) -> f32 {
    values.iter_mut().for_each(|x| *x = x.abs());
    values.sort_by(f32::total_cmp);
    let rank = ratio * (values.len() - 1) as f64;
    let (low, high) = (values[rank.floor() as usize], values[rank.ceil() as usize]);
    low + (high - low) * (rank - rank.floor()) as f32
}
