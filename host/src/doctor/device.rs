//! The CPU, the driver, the GPUs, and which of them computes.

use std::path::Path;

use reverie_kernels::{
    Backend as _, Either,
    cpu::Level as Simd,
    gpu::cuda::{Cuda, Properties},
    nvml,
};
use serde::Serialize;

use super::{Area, disk};
use crate::{
    config::{Attention, Backend, Execution},
    execution::backend::{self, Chosen},
};

/// Where less is free on a GPU, hardly a model fits.
const LITTLE: u64 = 2 << 30;

/// What can compute.
#[derive(Serialize)]
pub struct Devices {
    pub cpu: Cpu,
    /// None without an NVIDIA driver.
    pub driver: Option<Driver>,
    pub gpus: Vec<Gpu>,
    /// What `execution.backend = "auto"` gives.
    pub auto: String,
    /// What the configured backend gives; none where it fails.
    pub backend: Option<String>,
    /// The number of the GPU that the configured backend computes on.
    #[serde(skip)]
    pub used: Option<usize>,
}

#[derive(Serialize)]
pub struct Cpu {
    /// Empty where the system does not say.
    pub name: String,
    /// That this process may use.
    pub cores: usize,
    /// `Portable`, `Avx2` or `Avx512`.
    pub instructions: String,
    /// That the backend takes.
    pub threads: usize,
    /// Bytes; 0 where the system does not say.
    pub memory: u64,
    /// Bytes that are not in use.
    pub available: u64,
}

#[derive(Serialize)]
pub struct Driver {
    /// Such as `550.54.15`; none where NVML does not say.
    pub version: Option<String>,
    /// The version of CUDA that it knows, as `12.4`.
    pub cuda: String,
}

#[derive(Serialize)]
pub struct Gpu {
    /// As `execution.backend = "cuda:N"` takes it.
    pub number: usize,
    pub name: String,
    /// Such as `9.0`.
    pub compute_capability: String,
    pub multiprocessors: u32,
    /// Bytes.
    pub memory: u64,
    /// Bytes that nobody holds; none where NVML does not say.
    pub free: Option<u64>,
    pub pci_bus_id: String,
    /// Whether `execution.attention = "wgmma"` works there.
    pub wgmma: bool,
    /// Why it can't be used.
    pub refused: Option<String>,
}

/// How much memory there is for models.
#[derive(Debug, Clone)]
pub struct Room {
    /// `the GPU` or `this machine`.
    pub of: &'static str,
    /// 0 where it is not known.
    pub bytes: u64,
}

impl Devices {
    /// The memory of the device that computes.
    pub fn room(&self) -> Room {
        match self.gpus.iter().find(|gpu| Some(gpu.number) == self.used) {
            Some(gpu) => Room { of: "the GPU", bytes: gpu.memory },
            None => Room { of: "this machine", bytes: self.cpu.memory },
        }
    }
}

pub fn check(execution: &Execution, area: &mut Area<'_>) -> Devices {
    let cpu = cpu(execution, area);
    let (driver, gpus) = gpus(execution, area);
    let auto = backend::choose(&Execution { backend: Backend::Auto, ..execution.clone() }, 1);
    let auto = match auto {
        Ok(Chosen { backend, no_gpu: None }) => backend.name().to_owned(),
        Ok(Chosen { backend, no_gpu: Some(why) }) => {
            format!("{}, as no GPU can be used: {why}", backend.name())
        }
        Err(error) => error,
    };
    let set = String::from(execution.backend);
    let (backend, used) = match backend::choose(execution, 1) {
        Ok(Chosen { backend, no_gpu }) => {
            let name = backend.name().to_owned();
            match no_gpu {
                None => area.ok(format!("execution.backend = {set:?} computes on: {name}")),
                Some(why) => fallen_back(&name, &why.to_string(), !gpus.is_empty(), execution, area),
            }
            if execution.backend != Backend::Auto {
                area.ok(format!("\"auto\" would compute on: {auto}"));
            }
            let used = match (&*backend, execution.backend) {
                (Either::First(_), _) => None,
                (Either::Second(_), Backend::Cuda(number)) => Some(number),
                (Either::Second(_), _) => Some(0),
            };
            (Some(name), used)
        }
        Err(error) => {
            area.error(
                error,
                format!("set execution.backend to one that works: \"auto\" would compute on {auto}"),
            );
            (None, None)
        }
    };
    Devices { cpu, driver, gpus, auto, backend, used }
}

