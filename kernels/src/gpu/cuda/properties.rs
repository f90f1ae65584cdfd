//! What a device is, as the driver describes it. None of it needs a context.

use std::ffi::{CStr, c_char};

use cudarc::driver::{result::DriverError, sys};
use sys::{CUdevice_attribute as Attribute, CUresult};

use super::driver;
use crate::{error::Result, nvml};

/// The first compute capability that the kernels are written for (`cp.async`, `ldmatrix` and `mma` of 16×8×16).
const OLDEST_CAPABILITY: u32 = 8;

/// An NVIDIA GPU of any age. A figure that the driver does not tell is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// Its number in the driver's order, which `CUDA_VISIBLE_DEVICES` changes.
    pub ordinal: usize,
    /// Such as `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// The address of its slot, by which [`crate::nvml`] finds it, such as `0000:65:00.0`; empty where the driver does not say.
    pub pci_bus_id: String,
    /// Major and minor.
    pub compute_capability: [u32; 2],
    /// The version of CUDA that the driver knows, major and minor.
    pub driver: [u32; 2],
    /// Bytes.
    pub memory_total: u64,
    /// Bytes that no process holds, where somebody tells: the driver does in a context only, and NVML is not everywhere.
    pub memory_free: Option<u64>,
    /// How many blocks run at least at the same time.
    pub multiprocessors: u32,
    /// The most threads that a multiprocessor runs at the same time.
    pub threads_per_multiprocessor: u32,
    /// 32-bit registers.
    pub registers_per_multiprocessor: u32,
    /// Bytes of shared memory.
    pub shared_per_multiprocessor: u32,
    /// Bytes of shared memory that a block may ask for.
    pub shared_per_block: u32,
    /// Bytes of the L2 cache.
    pub l2_bytes: u32,
    /// The highest clock of the multiprocessors.
    pub clock_khz: u32,
    /// The highest clock of the memory.
    pub memory_clock_khz: u32,
    /// Width of the memory's bus.
    pub memory_bus_bits: u32,
}

impl Properties {
    /// Of each device that there is.
    pub(super) fn list() -> Result<Vec<Self>> {
        (0..driver::count()?).map(|ordinal| Self::of(driver::device(ordinal)?, ordinal)).collect()
    }

    /// Of this device, which has this number.
    pub(super) fn of(device: sys::CUdevice, ordinal: usize) -> Result<Self> {
        let fail = |error| driver::unavailable(format!("device {ordinal}: {}", driver::describe(error)));
        let get = |of| attribute(device, of);
        let figure = |of| get(of).unwrap_or(0);
        let read = || {
            // SAFETY: as many bytes as are said.
            let name = text(|to, bytes| unsafe { sys::cuDeviceGetName(to, bytes, device) })?;
            // SAFETY: as above.
            let pci_bus_id = text(|to, bytes| unsafe { sys::cuDeviceGetPCIBusId(to, bytes, device) });
            let pci_bus_id = pci_bus_id.unwrap_or_default();
            let mut memory = 0;
            // SAFETY: the pointer is to a local.
            unsafe { sys::cuDeviceTotalMem_v2(&mut memory, device) }.result()?;
            let nvml = (!pci_bus_id.is_empty()).then(|| nvml::status(nvml::Gpu::PciBusId(&pci_bus_id)));
            Ok(Self {
                ordinal,
                name,
                compute_capability: [
                    get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                    get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
                ],
                driver: driver::version()?,
                memory_total: memory as u64,
                memory_free: nvml.flatten().map(|status| status.memory.free_mb << 20),
                multiprocessors: get(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
                threads_per_multiprocessor: figure(
                    Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR,
                ),
                registers_per_multiprocessor: figure(
                    Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR,
                ),
                shared_per_multiprocessor: figure(
                    Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
                ),
                shared_per_block: figure(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN),
                l2_bytes: figure(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE),
                clock_khz: figure(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE),
                memory_clock_khz: figure(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE),
                memory_bus_bits: figure(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH),
                pci_bus_id,
            })
        };
        read().map_err(fail)
    }

    /// Why the kernels do not run there; none where they do.
    pub fn too_old(&self) -> Option<String> {
        let [major, minor] = self.compute_capability;
        (major < OLDEST_CAPABILITY).then(|| {
            format!(
                "its compute capability is {major}.{minor}; {OLDEST_CAPABILITY}.0 is needed (RTX 30, A100 or newer)"
            )
        })
    }

    /// Why attention can't use `wgmma`; none where it can. Tensor maps need CUDA 12.0, the instructions compute capability 9.0,
    /// and no other.
    pub fn lacks_wgmma(&self) -> Option<String> {
        let ([major, minor], [cuda, revision]) = (self.compute_capability, self.driver);
        ([major, minor] != [9, 0] || cuda < 12).then(|| {
            format!(
                "wgmma needs compute capability 9.0 and a driver of CUDA 12.0; it has {major}.{minor} and {cuda}.{revision}"
            )
        })
    }
}

fn attribute(device: sys::CUdevice, of: Attribute) -> Result<u32, DriverError> {
    let mut value = 0;
    // SAFETY: the pointer is to a local.
    unsafe { sys::cuDeviceGetAttribute(&mut value, of, device) }.result()?;
    Ok(u32::try_from(value).unwrap_or(0))
}

/// What a call of the driver writes as text.
fn text(call: impl FnOnce(*mut c_char, i32) -> CUresult) -> Result<String, DriverError> {
    // The last byte is kept back, and stays zero.
    let mut bytes = [0u8; 256];
    call(bytes.as_mut_ptr().cast(), bytes.len() as i32 - 1).result()?;
    Ok(CStr::from_bytes_until_nul(&bytes).unwrap_or_default().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(compute_capability: [u32; 2], driver: [u32; 2]) -> Properties {
        Properties {
            ordinal: 0,
            name: "GPU".into(),
            pci_bus_id: String::new(),
            compute_capability,
            driver,
            memory_total: 0,
            memory_free: None,
            multiprocessors: 1,
            threads_per_multiprocessor: 0,
            registers_per_multiprocessor: 0,
            shared_per_multiprocessor: 0,
            shared_per_block: 0,
            l2_bytes: 0,
            clock_khz: 0,
            memory_clock_khz: 0,
            memory_bus_bits: 0,
        }
    }

    #[test]
    fn what_a_device_is_too_old_or_too_new_for() {
        for (capability, driver, works, wgmma) in [
            ([7, 5], [12, 8], false, false),
            ([8, 0], [11, 4], true, false),
            ([9, 0], [11, 8], true, false),
            ([9, 0], [12, 0], true, true),
            ([10, 0], [13, 0], true, false),
        ] {
            let device = device(capability, driver);
            assert_eq!((device.too_old().is_none(), device.lacks_wgmma().is_none()), (works, wgmma));
        }
        assert!(device([7, 5], [12, 8]).too_old().unwrap().contains("7.5; 8.0 is needed"));
        assert!(device([9, 0], [11, 8]).lacks_wgmma().unwrap().ends_with("9.0 and 11.8"));
    }
}
