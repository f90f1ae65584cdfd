//! The plugin's table in the configuration file.

use std::collections::BTreeMap;

use reverie_plugin_sdk::{Error, config};
use serde::Deserialize;

/// What `host/reverie.toml` documents.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub max_sessions: usize,
    pub candidate_scale: f64,
    pub candidate_min_side: u32,
    pub candidate_steps: u32,
    pub top_k: usize,
    pub similarity_scale: f32,
    pub aesthetic_weight: f32,
    pub duplicate_distance: u32,
    pub save_interval_s: f64,
    pub thumbnail_side: u32,
    /// Words by kind; a variation takes at most one of each.
    pub variations: BTreeMap<String, Vec<String>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_sessions: 4,
            candidate_scale: 0.5,
            candidate_min_side: 128,
            candidate_steps: 1,
            top_k: 100,
            similarity_scale: 1.3,
            aesthetic_weight: 0.2,
            duplicate_distance: 6,
            save_interval_s: 2.0,
            thumbnail_side: 64,
            variations: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Reads the table.
    pub fn read() -> Result<Self, Error> {
        let config: Self = config()?;
        let weights = [
            ("aesthetic_weight", config.aesthetic_weight),
            ("candidate_scale", config.candidate_scale as f32),
        ];
        for (name, weight) in weights {
            if !(0.0..=1.0).contains(&weight) {
                return Err(Error::internal(format!(
                    "plugins.dream.config.{name} = {weight}: must be from 0 to 1"
                )));
            }
        }
        Ok(config)
    }
}
