//! How much memory an NVIDIA GPU has left, how busy and how warm it is: through NVML, the management library
//! that comes with the driver. It is loaded at run time; a machine without it simply has no figures.
//!
//! Signatures and structures are those of NVIDIA's `nvml.h`.

use libloading::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// Memory of a GPU, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Not allocated by any process.
    pub free_mb: u64,
    /// Installed.
    pub total_mb: u64,
}

/// Figures of a GPU at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Its memory.
    pub memory: Memory,
    /// Per cent of the last sample period (up to a second) in which a kernel ran, where the GPU tells.
    pub utilisation: Option<u32>,
    /// Degrees Celsius of the chip, where the GPU tells.
    pub temperature: Option<u32>,
}

/// Which GPU. NVML counts in an order of its own, and does not heed `CUDA_VISIBLE_DEVICES`: CUDA's numbers are not its.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gpu<'a> {
    /// The one in the slot of the lowest address.
    First,
    /// The one in this slot, such as `0000:65:00.0`.
    PciBusId(&'a str),
}

/// A GPU's figures; `None` without an NVIDIA driver or without such a GPU.
pub fn status(gpu: Gpu<'_>) -> Option<Status> {
    let nvml = nvml()?;
    let device = nvml.device(gpu)?;
    Some(Status {
        memory: nvml.memory(device)?,
        utilisation: nvml.utilisation(device),
        temperature: nvml.temperature(device),
    })
}

/// The driver's version, such as `550.54.15`; `None` without an NVIDIA driver.
pub fn driver_version() -> Option<String> {
    nvml()?.driver_version()
}

type Device = *mut c_void;
/// 0 is success.
type Code = c_int;

/// `nvmlMemory_t`, in bytes.
#[derive(Default)]
#[repr(C)]
struct RawMemory {
    total: u64,
    free: u64,
    used: u64,
}

/// `nvmlUtilization_t`, in per cent.
#[derive(Default)]
#[repr(C)]
struct RawUtilisation {
    gpu: c_uint,
    memory: c_uint,
}

/// `NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE`
const VERSION_BYTES: usize = 80;

/// `NVML_TEMPERATURE_GPU`
const SENSOR_GPU: c_int = 0;

struct Nvml {
    device_by_index: unsafe extern "C" fn(c_uint, *mut Device) -> Code,
    device_by_pci_bus_id: unsafe extern "C" fn(*const c_char, *mut Device) -> Code,
    memory_info: unsafe extern "C" fn(Device, *mut RawMemory) -> Code,
    utilisation_rates: Option<unsafe extern "C" fn(Device, *mut RawUtilisation) -> Code>,
    temperature: Option<unsafe extern "C" fn(Device, c_int, *mut c_uint) -> Code>,
    driver_version: Option<unsafe extern "C" fn(*mut c_char, c_uint) -> Code>,
    /// Keeps the functions above loaded.
    _library: Library,
}

/// NVML, loaded and initialised at the first call, for as long as the process lives.
fn nvml() -> Option<&'static Nvml> {
    static NVML: OnceLock<Option<Nvml>> = OnceLock::new();
    NVML.get_or_init(Nvml::load).as_ref()
}

#[allow(unsafe_code)]
impl Nvml {
    fn load() -> Option<Self> {
        let name = if cfg!(windows) { "nvml.dll" } else { "libnvidia-ml.so.1" };
        // SAFETY: the driver's library has no initialisers with preconditions; the symbols have the
        // signatures of `nvml.h`, and the function pointers live no longer than the library beside them.
        unsafe {
            let library = Library::new(name).ok()?;
            let init = *library.get::<unsafe extern "C" fn() -> Code>(b"nvmlInit_v2\0").ok()?;
            if init() != 0 {
                return None;
            }
            Some(Self {
                device_by_index: *library.get(b"nvmlDeviceGetHandleByIndex_v2\0").ok()?,
                device_by_pci_bus_id: *library.get(b"nvmlDeviceGetHandleByPciBusId_v2\0").ok()?,
                memory_info: *library.get(b"nvmlDeviceGetMemoryInfo\0").ok()?,
                utilisation_rates: library.get(b"nvmlDeviceGetUtilizationRates\0").ok().map(|f| *f),
                temperature: library.get(b"nvmlDeviceGetTemperature\0").ok().map(|f| *f),
                driver_version: library.get(b"nvmlSystemGetDriverVersion\0").ok().map(|f| *f),
                _library: library,
            })
        }
    }

    fn device(&self, gpu: Gpu<'_>) -> Option<Device> {
        let mut device = std::ptr::null_mut();
        let code = match gpu {
            // SAFETY: the library is initialised; the pointer is to a local.
            Gpu::First => unsafe { (self.device_by_index)(0, &mut device) },
            Gpu::PciBusId(id) => {
                let id = CString::new(id).ok()?;
                // SAFETY: as above; the text ends in a zero.
                unsafe { (self.device_by_pci_bus_id)(id.as_ptr(), &mut device) }
            }
        };
        (code == 0).then_some(device)
    }

    fn memory(&self, device: Device) -> Option<Memory> {
        let mut raw = RawMemory::default();
        // SAFETY: the handle came from the library; the pointer is to a local of the right layout.
        let code = unsafe { (self.memory_info)(device, &mut raw) };
        (code == 0).then_some(Memory { free_mb: raw.free >> 20, total_mb: raw.total >> 20 })
    }

    fn driver_version(&self) -> Option<String> {
        let mut bytes = [0u8; VERSION_BYTES];
        // SAFETY: the library is initialised; as many bytes as are said.
        let code = unsafe { (self.driver_version?)(bytes.as_mut_ptr().cast(), VERSION_BYTES as c_uint) };
        let text = CStr::from_bytes_until_nul(&bytes).ok()?.to_str().ok()?;
        (code == 0 && !text.is_empty()).then(|| text.to_owned())
    }

    fn utilisation(&self, device: Device) -> Option<u32> {
        let mut raw = RawUtilisation::default();
        // SAFETY: as in `memory`.
        let code = unsafe { (self.utilisation_rates?)(device, &mut raw) };
        (code == 0).then_some(raw.gpu)
    }

    fn temperature(&self, device: Device) -> Option<u32> {
        let mut celsius = 0;
        // SAFETY: as in `memory`.
        let code = unsafe { (self.temperature?)(device, SENSOR_GPU, &mut celsius) };
        (code == 0).then_some(celsius)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_plausible_or_absent() {
        let Some(status) = status(Gpu::First) else { return };
        assert!(status.memory.total_mb > 0 && status.memory.free_mb <= status.memory.total_mb);
        assert!(status.utilisation.is_none_or(|percent| percent <= 100));
        assert!(status.temperature.is_none_or(|celsius| celsius < 150));
    }

    #[test]
    fn a_gpu_that_does_not_exist_has_no_figures() {
        assert_eq!(status(Gpu::PciBusId("ffff:ff:1f.7")), None);
        assert_eq!(status(Gpu::PciBusId("no\0address")), None);
    }
}
