//! The plugin runtime: components become handlers of message and job types, checked before they serve and replaced while
//! they do.

mod bindings;
mod call;
mod coerce;
mod described;
mod engine;
mod imports;
mod instance;
mod loader;
mod log_lines;
mod memory;
mod registry;
mod resources;
mod schema;
mod stored;
mod trust;
mod watcher;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use reverie_access::{Access, tenant_of};
use reverie_memory::Budget;
use serde_json::Value;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{
    config::{Config, Limits},
    diffusion::Diffusion,
    error::{Error, ErrorKind},
    execution::Device,
    hub::{Client, Hub},
    jobs::{JobHandle, Jobs, Outcome, Spec, Status, Submitted},
    metrics::Metrics,
    models::Upscalers,
    paths::Hidden,
    quotas::Quotas,
    scoring::Scoring,
    storage::Storage,
    uploads::Uploads,
};
use bindings::{PluginPre, exports::reverie::handler::handler as wit};
use call::{Body, Completion};
use instance::{Allowance, CallState, Origin, Warm};

use described::Described;
pub use engine::Engine;
pub use log_lines::LogLines;
pub use registry::{Change, Registry, Report, Reported, Source, builtin};
pub use schema::Schema;
pub use stored::Stored;
pub use trust::Trust;
pub use watcher::{Watcher, watch};

/// Callers that may wait for one that runs, for each call a plugin may run at once.
const WAITING_PER_CALL: usize = 4;

/// How long a client waits for a change to be stored.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// What plugins can be granted.
pub const CAPABILITIES: &[&str] = &[
    "uploads",
    "storage",
    "images",
    "upscale",
    "diffusion",
    "scoring",
    "jobs",
    "hub",
    "http",
    "websocket",
    "files",
];

/// Everything of the host that plugins reach through their imports.
pub struct Services {
    pub config: Arc<Config>,
    /// What all that clients and plugins ask for is taken from.
    pub memory: Arc<Budget>,
    pub hub: Arc<Hub>,
    pub jobs: Arc<Jobs>,
    pub uploads: Arc<Uploads>,
    pub storage: Storage,
    /// What each plugin has stored.
    pub stored: Stored,
    /// What each plugin writes to the log.
    pub log_lines: LogLines,
    /// What the last check of the storage found.
    pub storage_ok: AtomicBool,
    pub upscalers: Arc<Upscalers>,
    pub diffusion: Arc<Diffusion>,
    pub scoring: Scoring,
    pub device: Device,
    pub metrics: Arc<Metrics>,
    pub access: Access,
    pub quotas: Arc<Quotas>,
    /// What errors do not tell.
    pub hidden: Hidden,
    /// Set once the registry stands, which needs these services itself.
    pub registry: OnceLock<std::sync::Weak<Registry>>,
    /// Set once the server has bound its address.
    pub connections: OnceLock<reverie_net::Connections>,
}

impl Services {
    /// Whether the operator granted a capability.
    pub fn grants(&self, plugin: &str, capability: &str) -> bool {
        let table = self.config.plugins.get(plugin);
        table.is_some_and(|table| table.capabilities.iter().any(|c| c == capability))
    }

    /// Drops all models that nobody uses at the moment; whether there were any.
    pub fn drop_idle(&self) -> bool {
        let dropped = [self.diffusion.drop_idle(), self.scoring.drop_idle(), self.upscalers.drop_idle()];
        dropped.contains(&true)
    }

    /// Accepts a job with the uploads that its parameters name; see [`Jobs::submit`]. What has begun is done to its end, also
    /// when the caller goes.
    ///
    /// # Errors
    /// Those of [`Jobs::submit`]; `Busy` where its owner's key allows no more.
    pub async fn submit(
        &self,
        mut spec: Spec,
        accepted: impl FnOnce(Uuid) + Send + 'static,
    ) -> Result<Submitted, Error> {
        let tenant = spec.owner.as_deref().and_then(tenant_of);
        // Held until the job has its own place in the queue.
        let place = self.quotas.job(&self.access, &self.jobs, tenant).await?;
        let parameters = Value::Object(std::mem::take(&mut spec.params));
        let given = self.uploads.given(&parameters, tenant);
        if let Value::Object(parameters) = parameters {
            spec.params = parameters;
        }
        let jobs = self.jobs.clone();
        let submitted = async move {
            let _place = place;
            jobs.submit(spec, given, accepted).await
        };
        let submitted = tokio::spawn(submitted).await;
        submitted
            .unwrap_or_else(|_| Err(Error::internal("the job could not be accepted (a fault of the server)")))
    }

