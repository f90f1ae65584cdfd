//! What [`GpuBackend`](super::GpuBackend) needs of a device. The CUDA driver is one; in tests, the PTX interpreter is another.

use super::catalogue::Variant;

/// A parameter of a kernel.
#[derive(Debug)]
pub enum Arg<'a, B> {
    /// The address of a buffer's first byte.
    Buffer(&'a B),
    /// No buffer: address 0.
    Null,
    /// `.align 64 .b8 x[128]`
    Map(TensorMap<'a, B>),
    /// `.u32`
    U32(u32),
    /// `.f32`
    F32(f32),
}

/// A tensor of fp16 and the box of it that a copy by TMA takes, which is 64 values wide; it lands swizzled by 128 bytes, and zero where
/// it goes beyond the tensor.
#[derive(Debug)]
pub struct TensorMap<'a, B> {
    /// Where it lies, from the first byte on.
    pub buffer: &'a B,
    /// Values by dimension, the innermost first.
    pub dimensions: [u64; 4],
    /// Bytes from one to the next, of all dimensions but the innermost: multiples of 16.
    pub strides: [u64; 3],
    /// The box by dimension, at most 256 each.
    pub shape: [u32; 4],
}

/// The shape of a grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks by dimension.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of `.extern .shared` memory.
    pub shared: u32,
}

/// Work that a device keeps, to run it again as a whole. One thread at a time may use it, as it is with CUDA's graphs:
///
/// ```compile_fail
/// fn shared<T: Sync + ?Sized>() {}
/// shared::<dyn reverie_kernels::gpu::Recording>();
/// ```
pub trait Recording: Send {
    /// Runs it, after all that was launched.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device).
    fn replay(&self) -> crate::Result<()>;
}

/// A lane of a device that runs PTX: its memory, and kernels in the order in which they are launched.
pub trait Device: Send + Sync + 'static {
    /// Memory of the device; dropped, it is free again once what was launched before has run.
    type Buffer: Send + Sync + 'static;

    /// In words, for logs.
    fn name(&self) -> &str;

    /// Its multiprocessors, each of which runs one block at least: work is divided for so many.
    fn multiprocessors(&self) -> usize;

    /// Whether attention is to use `wgmma` and TMA, which devices of compute capability 9.0 have.
    fn wgmma(&self) -> bool {
        false
    }

    /// Another lane of the same device. What is launched in both may run at the same time. Buffers can be used in either: what
    /// a lane does with one runs after all that others were asked for before and that uses it.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device).
    fn lane(&self) -> crate::Result<Self>
    where
        Self: Sized;

    /// Memory with nothing written to it.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), [`Error::Device`](crate::Error::Device).
    fn allocate(&self, bytes: usize) -> crate::Result<Self::Buffer>;

    /// Fills a buffer from its beginning.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device).
    fn upload(&self, buffer: &Self::Buffer, bytes: &[u8]) -> crate::Result<()>;

    /// Fills so many bytes of a buffer from its beginning by `write`, which is called for some at a time, in order: with the
    /// number of the first and the place for them. It must not use the device.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device).
    fn write(
        &self,
        buffer: &Self::Buffer,
        bytes: usize,
        write: &mut dyn FnMut(usize, &mut [u8]),
    ) -> crate::Result<()> {
        let mut all = vec![0; bytes];
        write(0, &mut all);
        self.upload(buffer, &all)
    }

    /// The first bytes of a buffer, after all that was launched.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device).
    fn download(&self, buffer: &Self::Buffer, bytes: &mut [u8]) -> crate::Result<()>;

    /// Copies the first bytes of a buffer to another one.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device).
    fn copy(&self, from: &Self::Buffer, to: &Self::Buffer, bytes: usize) -> crate::Result<()> {
        let mut content = vec![0; bytes];
        self.download(from, &mut content)?;
        self.upload(to, &content)
    }

    /// Runs the entry of a variant.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device), [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    ///
    /// # Safety
    /// The kernel stays within its buffers: each is as large, and the grid as small, as the kernel's numbers say, and what it reads
    /// as an index is one. So do tensor maps within theirs. A device need not check any of it, and has all buffers, with pinned
    /// memory of the host, in one address space.
    #[allow(unsafe_code, reason = "says so and no more")]
    unsafe fn launch(
        &self,
        variant: &Variant,
        entry: &'static str,
        launch: Launch,
        args: &[Arg<'_, Self::Buffer>],
    ) -> crate::Result<()>;

    /// Has `work` launch kernels that are kept instead of run. Only what the calling thread launches is kept. Buffers that
    /// `work` allocates have no content before the recording is replayed, and new content after each replay; those that it
    /// only uses are kept alive. None, without calling it, where the device cannot.
    ///
    /// # Errors
    /// Those of `work`, [`Error::Device`](crate::Error::Device).
    fn record(
        &self,
        work: &mut dyn FnMut() -> crate::Result<()>,
    ) -> crate::Result<Option<Box<dyn Recording>>> {
        let _ = work;
        Ok(None)
    }
}
