//! `GET /api/modes`: the modes, with all that pages show of them.

use serde_json::{Map, Value, json};

use crate::{config::Mode, diffusion::Diffusion, plugins::Registry};
use reverie_models::schedulers::sampler_ids;

/// Every mode by its name: its keys of the configuration, and what it comes to for a request that says nothing.
pub fn modes(registry: &Registry) -> Value {
    let diffusion = &registry.services.diffusion;
    let (modes, loaded) = (diffusion.modes(), diffusion.loaded());
    let described: Map<String, Value> = modes
        .iter()
        .map(|(name, mode)| {
            let in_memory = loaded.iter().any(|(path, _)| *path == mode.model);
            (name.to_owned(), described(diffusion, name, mode, in_memory))
        })
        .collect();
    json!({
        "modes": described,
        "default_mode": modes.default_name(),
        "current_mode": diffusion.current(),
        "resolution_sets": modes.resolution_sets(),
        "loras": diffusion.loras(),
    })
}

fn described(diffusion: &Diffusion, name: &str, mode: &Mode, loaded: bool) -> Value {
    let defaults = diffusion.defaults(name, mode);
    let default_size = defaults.size.map(|(width, height)| format!("{width}x{height}"));
    let allowed: Vec<&str> = match mode.allowed_schedulers.is_empty() {
        true => sampler_ids().collect(),
        false => mode.allowed_schedulers.iter().map(String::as_str).collect(),
    };
    let mut described = serde_json::to_value(mode).unwrap_or_default();
    let shown = json!({
        "loaded": loaded,
        "loras": mode.loras,
        "recommended_size": mode.recommended_size.as_ref().or(default_size.as_ref()),
        "default_size": default_size,
        "default_steps": defaults.num_inference_steps,
        "default_guidance": defaults.guidance_scale.map(decimal),
        "resolution_set": mode.resolution_set,
        "resolution_options": mode.resolutions,
        "allowed_scheduler_ids": allowed,
        "default_scheduler_id": defaults.scheduler_id,
        "negative_prompt_templates": mode.negative_prompt_templates,
        "allow_custom_negative_prompt": mode.allow_custom_negative_prompt.unwrap_or(true),
        "controlnet_policy": {"enabled": false, "max_attachments": 0, "allowed_control_types": []},
    });
    if let (Some(described), Value::Object(shown)) = (described.as_object_mut(), shown) {
        described.extend(shown);
    }
    described
}

/// The number that was meant, where its nearest `f32` as an `f64` has many more digits.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| x.into())
}