/// What to say where `auto` has fallen back to the CPU.
fn fallen_back(name: &str, why: &str, has_gpus: bool, execution: &Execution, area: &mut Area<'_>) {
    let found = format!("execution.backend = \"auto\" computes on: {name}; no GPU is used: {why}");
    if has_gpus && execution.attention == Attention::Wgmma {
        area.warning(found, "set execution.attention = \"mma\", which every GPU has");
    } else if has_gpus || has_nvidia_hardware() {
        area.warning(
            found,
            "install NVIDIA's driver (470 or newer), and in a container pass the GPU to it (docker run --gpus all); \
             a GPU of compute capability 8.0 or more is needed",
        );
    } else {
        area.note(found, "nothing, unless this machine is to have an NVIDIA GPU: then install its driver");
    }
}

/// Whether there is a display controller of NVIDIA's, with a driver or without.
fn has_nvidia_hardware() -> bool {
    let devices = std::fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    let is = |device: &Path, file: &str, begins: &str| {
        std::fs::read_to_string(device.join(file)).is_ok_and(|text| text.starts_with(begins))
    };
    devices
        .into_iter()
        .any(|entry| is(&entry.path(), "vendor", "0x10de") && is(&entry.path(), "class", "0x03"))
}

fn cpu(execution: &Execution, area: &mut Area<'_>) -> Cpu {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if execution.threads == 0 { cores } else { execution.threads };
    let level = Simd::detect();
    let (memory, available) = (memory("MemTotal:"), memory("MemAvailable:"));
    let cpu = Cpu { name: cpu_name(), cores, instructions: format!("{level:?}"), threads, memory, available };
    let named = if cpu.name.is_empty() { String::new() } else { format!(" ({})", cpu.name) };
    let memory = match memory {
        0 => String::new(),
        _ => format!(", {} of memory ({} available)", disk::bytes(memory), disk::bytes(available)),
    };
    area.ok(format!(
        "CPU{named}: {cores} cores for this process, instructions {}, {threads} threads{memory}",
        cpu.instructions
    ));
    if threads > cores {
        area.warning(
            format!("execution.threads = {threads} is more than the {cores} cores that this process may use"),
            "set execution.threads = 0: one thread a core",
        );
    }
    if cfg!(target_arch = "x86_64") && level == Simd::Portable {
        area.note(
            "this CPU has neither AVX2 nor AVX-512: it computes slowly",
            "compute on a GPU or on a newer machine; in a virtual machine pass the host's CPU through",
        );
    }
    cpu
}

/// Bytes of a line of `/proc/meminfo`; 0 where the system does not say.
fn memory(line: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes =
        text.lines().find_map(|it| it.strip_prefix(line)?.split_whitespace().next()?.parse().ok());
    kibibytes.map_or(0, |count: u64| count << 10)
}

fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map(|(_, name)| name.trim().to_owned()).unwrap_or_default()
}

/// The driver and its GPUs. Where there is none, what is said of the backend says why.
fn gpus(execution: &Execution, area: &mut Area<'_>) -> (Option<Driver>, Vec<Gpu>) {
    let Ok(found) = Cuda::list() else { return (None, Vec::new()) };
    let driver = found.first().map(|gpu| {
        let [major, minor] = gpu.driver;
        Driver { version: nvml::driver_version(), cuda: format!("{major}.{minor}") }
    });
    if let Some(Driver { version, cuda }) = &driver {
        let version = version.as_deref().unwrap_or("of a version that NVML does not say");
        area.ok(format!("NVIDIA's driver {version}, CUDA {cuda}"));
    }
    let gpus: Vec<Gpu> = found.into_iter().map(Gpu::from).collect();
    for gpu in &gpus {
        tell(gpu, execution, area);
    }
    (driver, gpus)
}

