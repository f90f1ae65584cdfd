//! An NVIDIA GPU, through the CUDA driver, which is looked for at run time.
//!
//! All that is asked of a [`Cuda`] goes into one stream and runs in that order, whatever thread asks. [`Cuda::lane`] makes
//! another one with a stream of its own: what is asked of the two may run at the same time. Lanes share the context, the compiled
//! kernels and the budget; pinned memory and recordings are each lane's own. A buffer belongs to the lane that allocated it. Others
//! may use it: whoever does waits for all that the buffer's other users have launched, so lanes that share buffers often run
//! one after the other.
#![allow(unsafe_code)] // The driver is a C library. Elsewhere in the GPU backend nothing is unsafe but to launch.

mod allocator;
mod buffer;
mod compiled;
mod driver;
mod graph;
mod launch;
mod modules;
mod once;
mod properties;
mod staging;
mod stream;
mod tensor_map;
mod trace;
mod warm;

use std::sync::Arc;

use cudarc::driver::sys;
use sys::CUresult;

use self::{
    allocator::{Pool, Share, Source},
    buffer::Home,
    driver::Context,
    modules::Modules,
    staging::Staging,
    stream::{Event, Stream},
};
use super::{Arg, Device, Launch, Recording, Variant};
use crate::error::{Error, Result};

pub use allocator::MemoryUse;
pub use buffer::CudaBuffer;
pub use compiled::{Compiled, Entry};
pub use properties::Properties;
pub use trace::Traced;
pub use warm::Warming;

/// A lane of an NVIDIA GPU of compute capability 8.0 or more. Clones share the lane.
#[derive(Clone)]
pub struct Cuda(Arc<Lane>);

/// What is launched in order. Fields are dropped in this order: memory before the stream that it waits for.
struct Lane {
    share: Share<Memory>,
    staging: Staging,
    stream: Arc<Stream>,
    gpu: Arc<Gpu>,
}

/// What all lanes of a GPU share.
struct Gpu {
    pool: Arc<Pool<Memory>>,
    modules: Modules,
    /// Whether attention is to use it.
    wgmma: bool,
    context: Arc<Context>,
}

impl Gpu {
    fn full(&self, what: String) -> Error {
        Error::OutOfMemory { device: self.context.name.clone(), what, budget: self.pool.budget() }
    }

    /// Does `call`, for which the driver may want memory of the device for itself: where there is none, once more after what is
    /// kept for later was given back. `what` it does.
    fn with_room(&self, what: impl Fn() -> String, mut call: impl FnMut() -> CUresult) -> Result<()> {
        let mut code = call();
        if code == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            self.pool.trim()?;
            code = call();
        }
        match code {
            CUresult::CUDA_SUCCESS => Ok(()),
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Err(self.full(what())),
            code => self.context.check(code, &what()),
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // The pinned memory and the modules may still be in use. Where this fails, the device is lost.
        let _ = self.stream.synchronise();
    }
}

/// The driver's memory.
struct Memory {
    context: Arc<Context>,
}

impl Source for Memory {
    type Lane = Arc<Stream>;

    fn allocate(&self, bytes: usize) -> Result<Option<u64>> {
        self.context.enter()?;
        let mut address = 0;
        // SAFETY: the context is current; the pointer is to a local.
        match unsafe { sys::cuMemAlloc_v2(&mut address, bytes) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
            code => self.context.check(code, &format!("{bytes} bytes of memory")).map(|()| Some(address)),
        }
    }

    unsafe fn free(&self, address: u64) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated above; as the caller says, nothing uses it any more.
            let _ = unsafe { sys::cuMemFree_v2(address) };
        }
    }

    fn settle(&self, lane: &Arc<Stream>) -> Result<()> {
        lane.synchronise()
    }

    fn follow(&self, lane: &Arc<Stream>, earlier: &Arc<Stream>) -> Result<()> {
        lane.follow(earlier)
    }
}

impl Cuda {
    /// How many NVIDIA GPUs there are, of any age.
    ///
    /// # Errors
    /// [`Error::Device`] where there is no driver, or it does not work.
    pub fn count() -> Result<usize> {
        driver::count()
    }

