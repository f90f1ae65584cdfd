//! The device that the tests run on: the PTX interpreter, or with the environment variable `REVERIE_TEST_DEVICE` set to `cuda:N` the
//! NVIDIA GPU of that number through its driver (or the emulated one).
#![allow(dead_code, reason = "the models' tests, which include this file too, use a part")]

#[path = "interpreted.rs"]
pub mod interpreted;

use std::{io::Write as _, sync::OnceLock};

use reverie_kernels::{
    Error, Result,
    gpu::{
        Arg, Device, GpuBackend, Launch, Recording, TensorMap, Variant,
        cuda::{Cuda, CudaBuffer},
    },
};

use interpreted::Interpreted;

/// Names the device.
const DEVICE: &str = "REVERIE_TEST_DEVICE";

pub type Gpu = GpuBackend<Tested>;

/// A fresh interpreter, or the one GPU of all tests.
pub enum Tested {
    Interpreted(Interpreted),
    Cuda {
        cuda: Cuda,
        /// Whether attention is to use it: the driver is opened once for tests with and without.
        wgmma: bool,
        /// By which work is to be divided.
        multiprocessors: usize,
    },
}

impl Tested {
    fn on(cuda: &Cuda, wgmma: bool) -> Self {
        Self::Cuda { cuda: cuda.clone(), wgmma, multiprocessors: cuda.multiprocessors() }
    }
}

pub enum Buffer {
    Interpreted(interpreted::Buffer),
    Cuda(CudaBuffer),
}

/// The GPU that is asked for, and whether it has `wgmma`; none where the interpreter is to be used.
fn cuda() -> Option<&'static (Cuda, bool)> {
    static OPENED: OnceLock<Option<(Cuda, bool)>> = OnceLock::new();
    OPENED
        .get_or_init(|| {
            let name = std::env::var(DEVICE).ok()?;
            let number = name.strip_prefix("cuda:").and_then(|number| number.parse().ok());
            let number = number.unwrap_or_else(|| panic!("{DEVICE}={name}: cuda:0, cuda:1, …?"));
            let with_wgmma = Cuda::new(number, None, true).map(|cuda| (cuda, true));
            Some(with_wgmma.or_else(|_| Cuda::new(number, None, false).map(|cuda| (cuda, false))).unwrap())
        })
        .as_ref()
}

/// Says so of the calling test.
pub fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    // Not by `eprintln!`, which is shown for tests that fail only.
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {why}");
}

/// A device without `wgmma`.
pub fn device() -> Tested {
    match cuda() {
        Some((cuda, _)) => Tested::on(cuda, false),
        None => Tested::Interpreted(Interpreted::default()),
    }
}

pub fn gpu() -> Gpu {
    GpuBackend::new(device())
}

/// One that divides work as for so many multiprocessors.
pub fn gpu_of(multiprocessors: usize) -> Gpu {
    GpuBackend::new(match cuda() {
        Some((cuda, _)) => Tested::Cuda { cuda: cuda.clone(), wgmma: false, multiprocessors },
        None => Tested::Interpreted(Interpreted::with_multiprocessors(multiprocessors)),
    })
}

/// One of compute capability 9.0; none where the device is not.
pub fn hopper() -> Option<Gpu> {
    let device = match cuda() {
        Some((cuda, true)) => Tested::on(cuda, true),
        Some((_, false)) => {
            skipped("the device has no wgmma");
            return None;
        }
        None => Tested::Interpreted(Interpreted::with_wgmma()),
    };
    Some(GpuBackend::new(device))
}

/// The interpreter, for tests of what no device does; none where another device is asked for.
pub fn interpreter() -> Option<interpreted::Gpu> {
    is_interpreter().then(interpreted::gpu)
}

/// The same for tests that need no backend.
pub fn is_interpreter() -> bool {
    let is = cuda().is_none();
    if !is {
        skipped("only for the interpreter");
    }
    is
}

/// Whether a real or emulated driver is asked for, for tests that take the interpreter too long.
pub fn has_driver() -> bool {
    cuda().is_some()
}

