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
    memory::{Memory, Part},
    resources::Resources,
};
use crate::{config::Limits, error::ErrorKind, hub::Client, jobs::JobHandle, outbound::Outbound};

/// Entries of WASI's own resources that a call may have: those of a few dozen requests, and more where it may have more
/// connections. Nothing else counts them.
const WASI_ENTRIES: usize = 128;
const WASI_ENTRIES_PER_CONNECTION: usize = 16;

/// The most bytes of randomness at once, by WASI as by the contract's `random.bytes`.
const WASI_RANDOM_BYTES: u64 = 65536;

/// Bytes of an element of a table, at most.
const TABLE_ELEMENT: usize = 16;

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
    /// What the call has of memory; whatever the host holds for its guest is taken from it.
    pub memory: Memory,
    pub resources: Resources,
    /// WASI's own resources, of a bounded number.
    pub wasi_table: ResourceTable,
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
    /// The memory of what the job completed with.
    pub completion_part: Option<Part>,
    /// Whether the guest was told that its job was cancelled.
    pub knows_of_cancel: bool,
    pub log_lines_per_minute: u32,
    limiter: Limiter,
    cpu_ms: u64,
    cpu_ticks: u64,
}

impl CallState {
    /// Which limit on memory or tables the guest met, if any, and the kind of the error that ends its call.
    pub fn refused(&mut self) -> Option<(ErrorKind, String)> {
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
        // Nothing is granted: no files, sockets, arguments, environment or standard streams. A socket that leads nowhere would
        // still take one of the process's descriptors.
        let build = || {
            let mut builder = WasiCtx::builder();
            builder.allow_tcp(false).allow_udp(false).max_random_size(WASI_RANDOM_BYTES).build()
        };
        WasiCtxView { ctx: self.wasi.get_or_insert_with(build), table: &mut self.wasi_table }
    }
}

/// Enforces memory and table limits, and remembers that it did: the guest only sees a failed `memory.grow`.
struct Limiter {
    /// The guest's linear memories and tables.
    own: Part,
    table_elements: usize,
    instances: usize,
    refused: Option<(ErrorKind, String)>,
}

impl Limiter {
    /// Whether the guest gets so many bytes more.
    fn grow(&mut self, more: usize) -> bool {
        let grown = self.own.grow(more);
        if let Err(exhausted) = &grown {
            self.refused = Some((exhausted.kind(), exhausted.to_string()));
        }
        grown.is_ok()
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current)))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.table_elements {
            let cause = format!("ran out of table space (table_elements = {})", self.table_elements);
            self.refused = Some((ErrorKind::Internal, cause));
            return Ok(false);
        }
        Ok(self.grow(desired.saturating_sub(current) * TABLE_ELEMENT))
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
    let limit = limits.memory_mb << 20;
    let memory = Memory::new(plugin.clone(), limit, services.memory.clone());
    let limiter = Limiter {
        own: memory.nothing(),
        table_elements: limits.table_elements,
        instances: limits.instances,
        refused: None,
    };
    let mut wasi_table = ResourceTable::new();
    wasi_table.set_max_capacity(WASI_ENTRIES + WASI_ENTRIES_PER_CONNECTION * limits.connections);
    let state = CallState {
        memory,
        resources: Resources::default(),
        wasi_table,
        wasi: None,
        http: None,
        outbound: None,
        services,
        plugin,
        origin,
        completion: None,
        completion_part: None,
        knows_of_cancel: false,
        log_lines_per_minute: limits.log_lines_per_minute,
        limiter,
        cpu_ms,
        cpu_ticks: 0,
    };
    let mut store = Store::new(&engine.wasmtime, state);
    // What a guest passes to the host is copied before the host function sees it: no more than it may have at all, though the same
    // bytes can be named many times over.
    store.set_hostcall_fuel(limit);
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
