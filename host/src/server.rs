//! The server put together: services, plugins, workers, HTTP; and taken apart again without losing anything.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use futures_util::FutureExt;
use reverie_access::Access;
use reverie_crash::{blame, vital};
use reverie_kernels::gpu::cuda::Warming;
use reverie_memory::Budget;
use reverie_net::Tls;
use tokio::net::TcpListener;
use tracing::Instrument;

use crate::{
    config::Config,
    crashes::Crashes,
    diffusion::{self, Diffusion},
    error::Error,
    execution::{Device, backend},
    http,
    hub::{Frame, Hub},
    jobs::{
        self, Event, JobHandle, Jobs, Outcome, Running, Spec,
        store::{self, Sqlite},
    },
    keys,
    metrics::Metrics,
    models::Upscalers,
    paths::Hidden,
    plugins::{self, Engine, Registry, Services},
    quotas::Quotas,
    scoring::Scoring,
    status,
    storage::Storage,
    uploads::Uploads,
};

/// How long open HTTP connections may take to end after the last job has.
const CONNECTION_GRACE: Duration = Duration::from_secs(5);

/// Between two looks at the age of jobs.
const TICK: Duration = Duration::from_secs(60);

/// Between two looks at how many clients have left, and how many make it worth while to give their memory back.
const GIVE_BACK_TICK: Duration = Duration::from_secs(5);
const CROWD: usize = 100;

/// A server that is bound and ready to run.
pub struct Server {
    pub registry: Arc<Registry>,
    listener: reverie_net::Server,
    _watcher: Option<plugins::Watcher>,
    _modes: diffusion::Watcher,
    _keys: keys::Watcher,
    _warming: Option<Warming>,
}

impl Server {
    /// Opens everything and binds the port. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// A message that names the setting or resource that failed.
    pub async fn bind(config: Config) -> Result<Self, String> {
        if let Some(why) = keys::exposed(&config, &keys::keyring(&config)?) {
            return Err(why);
        }
        // Before anything is opened: a second server must not touch what belongs to the first.
        let address = (config.server.host.as_str(), config.server.port);
        let listener = TcpListener::bind(address).await.map_err(|e| {
            format!("cannot listen on {}:{}: {e} (set server.host and server.port)", address.0, address.1)
        })?;
        reverie_net::descriptors::raise();
        let tls = match config.server.tls_files()? {
            None => None,
            Some((cert, key)) => Some(Tls::open(cert, key).map_err(|error| format!("server.tls: {error}"))?),
        };
        let listener = reverie_net::Server::new(listener, config.server.limits(), tls);
        let registry = registry(config).await?;
        let _ = registry.services.connections.set(listener.connections());
        let config = &registry.services.config;
        let watcher = match config.plugin_runtime.hot_reload {
            true => Some(plugins::watch(&registry)?),
            false => None,
        };
        let modes = diffusion::watch(&registry.services.diffusion)?;
        let keys = keys::watch(&registry.services)?;
        let warming = registry.services.diffusion.warm();
        Ok(Self { registry, listener, _watcher: watcher, _modes: modes, _keys: keys, _warming: warming })
    }

    /// The address that was bound, with the port the system chose for port 0.
    pub fn address(&self) -> SocketAddr {
        self.listener.address().expect("bound")
    }

    /// Serves until `stop` is ready. Then nothing new is accepted, running jobs get `server.shutdown_grace_s`, clients hear
    /// of it, and the ledger is written out. Jobs that wait or are cut off stay in the ledger for the next start.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let services = self.registry.services.clone();
        let stopping = Arc::new(tokio::sync::Notify::new());
        let draining = Arc::new(AtomicBool::new(false));
        let jobs = &services.config.jobs;
        let kinds = std::iter::repeat_n(false, jobs.concurrency)
            .chain(std::iter::repeat_n(true, jobs.background_concurrency));
        let workers: Vec<_> = kinds
            .map(|background| work(self.registry.clone(), draining.clone(), background))
            .map(|work| tokio::spawn(vital::task("worker of jobs", work)))
            .collect();
        status::broadcast(&self.registry);
        let sweeper = tokio::spawn(vital::task("sweep of jobs", sweep(services.clone())));
        let giver = tokio::spawn(vital::task("giving memory back", give_back(services.clone())));

