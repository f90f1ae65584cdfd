//! Scheduler configurations for single files, which have none: those of the models' diffusers folders.

use serde_json::{Map, Value, json};

use super::ModelKind;

/// What a single file tells about how its model was trained.
pub(super) struct Training {
    pub(super) kind: ModelKind,
    /// Whether the model predicts the velocity (Salimans and Ho 2022) and not the noise.
    pub(super) v_prediction: bool,
    /// Whether the last training step was pure noise (Lin et al. 2023).
    pub(super) zero_terminal_snr: bool,
    /// Distilled for one to four steps by adversarial diffusion distillation.
    pub(super) turbo: bool,
    /// A latent consistency model.
    pub(super) lcm: bool,
}

/// The fields of a `scheduler_config.json`.
pub(super) fn config(training: &Training) -> Map<String, Value> {
    let prediction = if training.v_prediction { "v_prediction" } else { "epsilon" };
    let spacing = if training.turbo || training.zero_terminal_snr { "trailing" } else { "leading" };
    let mut config = json!({
        "_class_name": class(training),
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "trained_betas": null,
        "prediction_type": prediction,
        "timestep_spacing": spacing,
        "rescale_betas_zero_snr": training.zero_terminal_snr,
        "steps_offset": 1,
        "set_alpha_to_one": false,
        "clip_sample": false,
    });
    if training.lcm {
        config["steps_offset"] = 0.into();
        config["set_alpha_to_one"] = true.into();
        config["original_inference_steps"] = 50.into();
    } else if training.kind == ModelKind::Sd1 {
        config["skip_prk_steps"] = true.into();
    }
    match config {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn class(training: &Training) -> &'static str {
    match training.kind {
        _ if training.lcm => "LCMScheduler",
        ModelKind::Sd1 => "PNDMScheduler",
        ModelKind::Sd2 if training.turbo => "EulerDiscreteScheduler",
        ModelKind::Sd2 => "DDIMScheduler",
        ModelKind::Sdxl if training.turbo => "EulerAncestralDiscreteScheduler",
        ModelKind::Sdxl => "EulerDiscreteScheduler",
    }
}
