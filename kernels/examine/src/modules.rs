//! What the driver makes of each kernel.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use reverie_kernels::gpu::{self, Variant, cuda::Cuda};
use serde::Serialize;

/// An entry of a variant, as the driver compiled it.
#[derive(Debug, Clone, Serialize)]
pub struct Module {
    /// The file and its constants, such as `gemm BM=128 BN=64`.
    pub variant: String,
    /// The name of the kernel.
    pub entry: String,
    /// Milliseconds that the driver took for the variant.
    pub compile_ms: f32,
    /// 32-bit registers of a thread.
    pub registers: u32,
    /// Bytes of local memory of a thread: what did not fit into registers.
    pub local_bytes: u32,
    /// Bytes of shared memory of a block, static and dynamic.
    pub shared_bytes: u32,
    /// Threads of a block.
    pub threads: u32,
    /// Blocks that a multiprocessor runs at a time.
    pub blocks_per_multiprocessor: u32,
    /// Why the driver refused it; the figures are 0 then.
    pub error: Option<String>,
}

impl Module {
    fn refused(variant: &Variant, error: String) -> Self {
        Self {
            variant: variant.to_string(),
            entry: String::new(),
            compile_ms: 0.0,
            registers: 0,
            local_bytes: 0,
            shared_bytes: 0,
            threads: 0,
            blocks_per_multiprocessor: 0,
            error: Some(error),
        }
    }
}

/// Compiles every variant that the device can run, on so many threads at a time. Those for `wgmma` are left out where it has no
/// such instructions. `progress` is called with how many are done of how many there are, from any of the threads.
///
/// What this process compiled before is not compiled again; where the driver has machine code on disk, `compile_ms` is
/// the time for reading it (`CUDA_CACHE_DISABLE=1` keeps it from that).
pub fn compile_all(cuda: &Cuda, threads: usize, progress: &(dyn Fn(usize, usize) + Sync)) -> Vec<Module> {
    let wgmma = cuda.properties().lacks_wgmma().is_none();
    let mut variants = gpu::variants();
    variants.retain(|variant| wgmma || !variant.needs_sm_90a());
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, variants.len()) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(variant) = variants.get(number) else { break };
                    let modules = compile(cuda, variant);
                    found.lock().push((number, modules));
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, variants.len());
                }
            });
        }
    });
    let mut found = found.into_inner();
    found.sort_by_key(|(number, _)| *number);
    found.into_iter().flat_map(|(_, modules)| modules).collect()
}

/// A variant's entries; one with the error where it is refused.
fn compile(cuda: &Cuda, variant: &Variant) -> Vec<Module> {
    let compiled = match cuda.compile(variant) {
        Ok(compiled) => compiled,
        Err(error) => return vec![Module::refused(variant, error.to_string())],
    };
    let module = |entry: gpu::cuda::Entry| Module {
        variant: variant.to_string(),
        entry: entry.name,
        compile_ms: compiled.milliseconds,
        registers: entry.registers,
        local_bytes: entry.local_bytes,
        shared_bytes: entry.static_shared_bytes + entry.dynamic_shared_bytes,
        threads: entry.threads,
        blocks_per_multiprocessor: entry.blocks_per_multiprocessor,
        error: None,
    };
    compiled.entries.into_iter().map(module).collect()
}
