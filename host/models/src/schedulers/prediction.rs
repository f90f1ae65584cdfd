//! What a model's output says of the picture: the parametrisations of the training (Salimans and Ho 2022, "Progressive
//! Distillation for Fast Sampling of Diffusion Models", appendix D).

use super::settings::{PredictionType, Settings};

/// The picture that the model sees in one value of the latents; `alpha` and `sigma` are the factors of picture and noise in
/// them, whose squares sum to 1.
pub(super) fn original_sample(
    prediction_type: PredictionType,
    (alpha, sigma): (f32, f32),
    model_output: f32,
    sample: f32,
) -> f32 {
    match prediction_type {
        PredictionType::Epsilon => (sample - sigma * model_output) / alpha,
        PredictionType::VPrediction => alpha * sample - sigma * model_output,
        PredictionType::Sample => model_output,
    }
}

/// The same where the latents are the picture plus `sigma` times noise, as in Euler's and Heun's schedulers.
pub(super) fn original_sample_of_sigma(
    prediction_type: PredictionType,
    sigma: f32,
    model_output: f32,
    sample: f32,
) -> f32 {
    let variance = sigma * sigma + 1.0;
    match prediction_type {
        PredictionType::Epsilon => sample - sigma * model_output,
        PredictionType::VPrediction => model_output * (-sigma / variance.sqrt()) + sample / variance,
        PredictionType::Sample => model_output,
    }
}

/// `clip_sample`.
pub(super) fn clipped(settings: &Settings, original_sample: f32) -> f32 {
    match settings.clip_sample {
        Some(range) => original_sample.clamp(-range, range),
        None => original_sample,
    }
}
