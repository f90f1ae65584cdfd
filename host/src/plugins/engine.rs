//! The wasmtime engine all plugins share, its clock, and the threads that run guest code.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reverie_crash::{blame, vital};
use tokio::{runtime::Runtime, sync::Semaphore};
use wasmtime::{
    Cache, CacheConfig, Config, Enabled, Engine as Wasmtime, InstanceAllocationStrategy,
    PoolingAllocationConfig,
    component::{HasSelf, Linker},
};

use super::{bindings, instance::CallState};
use crate::config;

/// One tick of guest CPU time. Also how long guest code can keep a thread of the network, or one of its own from others.
pub const TICK: Duration = Duration::from_millis(5);

/// Core instances, memories and tables set aside for each component instance; `plugin_runtime.limits.instances` can lower
/// what one plugin gets of them.
const CORE_INSTANCES: u32 = 32;

/// Memory that a slot of the pool keeps between calls: what a small handler touches, its 1 MiB of stack included.
const RESIDENT_BYTES: usize = 2 << 20;

/// Compiles and runs components.
pub struct Engine {
    pub wasmtime: Wasmtime,
    pub linker: Linker<CallState>,
    /// Jobs, and messages that take longer than a tick, run here, so that a busy plugin never delays the network.
    runtime: Option<Runtime>,
    /// One permit for each slot of the instance pool.
    pub instances: Arc<Semaphore>,
    /// Ticks of the clock so far.
    ticks: Arc<AtomicU64>,
    /// Slots that are left to calls: below it no instance is made ahead of its call.
    pub reserve: usize,
}

impl Engine {
    /// # Errors
    /// A message that says which setting or resource failed.
    pub fn new(config: &config::PluginRuntime) -> Result<Self, String> {
        let mut pool = PoolingAllocationConfig::default();
        let count = config.max_instances;
        pool.total_component_instances(count)
            .total_core_instances(count * CORE_INSTANCES)
            .max_core_instances_per_component(CORE_INSTANCES)
            .total_memories(count * 2)
            .max_memories_per_component(2)
            .total_tables(count * 8)
            .max_tables_per_component(16)
            .total_stacks(count)
            .table_elements(200_000)
            // What a call has touched is reset by copying, where the kernel can say what that is, and stays mapped: the next
            // call takes no page faults.
            .pagemap_scan(Enabled::Auto)
            .linear_memory_keep_resident(RESIDENT_BYTES)
            .table_keep_resident(RESIDENT_BYTES)
            .max_memory_size(1024 << 20);

        let mut settings = Config::new();
        settings
            .epoch_interruption(true)
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
            .wasm_component_model(true);
        if !config.cache_dir.as_os_str().is_empty() {
            let folder = &config.cache_dir;
            let at =
                |e: &dyn std::fmt::Display| format!("plugin_runtime.cache_dir '{}': {e}", folder.display());
            std::fs::create_dir_all(folder).map_err(|e| at(&e))?;
            let folder = folder.canonicalize().map_err(|e| at(&e))?;
            let mut cache = CacheConfig::new();
            cache.with_directory(folder);
            settings.cache(Some(Cache::new(cache).map_err(|e| at(&e))?));
        }
        let wasmtime = Wasmtime::new(&settings).map_err(|e| format!("wasmtime: {e:#}"))?;

        let ticking = wasmtime.weak();
        let ticks = Arc::new(AtomicU64::new(0));
        let counted = ticks.clone();
        let clock = move || {
            while let Some(engine) = ticking.upgrade() {
                engine.increment_epoch();
                drop(engine);
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(TICK);
            }
        };
        vital::thread("plugin-epochs", clock).map_err(|e| e.to_string())?;

        let mut linker = Linker::new(&wasmtime);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(|e| format!("wasmtime-wasi: {e:#}"))?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)
            .map_err(|e| format!("wasmtime-wasi-http: {e:#}"))?;
        bindings::Plugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)
            .map_err(|e| format!("reverie:handler: {e:#}"))?;

        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        if config.threads > 0 {
            runtime.worker_threads(config.threads);
        }
        let runtime = runtime
            .thread_name("plugins")
            .on_thread_start(blame::own_thread)
            .enable_all()
            .build()
            .map_err(|e| e.to_string())?;
        let instances = Arc::new(Semaphore::new(count as usize));
        Ok(Self { wasmtime, linker, runtime: Some(runtime), instances, ticks, reserve: count as usize / 2 })
    }

    /// Where guest calls are spawned.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        self.runtime.as_ref().expect("taken on drop alone").handle()
    }

    /// Ready when the threads have run a task, and the clock has ticked.
    pub async fn answers(&self) {
        let ticks = self.ticks.load(Ordering::Relaxed);
        // It fails when the runtime has been shut down, as at the end of the process.
        if self.runtime().spawn(async {}).await.is_err() {
            std::future::pending::<()>().await;
        }
        while self.ticks.load(Ordering::Relaxed) == ticks {
            tokio::time::sleep(TICK).await;
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A runtime may not be dropped, waiting for its threads, inside another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
