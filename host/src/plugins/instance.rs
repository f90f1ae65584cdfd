//! An instance of a plugin with its limits: made ahead of the call that it serves, and used for that one alone.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline, component::ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::{
    Plugin, Services,
    bindings::Plugin as World,
    call::Completion,
    engine::{Engine, TICK},
    imports::Http,
};
use crate::{config::Limits, hub::Client, jobs::JobHandle, outbound::Outbound};

/// Whose request the call serves.
pub enum Origin {
    /// The manifest, read by the loader.
    Loader,
    Message {
        client: Arc<Client>,
        id: Option<Value>,
    },
    Job(Arc<JobHandle>),
}

/// What the host functions of a call see.
pub struct CallState {
    pub table: ResourceTable,
    /// Made when a guest first calls into WASI: most never do.
    wasi: Option<WasiCtx>,
    /// Made when a guest first speaks HTTP.
    pub http: Option<Http>,
    outbound: Option<Arc<Outbound>>,
    pub services: Arc<Services>,
    /// The plugin's name; empty while its manifest is being read.
    pub plugin: Arc<str>,
    pub origin: Origin,
    pub completion: Option<Completion>,
    /// Whether the guest was told that its job was cancelled.
    pub knows_of_cancel: bool,
    limiter: Limiter,
    cpu_ms: u64,
    cpu_ticks: u64,
}

impl CallState {
    /// Which limit on memory or tables the guest met, if any.
    pub fn refused(&mut self) -> Option<String> {
        self.limiter.refused.take()
    }

    /// What the call may reach of other servers.
    pub fn outbound(&mut self) -> Arc<Outbound> {
        let made = || Arc::new(Outbound::new(&self.services.config, self.plugin.clone()));
        self.outbound.get_or_insert_with(made).clone()
    }

    /// Whose request the call serves, where that is told apart.
    pub fn tenant(&self) -> Option<&str> {
        match &self.origin {
            Origin::Loader => None,
            Origin::Message { client, .. } => client.peer.caller.tenant(),
            Origin::Job(job) => job.spec.owner.as_deref().and_then(reverie_access::tenant_of),
        }
    }

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
pub struct Allowance {
    pub cpu_ms: u64,
    /// 0: no limit.
    pub wall_ms: u64,
}

#[derive(Debug)]
pub struct CpuTimeExceeded;

impl std::fmt::Display for CpuTimeExceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CPU time exceeded")
    }
}

impl std::error::Error for CpuTimeExceeded {}

/// A store for one call, with all limits armed; `cpu_ms` of 0 is no limit.
pub fn store(
    engine: &Engine,
    services: Arc<Services>,
    plugin: Arc<str>,
    origin: Origin,
    limits: &Limits,
    cpu_ms: u64,
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
        http: None,
        outbound: None,
        services,
        plugin,
        origin,
        completion: None,
        knows_of_cancel: false,
        limiter,
        cpu_ms,
        cpu_ticks: 0,
    };
    let mut store = Store::new(&engine.wasmtime, state);
    store.limiter(|state| &mut state.limiter);
    store.set_epoch_deadline(1);
    // A tick is counted when guest code is found running at its end, so time spent in the host is nearly free.
    store.epoch_deadline_callback(|mut context| {
        let state = context.data_mut();
        state.cpu_ticks += 1;
        let ticks = state.cpu_ms.div_ceil(TICK.as_millis() as u64) + 1;
        if state.cpu_ms > 0 && state.cpu_ticks > ticks {
            return Err(wasmtime::Error::from(CpuTimeExceeded));
        }
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    store
}

/// An instance that waits for its call.
pub struct Ready {
    pub store: Store<CallState>,
    pub handler: World,
    pub slot: OwnedSemaphorePermit,
}

/// The next call's instance of a plugin. Linking one costs more than a short handler's work, so it is done between calls.
#[derive(Default)]
pub struct Warm(Mutex<Option<Box<Ready>>>);

impl Warm {
    /// The instance, now serving `origin`.
    pub fn take(&self, origin: &mut Option<Origin>, cpu_ms: u64) -> Option<Ready> {
        let mut ready = *self.0.lock().take()?;
        let state = ready.store.data_mut();
        state.origin = origin.take()?;
        state.cpu_ms = cpu_ms;
        state.cpu_ticks = 0;
        ready.store.set_epoch_deadline(1);
        Some(ready)
    }

    /// Makes an instance for the next call, unless there is one or the pool is needed for calls that run.
    pub async fn fill(&self, plugin: &Plugin, engine: &Engine, services: &Arc<Services>) {
        if self.0.lock().is_some() || engine.instances.available_permits() < engine.reserve {
            return;
        }
        let Ok(slot) = engine.instances.clone().try_acquire_owned() else { return };
        let mut store =
            store(engine, services.clone(), plugin.name.clone(), Origin::Loader, &plugin.limits, 0);
        // Where it fails, the call that makes its own says why.
        if let Ok(handler) = plugin.pre.instantiate_async(&mut store).await {
            *self.0.lock() = Some(Box::new(Ready { store, handler, slot }));
        }
    }
}
