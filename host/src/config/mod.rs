//! What an operator can set. The defaults, with their explanation, are the file `host/reverie.toml`, which is embedded.

mod load;
mod mode;
mod network;
mod plugin;
mod salvage;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use reverie_access::{Key, Keyring, Origin};
use serde::{Deserialize, Serialize};

use crate::jobs;

pub use load::{DEFAULTS, Sources, load};
pub use mode::{Mode, ModeLora, Resolution, scheduler_id};
pub use plugin::{Limits, Plugin};
pub use salvage::{Refused, salvage};

/// The effective configuration; see `host/reverie.toml` for every key's meaning, unit and default.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub server: Server,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Key>,
    pub hub: Hub,
    pub jobs: jobs::Config,
    pub uploads: Uploads,
    pub storage: Storage,
    pub images: Images,
    pub execution: Execution,
    pub diffusion: Diffusion,
    pub scoring: Scoring,
    #[serde(default)]
    pub resolution_sets: BTreeMap<String, Vec<Resolution>>,
    #[serde(default)]
    pub modes: BTreeMap<String, Mode>,
    pub plugin_runtime: PluginRuntime,
    #[serde(default)]
    pub plugins: BTreeMap<String, Plugin>,
    pub log: Log,
    /// Where it came from, to be read again.
    #[serde(skip)]
    pub sources: Sources,
}

/// With less, a picture of some size could not be worked on.
const MIN_MEMORY_MB: usize = 64;

/// The part of the memory that there is which `server.memory_mb = 0` stands for, and what it is where that is not known.
const MEMORY_SHARE: usize = 4;
const DEFAULT_MEMORY_MB: usize = 1024;

/// More are a slip of the keyboard.
const MAX_THREADS: usize = 1024;

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    pub host: String,
    pub port: u16,
    pub auth_token: String,
    pub keys_file: PathBuf,
    pub open: bool,
    pub hosts: Vec<String>,
    pub allowed_origins: Vec<String>,
    pub shutdown_grace_s: u64,
    pub max_wait_s: f64,
    pub ui_dir: PathBuf,
    pub memory_mb: usize,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    pub reserved_descriptors: usize,
    pub header_timeout_s: f64,
    pub body_timeout_s: f64,
    pub write_timeout_s: f64,
    pub keep_alive_timeout_s: f64,
    pub min_body_bytes_per_s: u64,
    pub max_header_bytes: usize,
    pub max_headers: usize,
    pub tls: Tls,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub handshake_timeout_s: f64,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    pub max_clients: usize,
    pub max_message_bytes: usize,
    pub outbound_queue: usize,
    pub outbound_queue_bytes: usize,
    pub slow_client_grace_s: f64,
    pub ping_interval_s: f64,
    pub idle_timeout_s: f64,
    pub status_interval_s: f64,
    pub max_inflight: usize,
    pub broadcast_job_events: bool,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Uploads {
    pub max_file_bytes: usize,
    pub max_total_bytes: usize,
    pub ttl_s: f64,
    pub sweep_s: f64,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    pub location: String,
    pub max_put_bytes: usize,
    pub retry_s: f64,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    pub max_input_pixels: u64,
    pub max_output_pixels: u64,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Execution {
    pub backend: Backend,
    pub vram_budget_mb: u64,
    pub attention: Attention,
    pub numerics: bool,
    pub lanes: usize,
    pub threads: usize,
    pub tile: usize,
    pub models_dir: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Diffusion {
    pub dir: PathBuf,
    pub loras_dir: PathBuf,
    pub default_mode: String,
    pub embedded: bool,
    pub embedded_dir: PathBuf,
    pub memory_mb: u64,
    pub max_batch: usize,
    pub max_pixels: u64,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scoring {
    pub model: PathBuf,
}

/// `auto`, `cpu`, `cuda` (the first GPU) or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum Backend {
    /// The first GPU that can be used, or the CPU.
    Auto,
    Cpu,
    /// A GPU by its number, as CUDA counts them.
    Cuda(usize),
}

/// Which of a GPU's instructions attention is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Attention {
    /// `mma.sync`, which all have.
    Mma,
    /// `wgmma` and TMA, of compute capability 9.0.
    Wgmma,
}

impl TryFrom<String> for Backend {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let number = name.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        match (&*name, number) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(number)) => Ok(Self::Cuda(number)),
            _ => Err(format!("'{name}' is none of auto, cpu, cuda and cuda:N")),
        }
    }
}

impl From<Backend> for String {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Auto => "auto".into(),
            Backend::Cpu => "cpu".into(),
            Backend::Cuda(number) => format!("cuda:{number}"),
        }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PluginRuntime {
    pub dir: PathBuf,
    pub hot_reload: bool,
    pub builtin: bool,
    pub allowed_digests: Vec<String>,
    pub minisign_keys: Vec<String>,
    pub cache_dir: PathBuf,
    pub max_instances: u32,
    pub threads: usize,
    pub limits: Limits,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Human,
    Json,
}

impl Server {
    /// Bytes of the budget that `memory_mb` is.
    pub fn memory(&self) -> usize {
        match self.memory_mb {
            0 => {
                let share = reverie_memory::available().map(|bytes| bytes / MEMORY_SHARE);
                share.unwrap_or(DEFAULT_MEMORY_MB << 20).max(MIN_MEMORY_MB << 20)
            }
            mb => mb.saturating_mul(1 << 20),
        }
    }
}

