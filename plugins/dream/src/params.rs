//! What clients ask of a session, and what that comes to for its pictures.

use reverie_plugin_sdk::diffusion;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{config::Config, genes::Genes, strategy::Strategy};

/// What the client asked for; a guide changes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Params {
    pub session: String,
    #[serde(default)]
    pub prompt: String,
    #[serde(default = "one", deserialize_with = "or_one")]
    pub duration_hours: f64,
    #[serde(default)]
    pub temperature: Option<f32>,
    #[serde(default)]
    pub similarity_threshold: Option<f32>,
    /// A float, because a JSON Schema counts `2.0` among the integers.
    #[serde(default)]
    pub render_interval: Option<f64>,
    #[serde(default)]
    pub strategy: Option<Strategy>,
    #[serde(default)]
    pub top_k: Option<f64>,
    #[serde(default)]
    pub mode: Option<String>,
    #[serde(default)]
    pub thumbnails: Option<bool>,
    #[serde(default)]
    pub seed: Option<f64>,
}

fn one() -> f64 {
    1.0
}

fn or_one<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(1.0))
}

impl Params {
    pub fn temperature(&self) -> f32 {
        self.temperature.unwrap_or(0.5)
    }

    pub fn similarity_threshold(&self) -> f32 {
        self.similarity_threshold.unwrap_or(0.7)
    }

    pub fn render_interval(&self) -> u64 {
        self.render_interval.map_or(100, |interval| interval as u64)
    }

    pub fn strategy(&self) -> Strategy {
        self.strategy.unwrap_or(Strategy::Random)
    }

    pub fn top_k(&self, config: &Config) -> usize {
        self.top_k.map_or(config.top_k, |k| k as usize)
    }

    pub fn mode(&self) -> String {
        self.mode.clone().unwrap_or_default()
    }
}

/// What a guide changes; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Guide {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similarity_threshold: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// A dream's id, or false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more_like: Option<Value>,
}

/// The size of candidates, where the mode's own is `size` and both sides are multiples of `factor`.
pub fn candidate_size((width, height, factor): (u32, u32, u32), config: &Config) -> (u32, u32) {
    let side = |own: u32| {
        let scaled = (f64::from(own) * config.candidate_scale) as u32;
        let side = scaled.max(config.candidate_min_side).div_ceil(factor.max(1)) * factor.max(1);
        side.min(own)
    };
    (side(width), side(height))
}

/// What all pictures of a session are asked for with.
pub fn request(params: &Params, genes: &Genes) -> diffusion::Request {
    diffusion::Request {
        mode: params.mode(),
        prompt: genes.prompt(&params.prompt),
        negative_prompt: None,
        prompt_second: None,
        negative_prompt_second: None,
        width: 0,
        height: 0,
        num_inference_steps: None,
        guidance_scale: None,
        seed: genes.seed,
        blends: genes.noise(),
        scheduler: None,
        schedule_type: None,
        clip_skip: None,
        strength: 1.0,
        loras: Vec::new(),
        previews: diffusion::Previews::None,
        progress_from: 0.0,
        progress_to: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_smaller_but_not_too_small() {
        let config = Config::default();
        assert_eq!(candidate_size((512, 768, 8), &config), (256, 384));
        assert_eq!(candidate_size((160, 136, 8), &config), (128, 128));
        assert_eq!(candidate_size((48, 64, 8), &config), (48, 64));
        assert_eq!(candidate_size((600, 600, 64), &config), (320, 320));
    }
}
