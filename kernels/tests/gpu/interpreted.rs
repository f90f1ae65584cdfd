//! A device that is the PTX interpreter.

use std::{collections::HashMap, sync::Arc};

use parking_lot::{Mutex, RwLock};
use reverie_kernels::{
    Error, Result,
    gpu::{Arg, Device, GpuBackend, Launch, Variant},
};
use reverie_ptx as ptx;

pub type Gpu = GpuBackend<Interpreted>;

/// A backend on a fresh interpreter.
pub fn gpu() -> Gpu {
    GpuBackend::new(Interpreted::default())
}

pub struct Interpreted {
    memory: Arc<RwLock<ptx::Memory>>,
    modules: Arc<Mutex<HashMap<Variant, Arc<ptx::Module>>>>,
    /// Buffers that there is still memory for.
    room: Arc<Mutex<Option<usize>>>,
    multiprocessors: usize,
    wgmma: bool,
}

impl Default for Interpreted {
    fn default() -> Self {
        let (memory, modules, room) = Default::default();
        Self { memory, modules, room, multiprocessors: 128, wgmma: false }
    }
}

pub struct Buffer {
    memory: Arc<RwLock<ptx::Memory>>,
    buffer: ptx::Buffer,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.memory.write().free(self.buffer);
    }
}

fn failed(what: impl ToString) -> Error {
    Error::Device { device: "interpreter".into(), what: what.to_string(), lost: false }
}

impl Interpreted {
    /// One that stands for a device with so many multiprocessors, by which work is divided.
    pub fn with_multiprocessors(multiprocessors: usize) -> Self {
        Self { multiprocessors, ..Self::default() }
    }

    /// One that stands for a device of compute capability 9.0.
    pub fn with_wgmma() -> Self {
        Self { wgmma: true, ..Self::default() }
    }

    /// Memory runs out after so many more buffers; none: never. How many there still was memory for.
    pub fn run_out_after(&self, buffers: Option<usize>) -> Option<usize> {
        std::mem::replace(&mut self.room.lock(), buffers)
    }

    fn module(&self, variant: &Variant) -> Result<Arc<ptx::Module>> {
        let mut modules = self.modules.lock();
        if let Some(module) = modules.get(variant) {
            return Ok(module.clone());
        }
        let text = variant.ptx()?;
        let module = ptx::Module::parse(&text).map_err(|error| failed(format!("{error}, in {variant:?}")))?;
        Ok(modules.entry(variant.clone()).or_insert(Arc::new(module)).clone())
    }
}

impl Device for Interpreted {
    type Buffer = Buffer;

    fn name(&self) -> &str {
        "PTX interpreter"
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn wgmma(&self) -> bool {
        self.wgmma
    }

    // All that is launched has run when the call returns: lanes are in order anyway.
    fn lane(&self) -> Result<Self> {
        let (memory, modules, room) = (self.memory.clone(), self.modules.clone(), self.room.clone());
        Ok(Self { memory, modules, room, ..*self })
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer> {
        if let Some(room) = &mut *self.room.lock() {
            let full = || Error::OutOfMemory {
                device: self.name().into(),
                what: format!("{bytes} bytes"),
                budget: 0,
            };
            *room = room.checked_sub(1).ok_or_else(full)?;
        }
        Ok(Buffer { memory: self.memory.clone(), buffer: self.memory.write().allocate(bytes) })
    }

    fn upload(&self, buffer: &Buffer, bytes: &[u8]) -> Result<()> {
        self.memory.read().write(buffer.buffer, bytes);
        Ok(())
    }

    fn download(&self, buffer: &Buffer, bytes: &mut [u8]) -> Result<()> {
        let read = self.memory.read().read::<u8>(buffer.buffer).map_err(failed)?;
        bytes.copy_from_slice(&read[..bytes.len()]);
        Ok(())
    }

    unsafe fn launch(
        &self,
        variant: &Variant,
        entry: &'static str,
        launch: Launch,
        args: &[Arg<'_, Buffer>],
    ) -> Result<()> {
        let module = self.module(variant)?;
        let args: Vec<ptx::Arg> = args
            .iter()
            .map(|arg| match arg {
                Arg::Buffer(buffer) => buffer.buffer.into(),
                Arg::Null => 0u64.into(),
                Arg::Map(map) => ptx::Arg::Map(ptx::TensorMap {
                    buffer: map.buffer.buffer,
                    dimensions: map.dimensions,
                    strides: map.strides,
                    shape: map.shape,
                }),
                Arg::U32(value) => (*value).into(),
                Arg::F32(value) => (*value).into(),
            })
            .collect();
        let Launch { grid, block, shared } = launch;
        let launch =
            ptx::Launch { kernel: entry, grid, block: [block, 1, 1], dynamic_shared: shared as usize };
        let memory = self.memory.read();
        launch.run(&module, &memory, &args).map(drop).map_err(|error| {
            let text = variant.ptx().unwrap_or_default();
            let line = match &error {
                ptx::Error::Fault { line, .. } => {
                    text.lines().nth(line.saturating_sub(1)).unwrap_or_default()
                }
                _ => "",
            };
            failed(format!("{error}, in {variant:?}: {line}"))
        })
    }
}