        let stopped = stopping.clone();
        let service = http::service(&self.registry);
        let serving = self.listener.serve(service, async move { stopped.notified().await });
        let mut serving = tokio::spawn(serving);
        tokio::select! {
            () = stop => {}
            _ = &mut serving => tracing::error!("the HTTP server ended by itself"),
        }
        tracing::info!("stopping: no new connections, {} job(s) run", services.jobs.figures().1);
        draining.store(true, std::sync::atomic::Ordering::Relaxed);
        services.jobs.stop_background();
        stopping.notify_one();
        let grace = Duration::from_secs(services.config.server.shutdown_grace_s);
        if !services.jobs.drained(grace).await {
            let left = services.jobs.figures().1;
            tracing::warn!(
                "{left} job(s) did not end within {grace:?}: they are run again at the next start"
            );
        }
        for worker in workers {
            worker.abort();
        }
        sweeper.abort();
        giver.abort();
        services.hub.close_all("the server is stopping");
        let _ = tokio::time::timeout(CONNECTION_GRACE, serving).await;
        services.jobs.close().await;
        tracing::info!("stopped");
    }
}

/// The services and plugins of a configuration, without a network: what `reverie plugins` shows and `Server` serves.
///
/// # Errors
/// A message that names the setting or resource that failed.
pub async fn registry(config: Config) -> Result<Arc<Registry>, String> {
    let config = Arc::new(config);
    let metrics = Arc::new(Metrics::new());
    let memory = Budget::new(config.server.memory());
    let hub = Hub::new(config.hub.clone(), memory.clone(), metrics.clone());
    let jobs = open_jobs(&config.jobs, memory.clone()).await?;
    let quotas = Arc::new(Quotas::default());
    quotas.remember(&jobs);
    let (publisher, counters, used) = (hub.clone(), metrics.clone(), quotas.clone());
    jobs.on_event(move |event| publish(&publisher, &counters, &used, event));
    let execution = &config.execution;
    let models_dir = Some(execution.models_dir.as_path()).filter(|dir| !dir.as_os_str().is_empty());
    let backend = backend::open(&config)?;
    let lane = || backend::lane(&backend).map_err(|error| format!("execution.backend: {error}"));
    let (upscalers, warnings) = Upscalers::new(lane()?, models_dir, execution.tile);
    for warning in warnings {
        tracing::warn!("execution.models_dir: {warning}");
    }
    let upscalers = Arc::new(upscalers);
    let diffusion = Diffusion::new(&config, backend.clone(), upscalers.clone(), memory.clone());
    let diffusion = Arc::new(diffusion.map_err(|error| format!("configuration: {error}"))?);
    let engine = Arc::new(Engine::new(&config.plugin_runtime)?);
    let services = Arc::new(Services {
        memory: memory.clone(),
        hub,
        jobs,
        uploads: Uploads::new(config.uploads.clone(), memory.clone()),
        storage: Storage::open(&config.storage)?,
        stored: Default::default(),
        log_lines: Default::default(),
        storage_ok: AtomicBool::new(true),
        upscalers,
        diffusion,
        scoring: Scoring::new(&config, lane()?),
        device: Device::new(backend::lanes(&backend, execution)),
        metrics,
        access: Access::new(keys::keyring(&config)?)?,
        quotas,
        hidden: Hidden::of(&config),
        registry: OnceLock::new(),
        connections: OnceLock::new(),
        config,
    });
    let idle = Arc::downgrade(&services);
    services.device.room.made_by(move || idle.upgrade().is_some_and(|services| services.drop_idle()));
    services.check_storage().await;
    Ok(Registry::start(engine, services).await)
}

/// To be called before the engine is made, which passes on the signals that are not its own.
async fn open_jobs(config: &jobs::Config, memory: Arc<Budget>) -> Result<Arc<Jobs>, String> {
    let (store, loaded) = Sqlite::open(&config.ledger, Arc::new(store::Machine))?;
    for note in &loaded.notes {
        tracing::error!(ledger = %config.ledger.display(), "the ledger: {note}");
    }
    let crashes = Crashes::beside(&config.ledger);
    let clock = Arc::new(jobs::Machine::default());
    let jobs = Jobs::open(config.clone(), Box::new(store), loaded, clock, &crashes.at_fault(), memory);
    crashes.forget(&jobs).await;
    Ok(jobs)
}