impl From<Properties> for Gpu {
    fn from(gpu: Properties) -> Self {
        let [major, minor] = gpu.compute_capability;
        Self {
            number: gpu.ordinal,
            compute_capability: format!("{major}.{minor}"),
            multiprocessors: gpu.multiprocessors,
            memory: gpu.memory_total,
            free: gpu.memory_free,
            refused: gpu.too_old(),
            wgmma: gpu.lacks_wgmma().is_none(),
            name: gpu.name,
            pci_bus_id: gpu.pci_bus_id,
        }
    }
}

fn tell(gpu: &Gpu, execution: &Execution, area: &mut Area<'_>) {
    let Gpu { number, name, compute_capability, multiprocessors, pci_bus_id, .. } = gpu;
    let free = gpu.free.map_or(String::new(), |free| format!(" ({} free)", disk::bytes(free)));
    let found = format!(
        "GPU {number}: {name}, compute capability {compute_capability}, {multiprocessors} multiprocessors, {} of \
         memory{free}, slot {pci_bus_id}",
        disk::bytes(gpu.memory)
    );
    let used = match execution.backend {
        Backend::Cpu => false,
        Backend::Auto => *number == 0,
        Backend::Cuda(own) => own == *number,
    };
    match &gpu.refused {
        Some(why) => area.note(
            format!("{found}; it can't be used: {why}"),
            "use another GPU (CUDA_VISIBLE_DEVICES, execution.backend = \"cuda:N\"), or the CPU",
        ),
        None => area.ok(found),
    }
    let budget = execution.vram_budget_mb << 20;
    if used && budget > gpu.memory {
        area.warning(
            format!("execution.vram_budget_mb = {} is more than GPU {number} has", execution.vram_budget_mb),
            "set it to 0: nine tenths of what is free when the server starts",
        );
    }
    if used && gpu.memory > LITTLE && gpu.free.is_some_and(|free| free < LITTLE) {
        area.warning(
            format!("other processes hold nearly all memory of GPU {number}"),
            "end them (nvidia-smi lists them): models will not fit",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{Level, Report};

    #[test]
    fn a_gpu_of_little_use_is_told_with_what_to_do() {
        let defaults = crate::config::load(&Default::default()).unwrap().execution;
        let gpu = |free, refused: Option<&str>| Gpu {
            number: 0,
            name: "a GPU".into(),
            compute_capability: "8.6".into(),
            multiprocessors: 28,
            memory: 12 << 30,
            free,
            pci_bus_id: "0000:01:00.0".into(),
            wgmma: false,
            refused: refused.map(str::to_owned),
        };
        let told = |gpu: &Gpu, execution: &Execution| {
            let mut report = Report::default();
            tell(gpu, execution, &mut report.area("device"));
            report.findings.iter().map(|finding| finding.level).max().unwrap()
        };
        assert_eq!(told(&gpu(Some(11 << 30), None), &defaults), Level::Ok);
        assert_eq!(told(&gpu(Some(1 << 30), None), &defaults), Level::Warning);
        assert_eq!(told(&gpu(None, Some("too old")), &defaults), Level::Note);
        let greedy = Execution { vram_budget_mb: 20_000, ..defaults };
        assert_eq!(told(&gpu(Some(11 << 30), None), &greedy), Level::Warning);
        let other = Execution { backend: Backend::Cuda(1), ..greedy };
        assert_eq!(told(&gpu(Some(1 << 30), None), &other), Level::Ok);
    }
}