impl Config {
    /// The same with secrets masked, for printing.
    pub fn redacted(&self) -> Config {
        let mut shown = self.clone();
        if !shown.server.auth_token.is_empty() {
            shown.server.auth_token = "********".into();
        }
        shown
    }

    /// Checks what the types can't say. The message names the key and what is accepted.
    fn check(&self) -> Result<(), String> {
        let positive = [
            ("hub.max_clients", self.hub.max_clients),
            ("hub.max_message_bytes", self.hub.max_message_bytes),
            ("hub.max_inflight", self.hub.max_inflight),
            ("hub.outbound_queue_bytes", self.hub.outbound_queue_bytes),
            ("jobs.queue_limit", self.jobs.queue_limit),
            ("jobs.max_params_bytes", self.jobs.max_params_bytes),
            ("jobs.max_params_values", self.jobs.max_params_values),
            ("jobs.concurrency", self.jobs.concurrency),
            ("jobs.background_concurrency", self.jobs.background_concurrency),
            ("jobs.max_attempts", self.jobs.max_attempts as usize),
            ("jobs.max_interruptions", self.jobs.max_interruptions as usize),
            ("jobs.keep_finished", self.jobs.keep_finished),
            ("jobs.keep_finished_total", self.jobs.keep_finished_total),
            ("uploads.max_file_bytes", self.uploads.max_file_bytes),
            ("uploads.max_total_bytes", self.uploads.max_total_bytes),
            ("storage.max_put_bytes", self.storage.max_put_bytes),
            ("images.max_input_pixels", self.images.max_input_pixels as usize),
            ("images.max_output_pixels", self.images.max_output_pixels as usize),
            ("execution.lanes", self.execution.lanes),
            ("diffusion.max_batch", self.diffusion.max_batch),
            ("diffusion.max_pixels", self.diffusion.max_pixels as usize),
            ("plugin_runtime.max_instances", self.plugin_runtime.max_instances as usize),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(format!("{key} = 0: must be at least 1"));
            }
        }
        let seconds = [
            ("hub.slow_client_grace_s", self.hub.slow_client_grace_s),
            ("hub.ping_interval_s", self.hub.ping_interval_s),
            ("hub.idle_timeout_s", self.hub.idle_timeout_s),
            ("hub.status_interval_s", self.hub.status_interval_s),
            ("uploads.ttl_s", self.uploads.ttl_s),
            ("uploads.sweep_s", self.uploads.sweep_s),
        ];
        for (key, value) in seconds {
            if !(0.001..=1e9).contains(&value) {
                return Err(format!("{key} = {value}: must be a number of seconds from 0.001 to 1e9"));
            }
        }
        for (key, threads) in [
            ("execution.threads", self.execution.threads),
            ("plugin_runtime.threads", self.plugin_runtime.threads),
        ] {
            if threads > MAX_THREADS {
                return Err(format!("{key} = {threads}: must be from 0 to {MAX_THREADS}"));
            }
        }
        Keyring::new(self.keys.iter().cloned())?;
        if self.storage.location.is_empty() {
            return Err("storage.location: must be a folder, or \"memory:\"".into());
        }
        for (key, value) in
            [("server.max_wait_s", self.server.max_wait_s), ("storage.retry_s", self.storage.retry_s)]
        {
            if !(0.0..=86400.0).contains(&value) {
                return Err(format!("{key}: must be seconds from 0 to 86400"));
            }
        }
        if (1..MIN_MEMORY_MB).contains(&self.server.memory_mb) {
            let memory_mb = self.server.memory_mb;
            return Err(format!("server.memory_mb = {memory_mb}: must be 0, or at least {MIN_MEMORY_MB}"));
        }
        for origin in self.server.allowed_origins.iter().filter(|origin| *origin != "*") {
            if Origin::parse(origin.trim_end_matches('/')).is_none() {
                let accepted = "\"*\", or an origin such as \"https://example.com\"";
                return Err(format!("server.allowed_origins: '{origin}' is none: accepted are {accepted}"));
            }
        }
        let ui_dir = &self.server.ui_dir;
        if !ui_dir.as_os_str().is_empty() && !ui_dir.join("index.html").is_file() {
            return Err(format!("server.ui_dir: there is no index.html in '{}'", ui_dir.display()));
        }
        if !(0.01..=1e6).contains(&self.jobs.keep_finished_hours) {
            return Err("jobs.keep_finished_hours: must be from 0.01 to 1e6".into());
        }
        if self.hub.outbound_queue < 8 {
            return Err(format!("hub.outbound_queue = {}: must be at least 8", self.hub.outbound_queue));
        }
        if !(32..=4096).contains(&self.execution.tile) {
            return Err(format!("execution.tile = {}: must be from 32 to 4096", self.execution.tile));
        }
        self.server.check_network()?;
        self.check_modes()?;
        self.check_plugins()
    }
}

/// Width and height of `512x512`.
pub fn parse_size(text: &str) -> Option<(u32, u32)> {
    let (width, height) = text.split_once('x')?;
    Some((width.parse().ok()?, height.parse().ok()?)).filter(|&(w, h)| w > 0 && h > 0)
}

/// Seconds of a checked configuration value as a duration.
pub fn seconds(value: f64) -> Duration {
    Duration::from_secs_f64(value)
}
