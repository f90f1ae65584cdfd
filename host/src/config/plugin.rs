//! What an operator can set for each plugin.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Config;
use crate::{
    outbound::{Network, Origin},
    plugins::Trust,
};

/// MiB that a plugin may be allowed: more are a slip of the keyboard.
const MAX_MEMORY_MB: usize = 1 << 16;

/// Bytes of a WebSocket message that a limit may allow: 1 GiB, which is all the memory that a guest can have itself.
const MAX_MESSAGE: usize = 1 << 30;

/// Limits of one plugin.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub memory_mb: usize,
    pub table_elements: usize,
    pub instances: usize,
    pub message_concurrency: usize,
    pub job_concurrency: usize,
    pub message_cpu_ms: u64,
    pub message_timeout_ms: u64,
    pub job_cpu_ms: u64,
    pub job_timeout_ms: u64,
    pub cancel_grace_ms: u64,
    pub connections: usize,
    pub http_timeout_ms: u64,
    pub http_max_body_bytes: usize,
    pub websocket_max_message_bytes: usize,
    pub file_max_bytes: u64,
    pub storage_mb: u64,
    pub log_lines_per_minute: u32,
}

/// What the operator grants to one plugin. A limit that is absent is that of `[plugin_runtime.limits]`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Plugin {
    #[serde(default)]
    pub capabilities: Vec<String>,
    #[serde(default)]
    pub config: toml::Table,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub private_networks: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table_elements: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_concurrency: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_concurrency: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_cpu_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_cpu_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel_grace_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_max_body_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub websocket_max_message_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_max_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_mb: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_lines_per_minute: Option<u32>,
}

impl Config {
    /// The limits of the plugin called `name`.
    pub fn limits(&self, name: &str) -> Limits {
        let all = &self.plugin_runtime.limits;
        let own = self.plugins.get(name).cloned().unwrap_or_default();
        Limits {
            memory_mb: own.memory_mb.unwrap_or(all.memory_mb),
            table_elements: own.table_elements.unwrap_or(all.table_elements),
            instances: own.instances.unwrap_or(all.instances),
            message_concurrency: own.message_concurrency.unwrap_or(all.message_concurrency),
            job_concurrency: own.job_concurrency.unwrap_or(all.job_concurrency),
            message_cpu_ms: own.message_cpu_ms.unwrap_or(all.message_cpu_ms),
            message_timeout_ms: own.message_timeout_ms.unwrap_or(all.message_timeout_ms),
            job_cpu_ms: own.job_cpu_ms.unwrap_or(all.job_cpu_ms),
            job_timeout_ms: own.job_timeout_ms.unwrap_or(all.job_timeout_ms),
            cancel_grace_ms: own.cancel_grace_ms.unwrap_or(all.cancel_grace_ms),
            connections: own.connections.unwrap_or(all.connections),
            http_timeout_ms: own.http_timeout_ms.unwrap_or(all.http_timeout_ms),
            http_max_body_bytes: own.http_max_body_bytes.unwrap_or(all.http_max_body_bytes),
            websocket_max_message_bytes: own
                .websocket_max_message_bytes
                .unwrap_or(all.websocket_max_message_bytes),
            file_max_bytes: own.file_max_bytes.unwrap_or(all.file_max_bytes),
            storage_mb: own.storage_mb.unwrap_or(all.storage_mb),
            log_lines_per_minute: own.log_lines_per_minute.unwrap_or(all.log_lines_per_minute),
        }
    }

    /// Checks what the types can't say. The message names the key and what is accepted.
    pub(super) fn check_plugins(&self) -> Result<(), String> {
        Trust::new(&self.plugin_runtime)?;
        for name in self.plugins.keys().map(String::as_str).chain([""]) {
            let limits = self.limits(name);
            let table =
                if name.is_empty() { "plugin_runtime.limits".into() } else { format!("plugins.{name}") };
            if !(1..=MAX_MEMORY_MB).contains(&limits.memory_mb) {
                let memory_mb = limits.memory_mb;
                return Err(format!("{table}.memory_mb = {memory_mb}: must be from 1 to {MAX_MEMORY_MB}"));
            }
            if limits.message_concurrency == 0 || limits.job_concurrency == 0 {
                return Err(format!("{table}: message_concurrency and job_concurrency must be at least 1"));
            }
            if limits.connections == 0 || limits.http_timeout_ms == 0 {
                return Err(format!("{table}: connections and http_timeout_ms must be at least 1"));
            }
            if !(1..=MAX_MESSAGE).contains(&limits.websocket_max_message_bytes) {
                return Err(format!(
                    "{table}.websocket_max_message_bytes = {}: must be from 1 to {MAX_MESSAGE}",
                    limits.websocket_max_message_bytes
                ));
            }
        }
        for (name, plugin) in &self.plugins {
            for origin in &plugin.origins {
                Origin::listed(origin).map_err(|e| format!("plugins.{name}.origins: {e}"))?;
            }
            for network in &plugin.private_networks {
                Network::parse(network).map_err(|e| format!("plugins.{name}.private_networks: {e}"))?;
            }
        }
        Ok(())
    }
}
