//! `system:status`: built only while somebody listens.

use std::{sync::Arc, time::Instant};

use reverie_crash::vital;
use reverie_kernels::nvml;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{config::seconds, health::Health, hub::Frame, jobs, plugins::Registry};

/// The message as of now, with what the checks have found.
pub fn message(registry: &Registry, health: &Health) -> Value {
    let services = &registry.services;
    let (queued, running) = services.jobs.figures();
    let (files, bytes) = services.uploads.figures();
    services.metrics.upload_bytes.set(bytes as i64);
    let plugins: Vec<Value> =
        registry.plugins().iter().map(|p| json!({"name": &*p.name, "version": p.version})).collect();
    let mut message = json!({
        "type": "system:status",
        "ts": jobs::now(),
        "mode": services.diffusion.current(),
        "version": env!("CARGO_PKG_VERSION"),
        "backend": services.upscalers.backend(),
        "storage": {"ok": services.storage_ok.load(std::sync::atomic::Ordering::Relaxed), "location": services.storage.name()},
        "ws_clients": services.hub.len(),
        "store": store(&services.jobs.health()),
        "health": health,
        "queue": {
            "queued": queued,
            "running": running,
            "limit": services.jobs.queue_limit(),
            "background": services.jobs.background().1,
        },
        "uploads": {"files": files, "bytes": bytes},
        "plugins": plugins,
    });
    if let (Some(gpu), Some(message)) = (services.diffusion.gpu(), message.as_object_mut()) {
        message.extend(figures(&gpu));
    }
    message
}

/// `store` as clients read it: whether jobs can be stored, why not, and what was found damaged.
fn store(health: &jobs::Health) -> Value {
    json!({"ok": health.error.is_none(), "error": health.error, "notes": health.notes})
}

/// `vram` and `gpu` as clients read them.
pub fn figures(gpu: &nvml::Status) -> Map<String, Value> {
    Map::from_iter([("vram".to_owned(), json!(Vram::of(gpu))), ("gpu".to_owned(), json!(Gpu::of(gpu)))])
}

/// The memory of a GPU, in MiB.
#[derive(Default, Serialize, JsonSchema)]
pub struct Vram {
    pub free_mb: u64,
    pub total_mb: u64,
}

impl Vram {
    pub fn of(gpu: &nvml::Status) -> Self {
        let nvml::Memory { free_mb, total_mb } = gpu.memory;
        Self { free_mb, total_mb }
    }
}

/// How busy a GPU is, in percent, and how warm, in degrees Celsius.
#[derive(Serialize, JsonSchema)]
pub struct Gpu {
    utilization: Option<u32>,
    temperature: Option<u32>,
}

impl Gpu {
    pub fn of(gpu: &nvml::Status) -> Self {
        Self { utilization: gpu.utilisation, temperature: gpu.temperature }
    }
}

/// Sends it every `hub.status_interval_s` while clients are connected, until the registry is gone.
pub fn broadcast(registry: &Arc<Registry>) {
    let interval = seconds(registry.services.hub.config.status_interval_s);
    let registry = Arc::downgrade(registry);
    let work = async move {
        let mut next = Instant::now() + interval;
        loop {
            tokio::time::sleep_until(next.into()).await;
            next = Instant::now() + interval;
            let Some(registry) = registry.upgrade() else { return };
            if !registry.services.hub.is_empty() {
                let health = registry.health().await;
                registry.services.hub.broadcast(Frame::status(message(&registry, &health).to_string()));
            }
        }
    };
    tokio::spawn(vital::task("status of the server", work));
}