    /// Cancels a job; see [`Jobs::cancel`]. What has begun is done to its end, likewise.
    ///
    /// # Errors
    /// Those of [`Jobs::cancel`]; `Unavailable` when its end can't be stored for a while: it is then cancelled all the same, but
    /// nobody can rely on it yet.
    pub async fn cancel(&self, id: Uuid) -> Result<Status, Error> {
        let jobs = self.jobs.clone();
        let cancelled = tokio::spawn(async move { jobs.cancel(id).await });
        let cancelled = self.stored(cancelled).await?;
        cancelled.unwrap_or_else(|_| {
            Err(Error::internal("the job could not be cancelled (a fault of the server)"))
        })
    }

    /// Waits for a change to be stored, but not for ever.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn stored<T>(&self, change: impl Future<Output = T>) -> Result<T, Error> {
        tokio::time::timeout(STORE_PATIENCE, change).await.map_err(|_| {
            let why = self.jobs.health().error.unwrap_or_else(|| "it does not answer".into());
            let error =
                format!("the change is made, but not stored yet: the ledger can't be written ({why})");
            Error::new(ErrorKind::Unavailable, error)
        })
    }

    /// Writes and reads a small object; whether that worked, which is remembered.
    pub async fn check_storage(&self) -> bool {
        let checked = self.storage.check().await;
        let worked = self.storage_ok.swap(checked.is_ok(), Ordering::Relaxed);
        match &checked {
            Err(error) if worked => tracing::error!(error = error.message, "the storage can't be used"),
            Ok(()) if !worked => tracing::info!("the storage can be used again"),
            Ok(()) | Err(_) => {}
        }
        checked.is_ok()
    }

    /// Whether a job type is served by the plugin of this name.
    pub fn owns_job_type(&self, plugin: &str, job_type: &str) -> bool {
        let registry = self.registry.get().and_then(|registry| registry.upgrade());
        let route = registry.and_then(|registry| registry.job(job_type));
        route.is_some_and(|(owner, _)| *owner.name == *plugin)
    }

    /// Whether jobs of a type run in the background.
    pub fn is_background(&self, job_type: &str) -> bool {
        let registry = self.registry.get().and_then(|registry| registry.upgrade());
        registry.and_then(|registry| registry.job(job_type)).is_some_and(|(_, entry)| entry.background)
    }

    /// Whether another version of its plugin now serves the type of a running job.
    pub fn superseded(&self, job: &JobHandle) -> bool {
        let registry = self.registry.get().and_then(|registry| registry.upgrade());
        let serving = registry.and_then(|registry| registry.job(&job.spec.job_type));
        serving.is_some_and(|(plugin, _)| plugin.id != job.version.load(Ordering::Relaxed))
    }
}

/// A message or job type of a manifest.
pub struct Entry {
    pub name: String,
    pub description: String,
    pub schema: Schema,
    /// A job type whose jobs run while no others do.
    pub background: bool,
}

/// One version of a plugin, ready to serve.
pub struct Plugin {
    /// Differs from that of every other version and plugin of this process; never 0.
    pub id: u64,
    pub name: Arc<str>,
    pub version: String,
    pub description: String,
    pub messages: BTreeMap<String, Arc<Entry>>,
    pub jobs: BTreeMap<String, Arc<Entry>>,
    pub capabilities: Vec<String>,
    pub limits: Limits,
    /// Of its file or of its content in the binary: `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    pre: PluginPre<CallState>,
    warm: Warm,
    /// Message calls that run.
    running: Arc<Semaphore>,
    /// Message calls that run or wait.
    admitted: Arc<Semaphore>,
}

