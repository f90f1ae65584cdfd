//! `[jobs]` of the configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `host/reverie.toml` says what each is for, and holds the defaults.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub default_type: String,
    pub queue_limit: usize,
    pub max_params_bytes: usize,
    pub max_params_values: usize,
    pub concurrency: usize,
    pub background_limit: usize,
    pub background_concurrency: usize,
    pub max_attempts: u32,
    pub max_interruptions: u32,
    pub keep_finished: usize,
    pub keep_finished_total: usize,
    pub keep_finished_hours: f64,
    pub keep_outputs_mb: u64,
    pub keep_records_mb: usize,
    pub ledger: PathBuf,
}
