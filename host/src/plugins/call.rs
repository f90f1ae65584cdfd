//! One call into a plugin: a fresh instance with its limits, and an error that says which of them it met.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use serde_json::{Map, Value};
use tokio::sync::Mutex as AsyncMutex;
use tracing::Instrument;
use wasmtime::{ResourceLimiter, Store, Trap, UpdateDeadline, component::ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::{
    Plugin, Services,
    bindings::{Plugin as World, reverie::handler::types as wit},
    engine::{Engine, TICK},
};
use crate::{
    config::Limits,
    error::{Error, ErrorKind},
    hub::Client,
    jobs::{JobHandle, Output},
};

/// Whose request the call serves.
pub enum Origin {
    /// The manifest, read by the loader.
    Loader,
    Message {
        client: Arc<Client>,
        id: Option<String>,
    },
    Job(Arc<JobHandle>),
}

/// What a job declared with `job.complete`.
pub type Completion = (Vec<Output>, Map<String, Value>);

/// What the host functions of a call see.
pub struct CallState {
    pub table: ResourceTable,
    /// Made when a guest first calls into WASI: most never do.
    wasi: Option<WasiCtx>,
    pub services: Arc<Services>,
    /// The plugin's name; empty while its manifest is being read.
    pub plugin: Arc<str>,
    pub origin: Origin,
    pub completion: Option<Completion>,
    limiter: Limiter,
    cpu_ticks: u64,
}

impl CallState {
    pub fn job(&self) -> Option<&Arc<JobHandle>> {
        match &self.origin {
            Origin::Job(job) => Some(job),
            _ => None,
        }
    }
}

impl WasiView for CallState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        // Nothing is granted: no files, sockets, arguments, environment or standard streams.
        let ctx = self.wasi.get_or_insert_with(|| WasiCtx::builder().build());
        WasiCtxView { ctx, table: &mut self.table }
    }
}

/// Enforces memory and table limits, and remembers that it did: the guest only sees a failed `memory.grow`.
struct Limiter {
    memory: usize,
    table_elements: usize,
    instances: usize,
    used: usize,
    refused: Option<String>,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.used += desired.saturating_sub(current);
        if self.used > self.memory {
            self.used -= desired.saturating_sub(current);
            self.refused = Some(format!("ran out of memory (memory_mb = {})", self.memory >> 20));
            return Ok(false);
        }
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.table_elements {
            self.refused = Some(format!("ran out of table space (table_elements = {})", self.table_elements));
            return Ok(false);
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.instances
    }
}

/// The time a call has: of guest CPU, and on the clock.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    pub cpu_ms: u64,
    /// 0: no limit.
    pub wall_ms: u64,
}

#[derive(Debug)]
struct CpuTimeExceeded;

impl std::fmt::Display for CpuTimeExceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CPU time exceeded")
    }
}

impl std::error::Error for CpuTimeExceeded {}

/// What one call does with its instance.
pub type Body<T> =
    for<'a> fn(&'a World, &'a mut Store<CallState>, T) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// The outer error is a trap; the inner one is the handler's own.
pub type Answer = wasmtime::Result<Result<(), wit::Error>>;