    /// Every NVIDIA GPU that there is, also those that are too old. Nothing is made on them.
    ///
    /// # Errors
    /// [`Error::Device`] where there is no driver, or it does not work.
    pub fn list() -> Result<Vec<Properties>> {
        Properties::list()
    }

    /// The GPU of this number in the driver's order (`CUDA_VISIBLE_DEVICES`), with at most so many bytes of its memory; none: nine tenths
    /// of what is free now. `wgmma`: whether attention is to use these instructions.
    ///
    /// # Errors
    /// [`Error::Device`] where there is no driver, no such GPU, or an older one, and where it has no `wgmma` that is asked for.
    pub fn new(ordinal: usize, memory_budget: Option<u64>, wgmma: bool) -> Result<Self> {
        let context = Arc::new(Context::new(ordinal)?);
        if wgmma {
            context.properties.lacks_wgmma().map_or(Ok(()), |reason| Err(context.error(reason)))?;
        }
        let budget = match memory_budget {
            Some(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
            None => context.free()? / 10 * 9,
        };
        let pool = Pool::new(Memory { context: context.clone() }, budget);
        Self::open(Arc::new(Gpu { pool, modules: Modules::default(), wgmma, context }))
    }

    fn open(gpu: Arc<Gpu>) -> Result<Self> {
        let stream = Arc::new(Stream::new(gpu.context.clone())?);
        let share = gpu.pool.share(stream.clone());
        Ok(Self(Arc::new(Lane { share, staging: Staging::default(), stream, gpu })))
    }

    /// Why it is of no more use, once it is not: of an error that it does not recover from, all that is done on it fails. Asks
    /// nothing of the driver.
    pub fn lost(&self) -> Option<&str> {
        self.0.gpu.context.why_lost()
    }

    /// The address of its slot, by which [`crate::nvml`] finds it; none where the driver does not say.
    pub fn pci_bus_id(&self) -> Option<&str> {
        Some(self.0.gpu.context.properties.pci_bus_id.as_str()).filter(|id| !id.is_empty())
    }

    /// What the device is, with the memory that is free now.
    pub fn properties(&self) -> Properties {
        let context = &self.0.gpu.context;
        let free = context.free().ok().map(|bytes| bytes as u64);
        Properties { memory_free: free, ..context.properties.clone() }
    }

    /// Compiles a variant, unless that was done before, and says what came of it. Others may compile and compute meanwhile.
    ///
    /// # Errors
    /// [`Error::Device`] with what the compiler has to say, [`Error::OutOfMemory`].
    pub fn compile(&self, variant: &Variant) -> Result<Compiled> {
        let gpu = &*self.0.gpu;
        gpu.modules.get(gpu, variant)?.describe(gpu, variant.shared)
    }

    /// Compiles these variants on so many threads while others go on, so that nobody waits for it later. Of what is being
    /// compiled already whoever launches it waits for the rest. For as long as what is returned exists; none is compiled
    /// ahead unless this is called.
    pub fn warm(&self, variants: Vec<Variant>, threads: usize) -> Warming {
        Warming::new(&self.0.gpu, variants, threads)
    }

    /// Memory in use in all lanes, and what is kept for later.
    pub fn memory(&self) -> MemoryUse {
        self.0.gpu.pool.usage()
    }

    /// Gives the memory that all lanes keep for later back to the driver. Waits for them.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn trim(&self) -> Result<()> {
        self.0.gpu.pool.trim()
    }

    /// Waits until all that was launched in this lane has run.
    ///
    /// # Errors
    /// [`Error::Device`], also for what was launched.
    pub fn synchronise(&self) -> Result<()> {
        self.0.stream.synchronise()
    }

    /// Milliseconds that the device takes for what `work` launches. Waits for it.
    ///
    /// # Errors
    /// [`Error::Device`], and those of `work`.
    pub fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f32> {
        let stream = &self.0.stream;
        let [start, end] = [Event::timed(stream.context.clone())?, Event::timed(stream.context.clone())?];
        start.record(stream)?;
        work()?;
        end.record(stream)?;
        end.wait()?;
        end.since(&start)
    }