impl Buffer {
    fn interpreted(&self) -> Result<&interpreted::Buffer> {
        if let Self::Interpreted(buffer) = self { Ok(buffer) } else { Err(Error::OtherDevice) }
    }

    fn cuda(&self) -> Result<&CudaBuffer> {
        if let Self::Cuda(buffer) = self { Ok(buffer) } else { Err(Error::OtherDevice) }
    }
}

/// Parameters with the buffers of one device.
fn args<'a, B>(
    args: &[Arg<'a, Buffer>],
    of: impl Fn(&'a Buffer) -> Result<&'a B>,
) -> Result<Vec<Arg<'a, B>>> {
    args.iter()
        .map(|arg| {
            Ok(match arg {
                Arg::Buffer(buffer) => Arg::Buffer(of(buffer)?),
                Arg::Null => Arg::Null,
                Arg::Map(map) => {
                    let &TensorMap { buffer, dimensions, strides, shape } = map;
                    Arg::Map(TensorMap { buffer: of(buffer)?, dimensions, strides, shape })
                }
                Arg::U32(value) => Arg::U32(*value),
                Arg::F32(value) => Arg::F32(*value),
            })
        })
        .collect()
}

impl Device for Tested {
    type Buffer = Buffer;

    fn name(&self) -> &str {
        match self {
            Self::Interpreted(device) => device.name(),
            Self::Cuda { cuda, .. } => cuda.name(),
        }
    }

    fn multiprocessors(&self) -> usize {
        match self {
            Self::Interpreted(device) => device.multiprocessors(),
            Self::Cuda { multiprocessors, .. } => *multiprocessors,
        }
    }

    fn wgmma(&self) -> bool {
        match self {
            Self::Interpreted(device) => device.wgmma(),
            Self::Cuda { wgmma, .. } => *wgmma,
        }
    }

    fn lane(&self) -> Result<Self> {
        Ok(match self {
            Self::Interpreted(device) => Self::Interpreted(device.lane()?),
            Self::Cuda { cuda, wgmma, multiprocessors } => {
                Self::Cuda { cuda: cuda.lane()?, wgmma: *wgmma, multiprocessors: *multiprocessors }
            }
        })
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer> {
        Ok(match self {
            Self::Interpreted(device) => Buffer::Interpreted(device.allocate(bytes)?),
            Self::Cuda { cuda, .. } => Buffer::Cuda(cuda.allocate(bytes)?),
        })
    }

    fn upload(&self, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Interpreted(device) => device.upload(buffer.interpreted()?, bytes),
            Self::Cuda { cuda, .. } => cuda.upload(buffer.cuda()?, bytes),
        }
    }

    fn download(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()> {
        match self {
            Self::Interpreted(device) => device.download(buffer.interpreted()?, bytes),
            Self::Cuda { cuda, .. } => cuda.download(buffer.cuda()?, bytes),
        }
    }

    fn copy(&self, from: &Buffer, to: &Buffer, bytes: usize) -> Result<()> {
        match self {
            Self::Interpreted(device) => device.copy(from.interpreted()?, to.interpreted()?, bytes),
            Self::Cuda { cuda, .. } => cuda.copy(from.cuda()?, to.cuda()?, bytes),
        }
    }

    unsafe fn launch(
        &self,
        variant: &Variant,
        entry: &'static str,
        launch: Launch,
        parameters: &[Arg<'_, Buffer>],
    ) -> Result<()> {
        match self {
            Self::Interpreted(device) => {
                let args = args(parameters, Buffer::interpreted)?;
                // SAFETY: the caller's.
                unsafe { device.launch(variant, entry, launch, &args) }
            }
            Self::Cuda { cuda, .. } => {
                let args = args(parameters, Buffer::cuda)?;
                // SAFETY: the caller's.
                unsafe { cuda.launch(variant, entry, launch, &args) }
            }
        }
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Box<dyn Recording>>> {
        match self {
            Self::Interpreted(device) => device.record(work),
            Self::Cuda { cuda, .. } => cuda.record(work),
        }
    }
}