/// A store for one call, with all limits armed.
pub fn store(
    engine: &Engine,
    services: Arc<Services>,
    plugin: Arc<str>,
    origin: Origin,
    limits: &Limits,
    budget: Budget,
) -> Store<CallState> {
    let limiter = Limiter {
        memory: limits.memory_mb << 20,
        table_elements: limits.table_elements,
        instances: limits.instances,
        used: 0,
        refused: None,
    };
    let state = CallState {
        table: ResourceTable::new(),
        wasi: None,
        services,
        plugin,
        origin,
        completion: None,
        limiter,
        cpu_ticks: 0,
    };
    let mut store = Store::new(&engine.wasmtime, state);
    store.limiter(|state| &mut state.limiter);
    store.set_epoch_deadline(1);
    // A tick is counted when guest code is found running at its end, so time spent in the host is nearly free.
    let ticks = budget.cpu_ms.div_ceil(TICK.as_millis() as u64) + 1;
    store.epoch_deadline_callback(move |mut context| {
        let state = context.data_mut();
        state.cpu_ticks += 1;
        if budget.cpu_ms > 0 && state.cpu_ticks > ticks {
            return Err(wasmtime::Error::from(CpuTimeExceeded));
        }
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    store
}

/// Runs one call of a plugin to its end and returns what it completed with.
///
/// # Errors
/// What the handler answered, or a message that names the plugin and the limit or trap that ended the call.
pub async fn run<T: Send>(
    plugin: &Plugin,
    engine: &Engine,
    services: Arc<Services>,
    origin: Origin,
    budget: Budget,
    argument: T,
    body: Body<T>,
) -> Result<Option<Completion>, Error> {
    let _slot = engine.instances.acquire().await.expect("never closed");
    let job = match &origin {
        Origin::Job(job) => Some(job.clone()),
        _ => None,
    };
    let store = store(engine, services, plugin.name.clone(), origin, &plugin.limits, budget);
    // Shared, so that what the guest left in its store can be read after a call that was dropped in the middle.
    let store = AsyncMutex::new(store);
    let called = async {
        let mut store = store.lock().await;
        let handler = plugin.pre.instantiate_async(&mut *store).await?;
        body(&handler, &mut store, argument).await
    };
    let called =
        called.instrument(tracing::debug_span!("plugin", name = &*plugin.name, version = plugin.version));
    let answer = tokio::select! {
        answer = called => answer,
        () = overdue(budget.wall_ms) => {
            let limit = budget.wall_ms;
            return Err(fault(plugin, ErrorKind::Timeout, &format!("took longer than {limit} ms and was stopped")));
        }
        () = ignored_cancel(job.as_deref(), plugin.limits.cancel_grace_ms) => return Err(Error::cancelled()),
    };
    let mut store = store.into_inner();
    let state = store.data_mut();
    match answer {
        Ok(Ok(())) => Ok(state.completion.take()),
        Ok(Err(error)) => Err(error.into()),
        Err(trap) => {
            let refused = state.limiter.refused.take();
            let cause = if trap.is::<CpuTimeExceeded>() {
                return Err(fault(
                    plugin,
                    ErrorKind::Timeout,
                    &format!("used more than {} ms of CPU time and was stopped", budget.cpu_ms),
                ));
            } else if let Some(refused) = refused {
                refused
            } else if let Some(trap) = trap.downcast_ref::<Trap>() {
                format!("trapped: {trap}")
            } else {
                format!("failed: {}", trap.root_cause())
            };
            tracing::warn!(plugin = &*plugin.name, error = format!("{trap:#}"), "plugin fault");
            Err(fault(plugin, ErrorKind::Internal, &cause))
        }
    }
}

fn fault(plugin: &Plugin, kind: ErrorKind, cause: &str) -> Error {
    Error::new(kind, format!("plugin '{}' {} {cause}", plugin.name, plugin.version))
}

async fn overdue(wall_ms: u64) {
    match wall_ms {
        0 => std::future::pending().await,
        ms => tokio::time::sleep(Duration::from_millis(ms)).await,
    }
}

/// Ends when a job was asked to stop and has not done so in time.
async fn ignored_cancel(job: Option<&JobHandle>, grace_ms: u64) {
    match job {
        None => std::future::pending().await,
        Some(job) => {
            job.cancelled().await;
            tokio::time::sleep(Duration::from_millis(grace_ms)).await;
        }
    }
}

impl From<wit::Error> for Error {
    fn from(error: wit::Error) -> Self {
        let kind = match error.kind {
            wit::ErrorKind::InvalidInput => ErrorKind::InvalidInput,
            wit::ErrorKind::NotFound => ErrorKind::NotFound,
            wit::ErrorKind::Denied => ErrorKind::Denied,
            wit::ErrorKind::TooLarge => ErrorKind::TooLarge,
            wit::ErrorKind::Cancelled => ErrorKind::Cancelled,
            wit::ErrorKind::Unavailable => ErrorKind::Unavailable,
            wit::ErrorKind::Internal => ErrorKind::Internal,
        };
        Error::new(kind, error.message)
    }
}

impl From<Error> for wit::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            ErrorKind::InvalidInput | ErrorKind::BadRequest | ErrorKind::UnsupportedMediaType => {
                wit::ErrorKind::InvalidInput
            }
            ErrorKind::NotFound => wit::ErrorKind::NotFound,
            ErrorKind::Denied | ErrorKind::Unauthorized => wit::ErrorKind::Denied,
            ErrorKind::TooLarge => wit::ErrorKind::TooLarge,
            ErrorKind::Cancelled => wit::ErrorKind::Cancelled,
            ErrorKind::Busy | ErrorKind::Unavailable | ErrorKind::Timeout => wit::ErrorKind::Unavailable,
            ErrorKind::MethodNotAllowed | ErrorKind::Internal => wit::ErrorKind::Internal,
        };
        wit::Error { kind, message: error.message }
    }
}
