//! Which device computes.

use std::sync::Arc;

use reverie_kernels::{
    Backend as _, Either, Numerics,
    cpu::CpuBackend,
    gpu::{
        Device as _, GpuBackend,
        cuda::{Cuda, Warming},
        variants,
    },
    nvml,
};

use crate::config::{Attention, Backend, Config, Execution};

/// The CPU or a GPU.
pub type AnyBackend = Either<CpuBackend, Numerics<GpuBackend<Cuda>>>;

/// The device that the configuration names. `auto` falls back to the CPU and logs why.
///
/// # Errors
/// What is wrong with the GPU that is named, and what to set instead.
pub fn open(config: &Config) -> Result<Arc<AnyBackend>, String> {
    let Chosen { backend, no_gpu } = choose(&config.execution, config.diffusion.max_batch)?;
    if let Some(error) = no_gpu {
        tracing::info!("backend: no GPU is used: {error}");
    } else if let Either::Second(gpu) = &*backend {
        tracing::info!("backend: {}", gpu.name());
        if config.execution.numerics {
            tracing::warn!(
                "execution.numerics = true: each result is looked at, and all takes many times longer"
            );
        }
    }
    Ok(backend)
}

/// A device, and why.
pub struct Chosen {
    pub backend: Arc<AnyBackend>,
    /// Why `auto` has fallen back to the CPU, where it has.
    pub no_gpu: Option<reverie_kernels::Error>,
}

/// The device that the configuration names, for batches of up to `max_batch` pictures.
///
/// # Errors
/// Those of [`open`].
pub fn choose(execution: &Execution, max_batch: usize) -> Result<Chosen, String> {
    let budget = Some(execution.vram_budget_mb << 20).filter(|budget| *budget > 0);
    let wgmma = execution.attention == Attention::Wgmma;
    // Each picture of a batch has one entry or, with guidance, two; as many again for a second size of pictures.
    let recordings = 4 * max_batch;
    let checked = |device| Numerics::new(GpuBackend::new(device).keeping(recordings), execution.numerics);
    let cuda = |number| Cuda::new(number, budget, wgmma).map(|gpu| Arc::new(Either::Second(checked(gpu))));
    let (backend, no_gpu) = match execution.backend {
        Backend::Cpu => (cpu(execution.threads), None),
        Backend::Cuda(number) => {
            let backend = cuda(number).map_err(|error| {
                let other = if wgmma { ", execution.attention = \"mma\" on every GPU" } else { "" };
                format!(
                    "execution.backend = \"cuda:{number}\": {error}; \"cpu\" and \"auto\" work without{other}"
                )
            })?;
            (backend, None)
        }
        Backend::Auto => match cuda(0) {
            Ok(backend) => (backend, None),
            Err(error) => (cpu(execution.threads), Some(error)),
        },
    };
    Ok(Chosen { backend, no_gpu })
}

/// The same device with a lane of its own, so that what one model computes may overlap with what others do. On the CPU, where
/// each computation takes all threads, there is only the one.
///
/// # Errors
/// Those of the device.
pub fn lane(backend: &Arc<AnyBackend>) -> reverie_kernels::Result<Arc<AnyBackend>> {
    match &**backend {
        Either::First(_) => Ok(backend.clone()),
        Either::Second(gpu) => Ok(Arc::new(Either::Second(gpu.lane()?))),
    }
}

/// Has a GPU's driver compile all kernels in the background, so that no picture waits for them; for as long as what is returned
/// is kept. None on the CPU.
pub fn warm(backend: &AnyBackend) -> Option<Warming> {
    let Either::Second(gpu) = backend else { return None };
    let cuda = gpu.device();
    let used = variants().into_iter().filter(|variant| cuda.wgmma() || !variant.needs_sm_90a());
    // The other half is for the first requests.
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
    Some(cuda.warm(used.collect(), threads))
}

/// How many may compute on it at the same time.
pub fn lanes(backend: &AnyBackend, execution: &Execution) -> usize {
    match backend {
        Either::First(_) => 1,
        Either::Second(_) => execution.lanes,
    }
}

/// How full, busy and warm the GPU is that computes, or on the CPU the machine's first one; none where there is none, or
/// NVIDIA's driver does not say.
pub fn status(backend: &AnyBackend) -> Option<nvml::Status> {
    nvml::status(match backend {
        Either::First(_) => nvml::Gpu::First,
        Either::Second(gpu) => nvml::Gpu::PciBusId(gpu.device().pci_bus_id()?),
    })
}

/// Why the GPU that computes is of no more use, once it is not: only a new process gets it back.
pub fn lost(backend: &AnyBackend) -> Option<&str> {
    match backend {
        Either::First(_) => None,
        Either::Second(gpu) => gpu.device().lost(),
    }
}

/// The CPU with `threads` threads; 0: one a core.
pub fn cpu(threads: usize) -> Arc<AnyBackend> {
    Arc::new(Either::First(CpuBackend::new(threads)))
}