/// Gives the memory of clients back to the system once a crowd of them has left.
async fn give_back(services: Arc<Services>) {
    let mut left = 0;
    loop {
        tokio::time::sleep(GIVE_BACK_TICK).await;
        let (most, open) = services.connections.get().map(reverie_net::Connections::most).unwrap_or_default();
        left += most - open;
        if left >= CROWD {
            left = 0;
            let _ = tokio::task::spawn_blocking(reverie_heap::give_back).await;
        }
    }
}

/// Deletes the outputs of jobs that are gone, and lets jobs go by their age.
async fn sweep(services: Arc<Services>) {
    let jobs = services.jobs.clone();
    let aged = async {
        loop {
            tokio::time::sleep(TICK).await;
            services.jobs.tick();
        }
    };
    let swept = jobs.sweep(|key| {
        let storage = services.storage.clone();
        async move { storage.delete(&key).await }
    });
    tokio::join!(aged, swept);
}

fn publish(hub: &Hub, metrics: &Metrics, quotas: &Quotas, event: &Event) {
    match event {
        Event::Progress(job) => {
            let text = job.progress_message().to_string();
            hub.job_event(job.id, job.owner.as_deref(), Frame::progress(job.id, text), false);
        }
        Event::Finished { job, ran } => {
            metrics.job_ended(job, *ran);
            quotas.made(job);
            let Some(message) = job.final_message() else { return };
            hub.job_event(job.id, job.owner.as_deref(), Frame::new(message.to_string()), true);
        }
    }
}

/// One worker: takes jobs and runs each on the plugin threads.
async fn work(registry: Arc<Registry>, draining: Arc<AtomicBool>, background: bool) {
    let services = registry.services.clone();
    let routes = registry.clone();
    let may_start = move |spec: &Spec, running: Running<'_>| {
        if draining.load(std::sync::atomic::Ordering::Relaxed) {
            return false;
        }
        let services = &routes.services;
        if !services.quotas.may_run(&services.access, spec, running) {
            return false;
        }
        // A job whose plugin has gone starts too, to be told so.
        let Some((plugin, _)) = routes.job(&spec.job_type) else { return true };
        running(&|other| plugin.jobs.contains_key(&other.job_type)) < plugin.limits.job_concurrency
    };
    loop {
        let job = services.jobs.take(background, &may_start).await;
        let span = tracing::info_span!("job", id = %job.id, kind = job.spec.job_type);
        let running = run(registry.clone(), job.clone()).instrument(span);
        let outcome = registry.engine.runtime().spawn(running).await.unwrap_or_else(|error| {
            Outcome::Failed(Error::internal(format!("the job failed (a fault of the server): {error}")))
        });
        services.jobs.finish(job.id, outcome).await;
    }
}

async fn run(registry: Arc<Registry>, job: Arc<JobHandle>) -> Outcome {
    let Some((plugin, _)) = registry.job(&job.spec.job_type) else {
        let error = format!("no plugin runs '{}' jobs any more", job.spec.job_type);
        return Outcome::Failed(Error::new(crate::error::ErrorKind::Unavailable, error));
    };
    tracing::info!(plugin = &*plugin.name, version = plugin.version, attempt = job.attempt, "job started");
    let id = job.id;
    let call = plugin.run_job(registry.engine.clone(), registry.services.clone(), job);
    let call = blame::attributed(id, call);
    let outcome = std::panic::AssertUnwindSafe(call).catch_unwind().await;
    let outcome = outcome
        .unwrap_or_else(|_| Outcome::Failed(Error::internal("the job failed (a fault of the server)")));
    match &outcome {
        Outcome::Done { .. } => tracing::info!("job done"),
        Outcome::Cancelled => tracing::info!("job canceled"),
        Outcome::Requeued => tracing::info!("job queued again"),
        Outcome::Failed(error) => tracing::warn!(error = error.message, "job failed"),
    }
    // The log has it whole.
    match outcome {
        Outcome::Failed(error) => Outcome::Failed(registry.services.hidden.from_error(error)),
        other => other,
    }
}
