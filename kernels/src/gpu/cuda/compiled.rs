//! What the driver made of a variant.

use cudarc::driver::sys;
use sys::CUfunction_attribute as Attribute;

use super::{Gpu, modules::Function};
use crate::error::Result;

/// A variant's machine code.
#[derive(Debug, Clone, PartialEq)]
pub struct Compiled {
    /// How long the driver took for it, or, where it had it on disk, for reading it.
    pub milliseconds: f32,
    /// By name.
    pub entries: Vec<Entry>,
}

/// A kernel and what a multiprocessor has for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// 32-bit registers of a thread.
    pub registers: u32,
    /// Bytes of local memory of a thread: what did not fit into registers.
    pub local_bytes: u32,
    /// Bytes of a block's shared memory that it declares.
    pub static_shared_bytes: u32,
    /// Bytes of a block's shared memory that a launch gives it beside those.
    pub dynamic_shared_bytes: u32,
    /// The most threads of a block, with which it is launched: `.maxntid`.
    pub threads: u32,
    /// Blocks of so many threads and bytes that a multiprocessor runs at the same time.
    pub blocks_per_multiprocessor: u32,
}

impl Entry {
    /// Of a function that is launched with so much dynamic shared memory.
    pub(super) fn of(gpu: &Gpu, name: &str, function: &Function, dynamic: u32) -> Result<Self> {
        gpu.context.enter()?;
        function.reserve(dynamic, gpu)?;
        let get = |of: Attribute| {
            let mut value = 0;
            // The first look at a function may load it.
            gpu.with_room(
                || format!("properties of {name}"),
                // SAFETY: the function is loaded; the pointer is to a local.
                || unsafe { sys::cuFuncGetAttribute(&mut value, of, function.raw()) },
            )?;
            Ok(u32::try_from(value).unwrap_or(0))
        };
        let threads = get(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
        let mut blocks = 0;
        gpu.with_room(
            || format!("occupancy of {name}"),
            // SAFETY: the function is loaded; the pointer is to a local.
            || unsafe {
                sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                    &mut blocks,
                    function.raw(),
                    threads as i32,
                    dynamic as usize,
                )
            },
        )?;
        Ok(Self {
            name: name.to_owned(),
            registers: get(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            local_bytes: get(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            static_shared_bytes: get(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
            dynamic_shared_bytes: dynamic,
            threads,
            blocks_per_multiprocessor: u32::try_from(blocks).unwrap_or(0),
        })
    }
}
