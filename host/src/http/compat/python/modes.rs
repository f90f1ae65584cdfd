//! `GET /api/modes`: the modes, with all that pages show of them.

use std::{collections::BTreeMap, path::PathBuf};

use reverie_models::schedulers::sampler_ids;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    config::{Mode, ModeLora, Resolution},
    diffusion::Diffusion,
    plugins::Registry,
};

#[derive(Serialize, JsonSchema)]
pub struct Modes {
    modes: BTreeMap<String, Shown>,
    /// That of requests that name none.
    default_mode: Option<String>,
    /// The one that was used last.
    current_mode: Option<String>,
    resolution_sets: BTreeMap<String, Vec<Resolution>>,
    /// The LoRAs that prompts can name.
    loras: Vec<String>,
}

/// A mode: its keys of the configuration, and what it comes to for a request that says nothing.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Mode")]
struct Shown {
    model: PathBuf,
    loras: Vec<ModeLora>,
    /// Whether its model is in memory.
    loaded: bool,
    recommended_size: Option<String>,
    default_size: Option<String>,
    default_steps: Option<u32>,
    default_guidance: Option<f64>,
    resolution_set: Option<String>,
    /// The sizes that it takes; empty: all.
    resolution_options: Vec<Resolution>,
    allowed_scheduler_ids: Vec<String>,
    default_scheduler_id: Option<String>,
    /// Negative prompts by their names.
    negative_prompt_templates: BTreeMap<String, String>,
    allow_custom_negative_prompt: bool,
    controlnet_policy: ControlnetPolicy,
    /// Further keys.
    #[serde(flatten)]
    keys: Map<String, Value>,
}

#[derive(Default, Serialize, JsonSchema)]
struct ControlnetPolicy {
    enabled: bool,
    max_attachments: u32,
    allowed_control_types: Vec<String>,
}

/// Keys of the configuration that are told in other words.
const TOLD: &[&str] = &[
    "model",
    "loras",
    "recommended_size",
    "resolution_set",
    "negative_prompt_templates",
    "allow_custom_negative_prompt",
];

/// Every mode by its name.
pub fn modes(registry: &Registry) -> Modes {
    let diffusion = &registry.services.diffusion;
    let (modes, loaded) = (diffusion.modes(), diffusion.loaded());
    let shown = modes.iter().map(|(name, mode)| {
        let in_memory = loaded.iter().any(|(path, _)| *path == mode.model);
        (name.to_owned(), shown(diffusion, name, mode, in_memory))
    });
    Modes {
        modes: shown.collect(),
        default_mode: modes.default_name().map(str::to_owned),
        current_mode: diffusion.current(),
        resolution_sets: modes.resolution_sets().clone(),
        loras: diffusion.loras(),
    }
}

fn shown(diffusion: &Diffusion, name: &str, mode: &Mode, loaded: bool) -> Shown {
    let defaults = diffusion.defaults(name, mode);
    let default_size = defaults.size.map(|(width, height)| format!("{width}x{height}"));
    let mut keys = match serde_json::to_value(mode) {
        Ok(Value::Object(keys)) => keys,
        _ => Map::new(),
    };
    keys.retain(|key, _| !TOLD.contains(&key.as_str()));
    // Pages offer what is listed: without a set the mode's own size.
    let resolution_options = match mode.resolutions.is_empty() {
        true => default_size.clone().map(Resolution::from).into_iter().collect(),
        false => mode.resolutions.clone(),
    };
    Shown {
        model: mode.model.clone(),
        loras: mode.loras.clone(),
        loaded,
        recommended_size: mode.recommended_size.clone().or(default_size.clone()),
        default_size,
        default_steps: defaults.num_inference_steps,
        default_guidance: defaults.guidance_scale,
        resolution_set: mode.resolution_set.clone(),
        resolution_options,
        allowed_scheduler_ids: match mode.allowed_schedulers.is_empty() {
            true => sampler_ids().map(str::to_owned).collect(),
            false => mode.allowed_schedulers.clone(),
        },
        default_scheduler_id: defaults.scheduler_id.map(str::to_owned),
        negative_prompt_templates: mode.negative_prompt_templates.clone(),
        allow_custom_negative_prompt: mode.allow_custom_negative_prompt.unwrap_or(true),
        controlnet_policy: ControlnetPolicy::default(),
        keys,
    }
}