    /// The launches of `work` in this lane, in their order, with the time that each took. Waits for them. What other threads launch is not
    /// among them, nor what is recorded or replayed: work that is [repeated](crate::Backend::repeat) shows at its first time
    /// only.
    ///
    /// # Errors
    /// [`Error::Device`], and those of `work`.
    pub fn trace(&self, work: impl FnOnce() -> Result<()>) -> Result<Vec<Traced>> {
        trace::trace(&self.0, work)
    }
}

impl Device for Cuda {
    type Buffer = CudaBuffer;

    fn name(&self) -> &str {
        &self.0.gpu.context.name
    }

    fn lane(&self) -> Result<Self> {
        Self::open(self.0.gpu.clone())
    }

    fn multiprocessors(&self) -> usize {
        self.0.gpu.context.properties.multiprocessors.max(1) as usize
    }

    fn wgmma(&self) -> bool {
        self.0.gpu.wgmma
    }

    fn allocate(&self, bytes: usize) -> Result<CudaBuffer> {
        let gpu = &self.0.gpu;
        gpu.context.enter()?;
        let (home, block) = match graph::private(&self.0) {
            Some(private) => (Home::Graph(private.clone()), private.allocate(bytes)?),
            None => (Home::Lane(self.0.clone()), self.0.share.allocate(bytes)?),
        };
        let block = block.ok_or_else(|| gpu.full(format!("{bytes} bytes")))?;
        Ok(CudaBuffer::new(home, block, bytes))
    }

    fn upload(&self, buffer: &CudaBuffer, bytes: &[u8]) -> Result<()> {
        let mut copy = |first: usize, to: &mut [u8]| to.copy_from_slice(&bytes[first..first + to.len()]);
        self.write(buffer, bytes.len(), &mut copy)
    }

    fn write(
        &self,
        buffer: &CudaBuffer,
        bytes: usize,
        write: &mut dyn FnMut(usize, &mut [u8]),
    ) -> Result<()> {
        self.0.check(buffer, bytes)?;
        let Lane { staging, stream, .. } = &*self.0;
        stream.context.enter()?;
        graph::with(&self.0, |capture| match capture {
            Some(capture) => capture.upload(bytes, write, buffer),
            None => {
                self.0.join([&buffer.0])?;
                // SAFETY: the buffer is as large; dropped, its memory goes to nothing but later work.
                unsafe { staging.upload(bytes, write, buffer.address(), stream) }
            }
        })
    }

    fn download(&self, buffer: &CudaBuffer, bytes: &mut [u8]) -> Result<()> {
        self.0.check(buffer, bytes.len())?;
        let Lane { staging, stream, .. } = &*self.0;
        stream.context.enter()?;
        if graph::private(&self.0).is_some() {
            return Err(stream.context.error("what is being recorded has no values to read yet".into()));
        }
        self.0.join([&buffer.0])?;
        // SAFETY: the buffer is as large.
        unsafe { staging.download(buffer.address(), bytes, stream) }
    }

    fn copy(&self, from: &CudaBuffer, to: &CudaBuffer, bytes: usize) -> Result<()> {
        self.0.check(from, bytes)?;
        self.0.check(to, bytes)?;
        let Gpu { context, .. } = &*self.0.gpu;
        context.enter()?;
        graph::with(&self.0, |capture| {
            let stream = graph::target(capture, &self.0, &[from, to])?;
            // SAFETY: both buffers are as large, and live at least until whatever is freed later is used again.
            let code =
                unsafe { sys::cuMemcpyDtoDAsync_v2(to.address(), from.address(), bytes, stream.raw()) };
            context.check(code, "a copy")
        })
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Box<dyn Recording>>> {
        let graph = graph::record(&self.0, work)?;
        Ok(graph.map(|graph| Box::new(graph) as Box<dyn Recording>))
    }

    unsafe fn launch(
        &self,
        variant: &Variant,
        entry: &'static str,
        launch: Launch,
        args: &[Arg<'_, CudaBuffer>],
    ) -> Result<()> {
        // SAFETY: as the caller says.
        unsafe { launch::launch(&self.0, variant, entry, launch, args) }
    }
}