impl Plugin {
    /// Handles one message, whose correlation id is `id`. Also returns what the call leaves, to be dropped after the reply is on its way.
    ///
    /// # Errors
    /// The handler's error, a fault of the plugin, or `Busy` when too many calls of it wait.
    pub async fn handle_message(
        self: Arc<Self>,
        engine: Arc<Engine>,
        services: Arc<Services>,
        client: Arc<Client>,
        id: Option<Value>,
        message: wit::Message,
    ) -> (Result<(), Error>, Option<call::Spent>) {
        let Ok(_admitted) = self.admitted.clone().try_acquire_owned() else {
            let limit = self.limits.message_concurrency;
            let error =
                format!("plugin '{}' is busy ({limit} calls run and more wait); try again", self.name);
            return (Err(Error::new(ErrorKind::Busy, error)), None);
        };
        let began = Instant::now();
        let _running = self.running.clone().acquire_owned().await.expect("never closed");
        let allowance =
            Allowance { cpu_ms: self.limits.message_cpu_ms, wall_ms: self.limits.message_timeout_ms };
        let origin = Origin::Message { client, id };
        let body: Body<wit::Message> = |handler, store, message| {
            Box::pin(
                async move { handler.reverie_handler_handler().call_handle_message(store, &message).await },
            )
        };
        let (result, spent) =
            call::run(&self, &engine, services.clone(), origin, allowance, message, body).await;
        services
            .metrics
            .plugin_call_seconds
            .with_label_values(&[&*self.name])
            .observe(began.elapsed().as_secs_f64());
        self.count(&services, "message", result.is_ok());
        (result.map(drop), spent)
    }

    /// Makes the instance that the next call takes.
    pub async fn warm_up(&self, engine: &Engine, services: &Arc<Services>) {
        self.warm.fill(self, engine, services).await;
    }

    /// Runs one job on the plugin threads.
    pub async fn run_job(
        self: Arc<Self>,
        engine: Arc<Engine>,
        services: Arc<Services>,
        job: Arc<JobHandle>,
    ) -> Outcome {
        let allowance = Allowance { cpu_ms: self.limits.job_cpu_ms, wall_ms: self.limits.job_timeout_ms };
        job.version.store(self.id, Ordering::Relaxed);
        let request = wit::JobRequest {
            job_id: job.id.to_string(),
            job_type: job.spec.job_type.clone(),
            client: job.spec.owner.clone(),
            params: Value::Object(job.spec.params.clone()).to_string(),
            attempt: job.attempt,
        };
        let body: Body<wit::JobRequest> = |handler, store, request| {
            Box::pin(async move { handler.reverie_handler_handler().call_run_job(store, &request).await })
        };
        let (result, spent) =
            call::run(&self, &engine, services.clone(), Origin::Job(job.clone()), allowance, request, body)
                .await;
        drop(spent);
        self.count(&services, "job", result.is_ok());
        match result {
            Ok(Some(Completion::Done { outputs, meta })) => Outcome::Done { outputs, meta },
            Ok(Some(Completion::Requeued)) => Outcome::Requeued,
            Ok(None) => Outcome::Failed(Error::internal(format!(
                "plugin '{}' {} ended the job without completing it",
                self.name, self.version
            ))),
            Err(error) if error.kind == ErrorKind::Cancelled && job.is_cancelled() => Outcome::Cancelled,
            Err(error) => Outcome::Failed(error),
        }
    }

    /// Makes and drops one instance, as every call does. For measurements.
    ///
    /// # Errors
    /// What wasmtime said.
    pub async fn instantiate(&self, engine: &Engine, services: &Arc<Services>) -> Result<(), String> {
        let name = self.name.clone();
        let mut store = instance::store(engine, services.clone(), name, Origin::Loader, &self.limits, 0);
        self.pre.instantiate_async(&mut store).await.map(drop).map_err(|e| e.to_string())
    }

    /// Its name, version and types, as `/v1/plugins` shows them.
    pub fn describe(&self) -> Described {
        let entries =
            |entries: &BTreeMap<String, Arc<Entry>>| entries.values().map(|e| e.describe()).collect();
        Described {
            name: self.name.to_string(),
            version: self.version.clone(),
            description: self.description.clone(),
            messages: entries(&self.messages),
            jobs: entries(&self.jobs),
            capabilities: self.capabilities.clone(),
        }
    }

    fn count(&self, services: &Services, call: &str, ok: bool) {
        let result = if ok { "ok" } else { "error" };
        services.metrics.plugin_calls.with_label_values(&[&*self.name, call, result]).inc();
    }
}

pub use wit::Message;
